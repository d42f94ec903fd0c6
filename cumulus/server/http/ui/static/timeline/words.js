// What people read: moments, lengths, shares, and all that there is to say of a span.

const MOMENT = new Intl.DateTimeFormat(undefined, {
  weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23",
});
export const OVER = 1.005;
/** What is of the whole device, and nobody's. */
const WHOLE = { Drain: "The node is drained", Down: "The node or the device is down" };
const UNITS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

export function moment(time) {
  return MOMENT.format(new Date(time * 1000));
}

/** "2 h 5 min": two units at most. */
export function duration(seconds) {
  let left = Math.max(0, Math.round(seconds));
  const parts = [];
  for (const [name, size] of UNITS) {
    const count = Math.floor(left / size);
    left -= count * size;
    if (count > 0) parts.push(`${count} ${name}`);
    else if (parts.length > 0) break;
    if (parts.length === 2) break;
  }
  return parts.join(" ") || "0 s";
}

export function percent(fraction) {
  const of = fraction * 100;
  return `${of > 0 && of < 10 ? of.toFixed(1).replace(/\.0$/, "") : Math.round(of)}%`;
}

/** One word for what a span is now. */
export function state(span, now) {
  if (span.kind !== "Lease") return span.kind;
  if (span.merged > 1) return "Leases";
  return span.phase || (span.end <= now ? "Ended" : "Running");
}

/** The server tells of the window alone: what began before it, or ends after it, is told as that. */
export function begin(span) {
  return (span.older ? "before " : "") + moment(span.start);
}

export function end(span) {
  return (span.longer ? "after " : "") + moment(span.end);
}

/** How much of what it holds it uses, or "" where nobody knows. */
export function use({ used, busy }) {
  const said = [];
  if (used !== null) {
    const rest = used > OVER ? `, ${percent(used - 1)} over` : used < 0.995 ? `, ${percent(1 - used)} idle` : "";
    said.push(`memory ${percent(used)} used${rest}`);
  }
  if (busy !== null) said.push(`compute ${percent(busy)} busy`);
  return said.join("; ");
}

/** Whose it is, in a few words. Who may not see the job sees whose share it is, or that it is somebody's. */
export function title(span) {
  if (span.merged > 1) return `${span.merged} leases, too short to be shown one by one`;
  if (span.kind in WHOLE) return WHOLE[span.kind];
  if (span.kind === "Reservation") return span.user ? `Reserved for ${span.user}` : "Reserved";
  return span.job ?? (span.user ? `A job of ${span.user}` : "Somebody's job");
}

/** What a span says when it is pointed at: a title, and rows of a name and a value. */
export function about(span, lane, now) {
  const rows = [["Where", `${lane.node}, ${lane.label}`]];
  const whole = span.kind in WHOLE;
  if (lane.title) rows.push(["Device", lane.title]);
  if (span.user && span.kind !== "Reservation") rows.push(["User", span.user]);
  if (!whole && span.merged === 1) rows.push(["State", state(span, now)]);
  if (!whole) rows.push(["Share", percent(span.share)]);
  if (use(span)) rows.push(["Use", use(span)]);
  rows.push([span.kind === "Promise" ? "Expected" : "From", begin(span)]);
  const left = span.end > now && span.start <= now && !span.longer ? `, in ${duration(span.end - now)}` : "";
  rows.push(["Until", end(span) + left]);
  if (span.latestStart !== null) rows.push(["Promise", `starts by ${moment(span.latestStart)} at the latest`]);
  if (span.enforcement) rows.push(["Enforcement", span.enforcement]);
  return { title: title(span), rows };
}

/** The same as one sentence, for screen readers. */
export function sentence(span, lane, now) {
  const { title: first, rows } = about(span, lane, now);
  return `${first}. ${rows.map(([name, value]) => `${name}: ${value}`).join(". ")}.`;
}
