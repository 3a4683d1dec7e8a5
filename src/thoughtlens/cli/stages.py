"""What the commands share: each stage, with its progress on stderr, from options to what it leaves.

Heavy modules are imported inside the functions, so that `--help` answers at once.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from thoughtlens.cli import terminal
from thoughtlens.errors import OptionError

if TYPE_CHECKING:
    from thoughtlens.analysis import Analysis
    from thoughtlens.models.codi import Codi
    from thoughtlens.problems import ProblemSet
    from thoughtlens.runs.reading import Run


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
    model: str, base: str | None, revision: str | None, alpha: float | None, dtype: str, device: str | None
) -> "Codi":
    """A reasoner, loaded as the options say."""
    with terminal.working(f"load {model}"):
        from thoughtlens.models.loading import load

        return load(model, base=base, revision=revision, alpha=alpha, dtype=dtype, device=device)


def extract_run(reasoner: "Codi", problems: "ProblemSet", to: Path, n_thoughts: int | None, batch_size: int) -> "Run":
    """A run folder with the attention of every problem."""
    from thoughtlens.runs.extract import extract

    with terminal.counting("extract", len(problems.problems)) as progress:
        return extract(reasoner, problems, to, n_thoughts=n_thoughts, batch_size=batch_size, progress=progress)


def analyze_and_write(done: "Run") -> "Analysis":
    """A run's analysis, also written to its folder."""
    from thoughtlens.outputs import analyze_run, write_analysis

    with terminal.working("analyze"):
        analysis = analyze_run(done)
        write_analysis(done, analysis)
    return analysis


def plot_and_write(done: "Run", analysis: "Analysis") -> list[Path]:
    """The paths of a run's figures, drawn anew."""
    from thoughtlens.outputs import write_figures

    with terminal.working("plot"):
        return write_figures(done, analysis)


def close(done: "Run", analysis: "Analysis", more: dict[str, Any], *, as_json: bool) -> None:
    """The closing table: accuracy, hub, sequential and skip preference, the top heads."""
    from thoughtlens.outputs import summary

    facts = summary(done, analysis)
    if as_json:
        terminal.print_json({"run": str(done.path), **facts, **more})
        return
    terminal.closing(facts)
    terminal.tell({}, f"results: {done.path}", as_json=False)


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
