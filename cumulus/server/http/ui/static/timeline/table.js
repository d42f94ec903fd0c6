// Keeps the table in step with the canvas: what the window shows, one span a row. The server's own table says by
// `data-field` which columns there are; it stands alone where there is no JavaScript.

import { moment, percent, state, title, use } from "./words.js";

const MOST = 500;

const FIELDS = {
  node: (span, lane) => lane.node,
  device: (span, lane) => lane.label,
  state: (span, lane, now) => state(span, now),
  job: (span) => title(span),
  user: (span) => span.user,
  share: (span) => percent(span.share),
  used: (span) => use(span),
  start: (span) => moment(span.start),
  end: (span) => moment(span.end),
  latestStart: (span) => (span.latestStart === null ? "" : moment(span.latestStart)),
  enforcement: (span) => span.enforcement,
};

/** Fill the table; `link(span)` is where a span's job is, or null. */
export function fill(table, model, view, now, link) {
  const fields = [...table.querySelectorAll("thead [data-field]")].map((head) => head.dataset.field);
  const body = table.tBodies[0];
  if (fields.length === 0 || !body) return;
  const rows = [];
  for (const [span, lane] of model.within(view.from, view.until)) {
    if (rows.length === MOST) break;
    const row = document.createElement("tr");
    for (const field of fields) {
      const cell = row.insertCell();
      const text = FIELDS[field]?.(span, lane, now) ?? "";
      const address = field === "job" ? link(span) : null;
      if (address) {
        const anchor = document.createElement("a");
        anchor.href = address;
        anchor.textContent = text;
        cell.append(anchor);
      } else cell.textContent = text;
    }
    rows.push(row);
  }
  body.replaceChildren(...rows);
}
