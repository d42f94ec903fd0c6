// Lanes ready to be painted: rows from top to bottom, and in each lane what a window shows. A lane is
// { node, label, title, device, parent, healthy, spans }, its spans sorted by start, in seconds.

const HEAD = 22, LANE = 34, PART = 26;
const UNDER = new Set(["Drain", "Down", "Reservation"]);

/** Spans sorted by start, of which a window is found without looking at all. */
class Track {
  constructor(spans) {
    this.spans = spans;
    let last = -Infinity;
    // The latest end so far: it only grows, so what begins before a window and reaches into it is found by halving.
    this.ends = spans.map((span) => (last = Math.max(last, span.end)));
  }

  /** The indices `[begin, end)` of what may be seen from `from` until `until`. */
  range(from, until) {
    return [
      first(this.ends.length, (index) => this.ends[index] > from),
      first(this.spans.length, (index) => this.spans[index].start >= until),
    ];
  }
}

class Lane {
  constructor({ spans, ...lane }) {
    Object.assign(this, lane);
    this.spans = spans;
    const under = (span) => UNDER.has(span.kind);
    /** What the whole device is in, below the shares of it. */
    this.under = new Track(spans.filter(under));
    this.held = new Track(spans.filter((span) => !under(span)));
  }
}

/** The first index of which the test holds; it holds of all that follow. */
function first(length, test) {
  let low = 0, high = length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (test(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
}

export class Model {
  static empty() {
    return new Model([]);
  }

  constructor(lanes) {
    this.rows = rows(lanes.map((lane) => new Lane(lane)));
    this.height = this.rows.reduce((height, row) => Math.max(height, row.top + row.height), 0);
  }

  /** The rows that are seen from `top` to `bottom`. */
  rowsIn(top, bottom) {
    const begin = first(this.rows.length, (index) => this.rows[index].top + this.rows[index].height > top);
    const end = first(this.rows.length, (index) => this.rows[index].top >= bottom);
    return this.rows.slice(begin, end);
  }

  /** The span at a moment and a height, as `{ span, row }`, or null. `slack`: how many seconds beside it still count. */
  at(time, y, slack) {
    const row = this.rowsIn(y, y + 1)[0];
    if (!row?.lane) return null;
    const inner = row.height - 4;
    const part = (y - row.top - 2) / inner;
    let near = null;
    for (const track of [row.lane.held, row.lane.under]) {
      const [begin, end] = track.range(time - slack, time + slack);
      for (let index = end - 1; index >= begin; index -= 1) {
        const span = track.spans[index];
        const least = 2 / inner;
        if (part < span.offset - least || part > span.offset + span.share + least || span.end <= time - slack) continue;
        if (span.start <= time && time < span.end) return { span, row };
        near ??= { span, row };
      }
    }
    return near;
  }

  /** The same span in this model, after another answer came, or null. */
  again(focus) {
    if (focus === null) return null;
    const { node, uuid } = focus.row.lane;
    const row = this.rows.find(({ lane }) => lane && lane.node === node && lane.uuid === uuid);
    // By its time too, but not by its very start, which is the window's where the lease is older.
    const { key: wanted, start: from, end: until } = focus.span;
    const span = row?.lane.spans.find(({ key, start, end }) => key === wanted && start < until && end > from);
    return span ? { span, row } : null;
  }

  /** The span that a key leads to: before or after in its lane, or in the next lane that has one near the moment. */
  step(focus, forward, across, time) {
    const rows = this.rows.filter((row) => row.lane && row.lane.spans.length > 0);
    if (rows.length === 0) return null;
    if (focus === null) return { row: rows[0], span: nearest(rows[0].lane.spans, time) };
    const by = forward ? 1 : -1;
    if (!across) {
      const { spans } = focus.row.lane;
      const span = spans[spans.indexOf(focus.span) + by];
      return span ? { span, row: focus.row } : focus;
    }
    const row = rows[rows.indexOf(focus.row) + by];
    return row ? { row, span: nearest(row.lane.spans, Math.min(Math.max(time, focus.span.start), focus.span.end)) } : focus;
  }

  /** Every span in the window with its lane, from the top and by start. */
  * within(from, until) {
    for (const row of this.rows) {
      for (const track of row.lane ? [row.lane.under, row.lane.held] : []) {
        const [begin, end] = track.range(from, until);
        for (let index = begin; index < end; index += 1) {
          if (track.spans[index].end > from) yield [track.spans[index], row.lane];
        }
      }
    }
  }
}

function nearest(spans, time) {
  const far = (span) => Math.max(span.start - time, time - span.end, 0);
  return spans.reduce((best, span) => (far(span) < far(best) ? span : best));
}

/** One row a lane, below one for its node; instances of a GPU that is cut up below one for that GPU. */
function rows(lanes) {
  const found = [];
  let top = 0;
  const add = (label, lane, depth, height) => {
    found.push({ label, lane, depth, top, height });
    top += height;
  };
  for (const [node, own] of grouped(lanes, (lane) => lane.node)) {
    add(node, null, 0, HEAD);
    for (const [, group] of grouped(own, (lane) => lane.parent ?? lane)) {
      if (group[0].parent !== null) add("GPU in MIG instances", null, 1, HEAD);
      for (const lane of group) add(lane.label, lane, lane.parent === null ? 1 : 2, lane.parent === null ? LANE : PART);
    }
  }
  return found;
}

function grouped(items, key) {
  const groups = new Map();
  for (const item of items) {
    const found = groups.get(key(item));
    if (found) found.push(item);
    else groups.set(key(item), [item]);
  }
  return groups;
}
