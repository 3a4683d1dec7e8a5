// The comparison of several runs: their numbers side by side, differences to the first, and profiles.

const MEASURES = {
  accuracy: "Accuracy",
  preferred: "Most preferred thought, its H",
  sequential: "Previous thought, even shares",
  skip: "First half, even shares",
  thought_mass: "Attention to earlier thoughts, share of a row",
};
const PROFILES = {
  preference: ["Preference for each thought, H", "even shares; 1 is no preference"],
  lag_preference: ["Preference by distance back", "even shares; 1 is no preference"],
  composition: ["Where thoughts look", "share of a row"],
};
const sideText = (x) => (!x || x.estimate === null || x.estimate === undefined ? "undefined" : (x.thought ?
  `${x.thought}: ` : "") + withInterval([x.estimate, x.low, x.high], 3));

function drawComparison() {
  const c = ALL.comparison,
    names = Object.keys(c.own),
    known = Object.keys(MEASURES);
  fill("sides", h("div", { class: "scroll" }, plainTable(["", ...names], [
      ["Problems", ...names.map((name) => String(c.own[name].n))], ...known.map((m) => [MEASURES[m], ...names
        .map((name) => sideText(c.own[name][m]))
      ])
    ], "Runs side by side")),
    c.notes.length > 0 && help(c.notes.join(" ")));
  fill("differences", c.differences.map((pair) => [title(`${pair.of} minus ${pair.minus}`), h(
    "div", { class: "scroll" }, plainTable(["", "Difference", "p", "p, Holm", ""],
      known.filter((m) => pair[m]).map((m) => [MEASURES[m], sideText(pair[m]), pair[m].p === undefined ?
        "" : pValue(pair[m].p), pair[m].p_holm === undefined ? "" : pValue(pair[m].p_holm), pair[m]
        .p_holm === undefined ? "" : isShown(pair[m].p_holm) ? "shown" : "not shown"
      ]), `${pair.of} minus ${pair.minus}`))]),
    c.differences.length > 0 && help(
      "Shown: p corrected over all these differences and all thoughts (Holm) is below 0.05. Brackets: 95 % intervals over problems."
      ));
  fill("profiles", Object.entries(c.profiles).map(([m, profile]) => h("div", {}, title(PROFILES[m][0]), h(
  "div", { class: "scroll" }, profileTable(profile, m)), help(PROFILES[m][1]))));
}

/** A row a run, a column a position; coloured on one scale a table, with the interval in the title. */
function profileTable(profile, m) {
  const all = Object.values(profile.of).flat().filter((x) => x && x[0] !== null),
    top = Math.max(...all.map((x) => x[0]), 1e-9);
  return h("table", { class: "map small", "aria-label": PROFILES[m][0] }, h("thead", {}, h("tr", {}, h("td", {}),
      profile.positions.map((p) => h("th", { scope: "col" }, p)))),
    h("tbody", {}, Object.entries(profile.of).map(([name, values]) => h("tr", {}, h("th", { scope: "row" }, h(
      "bdi", {}, name)), values.map((x) => {
      const v = x && x[0] !== null ? Math.max(0, x[0] / top) : 0;
      return h("td", { class: `c${isDark(v)}${x && x[0] !== null ? "" : " none"}`, css: { "--v": v
            .toFixed(3) }, title: x ? withInterval(x, 3) : "undefined" }, x && x[0] !== null ? number(
        x[0], 2) : "");
    })))));
}

if (ALL.comparison) {
  panel("comparison", drawComparison, []);
  exportsOf("comparison", () => [
    ["run", "minus", "measure", "position", "estimate", "low", "high", "p", "p_holm"],
    ...Object.entries(ALL.comparison.own).flatMap(([name, own]) => Object.keys(MEASURES).filter((m) => own[m])
      .map((m) => [name, "", m, own[m].thought ?? "", own[m].estimate, own[m].low, own[m].high, null, null])),
    ...ALL.comparison.differences.flatMap((d) => Object.keys(MEASURES).filter((m) => d[m]).map((m) => [d.of, d
      .minus, m, d[m].thought ?? "", d[m].estimate, d[m].low, d[m].high, d[m].p ?? null, d[m].p_holm ?? null
    ])),
    ...Object.entries(ALL.comparison.profiles).flatMap(([m, profile]) => Object.entries(profile.of).flatMap(([
      name, values
    ]) => values.map((x, i) => [name, "", m, profile.positions[i], ...(x ?? [null, null, null]), null,
      null]))),
  ]);
}
