// Makes elements. Text stays text.

export function make(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

export function button(sign, words, action) {
  const made = make("button", { type: "button", "aria-label": words, title: words }, sign);
  made.addEventListener("click", action);
  return made;
}
