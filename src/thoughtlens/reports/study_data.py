"""The data of a report's page about studies of cuts: effects, tests, curves and verdicts as JSON, newest study first.

In: a run. Out: a JSON object a finished study, and under its name what each cut did to each problem that the page
shows: a uint8 array (cut, problem) of codes, `OUTCOME_CODES`. Names of outcomes are those of the effects Dataset; an
effect is the value with the cut less the value without, so that a loss is negative.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from thoughtlens.analysis.effect_curves import curve_of, dose_response
from thoughtlens.analysis.effects import RANKED_BY, TESTED, Study, controls_of, doses
from thoughtlens.cuts import studies
from thoughtlens.errors import RunError
from thoughtlens.files import Json
from thoughtlens.reports.study_files import kind_of, shown_of, study, study_headline
from thoughtlens.runs.reader import STUDIES, Run
from thoughtlens.schema import BASELINE, EFFECTS_STORE

LABELS: Final = {
    "joint_logprob": ("log-probability of the right answer and its prefix", "nats"),
    "gold_logprob": ("log-probability of the right answer behind its prefix", "nats"),
    "accuracy": ("accuracy", "of all answers"),
    "kl": ("KL divergence of the answer's first token", "nats"),
    "prefix_logprob": ("log-probability of the answer prefix", "nats"),
    "said_prefix": ("texts that say the answer prefix", "of all texts"),
}
"""What an outcome is, and its unit, by the name that effects give it."""

UNMEASURED, UNCHANGED, BROKEN, MENDED = range(4)
OUTCOME_CODES: Final = (UNMEASURED, UNCHANGED, BROKEN, MENDED)


class Studies(NamedTuple):
    """The finished studies of a run, newest first."""

    facts: list[Json]
    codes: dict[str, npt.NDArray[np.uint8]]
    """by the study's name, what each cut did to each problem"""
    unreadable: list[str]
    """a sentence for each study that was made by another version, or is damaged"""


def studies_of(run: Run, problem_ids: Sequence[str]) -> Studies:
    """What the page says of the studies of a run, with codes of these problems."""
    if run.keeps_means:
        return Studies([], {}, [])
    manifests = studies(run.path)
    finished = {
        name: its.finished for name, its in manifests.items() if (run.path / STUDIES / name / EFFECTS_STORE).is_dir()
    }
    of_page = Studies([], {}, [])
    for name in sorted(finished, key=lambda name: str(finished[name]), reverse=True):
        try:
            done = study(run, name)
        except RunError as error:
            of_page.unreadable.append(f"Study {name} is not shown: {error}")
            continue
        told = {"date": str(finished[name])[:10], "calls": [plan.call for plan in manifests[name].plans]}
        of_page.facts.append(facts_of(run, done) | told)
        of_page.codes[name] = codes_of(done.effects, problem_ids)
    return of_page


def facts_of(run: Run, done: Study) -> Json:
    """What the page says of one study."""
    facts, summary = study_headline(run, done), done.summary
    outcomes = [name for name in LABELS if name in summary]
    return {
        "name": facts["study"],
        "n": facts["n"],
        "n_failed": facts["n_failed"],
        "ranked": RANKED_BY,
        "warnings": facts["warnings"],
        "margins": {name: facts["accuracy_margin" if name == "accuracy" else "margin"] for name in TESTED},
        "outcomes": outcomes,
        "tested": list(TESTED),
        "labels": {name: LABELS[name][0] for name in outcomes},
        "units": {name: LABELS[name][1] for name in outcomes},
        "baseline": {name: list(its.values()) for name, its in facts["baseline"].items()},
        "families": {
            name: {"kind": kind_of(name), "cuts": cuts, "looks": _looks(done, name)}
            for name, cuts in done.families.items()
        },
        "cuts": _cuts(done, outcomes),
        "controls": {
            str(row["intervention"].item()): {name: row[name].sel(value="estimate").item() for name in outcomes}
            for row in _rows(summary, "control")
        },
        "verdicts": facts["verdict"],
        "orders": facts["orders"],
        "curve": _curve(summary, outcomes),
        "doses": _doses(summary, outcomes),
        "transplants": facts["transplants"],
        "variants": facts["variants"],
        "restored": facts["restored"],
        "holdout": facts["holdout"],
    }  # fmt: skip


def codes_of(effects: xr.Dataset, problem_ids: Sequence[str]) -> npt.NDArray[np.uint8]:
    """What each cut of a plan did to the answer of each problem (cut, problem), in the order of the page's cuts."""
    cuts = effects.isel(intervention=np.flatnonzero(effects["kind"].values == "cut"))
    place = {str(name): index for index, name in enumerate(effects["problem"].values)}
    before, after = effects["correct"].sel(intervention=BASELINE).values, cuts["correct"].values
    failed = cuts["failed"].values | effects["failed"].sel(intervention=BASELINE).values
    codes = np.where(before & ~after, BROKEN, np.where(~before & after, MENDED, UNCHANGED))
    codes = np.where(failed, UNMEASURED, codes).astype(np.uint8)
    of_page = np.full((len(codes), len(problem_ids)), UNMEASURED, dtype=np.uint8)
    for column, name in enumerate(problem_ids):
        if name in place:
            of_page[:, column] = codes[:, place[name]]
    return of_page


def _rows(summary: xr.Dataset, kind: str) -> list[xr.Dataset]:
    places = np.flatnonzero(summary["kind"].values == kind)
    return [summary.isel(intervention=place) for place in places]


def _cuts(done: Study, outcomes: Sequence[str]) -> list[Json]:
    late, controls = done.effects.get("exploratory"), controls_of(done.effects)
    rows = []
    for row in _rows(done.summary, "cut"):
        label = str(row["intervention"].item())
        rows.append({
            "label": label,
            **{name: str(row[name].item()) for name in ("family", "unit", "edit", "at")},
            "dose": row["dose"].item(),
            "exploratory": late is not None and bool(late.sel(intervention=label)),
            **{name: int(row[f"n_{name}" if name != "n" else name]) for name in ("n", "failed", "broken", "mended")},
            "effects": {name: row[name].values for name in outcomes},
            "p": {name: row["p_holm"].sel(outcome=name).item() for name in TESTED},
            "p_controls": {name: row["p_controls"].sel(outcome=name).item() for name in TESTED},
            "controls": controls.get(label, []),
            "shown": {name: shown_of(row, name) for name in TESTED},
            "none": {name: bool(row["no_effect"].sel(outcome=name)) for name in TESTED},
        })  # fmt: skip
    return rows


def _looks(done: Study, family: str) -> Mapping[str, Mapping[str, float]]:
    """What each kind of attention gives each unit, on the problems of the study."""
    return {
        how: dict(zip(map(str, values["unit"].values), values.values.tolist(), strict=True))
        for how, values in done.importances.get(family, {}).items()
    }


def _curve(summary: xr.Dataset, outcomes: Sequence[str]) -> Json | None:
    """Effects of the first k cuts of each order, beside the range of random orders."""
    curve = curve_of(summary)
    if curve is None:
        return None
    known = [name for name in outcomes if name in curve]
    names = [str(name) for name in curve["order"].values]
    return {
        "k": curve["k"].values,
        "orders": {name: {o: curve[o].sel(order=name).transpose("k", "value").values for o in known} for name in names},
        "random": {o: curve[f"random_{o}"].transpose("k", "value").values for o in known},
        "n_random": int(curve["n_random"]),
    }


def _doses(summary: xr.Dataset, outcomes: Sequence[str]) -> Json | None:
    """Effects of each degree of what was scaled."""
    graded = doses(summary)
    if not graded:
        return None
    found = dose_response(summary, graded)
    known = [name for name in outcomes if name in found]
    return {
        "dose": found["dose"].values,
        "targets": {
            str(name): {o: found[o].sel(target=name).transpose("dose", "value").values for o in known}
            for name in found["target"].values
        },
    }  # fmt: skip
