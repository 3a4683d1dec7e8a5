"""The report of a run as one HTML page, which opens anywhere, without a network, from a file; and what notebooks show.

In: a run, and what its folder holds. Out: `RUN/report.html`, and a `Page`, which a notebook shows inline.

1. `page_data` gives the JSON and the packed arrays, `sentences` the summary.
2. The template escapes every text. The data is one inert JSON block, and arrays are inert blocks of text beside it, so
   that no text of a problem, a model or a file can be read as markup or run.
3. `notebook_view` is what a notebook shows of a result: its headline, a table and a small picture, all texts escaped.
4. A policy in the page allows the page's own script and style, by their hashes, and nothing else: no network at all.
"""

import base64
import hashlib
import html
import io
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from thoughtlens import plots
from thoughtlens.analysis import (
    Analysis,
    Comparison,
    Study,
    analysis_tables,
    analyze,
    compare,
    comparison_headline,
    headline,
    open_analysis,
    readings,
)
from thoughtlens.analysis.cautions import LEAST_SHOWN, precision_in_words, shown_of_analysis, shown_of_comparison
from thoughtlens.analysis.effects import ALPHA, RANKED_BY
from thoughtlens.errors import OptionError, RunError
from thoughtlens.files import Json, only_writer, replacing, writing
from thoughtlens.reports.page_data import Shown, card_of, clean, data_of, merged, model_name
from thoughtlens.reports.run_files import shares_of, summary
from thoughtlens.reports.sentences import cautions, counted, differences, findings
from thoughtlens.reports.study_files import study_table
from thoughtlens.runs.reader import REPORT, Run, read_readings, status
from thoughtlens.runs.writer import versions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from thoughtlens.models import LatentReasoner

SCRIPTS: Final = ("pure", "elements", "data", "map", "comparison", "causes", "flow", "heads", "problems", "start")
"""The parts of the page's script, in the order in which they are joined."""

PROFILES: Final = {"preference": "thought", "lag_preference": "lag", "composition": "part"}
"""Measures of a comparison that have positions, and the dim of these."""

PANELS: Final = (
    ("summary", "Summary"),
    ("comparison", "Comparison"),
    ("heads", "Heads"),
    ("flow", "Flow"),
    ("problems", "Problems"),
    ("causes", "Causes"),
    ("method", "Method"),
)
"""The panels by id, as the page names them, in their order."""


class Page(NamedTuple):
    """A report on disk; the last line of a notebook's cell shows it there.

    Attributes:
        path: the file.
        n_bytes: its size.
    """

    path: Path
    n_bytes: int

    def _repr_html_(self) -> str:
        """The page in a frame of its own, whose policy stays in force."""
        page = html.escape(self.path.read_text("utf-8"), quote=True)
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 80vh; border: 1px solid #ccc"></iframe>'


def write_report(
    runs: Run | Mapping[str, Run],
    out: str | Path | None = None,
    *,
    holdout: float | None = None,
    holdout_seed: int = 0,
    compared: Json | None = None,
) -> Page:
    """Write the report of a run, or of several: one HTML file which opens anywhere and needs no network.

    It shows the summary, heads, flow, problems and causes of each run, and several runs compared. It is made from the
    analysis with the default options, which is made if it is not there, and from every finished study of cuts. No model
    is loaded.

    Args:
        runs: a run; or several by their labels (see `labelled`), the first being the one to compare with.
        out: the file; `RUN/report.html` if None.
        holdout: of several runs, the share of the problems on which they are compared, as for `compare`.
        holdout_seed: which problems these are.
        compared: a comparison that is made already, in the place of that of the runs: `own`, `differences`, `profiles`
            and `notes` as the page shows them, its `findings` in sentences, and a `lead` that says what is compared.

    Returns:
        The page; in a notebook it is shown inline.

    Raises:
        OptionError: several runs were given without a file.
        RunError: the file can't be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from thoughtlens.models import load, planted_problems
        >>> from thoughtlens.runs import extract
        >>> folder = TemporaryDirectory()
        >>> run = extract(load("planted"), planted_problems(3), f"{folder.name}/run")
        >>> write_report(run).path.name
        'report.html'
        >>> folder.cleanup()
    """
    named = {"": runs} if isinstance(runs, Run) else dict(runs)
    if len(named) > 1 and out is None:
        raise OptionError(f"{len(named)} runs were given without a file for their report; name one with --out.")
    path = next(iter(named.values())).path / REPORT if out is None else Path(out)
    if compared is None and len(named) > 1:
        compared = _compared(named, holdout=holdout, holdout_seed=holdout_seed)
    page = _rendered([_Section(run, label) for label, run in named.items()], compared)
    # Under the run's lock: whoever extracts into the folder removes unfinished files there.
    own = only_writer if path.parent == next(iter(named.values())).path else writing
    with own(path.parent), replacing(path) as file:
        file.write(page)
    return Page(path, path.stat().st_size)


class _View(NamedTuple):
    """What a notebook shows of a result."""

    title: str
    lines: list[str]
    table: pd.DataFrame | None = None
    picture: "Figure | None" = None


def notebook_view(result: "Run | Analysis | Comparison | Study | LatentReasoner") -> str:
    """What a notebook shows of a result: a title, its headline in sentences, a table and a small figure.

    Args:
        result: a run, an analysis, a comparison, a study, or a loaded model. Of a run nothing is computed: it shows
            the analysis with the default options if that is saved.

    Returns:
        HTML without scripts; every text is escaped, and the figure stands in it as PNG.

    Example:
        `IPython.display.HTML(notebook_view(tl.open_run("runs/first")))`
    """
    view = _view(result)
    parts = [Markup("<p><b>{}</b></p>").format(view.title)]
    parts.append(Markup("<ul>{}</ul>").format(Markup("").join(Markup("<li>{}</li>").format(of) for of in view.lines)))
    if view.table is not None:
        # pandas escapes each cell.
        parts.append(Markup(view.table.to_html(index=False, na_rep="", border=0, float_format="{:.3g}".format)))
    if view.picture is not None:
        picture = io.BytesIO()
        view.picture.savefig(picture, format="png", dpi=80)
        data = base64.b64encode(picture.getvalue()).decode("ascii")
        parts.append(Markup('<img alt="{}" src="data:image/png;base64,{}">').format(view.title, data))
    return str(Markup("<div>{}</div>").format(Markup("").join(parts)))


def _view(result: "Run | Analysis | Comparison | Study | LatentReasoner") -> _View:
    match result:
        case Run():
            return _run_view(result)
        case Analysis():
            return _analysis_view(result)
        case Comparison():
            return _comparison_view(result)
        case Study():
            return _study_view(result)
        case _:
            return _model_view(result)


def _run_view(run: Run) -> _View:
    there = status(run.path)
    made = [
        f"{what}: {', '.join(names)}"
        for what, names in (("Analyses", there.analyses), ("Studies", there.studies))
        if names
    ]
    try:
        found = _analysis_view(open_analysis(run))
    except RunError:
        right = run.correct()
        found = _View(
            "", [f"{right.sum()} of {right.size:,} problems answered rightly.", "Not analysed: tl.analyze(run)."]
        )
    return found._replace(title=repr(run).strip("<>"), lines=found.lines + made)


def _analysis_view(analysis: Analysis) -> _View:
    shown = shown_of_analysis(analysis)
    said = [f"{of.about}: {of.text}" for of in findings(headline(shown), shares_of(shown), ()) if of.panel != "causes"]
    heads = analysis_tables(shown)["heads"].head(5)
    columns = ["name", "type", "hub", "importance", "importance_low", "importance_high", "sequential", "skip"]
    few = int(shown.model["n"]) < LEAST_SHOWN
    return _View(
        repr(analysis).strip("<>").split(";")[0],
        said,
        None if few else heads[columns],
        None if few else _small(plots.head_map, shown),
    )


def _comparison_view(comparison: Comparison) -> _View:
    shown = shown_of_comparison(comparison)
    facts = comparison_headline(comparison)
    rows = [
        {comparison.dim: name, "n": of["n"]}
        | {
            measure: of[measure]["estimate"]
            for measure in ("accuracy", "sequential", "skip", "thought_mass")
            if measure in of
        }
        for name, of in facts["own"].items()
    ]
    said = [f"{of.about}: {of.text}" for of in differences(facts)] + facts["warnings"]
    return _View(repr(comparison).strip("<>"), said, pd.DataFrame(rows), _figure(plots.model_comparison(shown)))


def _study_view(done: Study) -> _View:
    table = study_table(done)
    cuts = table[table["kind"] == "cut"].sort_values(RANKED_BY, kind="stable").head(5)
    n_shown = int((table.loc[table["kind"] == "cut", f"{RANKED_BY}_p_holm"] < ALPHA).sum())
    said = [
        f"{counted(n_shown, 'cut')} shown to change the log-probability of the answer (Holm over all cuts of the plan)."
    ]
    for family, verdict in done.verdicts.items():
        said += [f"{family}: {text}." for text in readings(verdict, unit=family.split(",")[0]).values()]
    columns = ["intervention", "n", "accuracy", *(RANKED_BY + end for end in ("", "_low", "_high", "_p_holm"))]
    return _View(repr(done).strip("<>"), said, cuts[columns], _figure(plots.effect_forest(done)))


def _model_view(reasoner: "LatentReasoner") -> _View:
    from thoughtlens.models import assumptions  # imports torch, which a loaded model has done

    about = reasoner.provenance
    said = [
        f"{name}: {about[name]}"
        for name in ("family", "architecture", "weights", "sha256", "revision")
        if about.get(name)
    ]
    return _View(repr(reasoner).strip("<>"), [*said, *assumptions(about)])


def _figure(ax: Any) -> "Figure":
    figure: Figure = ax.get_figure(root=True)
    return figure


def _small(draw: Callable[..., Any], result: Any) -> "Figure":
    """A figure that a notebook shows beside a table."""
    from matplotlib.figure import Figure  # slow to import, and needed here alone

    figure = Figure(figsize=(4.5, 3.4), layout="constrained")
    draw(result, ax=figure.subplots())
    return figure


def _compared(runs: Mapping[str, Run], *, holdout: float | None, holdout_seed: int) -> Json:
    """The comparison of several runs as the page shows it; only its notes where they can't be compared."""
    try:
        found = compare(runs, holdout=holdout, holdout_seed=holdout_seed)
    except RunError as error:
        return {"own": {}, "differences": [], "profiles": {}, "notes": [str(error)]}
    of_all = shown_of_comparison(found).measures.sel(depth="all")
    profiles = {
        name: {
            "positions": [str(place) for place in of_all[dim].values],
            "of": {label: of_all[name].sel({found.dim: label}).transpose(dim, "value").values for label in runs},
        }
        for name, dim in PROFILES.items()
    }
    together: Json = clean({**comparison_headline(found), "profiles": profiles, "notes": found.notes})
    return together


class _Section:
    """What a page says of one run."""

    def __init__(self, run: Run, label: str = "") -> None:
        analysis = shown_of_analysis(analyze(run))
        facts, readings = summary(run, analysis), read_readings(run)
        self.label = label or model_name(run)
        self.shown: Shown = data_of(run, analysis, readings)
        studies = self.shown.facts["studies"]
        self.findings = findings(facts, facts["shares"], studies)
        self.cautions = cautions(facts, studies, keeps_means=run.keeps_means, readings=readings)
        self.cautions += self.shown.facts["unreadable"]
        self.about = list(_about(run, facts))
        self.checks = readings.get("checks")
        self.card = card_of(run)
        self.command = _command(run)
        self.versions = {str(name): str(version) for name, version in run.manifest["versions"].items()}


def _about(run: Run, facts: Json) -> Iterator[tuple[str, str]]:
    options, layout = run.manifest["options"], run.manifest["layout"]
    model, problems = options["model"], options["problems"]
    yield (
        "Model",
        f"{model_name(run)}, {model['architecture']}, {layout['n_layers']} layers × {layout['n_heads']} heads",
    )
    yield "Thoughts", str(layout["n_thoughts"])
    of_split = f", {problems['split']}" if problems.get("split") else ""
    yield "Problems", f"{problems['name']}{of_split}, {layout['n_problems']:,} of them"
    moved = run.manifest.get("precision")
    yield "Precision", str(model["dtype"]) + (f". {precision_in_words(moved)}" if moved else "")
    yield "Intervals", f"95 %, over {facts['intervals_over']}"
    yield "Weights", f"SHA-256 {str(model['sha256'])[:12]}"
    yield "Measured", str(run.manifest["created"])[:10]


def _command(run: Run) -> str:
    """The command that measures the same problems with the same model again."""
    options, notes = run.manifest["options"], run.manifest.get("notes", {})
    words = ["thoughtlens", "extract", "--model", model_name(run), "--problems", "problems.jsonl"]
    words += ["--thoughts", str(options["n_thoughts"]), "--dtype", str(options["model"]["dtype"])]
    if "batch_size" in notes:
        words += ["--batch-size", str(notes["batch_size"])]
    return shlex.join([*words, "--out", "again"])


@cache
def _asset(name: str) -> str:
    return resources.files("thoughtlens.reports").joinpath("page", name).read_text("utf-8")


def script() -> str:
    """The page's script, its parts joined."""
    return "\n".join(['"use strict";', *(_asset(f"{name}.js") for name in SCRIPTS)])


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("thoughtlens.reports", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {
        "allow_nan": False, "ensure_ascii": False, "separators": (",", ":"), "sort_keys": False
    }  # fmt: skip
    return environment


def _rendered(sections: Sequence[_Section], comparison: Json | None) -> str:
    runs, blocks = merged((f"r{place}-", section.shown) for place, section in enumerate(sections))
    for run, section in zip(runs, sections, strict=True):
        run["label"] = section.label
    code, style = script(), _asset("page.css")
    comparison = dict(comparison or {})
    said = comparison.pop("findings", None) or (list(differences(comparison)) if comparison else [])
    lead = comparison.pop("lead", "The same measures of each run, and how the others differ from the first.")
    return _environment().get_template("template.html.jinja").render(
        sections=sections,
        data={"runs": runs, "comparison": comparison or None},
        differences=said,
        lead=lead,
        blocks=blocks,
        # Only these two are not escaped: they are the package's own.
        script=Markup(code),
        style=Markup(style),
        script_hash=_hash(code),
        style_hash=_hash(style),
        versions=versions(),
        many=len(sections) > 1,
        panels=[(name, title) for name, title in PANELS if comparison or name != "comparison"],
    )  # fmt: skip


def _hash(text: str) -> str:
    """A hash as a policy names it."""
    digest: Any = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
