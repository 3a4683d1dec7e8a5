// The data: runs, the one that is shown, and packed arrays, unpacked once when they are first asked for.

const ALL = JSON.parse(byId("data").textContent);
let D = null,
  thoughts = [],
  at = [],
  nCells = 0,
  nUnits = 0;

/** Show another run: everything that follows from its JSON alone. */
function useRun(place) {
  D = ALL.runs[place];
  thoughts = Array.from({ length: D.T }, (_, k) => `z${k + 1}`);
  at = placesOf(D.cells, D.queries.length);
  nCells = D.cells.length;
  nUnits = D.names.length + D.L + 1;
}

const unpacked = new Map();

function block(name) {
  const id = "b-" + D.prefix + name;
  if (!unpacked.has(id)) unpacked.set(id, (async () => {
    const element = byId(id);
    if (!element) return null;
    const bytes = Uint8Array.from(atob(element.textContent), (letter) => letter.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate")))
      .arrayBuffer();
  })());
  return unpacked.get(id);
}

const MAP_STEPS = 65534,
  PROBLEM_STEPS = 254;

/** The mean map of a unit with its interval: each of mean, low, high of a cell. Units: heads, layers, the mean head. */
async function meanMap(kind, unit) {
  const codes = new Uint16Array(await block(`maps-${kind}`)),
    n = kind === "rollout" ? 1 : nUnits,
    u = kind === "rollout" ? 0 : unit;
  const part = (value) => (cell) => valueOf(codes[(value * n + u) * nCells + cell], MAP_STEPS);
  return { mean: part(0), low: part(1), high: part(2) };
}

const layerOf = (head) => Math.floor(head / D.H);
const modelUnit = () => nUnits - 1;
const cellOf = (query, key) => at[D.queries.indexOf(query)]?.[D.keys.indexOf(key)];
const measureOf = (id) => measures().find((m) => m.id === id) ?? measures()[0];

/** What the grid can be coloured by: what the run has, and the effects of the study that is chosen. */
const measures = () => [...D.measures, ...effectMeasures()];

// Panels say what they draw and on which parts of the view that depends; tables say under which name they are saved.
const PARTS = [],
  TABLES = new Map();
const panel = (id, draw, depends) => PARTS.push({ id, draw, depends });
const exportsOf = (name, rows) => TABLES.set(name, rows);
