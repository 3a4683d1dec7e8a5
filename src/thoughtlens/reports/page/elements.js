// Elements: made with text and never with markup, so that no text of the data can become an element.

const byId = (id) => document.getElementById(id);

function made(create, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) create.addEventListener(name.slice(2), value);
    // The policy forbids style attributes, and allows properties.
    else if (name === "css")
      for (const [property, x] of Object.entries(value)) create.style.setProperty(property, x);
    else create.setAttribute(name, value === true ? "" : value);
  }
  create.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !==
    false));
  return create;
}

const h = (tag, attributes, ...children) => made(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => made(document.createElementNS("http://www.w3.org/2000/svg", tag),
  attributes, children);
const fill = (id, ...children) => byId(id).replaceChildren(...children.flat(Infinity).filter((x) => x !== null &&
  x !== undefined && x !== false));
const bold = (text) => h("b", {}, text);
const help = (...text) => h("p", { class: "help" }, ...text);
const title = (text) => h("h3", { class: "h4" }, text);
const isDark = (share) => (share > 0.6 ? " hi" : "");

/** Buttons of which one is pressed. */
function choice(label, options, now, pick) {
  return h("span", { class: "seg", role: "group", "aria-label": label }, options.map(([id, text]) =>
    h("button", { type: "button", "aria-pressed": String(id === now), onclick: () => pick(id) }, text)));
}

function select(label, options, now, pick) {
  const list = h("select", { onchange: (event) => pick(event.target.value) }, options.map(([value, text]) => h(
    "option", { value }, text)));
  list.value = now;
  return h("label", {}, label, " ", list);
}

/** A bar of the colours of a scale with texts under it: kind "" is looking, "o" cutting; `both` ways from 0. */
function ramp(kind, marks, both) {
  const bars = both ? [h("div", { class: "ramp rev n half" }), h("div", { class: "ramp c half" })] : h(
  "div", { class: `ramp c ${kind}` });
  return h("div", { class: "scale" }, bars, marks.map(([at, text]) => h("span", { css: { left: 100 * at + "%" } },
    text)));
}

/** Arrow keys, Home and End inside elements laid out in rows, which are one stop of the tab key. */
function roam(event, items, placeOf, go) {
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] } [event.key];
  const here = items.indexOf(document.activeElement);
  if (here < 0 || (!step && event.key !== "Home" && event.key !== "End")) return;
  event.preventDefault();
  let next = event.key === "Home" ? items[0] : event.key === "End" ? items.at(-1) : undefined;
  if (step) {
    const [row, column] = placeOf(items[here]), byPlace = new Map(items.map((item) => [placeOf(item).join(),
    item]));
    for (let i = 1; i < 40 && !next; i++) next = byPlace.get([row + i * step[0], column + i * step[1]].join());
  }
  if (!next) return;
  items[here].tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
  if (go) go(next);
}

function bars(heading, note, rows, top, { zero, cause } = {}) {
  const at = (x) => 100 * Math.max(0, Math.min(1, x / top)) + "%";
  return h("div", {}, title(heading), h("div", { class: "bars" + (cause ? " cause" : "") }, rows.map(([name, [x,
    low, high
  ]]) => [
    h("span", {}, name),
    h("span", { class: "track" }, h("i", { css: { width: at(Math.abs(x)) } }),
      low !== undefined && low !== null && h("b", { css: { left: at(Math.min(Math.abs(low), Math.abs(
            high))), width: `${100 * Math.abs(high - low) / top}%` } }),
      zero !== undefined && h("u", { css: { left: at(zero) } })),
    h("span", {}, withInterval([x, low, high]))
  ])), note && help(note));
}

function plainTable(head, rows, label) {
  return h("table", { class: "plain", "aria-label": label }, h("thead", {}, h("tr", {}, head.map((text) => h(
    "th", { scope: "col" }, text)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, i) => h(i ? "td" : "th", i ? {} :
    { scope: "row" }, cell))))));
}

const csvButton = (name, text) => h("button", { type: "button", class: "csv", "data-csv": name }, text);
