// The view, what is drawn when, and what keys, clicks and the address do.

const ALL_SHOWN = 64;
let V = {},
  defaults = {};

function defaultsOf() {
  const first = D.names[D.ranked[0]],
    newest = D.studies.find((study) => isOf(study, "edges")),
    shown = newest?.cuts.some((cut) => cut.family === "edges" && isShown(cut.p[newest.ranked]));
  return {
    run: "0",
    head: first,
    m: D.measures[0].id,
    map: "attention",
    index: "thought",
    view: shown ? "both" : "look",
    scope: "model",
    ctx: "",
    p: D.problems[0]?.id ?? "",
    f: "all",
    steps: "",
    by: "",
    find: "",
    row: "mean",
    pm: "mean",
    study: D.studies[0]?.name ?? "",
    kind: "",
    outcome: "",
    all: "",
    at: "",
  };
}

/** What an address may name; anything else falls back. */
function allowed() {
  return {
    run: ALL.runs.map((_, place) => String(place)),
    head: D.names,
    m: measures().map((m) => m.id),
    map: D.maps.map((m) => m.id),
    index: ["thought", "step"],
    view: ["look", "cause", "both"],
    scope: ["model", "layer", "head"],
    p: D.problems.map((p) => p.id),
    f: ["all", "right", "wrong"],
    pm: ["mean", "head"],
    row: ["mean", ...D.queries],
    study: D.studies.map((s) => s.name),
  };
}

function readView() {
  const run = Number(new URLSearchParams(location.hash.slice(1)).get("run") ?? 0);
  useRun(ALL.runs[run] ? run : 0);
  // Which measures there are depends on the study.
  defaults = V = defaultsOf();
  const study = viewOf(location.hash, defaults, { study: D.studies.map((s) => s.name) });
  V = { ...defaults, study: study.study };
  return viewOf(location.hash, defaults, allowed());
}

function set(change) {
  if (change.run !== undefined && change.run !== V.run) {
    useRun(Number(change.run));
    const kept = { ...V, ...change };
    defaults = V = defaultsOf();
    const names = allowed();
    V = Object.fromEntries(Object.entries(kept).map(([name, x]) => [name, names[name] && !names[name].includes(x) ?
      defaults[name] : x
    ]));
  } else V = { ...V, ...change };
  history.replaceState(null, "", addressOf(V, defaults));
  return draw(Object.keys(change));
}

const open = new Set();
async function draw(changed) {
  for (const { id, draw: part, depends } of PARTS) {
    if (!open.has(id) || (changed && !depends.some((name) => changed.includes(name)))) continue;
    // A button that is drawn again keeps the focus: it is the one at the same place of the same holder.
    const here = document.activeElement,
      holder = here.closest?.("[id]"),
      place = holder ? [...holder.querySelectorAll("button, input, select")].indexOf(here) : -1;
    const caret = here.selectionStart;
    await part();
    if (place >= 0 && !document.contains(here)) {
      const again = byId(holder.id)?.querySelectorAll("button, input, select")[place];
      again?.focus();
      if (again?.type === "search") again.setSelectionRange(caret, caret);
    }
  }
}

async function openPanel(id) {
  if (open.has(id)) return;
  open.add(id);
  for (const { id: panelOf, draw: part } of PARTS)
    if (panelOf === id) await part();
}

async function goTo(id) {
  const section = byId(id);
  if (section?.tagName !== "SECTION") return;
  await openPanel(id);
  section.scrollIntoView();
  section.focus({ preventScroll: true });
}

async function fromAddress() {
  const next = readView(),
    changed = Object.keys(next).filter((name) => next[name] !== V[name]);
  V = next;
  await draw([...changed, "run"]);
  if (V.at) await goTo(V.at);
}

async function save(name) {
  const text = csvText(await TABLES.get(name)()),
    url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  const file = `${D.model.replace(/[^\w.-]+/g, "_")}-${name === "map" ? V.head : name}.csv`;
  h("a", { href: url, download: file }).click();
  setTimeout(() => URL.revokeObjectURL(url), 5000);
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-at]"),
    head = event.target.closest("a[data-head]"),
    table = event.target.closest("[data-csv]");
  if (link) { event.preventDefault();
    set({ at: link.dataset.at });
    goTo(link.dataset.at); }
  if (head) { event.preventDefault();
    set({ head: head.dataset.head }); }
  if (table) save(table.dataset.csv);
});
byId("grid").addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === " ") { event.preventDefault();
    byId("card").scrollIntoView({ block: "nearest" }); }
  roam(event, gridCells, (cell) => [Math.floor(cell.dataset.head / D.H), cell.dataset.head % D.H], (cell) =>
    set({ head: D.names[cell.dataset.head] }));
});
byId("grid").addEventListener("mouseleave", () => readHead(headAt()));
byId("run")?.addEventListener("change", (event) => set({ run: event.target.value }));

const root = document.documentElement;
const isDarkNow = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" :
  "light")) === "dark";
const nameTheme = () => { byId("theme").textContent = isDarkNow() ? "Light" : "Dark"; };
byId("theme").addEventListener("click", () => { root.dataset.theme = isDarkNow() ? "light" : "dark";
  nameTheme(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", nameTheme);
addEventListener("hashchange", fromAddress);
let width = innerWidth;
addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth;
    draw(["width"]); } });
const spy = new IntersectionObserver((seen) => {
  for (const entry of seen)
    if (entry.isIntersecting)
      for (const link of document.querySelectorAll(".bar a")) {
        if (link.dataset.at === entry.target.id) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
}, { rootMargin: "-30% 0px -65% 0px" });
for (const section of document.querySelectorAll("main > section")) spy.observe(section);

nameTheme();
V = readView();
if (byId("run")) byId("run").value = V.run;
openPanel("heads").then(async () => {
  performance.mark("usable");
  for (const section of document.querySelectorAll("main > section")) await openPanel(section.id);
  performance.mark("complete");
  root.dataset.state = "complete";
  if (V.at) await goTo(V.at);
});
