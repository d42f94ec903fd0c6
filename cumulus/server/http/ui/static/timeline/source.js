// Asks the server for windows of time: more than is seen, so that a short pan needs no request; one request at a time,
// and only when the view has come to rest. Until an answer is there the last one stays.

import { Model } from "./model.js";

const REST_MS = 120;
const AROUND = 1;
// The first picture is there sooner without what is beside it; but the view goes on with the clock meanwhile.
const AROUND_FIRST = 0.05;
const LONGEST_WAIT_MS = 15000;
// What nobody announces, such as use, is asked for now and then: by so little that an idle page stays quiet.
const REFRESH_MS = 20000;
const IDLE_BYTES_PER_MS = 0.4;

export class Source {
  /** `onModel(model, now)` gets each answer; `onTrouble(words)` what is wrong, "" when all is well again. */
  constructor(address, onModel, onTrouble) {
    this.address = address;
    this.onModel = onModel;
    this.onTrouble = onTrouble;
    this.loaded = null;
    this.pending = null;
    this.failed = 0;
    this.stale = false;
    this.took = 0;
  }

  /** The view is here now: ask, once it rests, for what is missing. */
  see(view) {
    this.wanted = { from: view.from, until: view.until, scale: view.span / view.width };
    // After a failure the time of the next try is set.
    if (this.failed > 0 || covers(this.loaded, this.wanted) || covers(this.pending, this.wanted)) return;
    this._after(this.loaded || this.pending ? REST_MS : 0);
  }

  /** Something changed on the server: ask anew, soon. What changes while an answer is under way is asked for after it. */
  refresh() {
    if (this.pending) this.stale = true;
    else if (this.wanted) this._after(this.took);
  }

  close() {
    clearTimeout(this.timer);
    this.asking?.abort();
  }

  _after(delay) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this._ask(), delay);
  }

  async _ask() {
    if (document.hidden) {
      document.addEventListener("visibilitychange", () => this._after(0), { once: true });
      return;
    }
    this.asking?.abort();
    const asking = (this.asking = new AbortController());
    const asked = (this.pending = around(this.wanted, this.loaded ? AROUND : AROUND_FIRST));
    this.stale = false;
    const began = performance.now();
    try {
      const [answer, bytes] = await this._fetch(asked, asking.signal);
      if (asking !== this.asking) return;
      if (this.failed > 0) this.onTrouble("");
      this.failed = 0;
      const first = this.loaded === null;
      this.pending = null;
      this.loaded = asked;
      this.took = performance.now() - began;
      // What is beside the first picture follows at once, not when it would be asked for anew.
      const rest = first ? REST_MS : Math.max(REFRESH_MS, bytes / IDLE_BYTES_PER_MS);
      this._after(this.stale ? this.took : rest);
      this.onModel(new Model(understood(answer)), answer.now / 1000);
    } catch (error) {
      if (asking !== this.asking || error.name === "AbortError") return;
      this.pending = null;
      this.failed += 1;
      if (error instanceof Refused) {
        this.onTrouble("Your session has ended. Sign in again to go on.");
        return;
      }
      const why = error instanceof Told ? `What was held cannot be shown now: ${error.message}` : "The server does not answer.";
      this.onTrouble(`${why} What you see may be out of date; asking again.`);
      this._after(Math.min(LONGEST_WAIT_MS, 250 * 2 ** this.failed));
    }
  }

  /** The answer, and how long it was. */
  async _fetch({ from, until, scale }, signal) {
    const url = new URL(this.address, document.baseURI);
    url.searchParams.set("start", Math.floor(from * 1000));
    url.searchParams.set("end", Math.ceil(until * 1000));
    url.searchParams.set("pixels", Math.max(1, Math.round((until - from) / scale)));
    const response = await fetch(url, { signal, headers: { accept: "application/json" }, redirect: "manual" });
    // Who is not signed in is led to where that is done.
    if (response.type === "opaqueredirect" || response.status === 401 || response.status === 403) throw new Refused();
    if (!response.ok) throw await failure(response);
    const text = await response.text();
    return [JSON.parse(text), text.length];
  }
}

class Refused extends Error {}
/** The server says itself what is wrong. */
class Told extends Error {}

async function failure(response) {
  if (response.headers.get("content-type") === "application/json") return new Told((await response.json()).problem);
  return new Error(`status ${response.status}`);
}

function around({ from, until, scale }, windows) {
  const more = (until - from) * windows;
  return { from: from - more, until: until + more, scale };
}

/** Whether a window holds the wanted one, and as finely: zoomed in by much, what was merged would be coarse. */
function covers(window, wanted) {
  return window !== null && wanted.from >= window.from && wanted.until <= window.until && window.scale < 2 * wanted.scale;
}

/** The answer as the painter reads it: seconds, and what people call each thing. */
function understood({ lanes, start, end }) {
  return lanes.map(({ node, device, uuid, name, parent, healthy, spans }) => ({
    node, device, uuid, parent, healthy,
    label: `${parent === null ? "Device" : "MIG"} ${device}`,
    title: name,
    spans: spans.map((span) => understoodSpan(span, start, end)),
  }));
}

/** In place: there may be tens of thousands. */
function understoodSpan(span, start, end) {
  span.key = `${span.kind} ${span.job} ${span.offset}`;
  span.older = span.start <= start;
  span.longer = span.end >= end;
  span.name = span.job === null ? "" : span.job.slice(span.job.indexOf("/") + 1);
  span.user ??= "";
  span.start /= 1000;
  span.end /= 1000;
  if (span.latestStart !== null) span.latestStart /= 1000;
  return span;
}
