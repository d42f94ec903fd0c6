// Keeps a page up to date: words times, and asks again for what changed. One stream serves all pages of a browser: the
// page that holds the lock listens, and tells the others. A page that nobody looks at waits until somebody does.
"use strict";
(() => {
  const LOCK = "cumulus-ui-stream", SLOWEST = 15000, LEAST = 250, TIMES = 4;
  const channel = "BroadcastChannel" in window ? new BroadcastChannel("cumulus-ui") : null;
  const EVERYTHING = {kinds: [], keys: ["*"]};
  let dirty = false, asked = 0, timer = 0, pause = LEAST, failures = 0;

  // Times, by the server's clock: the browser's own may be wrong. A clock that nobody sets counts on.

  const [visit] = performance.getEntriesByType("navigation");
  let ahead = Number(document.documentElement.dataset.now || Date.now()) - (visit ? visit.responseStart : performance.now());
  function now() { return ahead + performance.now(); }
  function set(time) {
    ahead = time - performance.now();
    tellTimes(document);
  }

  // Made once: to make one takes longer than to word a hundred times by it.
  const clock = new Intl.DateTimeFormat(undefined, {dateStyle: "medium", timeStyle: "medium", hourCycle: "h23"});
  const units = [["d", 86400], ["h", 3600], ["m", 60], ["s", 1]];
  function duration(seconds) {
    for (let at = 0; at < units.length; at++) {
      const [letter, size] = units[at];
      if (seconds < size && at < units.length - 1) continue;
      const first = Math.floor(seconds / size), next = units[at + 1];
      const rest = next && first < 10 ? Math.floor((seconds - first * size) / next[1]) : 0;
      return first + letter + (rest ? rest + next[0] : "");
    }
  }
  function words(element) {
    const moment = new Date(element.dateTime), seconds = Math.round((moment - now()) / 1000);
    switch (element.dataset.form) {
      case "ago": return seconds > -1 ? "now" : duration(-seconds) + " ago";
      case "in": return seconds < 1 ? "now" : "in " + duration(seconds);
      default: return clock.format(moment);
    }
  }
  function tellTimes(within) {
    for (const each of within.querySelectorAll("time[data-form]")) {
      const text = words(each);
      if (each.textContent !== text) each.textContent = text;
      if (!each.title) each.title = clock.format(new Date(each.dateTime));
    }
  }

  // What changed

  function content() { return document.getElementById("content"); }

  function concerns(change) {
    const element = content();
    if (!element) return false;
    const keys = (element.dataset.keys || "").split(" ").filter(Boolean);
    const kinds = (element.dataset.kinds || "").split(" ").filter(Boolean);
    if (!keys.length && !kinds.length) return false;
    if (change.keys.includes("*")) return true;
    return keys.some(each => change.keys.includes(each)) || kinds.some(each => change.kinds.includes(each));
  }

  function deliver(change) {
    document.body.dispatchEvent(new CustomEvent("cumulus-changed", {detail: change}));
    if (!concerns(change)) return;
    dirty = true;
    soon();
  }

  function soon() {
    if (!dirty || timer || document.hidden || !window.htmx) return;
    timer = setTimeout(refresh, Math.max(0, asked + pause - Date.now()));
  }

  function refresh() {
    timer = 0;
    const element = content();
    if (!element || document.hidden) return;
    dirty = false;
    asked = Date.now();
    htmx.trigger(element, "cumulus-refresh");
  }

  document.addEventListener("htmx:afterRequest", event => {
    if (event.detail.elt.id !== "content") return;
    // A page that takes long to make is asked for less often.
    pause = Math.max(LEAST, TIMES * (Date.now() - asked));
    if (event.detail.failed && (!event.detail.xhr || !event.detail.xhr.status)) dirty = true;
    soon();
  });
  document.addEventListener("htmx:afterSwap", () => tellTimes(document));
  // What a person opened stays open.
  if (window.Idiomorph) {
    Idiomorph.defaults.callbacks.beforeAttributeUpdated =
      (name, node) => !(name === "open" && node.tagName === "DETAILS");
  }
  document.addEventListener("visibilitychange", () => { if (!document.hidden) { tellTimes(document); soon(); } });

  // The stream

  function tell(message) {
    hear(message);
    if (channel) channel.postMessage(message);
  }

  // Of what the page shows, and then of the last news.
  let revision = Number(document.documentElement.dataset.revision || 0);

  function hear(message) {
    if (message.known > revision) deliver(EVERYTHING);
    revision = Math.max(revision, message.known ?? message.revision ?? 0);
    if (message.lost !== undefined) document.getElementById("connection").hidden = !message.lost;
    if (message.now) set(message.now);
    if (message.change) deliver(message.change);
    if (message.out) location.reload();
  }

  function listen() {
    const stream = new EventSource("/ui/changes?watch=1");
    stream.addEventListener("hello", event => {
      const hello = JSON.parse(event.data);
      if (failures) tell({lost: false, revision: hello.revision, change: EVERYTHING});
      else tell({lost: false, known: hello.revision});
      failures = 0;
    });
    stream.addEventListener("clock", event => tell({now: JSON.parse(event.data).now}));
    stream.addEventListener("change", event => {
      const {revision, ...change} = JSON.parse(event.data);
      tell({revision, change});
    });
    stream.addEventListener("signed-out", () => { stream.close(); tell({out: true}); });
    stream.onerror = () => {
      stream.close();
      failures++;
      // One that ends and is there again at once is not worth a word.
      if (failures > 1) tell({lost: true, change: EVERYTHING});
      const wait = Math.min(SLOWEST, 500 * 2 ** Math.min(failures - 1, 10));
      setTimeout(listen, wait * (0.75 + Math.random() / 2));
    };
  }

  tellTimes(document);
  setInterval(() => { if (!document.hidden) tellTimes(document); }, 10000);
  if (content() && (content().dataset.keys || content().dataset.kinds || document.getElementById("timeline"))) {
    let listens = false;
    if (channel) {
      channel.onmessage = event => {
        if (!event.data.asks) hear(event.data);
        else if (listens) channel.postMessage({known: revision});
      };
      // What changed while this page was on its way was told to the others alone.
      channel.postMessage({asks: true});
    }
    if (channel && navigator.locks) {
      // Held as long as this page is open; then another page listens.
      navigator.locks.request(LOCK, () => { listens = true; listen(); return new Promise(() => {}); });
    } else {
      listen();
    }
  }
})();
