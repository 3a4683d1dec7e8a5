// Causes: the effects of a study with controls and tests, curves, transplants and the verdict.

const studyNow = () => D.studies.find((s) => s.name === V.study) ?? null;
const outcomeOf = (study) => (study.outcomes.includes(V.outcome) ? V.outcome : study.ranked);
const KIND_NAMES = { heads: "Heads", thoughts: "Thoughts", edges: "Edges" };
const cutBy = new Map();

/** The cuts of a study by label, and for a page of several studies made once. */
function cutsOf(study) {
  if (!cutBy.has(study)) cutBy.set(study, new Map(study.cuts.map((cut) => [cut.label, cut])));
  return cutBy.get(study);
}

const isOf = (study, kind) => Object.values(study?.families ?? {}).some((family) => family.kind === kind);

/** The study that is chosen; if it cut nothing of this kind, the newest that did. */
const studyOf = (kind) => (isOf(studyNow(), kind) ? studyNow() : D.studies.find((study) => isOf(study, kind)) ??
  null);

/** The cut of a unit in a family of this kind; the first such family where a study has several. */
function cutOf(kind, unit) {
  const study = studyOf(kind),
    family = study && Object.values(study.families).find((f) => f.kind === kind && f.cuts[unit]);
  return family ? cutsOf(study).get(family.cuts[unit]) : null;
}

/** Effects of single heads, as measures of the grid. */
function effectMeasures() {
  const study = studyOf("heads");
  return !study ? [] : Object.entries(study.families).filter(([, family]) => family.kind === "heads").map(([name,
    family
  ]) => {
    const outcome = outcomeOf(study),
      cuts = cutsOf(study);
    return {
      id: `e-${name}`,
      label: `Effect of cutting: ${name}`,
      scale: study.outcomes.indexOf(outcome) >= 0 && outcome === "kl" ? "size" : "effect",
      null: 0,
      unit: study.units[outcome],
      help: `Change of ${study.labels[outcome]} when the head alone is cut (study ${study.name}, ${study.n} problems). A loss is negative.`,
      values: D.names.map((head) => (family.cuts[head] ? cuts.get(family.cuts[head])?.effects[outcome] ?? null :
        null)),
    };
  });
}

const cutName = (cut) => cut.label.replace(" ⊣ ", " ↛ ");
const effectText = (cut, outcome, study) => `${withInterval(cut.effects[outcome])} ${study.units[outcome]}`;

/** What is shown of an effect, in words that are as strong as its test. */
const SHOWN = {
  "a loss": "a loss is shown",
  "a gain": "a gain is shown",
  "a loss below the margin": "a loss is shown, and that it is smaller than",
  "a gain below the margin": "a gain is shown, and that it is smaller than",
  "no effect": "it is shown that the effect, if any, is smaller than",
  "not shown": "no effect is shown, nor that there is none",
};

function shownBy(cut, study, what) {
  const outcome = outcomeOf(study), p = cut.p[outcome], word = cut.shown[outcome], controls = controlsOf(cut, study, outcome);
  const margin = word?.includes("margin") || word === "no effect" ? ` ${study.margins[outcome]} ${study.units[outcome]}` : "";
  return [
    `Cutting ${what} changes ${study.labels[outcome]} by `, bold(effectText(cut, outcome, study)),
    word ? `: ${SHOWN[word]}${margin} (${pValue(p)}, Holm). ` : ". ",
    `${cut.broken} of ${cut.n} answers break, ${cut.mended} are mended. `,
    controls.length ? `${controls.length} control cuts: ${number(Math.min(...controls))} to ${number(Math.max(...controls))}. ` :
      "It has no control cuts. ",
    cut.exploratory ? "It was added later: exploratory." : "",
  ];
}

const controlsOf = (cut, study, outcome) => cut.controls.map((label) => cutsOf(study).get(label)?.effects[outcome]
  ?.[0] ?? study.controls[label]?.[outcome]).filter((x) => x !== undefined && x !== null);

function costOf(head) {
  const study = studyOf("heads"),
    cut = cutOf("heads", D.names[head]);
  if (!study) return "No head was cut in this run, so what the answer needs of this one is unknown.";
  return cut ? [`Study ${study.name}, ${study.n} problems. `, ...shownBy(cut, study, "this head")] :
    `This head was not cut in study ${study.name}, so what the answer needs of it is unknown there.`;
}

function drawCauseTools() {
  const study = studyNow();
  if (!study) {
    fill("cause-tools");
    return;
  }
  const families = Object.keys(study.families),
    others = study.cuts.some((cut) => !families.some((name) => Object.values(study.families[name].cuts).includes(cut
      .label)));
  const kinds = [...families.map((name) => [name, KIND_NAMES[name] ?? name]), ...(others || !families.length ? [
    ["other", "Other cuts"]
  ] : [])];
  fill("cause-tools", D.studies.length > 1 ? select("Study", D.studies.map((s) => [s.name, `${s.name}, ${s.date}`]),
      study.name, (name) => set({ study: name })) : h("span", {}, `Study ${study.name}, ${study.date}`),
    kinds.length > 1 && choice("What is cut", kinds, kindNow(study), (kind) => set({ kind })),
    select("Outcome", study.outcomes.map((name) => [name, study.labels[name]]), outcomeOf(study), (outcome) =>
      set({ outcome })));
}

function kindNow(study) {
  const names = Object.keys(study.families);
  if (names.includes(V.kind)) return V.kind;
  return V.kind === "other" || !names.length ? "other" : names.find((name) => study.families[name].kind ===
    "edges") ?? names[0];
}

function cutsShown(study) {
  const kind = kindNow(study),
    cuts = cutsOf(study);
  if (kind !== "other") return Object.values(study.families[kind].cuts).map((label) => cuts.get(label)).filter(
    Boolean);
  const taken = new Set(Object.values(study.families).flatMap((family) => Object.values(family.cuts)));
  return study.cuts.filter((cut) => !taken.has(cut.label));
}

function drawForest() {
  const study = studyNow();
  if (!study) return fill("forest", help("Nothing was cut in this run. ", h("code", {},
    "thoughtlens intervene RUN --heads all --edges all --controls 10"), " adds this panel."));
  const outcome = outcomeOf(study),
    list = cutsShown(study).filter((cut) => cut.effects[outcome]?.[0] !== null).sort((a, b) => Math.abs(b.effects[
      outcome][0]) - Math.abs(a.effects[outcome][0]));
  const most = 16,
    shown = V.all ? list : list.slice(0, most),
    unit = study.units[outcome];
  const low = Math.min(0, ...list.map((cut) => cut.effects[outcome][1])),
    high = Math.max(0, ...list.map((cut) => cut.effects[outcome][2])),
    room = (high - low || 1) * 0.04;
  const x = (v) => (100 * (v - low + room)) / (high - low + 2 * room) + "%",
    w = (v) => (100 * v) / (high - low + 2 * room) + "%";
  const mark = (name, css) => h("span", { class: name, css });
  const row = (cut) => {
    const [estimate, from, to] = cut.effects[outcome], text = `${withInterval([estimate, from, to])} ${unit}`;
    return h("tr", { class: !isShown(cut.p[outcome]) && "ns" }, h("th", { scope: "row" }, cutName(cut), cut
        .exploratory && h("small", {}, " exploratory")),
      h("td", { class: "plot", title: text }, h("div", { class: "pl", role: "img", "aria-label": text },
        study.margins[outcome] && mark("band", { left: x(-study.margins[outcome]), width: w(2 * study.margins[outcome]) }), mark(
        "zero", { left: x(0) }),
        controlsOf(cut, study, outcome).map((c) => mark("ct", { left: x(Math.max(low, Math.min(high, c))) })),
        mark("ci", { left: x(from), width: w(to - from) }), mark("pt", { left: x(estimate) }))),
      h("td", { class: "r wide" }, withInterval([estimate, from, to])), h("td", { class: "r" },
        `${cut.broken} / ${cut.mended}`), h("td", { class: "r wide" }, cut.p[outcome] === undefined ? "" :
        pValue(cut.p[outcome]).replace(/^p\u00a0(=\u00a0)?/, "")));
  };
  fill("forest", list.length ? h("table", { class: "forest", "aria-label": "Effects of cuts" }, h("thead", {}, h(
        "tr", {}, ["Cut", `Change of ${study.labels[outcome]}, ${unit}`, "", "Broken / mended", "p, Holm"].map((
            text, i) =>
          h("th", { scope: "col", class: ["", "plot", "r wide", "r", "r wide"][i] }, text)))),
      h("tbody", {}, shown.map(row), h("tr", {}, h("th", {}), h("td", { class: "plot" }, h(
      "div", { class: "pl ax", "aria-hidden": "true" }, ticks(low, high, 6).map(([t, text]) => h(
      "span", { css: { left: x(t) } }, text)))), h("td", { class: "wide" }), h("td", {}), h(
      "td", { class: "wide" })))) : help("No cut of this kind."),
    help(
      `Dot: mean change, cut minus uncut, so that a loss is negative; line: its 95 % interval, ${study.n} problems. Filled: shown by a test that is corrected over all cuts of the plan (Holm). Hollow: not shown. `,
      list.some((cut) => cut.controls.length) ? "Grey ticks: control cuts of comparable things. " :
      "No control cuts were made. ", study.margins[outcome] ?
      `Grey band: ±${study.margins[outcome]}; an effect is called none where it is shown to lie inside.` : ""),
    list.length > most && h("button", { type: "button", onclick: () => set({ all: V.all ? "" : "1" }) }, V.all ?
      "Show the largest only" : `Show all ${list.length}`));
}

/** A frame with axes for points and lines: texts in the page's own type, nothing but numbers in the marks. */
function frame(element, { width, height, xs, ys, xLabel, yLabel, label }) {
  const left = 56,
    bottom = 44,
    X = (v) => left + ((width - left - 20) * (v - xs[0])) / (xs[1] - xs[0] || 1),
    Y = (v) => height - bottom - ((height - bottom - 22) * (v - ys[0])) / (ys[1] - ys[0] || 1);
  const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    svg("line", { class: "axis", x1: left, x2: width - 8, y1: Y(Math.min(Math.max(0, ys[0]), ys[1])), y2: Y(Math
        .min(Math.max(0, ys[0]), ys[1])) }), svg("line", { class: "axis", x1: left, x2: left, y1: 16, y2: height -
        bottom }),
    ticks(xs[0], xs[1], 5).map(([t, text]) => [svg("text", { class: "dim", x: X(t), y: height - bottom +
      18, "text-anchor": "middle" }, text), svg("line", { class: "axis", x1: X(t), x2: X(t), y1: height -
        bottom, y2: height - bottom + 4 })]),
    ticks(ys[0], ys[1], 5).map(([t, text]) => [svg("text", { class: "dim", x: left - 7, y: Y(t) +
      4, "text-anchor": "end" }, text), svg("line", { class: "axis", x1: left - 4, x2: left, y1: Y(t), y2: Y(
        t) })]),
    svg("text", { class: "dim", x: width - 8, y: height - 6, "text-anchor": "end" }, xLabel), svg(
    "text", { class: "dim", x: 2, y: 11 }, yLabel));
  element.replaceChildren(picture);
  return { picture, X, Y };
}

function drawScatter() {
  const study = studyNow(),
    box = byId("scatter");
  if (!study || kindNow(study) === "other") return box.replaceChildren();
  const name = kindNow(study),
    family = study.families[name],
    outcome = outcomeOf(study),
    hows = Object.keys(family.looks),
    how = hows[0],
    cuts = cutsOf(study);
  const points = !how ? [] : Object.entries(family.cuts).map(([unit, label]) => ({ unit, cut: cuts.get(label),
      x: family.looks[how][unit] })).filter((p) => p.cut && Number.isFinite(p.x) && p.cut.effects[outcome]?.[0] !==
      null)
    .map((p) => ({ ...p, y: p.cut.effects[outcome] }));
  if (!points.length) return box.replaceChildren();
  const width = Math.max(280, Math.min(520, box.clientWidth || 420)),
    xs = [0, Math.max(...points.map((p) => p.x)) * 1.06 || 1],
    ys = [Math.min(0, ...points.map((p) => p.y[1])) * 1.04, Math.max(0, ...points.map((p) => p.y[2])) * 1.04 ||
      0.02];
  const plot = h("div", {}),
    { picture, X, Y } = frame(plot, { width, height: 340, xs, ys, xLabel: `${how} attention, mean share of a row →`,
      yLabel: `↑ change when cut, ${study.units[outcome]}`,
      label: "Attention against the effect of the cut; the same numbers are in the CSV of all cuts" });
  for (const p of points) picture.append(svg("line", { class: "err", x1: X(p.x), x2: X(p.x), y1: Y(p.y[1]), y2: Y(p
      .y[2]) }), svg("circle", { class: isShown(p.cut.p[outcome]) ? "dotted" : "dotted ns", cx: X(p.x), cy: Y(p
      .y[0]), r: 5 }));
  labelPoints(picture, points.map((p) => ({ text: p.unit.replace(" ⊣ ", " ↛ "), x: X(p.x), y: Y(p.y[0]),
    weight: Math.abs(p.y[0]) / (Math.abs(ys[0]) + Math.abs(ys[1])) + p.x / xs[1], first: isShown(p.cut.p[
      outcome]) })), width, 340);
  const verdict = (study.verdicts[name] ?? []).map((row) => row.reading);
  box.replaceChildren(title("Does looking predict cutting?"), plot, ...verdict.map((text) => h("figcaption", {},
    text[0].toUpperCase() + text.slice(1) + ".")));
  if (!verdict.length) box.append(h("figcaption", {}, "There are too few units for a verdict."));
}

/** Names beside points, where there is room; those that are shown to matter first. */
function labelPoints(picture, points, width, height) {
  const used = points.map((p) => [p.x - 6, p.y - 6, p.x + 6, p.y + 6]);
  for (const p of [...points].sort((a, b) => b.first - a.first || b.weight - a.weight).slice(0, 14)) {
    const w = p.text.length * 7.8,
      at = [
        [9, 4],
        [-w - 9, 4],
        [-w / 2, -10],
        [-w / 2, 19]
      ].map(([dx, dy]) => [p.x + dx, p.y + dy])
      .find(([x, y]) => x > 58 && x + w < width && y > 24 && y < height - 48 && !used.some((u) => x < u[2] && x +
        w > u[0] && y - 12 < u[3] && y + 3 > u[1]));
    if (!at) continue;
    used.push([at[0], at[1] - 12, at[0] + w, at[1] + 3]);
    picture.append(svg("text", { x: at[0], y: at[1] }, p.text));
  }
}

async function drawMatrices() {
  const study = studyNow();
  if (!study || study.families[kindNow(study)]?.kind !== "edges") return fill("matrices");
  const edges = (await edgesOf("model")).filter((e) => e.inner),
    look = Math.max(...edges.map((e) => e.mean)) || 1,
    loss = Math.max(...edges.map((e) => e.loss)) || 1;
  return fill("matrices", triangle("Looking: mean of all heads", edges, (e) => e.mean / look, (e) => number(e
      .mean, 2), "", [
      [0, "0"],
      [1, number(look, 2) + " of a row"]
    ]),
    triangle("Cutting: what hiding the edge costs", edges, (e) => e.loss / loss, (e) => (e.cut ? number(e
      .effect, 1) : ""), " o", [
      [0, "0"],
      [1, number(-loss, 1) + " nats"]
    ]));
}

const DASHES = ["", "6 4", "2 3", "8 3 2 3"];

/** Lines with their ranges, such as dose curves; a table of the same numbers stands under them. */
function lines(heading, note, series, xs, labels) {
  const all = series.flatMap((s) => s.values.filter((v) => v && v[0] !== null).flat()).filter((v) => v !== null),
    ys = [Math.min(0, ...all), Math.max(0, ...all)],
    plot = h("div", {});
  const { picture, X, Y } = frame(plot, { width: 420, height: 280, xs: [xs[0], xs.at(-1)], ys, xLabel: labels[0],
    yLabel: labels[1], label: `${heading}; the same numbers are in the table below` });
  const at = (s, i) => s.values.map((v, k) => [xs[k], v?.[i]]).filter(([, y]) => y !== null && y !== undefined).map(
    ([x, y]) => `${X(x).toFixed(1)},${Y(y).toFixed(1)}`);
  series.forEach((s, i) => picture.append(svg("polygon", { class: s.grey ? "area grey" : "area", points: [...at(s,
        1), ...at(s, 2).reverse()].join(" ") }),
    svg("polyline", { class: s.grey ? "line grey" : "line", "stroke-dasharray": DASHES[i % DASHES.length] ||
        null, points: at(s, 0).join(" ") })));
  return h("figure", {}, title(heading), plot, h("div", { class: "legend" }, series.map((s, i) => h("span", {}, svg(
      "svg", { width: 26, height: 10, viewBox: "0 0 26 10", "aria-hidden": "true" }, svg("line", { class: s
          .grey ? "line grey" : "line", x1: 0, x2: 26, y1: 5, y2: 5, "stroke-dasharray": DASHES[i % DASHES
          .length] || null })), " ", s.name))),
    help(note), h("details", {}, h("summary", {}, "The same as a table"), h("div", { class: "scroll" },
      plainTable([labels[0], ...series.map((s) => s.name)], xs.map((x, k) => [String(x), ...series.map((s) => (s
        .values[k] && s.values[k][0] !== null ? withInterval(s.values[k]) : ""))]), heading))));
}

const ofFacts = (x) => (!x || x.estimate === null || x.estimate === undefined ? "undefined" :
  withInterval([x.estimate, x.low, x.high]));

function drawCurves() {
  const study = studyNow();
  if (!study) return fill("curves");
  const outcome = outcomeOf(study),
    unit = study.units[outcome],
    figures = [];
  if (study.doses?.targets && Object.values(study.doses.targets)[0][outcome]) {
    figures.push(lines("Dose",
      "How much of the head, thought or edge is taken away: 0 is nothing, 1 all of it. Bands: 95 % intervals.",
      Object.entries(study.doses.targets).map(([name, of]) => ({ name, values: of [outcome] })), study.doses
      .dose, ["dose", `change, ${unit}`]));
  }
  if (study.curve && study.curve.random[outcome]) {
    const series = Object.entries(study.curve.orders).map(([name, of]) => ({ name: `by ${name}`, values: of [
        outcome] }));
    if (study.curve.n_random) series.push({ name: `${study.curve.n_random} random orders, mean and range`,
      grey: true, values: study.curve.random[outcome] });
    const told = study.orders.map((o) =>
      `By ${o.order}: mean effect ${number(o.area[outcome])} ${unit}${o.p[outcome] === null ? "" : `, ${pValue(o.p[outcome])} against random orders`}. `
      ).join("");
    figures.push(lines("Orders", `The first 1, 2, … of a ranking are cut together. ${told}`, series, study.curve.k,
      ["heads cut", `change, ${unit}`]));
  }
  if (study.transplants.length) {
    const shares = Object.keys(study.transplants[0]).filter((key) => Array.isArray(study.transplants[0][key]) ||
      typeof study.transplants[0][key] === "object").filter((key) => study.transplants[0][key]);
    figures.push(h("div", {}, title("Transplants: whose answer is given with another problem’s thoughts?"), h(
    "div", { class: "scroll" }, plainTable(["Transplant", "n", ...shares, "p, follows"],
      study.transplants.map((t) => [t.cut, String(t.n), ...shares.map((key) => { const s = t[
        key]; return withInterval([s.estimate, s.low, s.high]); }), t.p === null ? "" : pValue(t.p)]),
      "Transplants")), help(
      "n: problems whose own answer differs from that of the donor of the thoughts. “By chance”: donors drawn anew."
      )));
  }
  if (study.variants.length) {
    const names = Object.keys(study.variants[0].effects);
    figures.push(h("div", {}, title("The same cuts, done in other ways"), h("div", { class: "scroll" }, plainTable(["Cut",
      ...names], study.variants.map((row) => [row.cut, ...names.map((name) => ofFacts(row.effects[name]))]),
    "Variants of cuts")), help(`Change of ${study.labels[study.ranked]}, nats. Direct: later thoughts keep their values; `,
      "indirect: what is left of the total. Mean: the mean over problems takes the place of zero.")));
  }
  if (study.restored.length) {
    figures.push(h("div", {}, title("What one unit, put back, recovers"), h("div", { class: "scroll" }, plainTable(["Unit",
      "n", "Recovered, share of the loss"], study.restored.map((row) => [row.unit, String(row.n), ofFacts(row.share)]),
    "Units put back")), help("All thoughts are another problem’s, but for this one unit. 1 is all that was lost.")));
  }
  return fill("curves", figures);
}

panel("causes", drawCauseTools, ["run", "study", "kind", "outcome"]);
panel("causes", drawForest, ["run", "study", "kind", "outcome", "all"]);
panel("causes", drawScatter, ["run", "study", "kind", "outcome", "width"]);
panel("causes", drawMatrices, ["run", "study", "kind", "outcome"]);
panel("causes", drawCurves, ["run", "study", "outcome"]);

exportsOf("cuts", () => [
  ["study", "cut", "family", "unit", "edit", "exploratory", "outcome", "n", "broken", "mended", "effect", "low",
    "high", "p_holm", "p_controls"
  ],
  ...D.studies.flatMap((study) => study.cuts.flatMap((cut) => study.outcomes.map((outcome) => [study.name, cut
    .label, cut.family, cut.unit, cut.edit, cut.exploratory, outcome, cut.n, cut.broken, cut.mended, ...
    cut.effects[outcome], cut.p[outcome] ?? null, cut.p_controls[outcome] ?? null
  ]))),
]);
exportsOf("curves", () => [
  ["study", "figure", "series", "x", "outcome", "effect", "low", "high"],
  ...D.studies.flatMap((study) => {
    const rows = (figure, name, xs, of) => Object.entries(of).flatMap(([outcome, values]) => xs.map((x,
      i) => [study.name, figure, name, x, outcome, ...values[i]]));
    return [...(study.doses ? Object.entries(study.doses.targets).flatMap(([name, of]) => rows("dose", name,
        study.doses.dose, of)) : []),
      ...(study.curve ? [...Object.entries(study.curve.orders), ["random orders", study.curve.random]]
        .flatMap(([name, of]) => rows("order", name, study.curve.k, of)) : [])
    ];
  }),
]);
