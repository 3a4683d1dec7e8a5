// The problem browser: one problem at a time, what was asked and said, what each thought can be read as, where it looked.

const CODES = { broken: 2, mended: 3 };

/** What the cuts of the study that is chosen did to a problem, by code; null where nothing was cut. */
async function codesOf(place) {
  const study = studyNow(),
    packed = study && (await block(`cuts-${study.name}`));
  if (!packed) return null;
  const codes = new Uint8Array(packed);
  return study.cuts.map((cut, i) => codes[i * D.problems.length + place]);
}

async function brokenBy(label) {
  const study = studyNow(),
    codes = new Uint8Array(await block(`cuts-${study.name}`)),
    cut = study.cuts.findIndex((c) => c.label === label);
  return new Set(D.problems.map((_, place) => place).filter((place) => codes[cut * D.problems.length + place] ===
    CODES.broken));
}

async function chosenProblems() {
  const find = V.find.toLowerCase(),
    broken = V.by && studyNow()?.cuts.some((cut) => cut.label === V.by) ? await brokenBy(V.by) : null;
  return D.problems.filter((p, place) => (V.f === "all" || p.correct === (V.f === "right")) && (!V.steps || p
    .steps.length === Number(V.steps)) && (!broken || broken.has(place)) && (!find || `${p.id} ${p.question}`
    .toLowerCase().includes(find)));
}

function drawProblemTools() {
  const steps = [...new Set(D.problems.map((p) => p.steps.length))].sort((a, b) => a - b),
    breaking = studyNow()?.cuts.filter((cut) => cut.broken) ?? [];
  fill("problem-tools", choice("Answers", [
      ["all", "All"],
      ["right", "Right"],
      ["wrong", "Wrong"]
    ], V.f, (f) => set({ f })),
    steps.length > 1 && select("Steps", [
      ["", "any"], ...steps.map((n) => [String(n), String(n)])
    ], V.steps, (n) => set({ steps: n })),
    breaking.length > 0 && select("Broken by", [
      ["", "any or no cut"], ...breaking.slice(0, 200).map((cut) => [cut.label,
        `${cutName(cut)} (${cut.broken})`
      ])
    ], V.by, (by) => set({ by })),
    h("label", {}, "Find ", h("input", { type: "search", value: V.find, size: 16, oninput: (event) =>
    set({ find: event.target.value }) })));
}

async function drawList() {
  const list = await chosenProblems(),
    right = D.problems.filter((p) => p.correct).length;
  fill("problem-count", D.chosen + " ", list.length ?
    `${list.length} fit the filters; ${right} of ${D.problems.length} were answered rightly.` :
    "None fits these filters.");
  fill("problem-list", list.map((p) => h("div", { role: "option",
    id: `o${D.problems.indexOf(p)}`, "aria-selected": "false", onclick: () => set({ p: p.id }) },
    h("span", { class: "mark" + (p.correct ? "" : " no"), role: "img", "aria-label": p.correct ? "right" :
        "wrong" }, p.correct ? "✓" : "✗"), h("span", { class: "q" }, p.question.slice(0, 160)),
    h("span", { class: "a" }, p.correct ? `answered ${p.answer ?? "nothing"}` :
      `answered ${(p.answer ?? "nothing").slice(0, 40)}, right is ${p.gold.slice(0, 40)}`))));
  markOption();
}

function markOption() {
  const list = byId("problem-list"),
    option = byId(`o${D.problems.findIndex((p) => p.id === V.p)}`);
  for (const other of list.querySelectorAll('[aria-selected="true"]')) other.setAttribute("aria-selected", "false");
  if (!option) return list.removeAttribute("aria-activedescendant");
  option.setAttribute("aria-selected", "true");
  list.setAttribute("aria-activedescendant", option.id);
  const top = option.offsetTop - list.offsetTop;
  if (top < list.scrollTop || top + option.offsetHeight > list.scrollTop + list.clientHeight) list.scrollTop = top -
    60;
}

/** The question, its tokens shaded by the attention of the chosen rows; the first token is left out where it takes the colour of the rest. */
function questionOf(p, read) {
  if (!read) return { element: h("p", { class: "ask" }, p.question), note: "" };
  const rows = V.row === "mean" ? thoughts : [V.row],
    of = rows.map((row) => read.attention[row]).filter(Boolean);
  const weights = read.tokens.map((_, t) => (of.length ? of.reduce((sum, row) => sum + row[t], 0) / of.length : 0)),
    top = Math.max(...weights.slice(1), 1e-6),
    parked = weights[0] > top;
  const element = h("p", { class: "ask" }, read.tokens.map((token, t) => h("span", { class: parked && !t ?
      "parked" : "c", title: `${token.trim()}: ${number(weights[t], 3)}`, css: { "--v": ((0.5 * weights[
        t]) / top).toFixed(3) } }, token)));
  return { element, note: !of.length ? "this row does not exist" : `darkest: ${number(top, 3)} of it` + (parked ?
      `; first token, ${number(weights[0])}, left out` : "") };
}

function lensTable(p, read) {
  const results = new Set(p.steps.map((step) => step.split("=").at(-1).replace(/[> ]+$/, "").trim()));
  return [title("What each thought can be read as"), h("div", { class: "scroll" }, h("table", { class: "lens" }, h(
      "tbody", {}, read.decoded.map((tops, k) => h("tr", {}, h("th", { scope: "row" }, `z${k + 1}`),
        tops.map(([token, share], n) => h("td", { class: n > 2 && "third" }, h("span", { class: "tok" + (
            results.has(token) ? " hit" : "") }, token || "␣"), " ", h("small", {}, share < 0.005 ? "" :
          percent(share))))))))),
    help("The output layer applied to the state that became the thought: its five likeliest tokens. ", p.steps
      .length ? `Underlined: the result of a step (${p.steps.map((s) => s.replace(/[<>]/g, "")).join(", ")}). ` :
      "", "That a token can be read does not show that the model uses it.")
  ];
}

async function drawProblem() {
  const place = D.problems.findIndex((p) => p.id === V.p),
    p = D.problems[place];
  if (!p) return fill("problem", help("No problem is chosen."));
  const [own, packed, mean, codes] = [await block(`p${place}`), await block(`t${place}`), await meanMap(
    "attention", modelUnit()), await codesOf(place)];
  if (V.p !== p.id) return;
  const text = packed && JSON.parse(new TextDecoder().decode(packed)),
    { element, note } = questionOf(p, text);
  fill("problem", h("h3", {}, h("bdi", {}, p.id), h("small", {}, p.correct ? "answered rightly" :
      "answered wrongly")),
    text ? h("div", { class: "tools" }, h("span", {}, "Words shaded by the attention of"), choice(
      "Whose attention", [
        ["mean", "all thoughts"], ...D.queries.map((q) => [q, q])
      ], V.row, (row) => set({ row })), h("span", {}, note)) : "",
    element, h("dl", { class: "said" }, h("dt", {}, "Right answer"), h("dt", {}, "The model’s"), h("dt", {},
      "What it wrote"), h("dd", {}, p.gold), h("dd", {}, h("span", { class: "mark" + (p.correct ? "" :
        " no") }, p.correct ? "✓ " : "✗ "), p.answer ?? "none"), h("dd", {}, p.text)),
    text ? lensTable(p, text) : help(
      "This run does not hold what its thoughts can be read as, nor their attention to single words. ", h(
        "code", {}, "thoughtlens extract"), ", called again on its folder as before, adds them."),
    own ? problemMap(p, new Uint8Array(own), mean) : help(
      "This run kept sums over problems, and no single problem’s attention."), codes && brokenText(codes));
}

function problemMap(p, own, mean) {
  const slot = D.kept.indexOf(headAt()),
    one = V.pm === "head" && slot >= 0,
    row = one ? slot : D.kept.length,
    value = (cell) => valueOf(own[row * nCells + cell], PROBLEM_STEPS),
    read = h("p", { class: "read", "aria-live": "polite" });
  return [title("Where it looked on this problem"), h("div", { class: "tools" }, choice("Which heads", [
      ["mean", "Mean of all heads"],
      ["head", V.head]
    ], one ? "head" : "mean", (pm) => set({ pm })), V.pm === "head" && !one && h("span", {},
      `${V.head} is not kept for single problems.`)),
    h("div", { class: "mapbox" }, mapTable(`Problem ${p.id}`, value, (cell, query, key) => [bold(
        `${query} gives ${key} ${number(value(cell))}`), " of its attention on this problem", one ? "." :
      `; ${number(mean.mean(cell))} on average over ${D.n}.`
    ], read), read, mapLegend())
  ];
}

function brokenText(codes) {
  const study = studyNow(),
    named = (code) => study.cuts.filter((_, i) => codes[i] === code).map(cutName),
    lists = [
      ["Broken by", named(CODES.broken)],
      ["Mended by", named(CODES.mended)]
    ].filter(([, names]) => names.length);
  if (codes.every((code) => code === 0)) return help(`Study ${study.name} did not cut this problem.`);
  return [title(`What study ${study.name} did to this answer`), h("p", { class: "cost" }, lists.length ? lists.map((
        [what, names]) =>
      `${what} ${names.slice(0, 60).join(", ")}${names.length > 60 ? ` and ${names.length - 60} more` : ""}. `
      ) : "No cut broke or mended it.")];
}

byId("problem-list").addEventListener("keydown", async (event) => {
  if (!["ArrowDown", "ArrowUp", "Home", "End"].includes(event.key)) return;
  event.preventDefault();
  const list = await chosenProblems(),
    here = list.findIndex((p) => p.id === V.p),
    next = list[{ ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: list.length - 1 } [event.key]];
  if (next) set({ p: next.id });
});
panel("problems", drawProblemTools, ["run", "f", "steps", "by", "study"]);
panel("problems", drawList, ["run", "f", "steps", "by", "find", "study"]);
panel("problems", markOption, ["p"]);
panel("problems", drawProblem, ["run", "p", "row", "pm", "head", "study"]);
exportsOf("problems", () => [
  ["id", "question", "gold", "answer", "correct", "steps", "text"], ...D.problems.map((p) => [p.id, p.question,
    p.gold, p.answer, p.correct, p.steps.length, p.text
  ])
]);
exportsOf("problem", async () => {
  const place = D.problems.findIndex((p) => p.id === V.p),
    own = new Uint8Array(await block(`p${place}`)),
    rows = [...D.kept.map((head) => D.names[head]), "mean"];
  return [
    ["problem", "head", "query", "key", "attention"], ...rows.flatMap((name, row) => D.cells.map(([q, k],
      cell) => [V.p, name, D.queries[q], D.keys[k], valueOf(own[row * nCells + cell], PROBLEM_STEPS)]))
  ];
});
