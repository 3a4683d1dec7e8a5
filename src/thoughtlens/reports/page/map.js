// A map: rows look, columns are looked at. A table, which is read aloud, printed and coloured by style alone.

const LEGEND =
  "Share of a row’s attention, on a square-root scale that is the same on the whole page. Outlined: a position that looks at itself.";

const mapLegend = () => h("div", { class: "legend" }, ramp("", [0, 0.05, 0.25, 0.5, 1].map((x) => [Math.sqrt(x),
  String(x)
])), h("span", {}, LEGEND));

function mapTable(label, value, describe, readout) {
  const cells = [],
    gap = (name) => (name === "z1" || name === "eot" ? "gap" : "");
  const table = h("table", { class: "map", role: "grid", "aria-label": label, "aria-readonly": "true" },
    h("thead", {}, h("tr", { role: "row" }, h("td", { role: "presentation" }), D.keys.map((key) => h(
    "th", { scope: "col", role: "columnheader", class: gap(key) }, key)))),
    h("tbody", {}, D.queries.map((query, q) => h("tr", { role: "row", class: gap(query) && "gap-row" }, h(
      "th", { scope: "row", role: "rowheader" }, query),
      D.keys.map((key, k) => {
        const cell = at[q][k];
        if (cell === undefined) return h("td", { class: gap(key), role: "gridcell" });
        const x = value(cell),
          share = x === null ? 0 : Math.sqrt(x),
          name = `c ${gap(key)}${x === null ? " none" : ""}${query === key ? " self" : ""}${isDark(share)}`;
        const td = h("td", {
          class: name,
          role: "gridcell",
          css: { "--v": share.toFixed(3) },
          "data-cell": cell,
          tabindex: cells.length ? -1 : 0,
          "aria-label": `${query} looks at ${key}: ${number(x)}`,
          onmouseenter: () => say(td),
          onfocus: () => say(td),
        }, x === null ? "" : x < 0.005 ? "·" : x >= 0.995 ? "1" : x.toFixed(2).slice(1));
        cells.push(td);
        return td;
      })))));

  function say(td) {
    for (const header of table.querySelectorAll("th.on")) header.classList.remove("on");
    if (!td) return readout.replaceChildren(
      "Point at a square, or move with the arrow keys, to read it. A row adds up to 1.");
    const cell = Number(td.dataset.cell),
      [q, k] = D.cells[cell];
    table.tBodies[0].rows[q].cells[0].classList.add("on");
    table.tHead.rows[0].cells[k + 1].classList.add("on");
    readout.replaceChildren(...describe(cell, D.queries[q], D.keys[k]));
  }
  table.addEventListener("keydown", (event) => roam(event, cells, (td) => D.cells[td.dataset.cell]));
  table.addEventListener("mouseleave", () => say(null));
  say(null);
  return table;
}

/** What an even spread would give a thought of a row: the row's attention to earlier thoughts over their number. */
function evenShare(query, map) {
  const n = query === "eot" || query === "answer" ? D.T : D.queries.indexOf(query) - 1;
  if (n < 2) return null;
  return thoughts.slice(0, n).reduce((sum, key) => sum + map.mean(cellOf(query, key)), 0) / n;
}

function describeMean(map) {
  return (cell, query, key) => {
    const even = key.startsWith("z") && query !== key && query !== "bot" ? evenShare(query, map) : null;
    return [
      bold(`${query} gives ${key} ${number(map.mean(cell), 3)}`),
      ` of its attention, 95 % interval${interval(map.low(cell), map.high(cell), 3) || " unknown"}, ${D.n} problems.`,
      even ?
      ` That is ${number(map.mean(cell) / even)} times an even share of its attention to earlier thoughts.` :
      "",
    ];
  };
}

/** A small table, thought by thought: `share` colours, `text` writes. */
function triangle(heading, edges, share, text, kind, marks) {
  const found = new Map(edges.map((e) => [e.query + " " + e.key, e])),
    keys = thoughts.slice(0, -1);
  return h("div", {}, title(heading), h(
  "table", { class: "map small", "aria-label": `${heading}, thought by thought` },
    h("thead", {}, h("tr", {}, h("td", {}), keys.map((key) => h("th", { scope: "col" }, key)))),
    h("tbody", {}, thoughts.slice(1).map((query) => h("tr", {}, h("th", { scope: "row" }, query), keys.map((
      key) => {
        const e = found.get(query + " " + key),
          v = e ? Math.max(0, Math.min(1, share(e))) : 0;
        return e ? h("td", { class: `c${kind}${isDark(v)}`, css: { "--v": v.toFixed(3) } }, text(e)) : h(
          "td", {});
      }))))), marks && h("div", { class: "legend" }, ramp(kind.trim(), marks)));
}
