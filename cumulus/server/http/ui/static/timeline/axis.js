// The ticks of the time axis, on round moments of the viewer's time zone, daylight saving time included.

const MINUTE = 60, HOUR = 3600, DAY = 86400;
const STEPS = [
  1, 5, 15, 30, MINUTE, 5 * MINUTE, 15 * MINUTE, 30 * MINUTE, HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR,
  DAY, 2 * DAY, 7 * DAY, 30 * DAY, 90 * DAY, 365 * DAY,
];
const APART = 84;

const CLOCK = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
const SECONDS = new Intl.DateTimeFormat(undefined, { ...CLOCK, second: "2-digit" });
const MINUTES = new Intl.DateTimeFormat(undefined, CLOCK);
const DATE = new Intl.DateTimeFormat(undefined, { weekday: "short", day: "numeric", month: "short" });
const MONTH = new Intl.DateTimeFormat(undefined, { month: "short", year: "numeric" });

/** The day of a moment: "Sun 29 Nov". */
export function day(time) {
  return DATE.format(new Date(time * 1000));
}

/** The ticks in the window: `[{ time, label, day }]`; `day` says that a new day begins there. */
export function ticks(from, until, width) {
  const least = ((until - from) / width) * APART;
  const step = STEPS.find((seconds) => seconds >= least) ?? STEPS.at(-1);
  const found = [];
  for (let time = first(from, step), last = -Infinity; time <= until && time > last; last = time, time = next(time, step)) {
    found.push(tick(time, step));
  }
  return found;
}

/** The tick on a round moment, where the next is so many seconds away. */
export function tick(time, step) {
  const date = new Date(time * 1000);
  const begins = date.getHours() === 0 && date.getMinutes() === 0 && date.getSeconds() === 0;
  const format = step >= 30 * DAY ? MONTH : begins || step >= DAY ? DATE : step < MINUTE ? SECONDS : MINUTES;
  return { time, label: format.format(date), day: begins };
}

/** The last round moment that is not after `from`. */
function first(from, step) {
  const date = new Date(from * 1000);
  const [year, month, today] = [date.getFullYear(), date.getMonth(), date.getDate()];
  if (step >= 30 * DAY) {
    const months = Math.round(step / (30 * DAY));
    return seconds(new Date(year, month - (month % Math.min(months, 12)), 1));
  }
  // Of several days, every seventh and the like is counted from a Monday.
  if (step >= DAY) return seconds(new Date(year, month, today - (days(date) % Math.round(step / DAY))));
  if (step >= HOUR) return seconds(new Date(year, month, today, date.getHours() - (date.getHours() % (step / HOUR))));
  const hour = seconds(new Date(year, month, today, date.getHours()));
  return hour + Math.floor((from - hour) / step) * step;
}

function next(time, step) {
  const date = new Date(time * 1000);
  const [year, month, today] = [date.getFullYear(), date.getMonth(), date.getDate()];
  if (step >= 30 * DAY) return seconds(new Date(year, month + Math.round(step / (30 * DAY)), 1));
  if (step >= DAY) return seconds(new Date(year, month, today + Math.round(step / DAY)));
  if (step < HOUR) return time + step;
  // By the clock, so that a tick stays on its hour where the clocks change.
  return Math.max(seconds(new Date(year, month, today, date.getHours() + step / HOUR)), time + 1);
}

function days(date) {
  return Math.floor(Date.UTC(date.getFullYear(), date.getMonth(), date.getDate()) / 86400000) + 3;
}

function seconds(date) {
  return date.getTime() / 1000;
}
