"""The report of a run as one HTML page, which opens anywhere, without a network, from a file.

In: a run, and what its folder holds. Out: `RUN/report.html`, and a `Page`, which a notebook shows inline.

1. `page_data` gives the JSON and the packed arrays, `sentences` the summary.
2. The template escapes every text. The data is one inert JSON block, and arrays are inert blocks of text beside it, so
   that no text of a problem, a model or a file can be read as markup or run.
3. A policy in the page allows the page's own script and style, by their hashes, and nothing else: no network at all.
"""

import base64
import hashlib
import html
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from thoughtlens.analysis import analyze, compare, comparison_headline
from thoughtlens.analysis.cautions import shown_of_analysis, shown_of_comparison
from thoughtlens.errors import OptionError, RunError
from thoughtlens.files import Json, replacing, writing
from thoughtlens.reports.page_data import Shown, card_of, clean, data_of, merged, model_name
from thoughtlens.reports.run_files import summary
from thoughtlens.reports.sentences import cautions, differences, findings
from thoughtlens.runs.reader import REPORT, Run, read_readings
from thoughtlens.runs.writer import versions

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
    compared = None if len(named) < 2 else _compared(named, holdout=holdout, holdout_seed=holdout_seed)
    page = _rendered([_Section(run, label) for label, run in named.items()], compared)
    with writing(path.parent), replacing(path) as file:
        file.write(page)
    return Page(path, path.stat().st_size)


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
    yield "Precision", str(model["dtype"])
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
    return _environment().get_template("template.html.jinja").render(
        sections=sections,
        data={"runs": runs, "comparison": comparison},
        differences=list(differences(comparison)) if comparison else [],
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
