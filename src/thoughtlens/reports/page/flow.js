// The flow picture: thoughts in a row, looking above, cutting below, arcs as wide as their part of the total.

const MARKS = { looked: "◇", needed: "◆" };

/** Edges from a position to an earlier one, of a head, a layer or the model, beside the cut of the same edge. */
async function edgesOf(scope = V.scope) {
  const head = headAt(),
    unit = scope === "model" ? modelUnit() : scope === "layer" ? D.names.length + layerOf(head) : head;
  const kind = D.maps.some((m) => m.id === V.map) && (V.map !== "rollout" || scope === "model") ? V.map :
    "attention",
    map = await meanMap(kind, unit),
    study = studyOf("edges"),
    found = [];
  D.cells.forEach(([q, k], cell) => {
    const query = D.queries[q],
      key = D.keys[k];
    if (query === key || query === "bot" || key === "first" || key === "eot" || key === "answer") return;
    const cut = cutOf("edges", `${query} ⊣ ${key}`),
      effect = cut ? cut.effects[study.ranked] : null;
    found.push({
      query,
      key,
      inner: query.startsWith("z") && key.startsWith("z"),
      mean: map.mean(cell) ?? 0,
      low: map.low(cell),
      high: map.high(cell),
      cut,
      effect: effect?.[0],
      bounds: effect,
      loss: effect ? Math.max(0, -effect[0]) : 0,
      shown: Boolean(cut) && isShown(cut.p[study.ranked]),
      none: Boolean(cut?.none[study.ranked]),
    });
  });
  return weighed(found);
}

const hasEdges = () => studyOf("edges") !== null;

function drawFlowTools() {
  const layer = layerOf(headAt()),
    kinds = D.maps.filter((m) => m.id !== "rollout" || V.scope === "model");
  fill("flow-tools", hasEdges() && choice("What arcs show", [
      ["look", "Looking"],
      ["cause", "Cutting"],
      ["both", "Both"]
    ], V.view, (view) => set({ view })),
    choice("Whose attention", [
      ["model", "All heads"],
      ["layer", `Layer ${layer}`],
      ["head", V.head]
    ], V.scope, (scope) => set({ scope })),
    kinds.length > 1 && choice("Kind of attention", kinds.map((m) => [m.id, m.label]), kinds.some((m) => m.id ===
      V.map) ? V.map : "attention", (map) => set({ map })),
    h("label", {}, h("input", { type: "checkbox", checked: V.ctx === "1", onchange: (event) => set({ ctx: event
          .target.checked ? "1" : "" }) }), " also the question and bot"));
}

const WIDTHS = {
  look: "The wider an arc, the larger its part of all attention between thoughts.",
  cause: "The wider an arc, the larger its part of all loss from hiding one thought from another. Pale: not shown to cost anything.",
  both: "Blue, above: part of all attention between thoughts. Orange, below: part of all loss from hiding one thought from another; pale where it is not shown to cost anything.",
};

function idleFlow(view, thick) {
  return [WIDTHS[view], " ", h("span", { class: "widths" }, [0.05, 0.2, 0.5].map((x) => [
    svg("svg", { width: 26, height: 22, viewBox: "0 0 26 22", "aria-hidden": "true" }, svg("line", { x1: 0,
      x2: 26, y1: 11, y2: 11, stroke: "currentColor", "stroke-width": thick * x })), percent(x)
  ])), h("span", {}, " Point at an arc to read it.")];
}

function describeEdge(e) {
  return [
    bold(`${e.query} looks at ${e.key}: ${number(e.mean, 3)}`),
    ` of its attention${interval(e.low, e.high, 3)}${e.inner ? `, ${percent(e.lookShare)} of all attention between thoughts` : ""}. `,
    e.cut ?
    `Hiding ${e.key} from ${e.query} changes log-probability by ${withInterval(e.bounds)} nats, ${percent(e.lossShare)} of all such loss; ${e.cut.broken} of ${e.cut.n} answers break (${pValue(e.cut.p[studyOf("edges").ranked])}, Holm).` :
    "This edge was not cut.",
  ];
}

async function drawFlow() {
  const all = await edgesOf(),
    box = byId("flow-pic"),
    width = Math.max(300, box.clientWidth),
    narrow = width < 560,
    view = hasEdges() ? V.view : "look",
    both = view === "both";
  const nodes = [...(V.ctx && !narrow ? ["question", "bot"] : []), ...thoughts, "eot", "answer"],
    pad = narrow ? 24 : 56,
    gap = (width - 2 * pad) / (nodes.length - 1),
    x = (name) => pad + gap * nodes.indexOf(name);
  const tall = narrow ? 120 : 190,
    thick = narrow ? 24 : 42,
    shown = all.filter((e) => nodes.includes(e.query) && nodes.includes(e.key)).sort((a, b) => b.lookShare - a
      .lookShare);
  // Arcs of equal height would meet in one tangle; longer ones rise higher, so that they nest.
  const rise = (e) => tall * ((nodes.indexOf(e.query) - nodes.indexOf(e.key)) / (nodes.length - 1)) ** 0.7,
    room = (of) => Math.max(20, ...shown.filter((e) => of(e) >= 0.004).map((e) => rise(e) + (thick * of(e)) / 2 +
      22));
  const up = room(view === "cause" ? (e) => e.lossShare : (e) => e.lookShare),
    middle = up + 16,
    height = middle + 16 + (both ? room((e) => e.lossShare) : 6),
    arcs = [];
  const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`,
  role: "group", "aria-label": "Arcs between positions; left and right arrow keys step through them" });
  const say = (e) => fill("flow-read", ...(e ? describeEdge(e) : idleFlow(view, thick)));
  const arc = (e, kind, above) => {
    const share = kind === "look" ? e.lookShare : e.lossShare;
    if (share < 0.004) return;
    const a = x(e.query) - gap * 0.09,
      b = x(e.key) + gap * 0.09,
      y = above ? middle - 17 : middle + 17,
      ry = rise(e);
    const path = svg("path", {
      class: `arc ${kind}${kind === "cause" && !e.shown ? " weak" : ""}`,
      d: `M ${a} ${y} A ${(a - b) / 2} ${ry} 0 0 ${above ? 0 : 1} ${b} ${y}`,
      "stroke-width": Math.max(1, thick * share).toFixed(1),
      tabindex: arcs.length ? -1 : 0,
      role: "img",
      "aria-label": describeEdge(e).map((part) => part.textContent ?? part).join(""),
      onmouseenter: () => say(e),
      onmouseleave: () => say(null),
      onfocus: () => say(e),
    });
    arcs.push(path);
    picture.append(path);
    if (e.odd && (e.odd === "looked") === (kind === "look")) picture.append(svg("text", { x: (a + b) / 2,
      y: above ? y - ry - (thick * share) / 2 - 4 : y + ry + (thick * share) / 2 +
        14, "text-anchor": "middle" }, MARKS[e.odd]));
  };
  if (view !== "cause")
    for (const e of shown) arc(e, "look", true);
  if (view !== "look")
    for (const e of shown.filter((z) => z.cut).sort((a, b) => b.lossShare - a.lossShare)) arc(e, "cause", !both);
  for (const name of nodes) {
    const w = name.length > 3 ? (narrow ? 44 : 70) : narrow ? 29 : 42;
    picture.append(svg("rect", { class: "node", x: x(name) - w / 2, y: middle - 14, width: w, height: 28,
      rx: 14 }), svg("text", { class: narrow && "small", x: x(name), y: middle +
      4.5, "text-anchor": "middle" }, name));
  }
  if (both && !narrow) picture.append(svg("text", { class: "dim", x: 0, y: 14 }, "looking"), svg(
  "text", { class: "dim", x: 0, y: height - 6 }, "cutting"));
  picture.addEventListener("keydown", (event) => roam(event, arcs, (path) => [0, arcs.indexOf(path)]));
  box.replaceChildren(picture);
  say(null);
  drawOdd(all);
  fill("flow-table", plainTable(["Edge", "Attention", "Part of attention", "Change, nats", "Part of loss"], shown
    .map((e) => [`${e.query} looks at ${e.key}`, number(e.mean, 3) + interval(e.low, e.high, 3), e.inner ?
      percent(e.lookShare) : "", e.cut ? withInterval(e.bounds) : "", e.cut && e.inner ? percent(e
        .lossShare) : ""
    ]), "Edges"));
}

function drawOdd(edges) {
  const odd = edges.filter((e) => e.odd),
    told = { looked: "It is looked at more than it is needed: cutting it has no effect beyond the margin.",
      needed: "It is needed more than it is looked at." };
  const found = !hasEdges() ? help("No edge was cut in this run.") : !odd.length ? help("Nowhere by this rule.") :
    h("ul", { class: "odd" }, odd.map((e) =>
      h("li", {}, h("i", {}, MARKS[e.odd]), bold(`${e.query} to ${e.key}: `),
        `${percent(e.lookShare)} of all attention between thoughts, ${percent(e.lossShare)} of all loss. ${told[e.odd]}`
        )));
  fill("flow-odd", title("Where looking and cutting disagree"), found, help(
    "Marked: at least 10 % of one total and four times its part of the other, where the cut is shown to cost something (◆), or is shown to have no effect beyond the margin (◇). Edges are cut in all heads at once",
    hasEdges() ? ` (study ${studyOf("edges").name}).` : "."));
}

panel("flow", drawFlowTools, ["run", "head", "view", "scope", "ctx", "map", "study"]);
panel("flow", drawFlow, ["run", "head", "view", "scope", "ctx", "map", "study", "width"]);
exportsOf("edges", async () => [
  ["query", "key", "scope", "attention", "low", "high", "effect_nats", "effect_low", "effect_high", "p_holm"],
  ...(await edgesOf()).map((e) => [e.query, e.key, V.scope === "model" ? "all heads" : V.scope === "layer" ?
    `layer ${layerOf(headAt())}` : V.head, ...[e.mean, e.low, e.high].map((v) => (v === null ? null :
      Number(v.toFixed(5)))), ...(e.cut ? [...e.bounds, e.cut.p[studyOf("edges").ranked]] : [null, null,
      null, null
    ])
  ]),
]);
