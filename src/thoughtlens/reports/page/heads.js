// The head explorer: a grid of layers and heads, and the card of the head that is chosen.

const LETTERS = {
  hub: "H", "previous-thought": "P", skip: "K", "read-out": "R", self: "I", "first-token": "F", "no clear type": "·",
};
const typeText = (type) => (type === "no clear type" ? type : `${type} head`);
let gridCells = [],
  gridOf = null;

const headAt = () => D.names.indexOf(V.head);
const typeOf = (head) => measureOf("type").values[head];
const told = (m, x) => (m.scale === "type" ? typeText(x) : x ? withInterval(x) + (m.unit ? " " + m.unit : "") :
  "not measured");

function buildGrid() {
  const wide = D.H > 12,
    few = D.names.length <= ALL_SHOWN,
    grid = byId("grid");
  gridOf = D;
  gridCells = [];
  grid.classList.toggle("wide", wide);
  grid.style.setProperty("grid-template-columns",
    `${wide ? 26 : 34}px repeat(${D.H}, minmax(${wide ? 6 : few ? 44 : 27}px, 1fr))`);
  for (const [name, value] of [
      ["--cw", wide ? "6px" : "24px"],
      ["--ch", few ? "46px" : wide ? "18px" : "20px"],
      ["--cf", few ? "14px" : "11px"]
    ]) grid.style.setProperty(name, value);
  const header = h("div", { role: "row" }, h("span", { class: "t", role: "columnheader", "aria-label": "layer" }),
    Array.from({ length: D.H }, (_, i) =>
      h("span", { class: "t", role: "columnheader", "aria-label": `head ${i}` }, wide && i % 4 ? "" : `H${i}`)));
  const rows = Array.from({ length: D.L }, (_, layer) => h("div", { role: "row" }, h("span", { class: "t",
    role: "rowheader" }, `L${layer}`), Array.from({ length: D.H }, (_, i) => {
    const head = layer * D.H + i,
      name = D.names[head];
    const cell = h("div", { role: "gridcell", "data-head": head, onclick: () => { set({ head: name });
        cell.focus(); }, onmouseenter: () => readHead(head), onfocus: () => readHead(head) });
    gridCells.push(cell);
    return cell;
  })));
  grid.replaceChildren(header, ...rows);
}

function drawGrid() {
  if (gridOf !== D) buildGrid();
  const m = measureOf(V.m),
    wide = D.H > 12,
    few = D.names.length <= ALL_SHOWN,
    known = m.values.filter(Boolean);
  const top = m.scale === "type" ? 1 : topOf(m.scale, known.map((x) => x[0]).filter((x) => x !== null), m.null);
  fill("head-tools",
    select("Colour by", measures().map((x) => [x.id, x.label]), m.id, (id) => set({ m: id })),
    select("Head", D.ranked.map((head, place) => [D.names[head], `${D.names[head]} (place ${place + 1})`]), V
      .head, (head) => set({ head })));
  fill("measure-help", m.help);
  gridCells.forEach((cell, head) => {
    const x = m.values[head],
      name = D.names[head],
      chosen = name === V.head;
    cell.tabIndex = chosen ? 0 : -1;
    cell.setAttribute("aria-selected", String(chosen));
    cell.setAttribute("aria-label", `${name}: ${told(m, x)}`);
    if (m.scale === "type") {
      cell.className = `c cat k${D.types.indexOf(x)}`;
      cell.textContent = LETTERS[x];
      return;
    }
    const isKnown = x && x[0] !== null,
      v = isKnown ? onScale(m.scale, x[0], m.null, top) : 0;
    const kind = m.scale === "effect" ? " o" : m.scale === "excess" && isKnown && x[0] < 0 ? " n" : "";
    cell.className = `c${isKnown ? "" : " none"}${kind}${isDark(v)}`;
    cell.style.setProperty("--v", v.toFixed(3));
    cell.textContent = wide || !isKnown ? "" : number(x[0], Math.abs(x[0]) < 10 ? (few ? 2 : 1) : 0);
  });
  drawGridLegend(m, top);
  const order = m.scale === "effect" ? -1 : 1,
    ranked = m.scale === "type" ? [] : m.values.map((x, head) => [head, x]).filter(([, x]) => x && x[0] !== null)
    .sort((a, b) => order * (b[1][0] - a[1][0])).slice(0, 8).filter(([, x]) => order * x[0] > 0);
  const most = Math.max(1e-9, ...ranked.map(([, x]) => Math.max(Math.abs(x[0]), Math.abs(x[1] ?? 0), Math.abs(x[
    2] ?? 0))));
  fill("ranked", ranked.length > 1 && bars(m.scale === "effect" ? "Largest losses" : "Highest by this measure", D
    .unreliable && m.id === "importance" ? D.unreliable : "",
    ranked.map(([head, x]) => [h("a", { href: addressOf({ head: D.names[head] }, {}), "data-head": D.names[
        head] }, D.names[head]), x]), most, { zero: m.null || undefined, cause: m.scale === "effect" }));
  readHead(headAt());
}

function drawGridLegend(m, top) {
  if (m.scale === "type") {
    return fill("grid-legend", D.types.map((t, i) => h("span", {}, h("i", { class: `c cat k${i}` }, LETTERS[t]),
      `${typeText(t)}, ${m.values.filter((x) => x === t).length}`)));
  }
  if (m.scale === "excess") return fill("grid-legend", ramp("", [
    [0, number(-top)],
    [0.5, "0, as by chance"],
    [1, number(top)]
  ], true));
  const ends = m.scale === "effect" ? [0, -top / 2, -top] : [m.null, (m.null + top) / 2, top];
  const missing = m.values.some((x) => !x) && h("span", {}, h("i", { class: "c none" }), "not cut in this study");
  return fill("grid-legend", ramp(m.scale === "effect" ? "o" : "", ends.map((x, i) => [i / 2, number(x) + (i ===
    2 && m.unit ? " " + m.unit : "")])), missing);
}

function readHead(head) {
  const m = measureOf(V.m),
    x = m.values[head],
    q = x && m.scale === "excess" ? `, ${pValue(x[3], "q")}` : x?.[3] ? `, ${number(x[3])} by chance` : "";
  fill("grid-read", bold(D.names[head]), ` ${m.label}: ${told(m, x)}${q}.`);
}

/** Where the rows of thoughts look: means over rows of their attention to each part. */
function partsOf(map) {
  const mean = (keysOf) => thoughts.reduce((sum, query, i) => sum + keysOf(query, i).reduce((a, key) => a + map
    .mean(cellOf(query, key)), 0), 0) / D.T;
  return [
    ["first", mean(() => ["first"])],
    ["question", mean(() => ["question"])],
    ["bot", mean(() => ["bot"])],
    ["earlier thoughts", mean((_, i) => thoughts.slice(0, i))],
    ["itself", mean((query) => [query])],
  ];
}

async function drawCard() {
  const head = headAt(),
    kind = D.maps.some((m) => m.id === V.map && m.id !== "rollout") ? V.map : "attention",
    map = await meanMap(kind, head);
  const H = new Float32Array(await block("H")),
    preference = thoughts.map((name, k) => [name, Array.from(H.slice((head * D.T + k) * 3, (head * D.T + k) * 3 +
      3))]).filter(([, x]) => !Number.isNaN(x[0]));
  if (head !== headAt()) return;
  const [hub, strength, p] = D.hubs[head], read = h("p", { class: "read", "aria-live": "polite" }), kinds = D.maps
    .filter((m) => m.id !== "rollout"), shown = D.maps.find((m) => m.id === kind);
  const hubText = p === null ? "" : hub ?
    `${hub} is a hub of this head (strength ${number(strength)} even shares, ${pValue(p, "q")}). ` :
    `No thought is shown to be a hub of this head (strength ${number(strength)}, ${pValue(p, "q")}). `;
  const place = D.ranked.indexOf(head) + 1,
    beyond = D.measures.filter((m) => m.scale === "excess");
  const byStep = V.index === "step";
  fill("card", h("h3", {}, V.head, h("small", {},
      `${typeText(typeOf(head))}, place ${place} of ${D.names.length} by attention`)),
    h("p", { class: "cost" }, hubText, costOf(head)),
    h("div", { class: "tools" }, kinds.length > 1 && choice("Kind of attention", kinds.map((m) => [m.id, m
        .label]), kind, (x) => set({ map: x })),
      choice("How rows and columns are counted", [
        ["thought", "By thought"],
        ["step", "As in 2025"]
      ], V.index, (index) => set({ index }))),
    byStep ? stepTable(map) : h("div", { class: "mapbox" }, mapTable(
        `${V.head}: rows look, columns are looked at`, map.mean, describeMean(map), read), read, mapLegend(),
      kind !== "attention" && help(shown.help)),
    h("div", { class: "mini" }, bars("Where its thoughts look", "Mean over the rows of thoughts; adds up to 1.",
        partsOf(map).map(([name, x]) => [name, [x]]), 1),
      preference.length > 0 && bars("Preference for each thought, H",
        "Dashed: 1, an even share. The largest exceeds 1 by chance: a hub is tested apart.", preference, Math
        .max(2, ...preference.map(([, x]) => x[2] || x[0])), { zero: 1 })),
    h("details", {}, h("summary", {}, "Beyond chance: each measure against its null"), h(
    "div", { class: "scroll" }, plainTable(["Attention to", "Excess, share of a row", "q"],
      beyond.map((m) => [m.label.replace("Beyond chance: ", ""), withInterval(m.values[head], 3), pValue(m
        .values[head][3], "q")]), `${V.head} against its nulls`))),
    csvButton("map", "CSV of this map"));
}

/** The map as the scripts of 2025 counted: the same numbers in other places. */
function stepTable(map) {
  const rows = stepIndexed(D.T, (query, key) => map.mean(cellOf(`z${query}`, `z${key}`))),
    places = rows.map((_, i) => i);
  return h("div", { class: "mapbox" }, h(
    "table", { class: "map", "aria-label": `${V.head} as the scripts of 2025 counted` },
      h("thead", {}, h("tr", {}, h("td", {}), places.map((j) => h("th", { scope: "col" }, `column ${j}`)))),
      h("tbody", {}, rows.map((row, s) => h("tr", {}, h("th", { scope: "row" }, `row ${s}`), row.map((x, j) => {
        const share = Math.sqrt(x);
        return s >= 1 && j < s ? h("td", { class: `c${isDark(share)}${j === s - 1 ? " self" : ""}`,
          css: { "--v": share.toFixed(3) } }, x < 0.005 ? "·" : x.toFixed(2).slice(1)) : h("td", {});
      }))))), mapLegend(),
    help(
      "The scripts of 2025 counted steps: row s is the query of zs, and column j the key of z(j+1). So the cell next to the diagonal, in row s and column s − 1, is a thought’s attention to itself, which they read as attention to the thought before; row 0 and the last column are empty; and a “hub” there is partly the attention of thoughts to themselves. Counted by thought, the same number stands in row zs and column z(j+1), and self-attention is apart."
      ));
}

panel("heads", drawGrid, ["run", "m", "head", "study", "kind", "outcome"]);
panel("heads", drawCard, ["run", "head", "map", "index", "study", "kind", "outcome"]);

const FOURTH = { excess: "_q", size: "_null" };
exportsOf("heads", () => [
  ["head", ...measures().flatMap((m) => (m.scale === "type" ? [m.id] : ["", "_low", "_high", FOURTH[m.scale]]
    .filter((end) => end !== undefined).map((end) => m.id + end)))],
  ...D.names.map((name, head) => [name, ...measures().flatMap((m) => (m.scale === "type" ? [m.values[head]] :
    Array.from({ length: FOURTH[m.scale] ? 4 : 3 }, (_, i) => m.values[head]?.[i] ?? null)))]),
]);
exportsOf("map", async () => {
  const kind = D.maps.some((m) => m.id === V.map && m.id !== "rollout") ? V.map : "attention",
    map = await meanMap(kind, headAt());
  return [
    ["head", "kind", "query", "key", "mean", "low", "high"], ...D.cells.map(([q, k], cell) => [V.head, kind,
      D.queries[q], D.keys[k], ...[map.mean, map.low, map.high].map((of) => of(cell)?.toFixed(5) ?? null)
      .map((x) => (x === null ? null : Number(x)))
    ])
  ];
});
