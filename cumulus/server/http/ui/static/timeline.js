// <lease-timeline src="…" job-url="/…/{namespace}/{name}" user="me"></lease-timeline>
//
// Draws who has which device, until when, and who comes next, with a table of the same below. An event "cumulus-changed"
// on the body makes it ask anew.

import { button, make } from "./timeline/elements.js";
import { listen } from "./timeline/input.js";
import { Model } from "./timeline/model.js";
import { AXIS, Painter } from "./timeline/paint.js";
import { Source } from "./timeline/source.js";
import { fill, table } from "./timeline/table.js";
import { View } from "./timeline/view.js";
import { about, sentence } from "./timeline/words.js";

const SPANS = [["1 hour", 3600], ["6 hours", 21600], ["1 day", 86400], ["1 week", 604800], ["30 days", 2592000]];
const FIRST = 21600;
const LEGEND = [
  ["past", { end: 1 }], ["running: held, and the used part of it inside", {}], ["uses more than it holds", { used: 1.2 }],
  ["promised, with its latest start", { kind: "Promise" }], ["reserved", { kind: "Reservation" }],
  ["parked", { kind: "Parked" }], ["drained", { kind: "Drain" }], ["down", { kind: "Down" }],
];
const KINDS = new Set(["GPUJob", "GPUPartition", "GPUNode", "Reservation"]);
const HELP =
  "Arrow keys go from lease to lease, Enter opens the job. Shift with an arrow key or the wheel moves in time, plus and " +
  "minus or Control with the wheel zoom, Home goes to now.";
const REPAINT_MS = 1000;

class LeaseTimeline extends HTMLElement {
  connectedCallback() {
    // Moved within the page: all of it is there already.
    if (this.painter) return;
    this.model = Model.empty();
    this._set((Number(document.documentElement.dataset.now) || Date.now()) / 1000);
    this.focused = null;
    this.following = true;
    this.painted = 0;
    this._build();
    this.painter = new Painter(this.canvas, this, this.getAttribute("user") ?? "");
    this.view = new View(0, FIRST);
    this.view.follow(this.now, FIRST);
    this.source = new Source(this.getAttribute("src"), (model, now) => this._take(model, now), (words) => this._say(this.trouble, words));
    listen(this.canvas, this._actions());
    this._observe();
    this._legend();
  }

  disconnectedCallback() {
    // Morphing may take an element out and put it back at once.
    queueMicrotask(() => {
      if (this.isConnected) return;
      this.stop.abort();
      this.sizes.disconnect();
      this.themes.disconnect();
      clearInterval(this.clock);
      this.source.close();
    });
  }

  /** By the server's clock: the browser's own may be wrong. A clock that nobody sets counts on. */
  get now() {
    return this.ahead + performance.now() / 1000;
  }

  _set(now) {
    this.ahead = now - performance.now() / 1000;
  }

  _build() {
    this.canvas = make("canvas", {
      class: "timeline-canvas", tabindex: "0", role: "application", "aria-roledescription": "timeline",
      "aria-label": "Leases of each device over time", "aria-describedby": "timeline-help",
    });
    this.spacer = make("div", { class: "timeline-spacer" });
    this.scroller = make("div", { class: "timeline-scroller" }, this.canvas, this.spacer);
    this.card = make("div", { class: "timeline-card", hidden: "" });
    this.trouble = make("p", { class: "timeline-trouble", role: "status" });
    this.spoken = make("p", { class: "timeline-spoken", role: "status" });
    this.follower = button("Now", "Follow now", () => this._follow(!this.following));
    const choice = make("select", { "aria-label": "Length of the window" }, make("option", { value: "" }, "zoomed"));
    for (const [words, seconds] of SPANS) choice.append(make("option", { value: String(seconds) }, words));
    choice.addEventListener("change", () => this._choose(Number(choice.value)));
    this.choice = choice;
    const bar = make("div", { class: "timeline-bar", role: "group", "aria-label": "The window of time" },
      button("‹", "Earlier", () => this._page(false)), this.follower, button("›", "Later", () => this._page(true)),
      button("−", "Zoom out", () => this._zoom(1.5)), button("+", "Zoom in", () => this._zoom(1 / 1.5)), choice);
    this.legend = make("ul", { class: "timeline-legend", "aria-label": "Legend" });
    const help = make("p", { class: "timeline-help", id: "timeline-help" }, HELP);
    const stage = make("div", { class: "timeline-stage" }, this.scroller, this.card);
    this.table = table();
    const scrolled = make("div", { class: "timeline-table", role: "region", tabindex: "0", "aria-label": "The timeline as a table" }, this.table);
    this.details = make("details", {}, make("summary", {}, "The same as a table"), scrolled);
    this.details.addEventListener("toggle", () => this._fill());
    this.replaceChildren(bar, this.trouble, stage, this.spoken, this.legend, help, this.details);
  }

  _observe() {
    this.stop = new AbortController();
    const { signal } = this.stop;
    const retheme = () => {
      this.painter.retheme();
      this._legend();
      this._dirty();
    };
    this.sizes = new ResizeObserver(() => this._resize());
    this.sizes.observe(this.scroller);
    this.themes = new MutationObserver(retheme);
    this.themes.observe(document.documentElement, { attributes: true });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", retheme, { signal });
    addEventListener("resize", () => this._resize(), { signal });
    this.scroller.addEventListener("scroll", () => this._dirty(), { signal, passive: true });
    this.canvas.addEventListener("focus", () => this._dirty(), { signal });
    document.body.addEventListener("cumulus-changed", ({ detail }) => {
      if (concerns(detail)) this.source.refresh();
    }, { signal });
    document.addEventListener("visibilitychange", () => this._dirty(), { signal });
    this.clock = setInterval(() => this._dirty(), REPAINT_MS);
  }

  _actions() {
    return {
      pan: (pixels) => {
        this._loose();
        this.view.pan(pixels);
        this._moved();
      },
      zoom: (factor, x) => this._zoom(factor, x),
      scroll: (pixels) => (this.scroller.scrollTop += pixels),
      point: (x, y) => this._point(this._at(x, y, 3)),
      leave: () => {
        if (!this.pinned) this._point(null);
      },
      press: (x, y, touched) => {
        const found = this._at(x, y, touched ? 12 : 3);
        // A finger cannot hover: its first touch shows what is there, the second opens it.
        if (touched && found?.span !== this.focused?.span) this._point(found, true);
        else if (found) this._open(found.span);
      },
      step: (forward, across) => this._step(forward, across),
      open: () => this.focused && this._open(this.focused.span),
      clear: () => this._point(null),
      now: () => this._follow(true),
      page: (forward) => this._page(forward),
    };
  }

  _at(x, y, slack) {
    if (x < this.painter.gutter || y < AXIS) return null;
    const time = this.view.time(x - this.painter.gutter);
    return this.model.at(time, y - AXIS + this.scroller.scrollTop, (slack * this.view.span) / this.view.width);
  }

  _step(forward, across) {
    const found = this.model.step(this.focused, forward, across, this.now);
    if (found === null) return;
    const { span, row } = found;
    if (span.end < this.view.from || span.start > this.view.until) {
      this._loose();
      this.view.reveal(span.start);
    }
    const room = this.scroller.clientHeight - AXIS;
    const { scroller } = this;
    scroller.scrollTop = Math.max(Math.min(scroller.scrollTop, row.top), row.top + row.height - room);
    this._point(found, true);
    this._say(this.spoken, sentence(span, row.lane, this.now));
    this._moved();
  }

  /** Show what there is to say of a span; null hides it. `pinned`: it stays when the mouse goes. */
  _point(found, pinned = false) {
    this.pinned = pinned && found !== null;
    if (found?.span === this.focused?.span && found?.row === this.focused?.row) return;
    this.focused = found;
    this.canvas.classList.toggle("timeline-pointed", Boolean(found && this._link(found.span)));
    this._card();
    this._dirty();
  }

  _card() {
    const { card, focused } = this;
    card.hidden = focused === null;
    if (focused === null) return;
    const { title, rows } = about(focused.span, focused.row.lane, this.now);
    const list = make("dl", {});
    for (const [name, value] of rows) list.append(make("dt", {}, name), make("dd", {}, value));
    card.replaceChildren(make("strong", {}, title), list);
    const [x, y, wide, high] = this.painter.box(focused.span, focused.row, this.view, this.scroller.scrollTop);
    const room = this.scroller.clientWidth - card.offsetWidth - 4;
    card.style.left = `${Math.max(4, Math.min(room, x + Math.min(wide, 40)))}px`;
    const below = y + high + 6;
    const above = y - card.offsetHeight - 6;
    // Above where it fits; over what follows the canvas where it is a low one.
    card.style.top = `${below + card.offsetHeight > this.scroller.clientHeight && above > 0 ? above : below}px`;
  }

  _link({ job }) {
    const [namespace, name, more] = (job ?? "").split("/");
    // A partition of no job has no page.
    if (!name || more !== undefined) return null;
    return this.getAttribute("job-url").replace("{namespace}", encodeURIComponent(namespace)).replace("{name}", encodeURIComponent(name));
  }

  _open(span) {
    const address = this._link(span);
    if (address) location.assign(address);
  }

  _zoom(factor, x) {
    const anchor = this.following ? this.view.x(this.now) : x === undefined ? this.view.width / 2 : x - this.painter.gutter;
    this.view.zoom(factor, Math.min(this.view.width, Math.max(0, anchor)));
    this._moved();
  }

  _page(forward) {
    this._loose();
    this.view.pan((forward ? 0.8 : -0.8) * this.view.width);
    this._moved();
  }

  _choose(seconds) {
    if (!seconds) return;
    this._zoom(seconds / this.view.span);
    if (this.following) this._follow(true);
  }

  _follow(wanted) {
    this.following = wanted;
    this._moved();
  }

  /** The view goes where a person moves it, no longer with now. */
  _loose() {
    this.following = false;
  }

  _moved() {
    this.follower.setAttribute("aria-pressed", String(this.following));
    const chosen = SPANS.find(([, seconds]) => Math.abs(this.view.span - seconds) < 1);
    this.choice.value = chosen ? String(chosen[1]) : "";
    if (this.focused) this._card();
    this._dirty();
    clearTimeout(this.filling);
    this.filling = setTimeout(() => this._fill(), 300);
  }

  _take(model, now) {
    this._set(now);
    this.model = model;
    this.focused = model.again(this.focused);
    this._resize();
    this._card();
    this._fill();
  }

  _fill() {
    if (this.details.open) fill(this.table, this.model, this.view, this.now, (span) => this._link(span));
  }

  _resize() {
    const most = Math.max(220, Math.round(innerHeight * 0.7));
    const high = Math.min(most, this.model.height + AXIS + 4);
    const wide = this.scroller.clientWidth;
    this.scroller.style.height = `${high}px`;
    this.spacer.style.height = `${Math.max(0, this.model.height + AXIS + 4 - high)}px`;
    this.painter.resize(wide, high, devicePixelRatio || 1);
    this.view.width = Math.max(1, wide - this.painter.gutter);
    this._moved();
    this._frame();
  }

  _dirty() {
    if (this.waiting || !this.painter) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this._frame();
    });
  }

  _frame() {
    if (this.following) this.view.follow(this.now);
    if (devicePixelRatio !== this.painter.ratio) this.painter.resize(this.painter.width, this.painter.height, devicePixelRatio);
    this.source.see(this.view);
    this.painter.paint(this.model, this.view, this.scroller.scrollTop, this.now, this.focused);
    this.painted += 1;
  }

  _legend() {
    this.legend.replaceChildren(...LEGEND.map(([words, look]) => {
      const sample = make("canvas", { "aria-hidden": "true", class: "timeline-sample" });
      this.painter.sample(sample, look, devicePixelRatio || 1);
      return make("li", {}, sample, words);
    }));
  }

  _say(place, words) {
    if (place.textContent !== words) place.textContent = words;
  }
}

/** Whether a change may be seen here: what it names, or all where that is not known. */
function concerns(change) {
  return !change || change.keys.includes("*") || change.kinds.some((kind) => KINDS.has(kind));
}

customElements.define("lease-timeline", LeaseTimeline);
