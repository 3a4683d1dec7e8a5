"""A run and a null run, such as one with random weights, become what the first has beyond the second, as files.

    RUN/analysis/over_null_run/  summary.json, evidence_model.csv, evidence_layer.csv, evidence_head.csv
    RUN/analysis/value-weighted/over_null_run/   the same of another pattern than attention

The two must be of one architecture and of the same problems; `thoughtlens extract --random-weights SEED` makes one.
"""

from pathlib import Path
from typing import Any, Final, NamedTuple

from thoughtlens.analysis.evidence import Levels, type_counts
from thoughtlens.analysis.null_run import evidence_over_run
from thoughtlens.analysis.tables import evidence_headline, evidence_tables
from thoughtlens.errors import RunError
from thoughtlens.files import Json, replacing, write_json, writing
from thoughtlens.outputs import WEIGHTS, pattern_blocks
from thoughtlens.runs.reading import ANALYSIS, Run

OVER: Final = "over_null_run"

NOTE: Final = (
    "Each head against the mean head of its layer in the null run, problem by problem: excess over its nulls less the "
    "excess there; of rows that both have. p is one-sided, more than the null run. Intervals and p are over problems; "
    "the null run is one draw of weights."
)


class OverNullRun(NamedTuple):
    """What a run has beyond a null run."""

    null: Run
    pattern: str
    levels: Levels


def over_null_run(
    run: Run, null: Run, *, pattern: str = WEIGHTS, n_resamples: int = 1000, seed: int = 0
) -> OverNullRun:
    """Hold a run against a null run, a block of problems at a time.

    Args:
        run: the run.
        null: of the same architecture, number of thoughts and problems, such as one with random weights.
        pattern: what is held against each other, of `thoughtlens.outputs.PATTERNS`.
        n_resamples: bootstrap resamples and sign flips.
        seed: same seed, same numbers.

    Raises:
        RunError: the two runs can't be compared, or one does not hold the pattern.
    """
    check_null(run, null)
    n = run.manifest["layout"]["n_problems"]
    levels = evidence_over_run(
        pattern_blocks(run, pattern),
        pattern_blocks(null, pattern),
        n_problems=n,
        n_resamples=n_resamples,
        n_flips=n_resamples,
        seed=seed,
    )
    return OverNullRun(null, pattern, levels)


def check_null(run: Run, null: Run) -> None:
    """Raise `RunError` where a run can't be the null of another: same weights, other architecture or problems."""
    one, other = _facts(run), _facts(null)
    for its in (run, null):
        its.require_attention()
    if run.manifest["options"]["model"]["sha256"] == null.manifest["options"]["model"]["sha256"]:
        raise RunError(
            f"{null.path} has the weights of {run.path}, which leaves nothing beyond it; make a null run with "
            "`thoughtlens extract --random-weights 0`."
        )
    apart = [f"{name} {other[name]} and not {one[name]}" for name in one if one[name] != other[name]]
    if apart:
        raise RunError(
            f"{null.path} can't be the null of {run.path}: it has {'; '.join(apart)}; make one from the same model and "
            "problems with `thoughtlens extract --random-weights 0`."
        )


def null_summary(found: OverNullRun) -> dict[str, Any]:
    """The headline numbers of what a run has beyond its null run, ready for JSON."""
    options = found.null.manifest["options"]
    return {
        "null_run": {"run": str(found.null.path), "model": options["model"]},
        "pattern": found.pattern,
        "n": int(found.levels.model["n"]),
        "evidence": evidence_headline(found.levels, null=str(options["model"]["name"])),
        "types": type_counts(found.levels.heads["type"]),
        "note": NOTE,
    }


def write_null(run: Run, found: OverNullRun) -> list[Path]:
    """Write `summary.json` and the tables of what a run has beyond its null run; return their paths."""
    folder = run.path / ANALYSIS / ("" if found.pattern == WEIGHTS else found.pattern) / OVER
    tables = evidence_tables(found.levels)
    with writing(folder):
        write_json(folder / "summary.json", null_summary(found))
        for name, table in tables.items():
            with replacing(folder / f"{name}.csv") as file:
                table.to_csv(file, index=False)
        return [folder / "summary.json", *(folder / f"{name}.csv" for name in tables)]


def _facts(run: Run) -> Json:
    layout, options = run.manifest["layout"], run.manifest["options"]
    return {
        "architecture": options["model"].get("architecture"),
        **{name.removeprefix("n_"): layout[name] for name in ("n_layers", "n_heads", "n_thoughts", "n_problems")},
        "problems of fingerprint": options["problems"]["fingerprint"][:12],
    }
