// The window of time that is shown, and where a moment is in it. Times are seconds since 1970, x is in CSS pixels.

export const SHORTEST = 60;
export const LONGEST = 400 * 86400;

export class View {
  constructor(from, until) {
    this.from = from;
    this.until = until;
    this.width = 1;
  }

  get span() {
    return this.until - this.from;
  }

  x(time) {
    return ((time - this.from) / this.span) * this.width;
  }

  time(x) {
    return this.from + (x / this.width) * this.span;
  }

  pan(pixels) {
    const seconds = (pixels / this.width) * this.span;
    this.from += seconds;
    this.until += seconds;
  }

  /** Make the window `factor` times as long; what is at `x` stays there. */
  zoom(factor, x) {
    const span = Math.min(LONGEST, Math.max(SHORTEST, this.span * factor));
    const held = this.time(x);
    this.from = held - (x / this.width) * span;
    this.until = this.from + span;
  }

  /** Show `span` seconds around now. */
  follow(now, span = this.span) {
    this.from = now - span / 2;
    this.until = this.from + span;
  }

  /** Move as little as is needed to show the moment, with some room around it. */
  reveal(time) {
    const room = this.span * 0.1;
    const by = Math.min(0, time - room - this.from) || Math.max(0, time + room - this.until);
    this.from += by;
    this.until += by;
  }
}
