"""What the commands share: each stage, with its progress on stderr, from options to what it leaves.

Heavy modules are imported inside the functions, so that `--help` answers at once.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thoughtlens.cli import terminal
from thoughtlens.errors import OptionError

if TYPE_CHECKING:
    from thoughtlens.analysis import Analysis
    from thoughtlens.analysis.panels import Choice
    from thoughtlens.comparisons import GroupedRun
    from thoughtlens.models.codi import Codi
    from thoughtlens.problems import ProblemSet
    from thoughtlens.runs.block_layout import Keep
    from thoughtlens.runs.engines import Engine
    from thoughtlens.runs.reading import Run


SIDE_BY_SIDE = {
    "accuracy": "accuracy",
    "hub": "hub preference",
    "sequential": "sequential preference",
    "skip": "skip preference",
    "thought_mass": "thought mass",
}


def draw_problems(
    name: str,
    split: str | None,
    n: int | None,
    seed: int,
    field: list[str] | None,
    revision: str | None,
    *,
    most: int | None = None,
) -> "ProblemSet":
    """Load a set and draw n of it; without n all, or `most` of them."""
    from thoughtlens.problems import draw, load_set

    fields = dict(_field(given) for given in field or [])
    whole = load_set(name, split, fields=fields, revision=revision)
    if n is None and most is not None:
        n = min(most, len(whole.problems))
    return draw(whole, n, seed)


def _field(given: str) -> tuple[str, str]:
    what, equals, name = given.partition("=")
    if not equals or not name:
        raise OptionError(f"--field is {given!r}, expected for instance question=NAME; give both sides.")
    return what, name


def load_model(
    model: str,
    base: str | None,
    revision: str | None,
    alpha: float | None,
    dtype: str,
    device: str | None,
    random_weights: int | None = None,
) -> "Codi":
    """A reasoner, loaded as the options say; with a seed, its architecture with random weights."""
    with terminal.working(f"load {model}"):
        from thoughtlens.models.loading import load
        from thoughtlens.models.random_weights import randomize

        reasoner = load(model, base=base, revision=revision, alpha=alpha, dtype=dtype, device=device)
        return reasoner if random_weights is None else randomize(reasoner, seed=random_weights)


def choose_engine(name: str, workers: int | None, address: str | None) -> "Engine":
    """Where the work is done; before anything is loaded, so that a mistake costs no time."""
    from thoughtlens.runs.engine_names import engine_named

    return engine_named(name, workers=workers, address=address)


def choose_keep(name: str) -> "Keep | None":
    """What the run keeps; None for all attention, which takes no analysis: that is slow to import."""
    if name == "raw":
        return None
    from thoughtlens.keeping import keep_named

    return keep_named(name)


def extract_run(
    reasoner: "Codi", problems: "ProblemSet", to: Path, engine: "Engine", *, keep: "Keep | None", **how: Any
) -> "Run":
    """A run folder with what is kept of every problem; `how` is what else `extract` takes."""
    from thoughtlens.runs.extract import extract

    with terminal.counting("extract", len(problems.problems)) as progress:
        return extract(reasoner, problems, to, keep=keep, engine=engine, progress=progress, **how)


def analyze_and_write(done: "Run", pattern: str = "attention") -> "Analysis":
    """A run's analysis, also written to its folder."""
    from thoughtlens.outputs import analyze_run, write_analysis

    with terminal.working("analyze"):
        analysis = analyze_run(done, pattern=pattern)
        write_analysis(done, analysis, pattern=pattern)
    return analysis


def plot_and_write(
    done: "Run", analysis: "Analysis", choice: "Choice | None" = None, *, step_indexed: bool = False
) -> list[Path]:
    """The paths of a run's figures, drawn anew, or of their step-indexed twins."""
    from thoughtlens.outputs import write_figures

    with terminal.working("plot"):
        return write_figures(done, analysis, choice, step_indexed=step_indexed)


def choose(layers: str | None, heads: str | None, top: int | None, metric: str) -> "Choice":
    """What to draw, from lists such as `0,4,8` and `L4H5,L2H1`."""
    from thoughtlens.analysis.panels import Choice

    numbers = _listed(layers)
    if numbers is not None and not all(number.isdecimal() for number in numbers):
        raise OptionError(f"--layers is {layers!r}, expected numbers such as 0,4,8; write them so.")
    return Choice(
        layers=None if numbers is None else tuple(int(number) for number in numbers),
        heads=_listed(heads),
        top=top,
        metric=metric,
    )


def _listed(given: str | None) -> tuple[str, ...] | None:
    return None if given is None else tuple(part.strip() for part in given.split(","))


def export_runs(folders: list[Path], to: Path | None) -> tuple[list[str], str]:
    """The files of the 2025 scripts, as their paths, and what their indices mean; `to` is needed for several runs."""
    from thoughtlens import exports
    from thoughtlens.runs.reading import open_run

    runs = [open_run(folder) for folder in folders]
    with terminal.working("export"):
        paths = exports.export_npy(runs[0], to) if to is None or len(runs) == 1 else exports.export_runs(runs, to)
    return [str(path) for path in paths], exports.STEP_INDEXED_NOTE


def close(done: "Run", analysis: "Analysis", more: dict[str, Any], *, as_json: bool) -> None:
    """The closing table: accuracy, hub, sequential and skip preference, the top heads."""
    from thoughtlens.outputs import summary

    facts = summary(done, analysis)
    if as_json:
        terminal.print_json({"run": str(done.path), **facts, **more})
        return
    terminal.closing(facts)
    terminal.tell({}, f"results: {done.path}", as_json=False)


def group_run(done: "Run", by: Sequence[str]) -> list["GroupedRun"]:
    """A run's problems in groups, each analysed, for each thing to group by."""
    from thoughtlens.comparisons import analyze_groups

    with terminal.working("analyze groups"):
        return [analyze_groups(done, what) for what in dict.fromkeys(by)]


def write_groups(done: "Run", grouped: list["GroupedRun"]) -> list[dict[str, Any]]:
    """The headlines of groups, their tables also written to the run's folder."""
    from thoughtlens import comparisons

    for of in grouped:
        comparisons.write_groups(done, of)
    return [comparisons.groups_summary(of) for of in grouped]


def over_null(done: "Run", folder: Path | None, pattern: str) -> dict[str, Any] | None:
    """What a run has beyond a null run, its tables also written to the run's folder; nothing without a null run."""
    from thoughtlens.null_runs import null_summary, over_null_run, write_null
    from thoughtlens.runs.reading import open_run

    if folder is None:
        return None
    with terminal.working("hold against the null run"):
        found = over_null_run(done, open_run(folder), pattern=pattern)
        write_null(done, found)
    return null_summary(found)


def show_over_null(facts: dict[str, Any]) -> None:
    """The table of what a run has beyond its null run."""
    terminal.beyond_nulls(facts["evidence"], title="attention of a row beyond that of the null run")
    terminal.tell({}, f"types of heads beyond it: {terminal.counted(facts['types'])}", as_json=False)
    terminal.tell({}, facts["note"], as_json=False)


def show_side_by_side(facts: dict[str, Any], *, title: str) -> None:
    """Tables of models or groups beside each other, of their differences, and the notes."""
    own = facts["own"]
    words = {name: said for name, said in SIDE_BY_SIDE.items() if all(name in numbers for numbers in own.values())}
    rows = [(said, *(_side(numbers, name) for numbers in own.values())) for name, said in words.items()]
    rows.append(("types of heads", *(terminal.counted(of["types"]) for of in own.values())))
    terminal.table(("measure", *own), [("problems", *(of["n"] for of in own.values())), *rows], title=title)
    for pair in facts["differences"]:
        rows = [(said, _side(pair, name), *map(terminal.p_value, _tests(pair[name]))) for name, said in words.items()]
        what = f"{facts['by']}: " if "by" in facts else ""
        title = f"{what}{pair['of']} − {pair['minus']}"
        terminal.table(("measure", "difference", "p", "p (Holm)"), rows, title=title)
    for note in facts["notes"]:
        terminal.tell({}, note, as_json=False)


def _side(numbers: dict[str, Any], name: str) -> str:
    shown = terminal.with_interval(numbers[name], percent=name in ("accuracy", "thought_mass"))
    thought = numbers[name].get("thought")
    return f"{thought}: {shown}" if thought else shown


def _tests(number: dict[str, Any]) -> tuple[float | None, float | None]:
    return number["p"], number["p_holm"]


def own_accuracy(card: dict[str, Any]) -> tuple[str, str]:
    """Accuracy with a model's own thoughts, and of how many problems, as text."""
    own = card["accuracy"]["own"]
    return f"{own['accuracy']:.1%}", f"{own['n']:,}"


def show_card(name: str, recompute: int | None, *, as_json: bool) -> None:
    """A bundled model's card, its figures measured again on `recompute` problems if asked."""
    from thoughtlens.models.catalog import bundled, read_card
    from thoughtlens.training.page import as_markdown

    if name not in bundled():
        raise OptionError(f"no bundled model {name!r}; there are: {', '.join(bundled())}.")
    card = read_card(name)
    if recompute is not None:
        card |= _recompute(name, card, recompute)
    terminal.tell(card, as_markdown(card), as_json=as_json)


def _recompute(name: str, card: dict[str, Any], n: int) -> dict[str, Any]:
    from thoughtlens.models.loading import load
    from thoughtlens.problems import draw, load_set
    from thoughtlens.runs.conditions import CONDITIONS
    from thoughtlens.training.card import measure

    problems = draw(load_set(card["problems"]["name"], card["problems"]["split"]), n)
    with terminal.counting("recompute", n * len(CONDITIONS)) as progress:
        return measure(load(name, dtype="float32"), problems.problems, progress=progress)
