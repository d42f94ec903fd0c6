// Shows a job's log as it is written: coloured lines, made safe by the server; follow, and look through what is here. The
// server searches all of it. A browser opens few connections to one server, so no more than three logs are followed at once.
"use strict";
(() => {
  const panel = document.getElementById("log"), box = document.getElementById("log-lines");
  if (!panel || !box) return;
  const MOST = 5000, SLOTS = 3, SLOWEST = 15000;
  const note = document.getElementById("log-note"), search = document.getElementById("log-search");
  const follow = document.getElementById("log-follow"), hint = document.getElementById("log-hint");
  let stream = null, partial = null, failures = 0, over = false, release = null, timer = 0;

  function line(pieces) {
    const made = document.createElement("div");
    for (const [classes, text] of pieces) {
      const span = document.createElement("span");
      if (classes) span.className = classes;
      span.textContent = text;
      made.append(span);
    }
    fits(made);
    return made;
  }

  function fits(element) {
    const wanted = search.value.toLowerCase();
    element.classList.toggle("hide", Boolean(wanted) && !element.textContent.toLowerCase().includes(wanted));
  }

  function atEnd() { return box.scrollHeight - box.scrollTop - box.clientHeight < 40; }

  function add(event) {
    const {lines, partial: rest} = JSON.parse(event.data);
    if (partial) partial.remove();
    partial = null;
    const made = lines.map(line);
    if (rest.length) made.push(partial = line(rest));
    box.append(...made);
    while (box.childElementCount > MOST) box.firstElementChild.remove();
    if (follow.checked) box.scrollTop = box.scrollHeight;
  }

  function say(text) { if (note.textContent !== text) note.textContent = text; }

  function open() {
    timer = 0;
    if (stream || over || document.hidden) return;
    stream = new EventSource(panel.dataset.follow + "&follow=true");
    stream.addEventListener("reset", () => { failures = 0; partial = null; box.replaceChildren(); say(""); });
    stream.addEventListener("lines", event => { say(""); add(event); });
    stream.addEventListener("state", event => say(JSON.parse(event.data).text));
    stream.addEventListener("note", event => {
      const made = document.createElement("div");
      made.className = "note-line";
      made.textContent = JSON.parse(event.data).text;
      if (partial) { partial = null; }
      box.append(made);
      if (follow.checked) box.scrollTop = box.scrollHeight;
    });
    stream.addEventListener("end", () => { over = true; close(); });
    stream.addEventListener("signed-out", () => { close(); location.reload(); });
    stream.onerror = () => {
      close();
      failures++;
      if (failures > 1) say("The log is not being read. This page tries again by itself.");
      timer = setTimeout(start, Math.min(SLOWEST, 1000 * 2 ** Math.min(failures - 1, 10)));
    };
  }

  function close() {
    if (stream) stream.close();
    stream = null;
    if (release) release();
    release = null;
  }

  // One of few slots, where the browser can count them.
  async function start() {
    timer = 0;
    if (stream || over || document.hidden || release) return;
    if (!navigator.locks) { open(); return; }
    for (let slot = 0; slot < SLOTS; slot++) {
      const got = await new Promise(decided => {
        navigator.locks.request("cumulus-ui-log-" + slot, {ifAvailable: true}, lock => {
          decided(Boolean(lock));
          return lock ? new Promise(done => { release = done; }) : undefined;
        });
      });
      if (got) { open(); return; }
    }
    say("Too many logs are followed in this browser. This one begins when another is closed.");
    timer = setTimeout(start, 3000);
  }

  // It is over, and then another attempt or run begins.
  document.body.addEventListener("cumulus-changed", ({detail: {keys}}) => {
    if (!over || !(keys.includes(panel.dataset.key) || keys.includes("*"))) return;
    over = false;
    clearTimeout(timer);
    timer = setTimeout(start, 2000);
  });
  search.addEventListener("input", () => {
    for (const each of box.children) fits(each);
    hint.hidden = !search.value;
  });
  follow.parentElement.hidden = false;
  box.addEventListener("scroll", () => { if (!atEnd() && follow.checked && box.matches(":hover, :focus")) follow.checked = false; else if (atEnd()) follow.checked = true; });
  follow.addEventListener("change", () => { if (follow.checked) box.scrollTop = box.scrollHeight; });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { clearTimeout(timer); timer = 0; close(); } else if (!timer) start();
  });
  start();
})();
