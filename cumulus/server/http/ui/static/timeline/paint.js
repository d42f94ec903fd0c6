// Paints what is visible: rows that the scroll position shows, spans that the window shows. Everything that colour says,
// a pattern, an outline or a word says too.

import { day, ticks } from "./axis.js";
import { OVER, percent } from "./words.js";

export const AXIS = 26;
const FONT = "12px system-ui, sans-serif";
const NARROW = 3, LABELLED = 44, CHARACTER = 6.7;
const USERS = 6;

const COLORS = [
  "text", "muted", "line", "day", "background", "lane", "head", "now", "over", "focus", "mine", "promise",
  "reservation", "drain", "down", "parked", ...Array.from({ length: USERS }, (_, index) => `user-${index + 1}`),
];

/** The colours of the stylesheet, as a canvas takes them. */
export function colorsOf(element) {
  const probe = document.createElement("span");
  element.append(probe);
  const colors = {};
  for (const name of COLORS) {
    probe.style.color = `var(--timeline-${name})`;
    colors[name] = getComputedStyle(probe).color;
  }
  probe.remove();
  return colors;
}

const MARKS = {
  hatch: (context, size) => line(context, [[-1, 1, 1, -1], [0, size, size, 0], [size - 1, size + 1, size + 1, size - 1]]),
  cross: (context, size) => line(context, [[0, size, size, 0], [0, 0, size, size]]),
  bars: (context, size) => line(context, [[size / 2, 0, size / 2, size]]),
  rules: (context, size) => line(context, [[0, size / 2, size, size / 2]]),
  dots: (context, size) => context.fillRect(size / 2 - 1, size / 2 - 1, 2, 2),
};

function line(context, strokes) {
  context.beginPath();
  for (const [x0, y0, x1, y1] of strokes) {
    context.moveTo(x0, y0);
    context.lineTo(x1, y1);
  }
  context.stroke();
}

export class Painter {
  constructor(canvas, element, viewer) {
    this.canvas = canvas;
    this.element = element;
    this.viewer = viewer;
    this.context = canvas.getContext("2d", { alpha: false });
    this.width = this.height = 1;
    this.gutter = 150;
    this.users = new Map();
    this.retheme();
  }

  retheme() {
    this.colors = colorsOf(this.element);
    this.patterns = new Map();
  }

  resize(width, height, ratio) {
    this.width = width;
    this.height = height;
    this.ratio = ratio;
    this.gutter = width < 600 ? 86 : 150;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
  }

  /** One frame. `focus`: the span that is pointed at, or null. */
  paint(model, view, top, now, focus) {
    const { context, colors, width, height, gutter } = this;
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.font = FONT;
    context.textBaseline = "middle";
    context.fillStyle = colors.background;
    context.fillRect(0, 0, width, height);
    const rows = model.rowsIn(top, top + height - AXIS);
    const lanes = rows.filter((row) => row.lane);
    context.fillStyle = colors.lane;
    for (const row of lanes) context.fillRect(gutter, AXIS + row.top - top + 1, width - gutter, row.height - 2);
    const marks = ticks(view.from, view.until, view.width);
    for (const { time, day: begins } of marks) {
      context.fillStyle = begins ? colors.day : colors.line;
      context.fillRect(Math.round(gutter + view.x(time)), AXIS, 1, height - AXIS);
    }
    this._place(view, top);
    const labels = [];
    for (const row of lanes) {
      const y = AXIS + row.top - top;
      const { under, held } = row.lane;
      const below = [];
      this._spans(under, row, view, y, now, below);
      // What lies on it has the word.
      labels.push(...below.filter(([span]) => {
        const [begin, end] = held.range(Math.max(span.start, view.from), Math.min(span.end, view.until));
        return begin >= end;
      }));
      this._spans(held, row, view, y, now, labels);
    }
    this._labels(labels);
    if (focus) this._focus(focus, view, top);
    this._now(view, now);
    this._gutter(rows, top);
    this._axis(marks, view);
  }

  /** Where a span of a row is: `[x, y, width, height]` on the canvas, clipped to it. */
  box(span, row, view, top) {
    const left = Math.max(this.gutter, this.gutter + view.x(span.start));
    const right = Math.min(this.width, this.gutter + view.x(span.end));
    const inner = row.height - 4;
    const y = AXIS + row.top - top + 2 + Math.min(1, span.offset) * inner;
    return [left, y, Math.max(1, right - left), Math.max(2, Math.min(1, span.share) * inner)];
  }

  /** A small picture of one look, for the legend. */
  sample(canvas, look, ratio) {
    const own = Object.create(this, { context: { value: canvas.getContext("2d") }, ratio: { value: ratio } });
    own.patterns = new Map();
    own.placed = new DOMMatrix([1 / ratio, 0, 0, 1 / ratio, 0, 0]);
    canvas.width = SAMPLE.width * ratio;
    canvas.height = SAMPLE.height * ratio;
    own.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    own._span({ ...SAMPLE.span, user: this.viewer, ...look }, [1, 2, SAMPLE.width - 2, SAMPLE.height - 4], SAMPLE.now, SAMPLE.width);
  }

  _place(view, top) {
    const shift = -((view.from / view.span) * view.width) % 8;
    const place = new DOMMatrix([1 / this.ratio, 0, 0, 1 / this.ratio, shift, -(top % 8)]);
    for (const pattern of this.patterns.values()) pattern.setTransform(place);
    this.placed = place;
  }

  _pattern(mark, color) {
    const key = mark + color;
    let pattern = this.patterns.get(key);
    if (pattern === undefined) {
      const size = Math.round(8 * this.ratio);
      const tile = new OffscreenCanvas(size, size);
      const context = tile.getContext("2d");
      context.scale(size / 8, size / 8);
      context.strokeStyle = context.fillStyle = color;
      context.lineWidth = 1.4;
      MARKS[mark](context, 8);
      pattern = this.context.createPattern(tile, "repeat");
      pattern.setTransform(this.placed);
      this.patterns.set(key, pattern);
    }
    return pattern;
  }

  _color(user) {
    if (user && user === this.viewer) return this.colors.mine;
    let color = this.users.get(user);
    if (color === undefined) {
      color = `user-${(hashed(user) % USERS) + 1}`;
      this.users.set(user, color);
    }
    return this.colors[color];
  }

  _spans(track, row, view, y, now, labels) {
    const inner = row.height - 4;
    const scale = view.width / view.span;
    const edge = this.gutter + view.x(now);
    const { spans } = track;
    const [begin, end] = track.range(view.from, view.until);
    // Of spans that fall on one pixel with the same look, one is painted.
    let lastX = -1, lastLook = "";
    for (let index = begin; index < end; index += 1) {
      const span = spans[index];
      if (span.end <= view.from) continue;
      const left = Math.max(this.gutter, this.gutter + (span.start - view.from) * scale);
      const right = Math.min(this.width, this.gutter + (span.end - view.from) * scale);
      const wide = Math.max(1, right - left);
      if (wide < 2) {
        const look = `${span.kind}${span.user}${span.offset}${span.share}`;
        if (Math.floor(left) === lastX && look === lastLook) continue;
        [lastX, lastLook] = [Math.floor(left), look];
      }
      const top = y + 2 + Math.min(1, span.offset) * inner;
      const box = [left, top, wide, Math.max(2, Math.min(1, span.share) * inner)];
      this._span(span, box, now, edge);
      if (span.latestStart !== null) this._latest(this.gutter + view.x(span.latestStart), box);
      if (wide >= LABELLED && box[3] >= 11) labels.push([span, box]);
    }
  }

  _span(span, box, now, edge) {
    const { colors } = this;
    const [x, y, wide, high] = box;
    if (span.kind !== "Lease") {
      const color = colors[span.kind.toLowerCase()] ?? colors.muted;
      this._fill(colors.background, 0.6, box);
      this._fill(this._pattern(PATTERNS[span.kind] ?? "hatch", color), 0.9, box);
      if (wide >= NARROW) this._outline(color, box, span.kind === "Promise");
      return;
    }
    const color = this._color(span.user);
    if (span.end <= now) {
      this._fill(color, span.merged > 1 ? 0.3 : 0.42, box);
      if (wide >= NARROW) this._fill(color, 1, [x, y, 1, high]);
      return;
    }
    this._fill(color, 0.13, box);
    const until = Math.min(x + wide, Math.max(x, edge));
    if (span.used !== null && until > x) {
      const part = Math.min(1, span.used);
      this._fill(color, 0.55, [x, y + high * (1 - part), until - x, high * part]);
      if (span.used > OVER) {
        const tall = Math.max(3, Math.min(6, high / 3));
        this._fill(colors.over, 1, [x, y, until - x, tall]);
        this._fill(this._pattern("hatch", colors.background), 1, [x, y, until - x, tall]);
      }
    }
    if (wide >= NARROW) {
      this._outline(span.used > OVER ? colors.over : color, box, false);
      if (span.user === this.viewer && this.viewer) this._fill(color, 1, [x, y, 3, high]);
    }
  }

  _fill(style, alpha, [x, y, wide, high]) {
    this.context.globalAlpha = alpha;
    this.context.fillStyle = style;
    this.context.fillRect(x, y, wide, high);
    this.context.globalAlpha = 1;
  }

  _outline(color, [x, y, wide, high], dashed) {
    const { context } = this;
    context.strokeStyle = color;
    context.lineWidth = 1;
    if (dashed) context.setLineDash([4, 3]);
    context.strokeRect(x + 0.5, y + 0.5, Math.max(0, wide - 1), Math.max(0, high - 1));
    if (dashed) context.setLineDash([]);
  }

  /** From the expected start to the latest one: a line that ends in a bar and a flag. */
  _latest(x, [left, y, , high]) {
    if (x < this.gutter) return;
    const { context, colors } = this;
    const middle = y + high / 2;
    context.strokeStyle = context.fillStyle = colors.promise;
    context.lineWidth = 2;
    line(context, [[Math.max(left, this.gutter), middle, x, middle], [x, y, x, y + high]]);
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(x - 6, y + 3);
    context.lineTo(x, y + 6);
    context.fill();
  }

  _labels(labels) {
    const { context, colors } = this;
    context.textAlign = "left";
    context.strokeStyle = colors.background;
    context.fillStyle = colors.text;
    context.lineWidth = 3;
    context.lineJoin = "round";
    for (const [span, [x, y, wide, high]] of labels) {
      const label = fit(labelOf(span), wide - 10);
      if (label === "") continue;
      // A rim around the letters keeps them apart from patterns.
      context.globalAlpha = span.kind === "Lease" && !(span.used > OVER) ? 0.5 : 0.9;
      context.strokeText(label, x + 6, y + high / 2 + 0.5);
      context.globalAlpha = 1;
      context.fillText(label, x + 6, y + high / 2 + 0.5);
    }
  }

  _focus({ span, row }, view, top) {
    const { context } = this;
    const [x, y, wide, high] = this.box(span, row, view, top);
    context.strokeStyle = this.colors.focus;
    context.lineWidth = 2;
    context.strokeRect(x - 1, y - 1, wide + 2, high + 2);
  }

  _now(view, now) {
    const x = this.gutter + view.x(now);
    if (x < this.gutter || x > this.width) return;
    const { context, colors } = this;
    context.fillStyle = colors.now;
    context.fillRect(Math.round(x) - 1, AXIS - 4, 2, this.height);
  }

  _gutter(rows, top) {
    const { context, colors, gutter } = this;
    context.fillStyle = colors.background;
    context.fillRect(0, 0, gutter, this.height);
    context.textAlign = "left";
    for (const row of rows) {
      const y = AXIS + row.top - top;
      const node = row.depth === 0;
      if (!row.lane) {
        context.fillStyle = node ? colors.head : colors.lane;
        context.fillRect(0, y, this.width, row.height);
      }
      context.fillStyle = node ? colors.text : colors.muted;
      context.font = node ? `600 ${FONT}` : FONT;
      const indent = 8 + row.depth * 12;
      context.fillText(fit(row.label, (row.lane ? gutter : this.width) - indent - 4), indent, y + row.height / 2 + 0.5);
    }
    context.font = FONT;
    context.fillStyle = colors.line;
    context.fillRect(gutter - 1, AXIS, 1, this.height);
  }

  _axis(marks, view) {
    const { context, colors, gutter } = this;
    context.fillStyle = colors.background;
    context.fillRect(0, 0, this.width, AXIS);
    context.fillStyle = colors.line;
    context.fillRect(0, AXIS - 1, this.width, 1);
    context.fillStyle = colors.muted;
    context.fillText(fit(day(view.from), gutter - 8), 8, AXIS / 2);
    context.textAlign = "center";
    for (const { time, label, day: begins } of marks) {
      const x = gutter + view.x(time);
      const half = (label.length * CHARACTER) / 2;
      if (x - half < gutter || x + half > this.width) continue;
      context.fillStyle = begins ? colors.text : colors.muted;
      context.fillText(label, x, AXIS / 2);
    }
  }
}

const PATTERNS = { Promise: "hatch", Reservation: "cross", Drain: "dots", Down: "bars", Parked: "rules" };
const SAMPLE = { width: 30, height: 16, now: 2, span: { kind: "Lease", share: 1, used: 0.5, merged: 1, start: 0, end: 3 } };
const WORDS = { Promise: "promised", Reservation: "reserved", Drain: "drained", Down: "down", Parked: "parked" };

function labelOf(span) {
  if (span.merged > 1) return `${span.merged} leases`;
  const word = WORDS[span.kind];
  const parts = [word, span.name, span.user];
  if (span.used > OVER) parts.unshift(`! ${percent(span.used)} used`);
  return parts.filter(Boolean).join(" · ");
}

/** FNV-1a, mixed once more: names that differ in one letter get different colours, and keep them. */
function hashed(text) {
  let hash = 0x811c9dc5;
  for (const character of text) hash = Math.imul(hash ^ character.codePointAt(0), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  return (hash ^ (hash >>> 13)) >>> 0;
}

/** As much of the text as fits, or "" where that says nothing. */
function fit(text, width) {
  const most = Math.floor(width / CHARACTER);
  if (text.length <= most) return text;
  return most < 3 ? "" : `${text.slice(0, most - 1)}…`;
}
