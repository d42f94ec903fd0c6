// Wheel, keys, mouse and touch, as what they mean to the view. `to` has: pan(pixels), zoom(factor, x), scroll(pixels),
// point(x, y), leave(), press(x, y, touched), step(forward, across), open(), clear(), now(), page(forward).
// All x and y are pixels of the canvas.

const MOVED = 4;
const ZOOM = 1.0025;

export function listen(canvas, to) {
  const pointers = new Map();
  let moved = 0;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  canvas.addEventListener("wheel", (event) => {
    const pixels = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
    const [dx, dy] = [event.deltaX * pixels, event.deltaY * pixels];
    if (event.ctrlKey || event.metaKey) to.zoom(ZOOM ** dy, at(event)[0]);
    else if (event.shiftKey) to.pan(dx + dy);
    else if (Math.abs(dx) > Math.abs(dy)) to.pan(dx);
    else return;
    event.preventDefault();
  }, { passive: false });

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, at(event));
    if (pointers.size === 1) moved = 0;
  });

  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = at(event);
    const before = pointers.get(event.pointerId);
    if (before === undefined) {
      if (event.pointerType === "mouse") to.point(x, y);
      return;
    }
    moved += Math.abs(x - before[0]) + Math.abs(y - before[1]);
    if (pointers.size === 2) {
      const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
      const [was, is] = [Math.abs(before[0] - other[0]), Math.abs(x - other[0])];
      const middle = (x + other[0]) / 2;
      if (was > 8 && is > 8) to.zoom(was / is, middle);
      to.pan((before[0] - x) / 2);
    } else if (moved > MOVED) {
      to.pan(before[0] - x);
      // A finger's up and down is the browser's own scrolling.
      if (event.pointerType === "mouse") to.scroll(before[1] - y);
    }
    pointers.set(event.pointerId, [x, y]);
  });

  const release = (event) => {
    if (!pointers.delete(event.pointerId) || pointers.size > 0) return;
    if (event.type === "pointerup" && moved <= MOVED) to.press(...at(event), event.pointerType !== "mouse");
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => to.leave());

  const keys = {
    ArrowLeft: (event) => (event.shiftKey ? to.pan(-80) : to.step(false, false)),
    ArrowRight: (event) => (event.shiftKey ? to.pan(80) : to.step(true, false)),
    ArrowUp: () => to.step(false, true),
    ArrowDown: () => to.step(true, true),
    PageUp: () => to.page(false),
    PageDown: () => to.page(true),
    "+": () => to.zoom(1 / 1.5),
    "=": () => to.zoom(1 / 1.5),
    "-": () => to.zoom(1.5),
    Home: () => to.now(),
    Enter: () => to.open(),
    Escape: () => to.clear(),
  };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
    keys[event.key](event);
    event.preventDefault();
  });
}
