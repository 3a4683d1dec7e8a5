// Pure parts: numbers as text, scales, codes, edges, tables as CSV, the view in the address. No document, no state.

/** A number as text: as many digits as its size needs, a true minus sign, a dash where it is undefined. */
function number(x, digits) {
  if (x === null || x === undefined || Number.isNaN(x)) return "–";
  const size = Math.abs(x);
  const text = size.toFixed(digits ?? (size >= 100 ? 0 : size >= 10 ? 1 : size >= 0.01 || size === 0 ? 2 : 3));
  return Number(text) === 0 ? "0" : (x < 0 ? "−" : "") + text;
}

/** ` [low, high]`, which no line breaks; nothing where there is no interval. */
function interval(low, high, digits) {
  return low === null || low === undefined || Number.isNaN(low) ? "" :
    ` [${number(low, digits)},\u00a0${number(high, digits)}]`;
}

const withInterval = ([x, low, high], digits) => number(x, digits) + interval(low, high, digits);

function percent(x) {
  return x > 0 && x < 0.005 ? "under 1\u202f%" : `${Math.round(100 * x)}\u202f%`;
}

function pValue(p, name = "p") {
  if (p === null || p === undefined) return `${name} undefined`;
  return p < 0.001 ? `${name}\u00a0<\u00a00.001` : `${name}\u00a0=\u00a0${p.toFixed(p < 0.1 ? 3 : 2)}`;
}

/** Whether a p-value says that there is something. */
const isShown = (p) => p !== null && p !== undefined && p < 0.05;

/** At most n + 1 round numbers from low to high, each with its text. */
function ticks(low, high, n) {
  if (!(high > low)) return [];
  const unit = 10 ** Math.floor(Math.log10((high - low) / n)),
    step = [1, 2, 5, 10].map((k) => k * unit).find((k) => (high - low) / k <= n);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9)),
    found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push([k * step, number(k *
    step, digits)]);
  return found;
}

/** What a code of a packed map stands for; null if undefined. */
const valueOf = (code, steps) => (code > steps ? null : code / steps);

/** The place of each query and key among the cells: at[query][key]. */
function placesOf(cells, nQueries) {
  const at = Array.from({ length: nQueries }, () => ({}));
  cells.forEach(([q, k], place) => { at[q][k] = place; });
  return at;
}

/** Where a value stands on the scale of its measure, from 0 to 1; `top` is the scale's end. */
function onScale(scale, x, zero, top) {
  const share = scale === "excess" ? Math.abs(x) / top : scale === "effect" ? -x / top : (x - zero) / (top - zero);
  return Math.max(0, Math.min(1, share || 0));
}

/** The end of a measure's scale: its largest value, distance from 0, or loss. */
function topOf(scale, xs, zero) {
  const sizes = xs.map((x) => (scale === "excess" ? Math.abs(x) : scale === "effect" ? -x : x));
  return Math.max(...sizes, (scale === "size" ? zero : 0) + 1e-9);
}

/** Parts of all attention and of all loss between thoughts, and where the two disagree.
 *
 * An edge is marked where it has at least a tenth of one total and four times its part of the other: "looked", if its
 * cut is shown to have no effect beyond the margin, and "needed", if its cut is shown to cost something.
 */
function weighed(edges) {
  const inner = edges.filter((e) => e.inner);
  const total = (of) => inner.reduce((sum, e) => sum + of(e), 0) || 1;
  const looks = total((e) => e.mean),
    losses = total((e) => e.loss);
  return edges.map((e) => {
    const look = e.mean / looks,
      loss = e.loss / losses;
    const odd = !e.inner || !e.cut ? null :
      look >= 0.1 && look >= 4 * loss && e.none ? "looked" :
      loss >= 0.1 && loss >= 4 * look && e.shown ? "needed" : null;
    return { ...e, lookShare: look, lossShare: loss, odd };
  });
}

/** Cells of the 2025 scripts, [row][column], of a map as thoughts index it: row s is zs, column j is z(j+1), self left out of none. */
function stepIndexed(nThoughts, mean) {
  return Array.from({ length: nThoughts }, (_, s) =>
    Array.from({ length: nThoughts }, (_, j) => (s >= 1 && j < s ? mean(s, j + 1) : 0)));
}

/** A cell of a CSV file; a text that a spreadsheet would run as a formula gets an apostrophe. */
function csvCell(value) {
  const text = value === null || value === undefined || Number.isNaN(value) ? "" : String(value);
  const safe = typeof value === "string" && /^[=+@\t\r-]/.test(text) ? `'${text}` : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

const csvText = (rows) => rows.map((row) => row.map(csvCell).join(",")).join("\r\n") + "\r\n";

/** The view that an address asks for; what it leaves out, or names and isn't there, is as by default. */
function viewOf(hash, defaults, allowed = {}) {
  const given = new URLSearchParams(hash.replace(/^#/, "")),
    view = { ...defaults };
  for (const name of Object.keys(defaults)) {
    if (given.has(name) && (!allowed[name] || allowed[name].includes(given.get(name)))) view[name] = given.get(
    name);
  }
  return view;
}

/** The address of a view: what differs from the default. */
function addressOf(view, defaults) {
  const kept = Object.entries(view).filter(([name, value]) => value !== defaults[name] && value !== undefined);
  return "#" + new URLSearchParams(kept);
}
