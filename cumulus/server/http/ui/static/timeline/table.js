// The same as the canvas shows, as a table: one span a row.

import { make } from "./elements.js";
import { begin, end, moment, percent, state, title, use } from "./words.js";

const MOST = 500;

const COLUMNS = [
  ["Node", (span, lane) => lane.node],
  ["Device", (span, lane) => lane.label],
  ["State", (span, lane, now) => state(span, now)],
  ["Job", (span) => title(span)],
  ["User", (span) => span.user],
  ["Share", (span) => percent(span.share)],
  ["Use", (span) => use(span)],
  ["From", (span) => begin(span)],
  ["Until", (span) => end(span)],
  ["Latest start", (span) => (span.latestStart === null ? "" : moment(span.latestStart))],
  ["Enforcement", (span) => span.enforcement],
];

export function table() {
  const head = make("tr", {}, ...COLUMNS.map(([words]) => make("th", { scope: "col" }, words)));
  return make("table", {}, make("caption", {}, "What the window shows"), make("thead", {}, head), make("tbody", {}));
}

/** What the window shows; `link(span)` is where a span's job is, or null. */
export function fill(table, model, view, now, link) {
  const rows = [];
  for (const [span, lane] of model.within(view.from, view.until)) {
    if (rows.length === MOST) {
      rows.push(make("tr", {}, make("td", { colspan: String(COLUMNS.length) }, `Only the first ${MOST} are listed: zoom in.`)));
      break;
    }
    const address = link(span);
    rows.push(make("tr", {}, ...COLUMNS.map(([words, tell]) => {
      const text = tell(span, lane, now);
      return make("td", {}, words === "Job" && address ? make("a", { href: address }, text) : text);
    })));
  }
  table.tBodies[0].replaceChildren(...rows);
}
