"""Turn answers given with another problem's thoughts into whom they follow: the donor, the problem itself, or neither.

A thought that carries the answer takes it along. What a transplant does is known only where donor and receiver answer
differently when left alone, so that other problems are left out and counted.
"""

import json

import numpy as np
import xarray as xr

from thoughtlens.analysis.statistics import proportion_interval
from thoughtlens.effects_schema import BASELINE

FOLLOWS, KEEPS, NEITHER = "follows the donor", "keeps its own", "neither"
AT_RANDOM = "by chance"


def transplants(effects: xr.Dataset, donors: xr.DataArray) -> xr.Dataset:
    """Whose answer is given after a transplant.

    Answers are compared with the baseline answers of donor and receiver, right or wrong: it is the model's own thought
    that is moved.  A problem counts if it ran, both have a baseline answer, and these differ.  Null: donors drawn at
    random among other problems follow as often as two problems share an answer; compare with such donors.

    Args:
        effects: an effects Dataset.
        donors: dims (intervention, problem), ids of the problems whose thoughts were given, "" for none; interventions
            that are transplants alone.

    Returns:
        dims (intervention, answer, value): `share` of problems, Wilson interval, `answer` one of the three names of
        this module; `n` (intervention) problems that count and `n_left_out`.
    """
    baseline = effects.sel(intervention=BASELINE, drop=True)
    own = np.where(baseline["failed"].values, "", baseline["answer"].values)
    answer_of = {str(name): str(answer) for name, answer in zip(effects["problem"].values, own, strict=True)}
    rows = [
        _row(effects.sel(intervention=label), donors.sel(intervention=label), answer_of) for label in _labels(donors)
    ]
    table: xr.Dataset = xr.concat(rows, donors["intervention"])
    return table


def transplant_table(effects: xr.Dataset, *, seed: int = 0) -> xr.Dataset | None:
    """Every transplant of thoughts among the cuts, as `transplants` gives it, and the same for donors drawn at random.

    The second row of each, named `…, by chance`, is the null: how often the answer is that of any other
    problem, whose thoughts were not given.

    Args:
        effects: an effects Dataset with `donor`.
        seed: of the draw.

    Returns:
        Also `p` (intervention) of the true donors, one-sided: (1 + #{shifts of all problems against each other whose
        donors are followed by as large a share}) / (1 + #shifts); NaN by chance. None if no thought was transplanted.
    """
    labels = _transplanted(effects)
    if not labels:
        return None
    donors = effects["donor"].sel(intervention=labels).drop_vars(["kind", "spec"])
    problems = effects["problem"].values
    rng = np.random.default_rng(seed)
    # A shift of the problems by chance gives none itself; where it gives the true donor the row says so once in n.
    shifts = rng.integers(1, len(problems), size=len(labels)) if len(problems) > 1 else np.zeros(len(labels), int)
    drawn = donors.copy(data=np.stack([np.roll(problems, shift) for shift in shifts]))
    names = [f"{label}, {AT_RANDOM}" for label in labels]
    true = transplants(effects, donors)
    followed = true["share"].sel(answer=FOLLOWS, value="estimate")
    p = [_shift_p(effects, label, followed.sel(intervention=label).item()) for label in labels]
    by_chance = _renamed(transplants(effects, drawn), names).assign(p=("intervention", np.full(len(labels), np.nan)))
    found = [true.assign(p=("intervention", p)), by_chance]
    in_pairs = np.arange(2 * len(labels)).reshape(2, -1).T.ravel()
    joined: xr.Dataset = xr.concat(found, "intervention").isel(intervention=in_pairs)
    return joined


def _shift_p(effects: xr.Dataset, label: str, share: float) -> float:
    """How often donors that are not the true ones would be followed by as large a share of problems."""
    cut, baseline = effects.sel(intervention=label), effects.sel(intervention=BASELINE, drop=True)
    own = np.where(baseline["failed"].values, "", baseline["answer"].values.astype(object))
    # Equal texts have equal numbers, which compare faster.
    _, codes = np.unique(np.concatenate([own, cut["answer"].values.astype(object)]).astype(str), return_inverse=True)
    receiver, given = codes[: len(own)], codes[len(own) :]
    known = own != ""
    at_least = n_shifts = 0
    for shift in range(1, len(own)):
        theirs = np.roll(receiver, shift)
        counts = ~cut["failed"].values & known & np.roll(known, shift) & (receiver != theirs)
        if counts.any():
            n_shifts += 1
            at_least += bool((given == theirs)[counts].mean() >= share - 1e-12)
    return (1 + at_least) / (1 + n_shifts) if np.isfinite(share) else float("nan")


def _transplanted(effects: xr.Dataset) -> list[str]:
    """Cuts that put one other problem's thoughts in the place of every problem's."""
    if "donor" not in effects:
        return []
    cuts = zip(effects["intervention"].values, effects["kind"].values, effects["spec"].values, strict=True)
    of_thoughts = [
        str(label)
        for label, kind, spec in cuts
        if kind == "cut" and all(part["site"] == "thought" for part in json.loads(str(spec)))
    ]
    return [label for label in of_thoughts if (effects["donor"].sel(intervention=label).values != "").all()]


def _renamed(table: xr.Dataset, names: list[str]) -> xr.Dataset:
    return table.assign_coords(intervention=np.array(names, dtype=np.dtypes.StringDType()))


def _labels(donors: xr.DataArray) -> list[str]:
    return [str(label) for label in donors["intervention"].values]


def _row(cut: xr.Dataset, donors: xr.DataArray, answer_of: dict[str, str]) -> xr.Dataset:
    problems = [str(name) for name in cut["problem"].values]
    own = np.array([answer_of[name] for name in problems], dtype=object)
    theirs = np.array([answer_of.get(str(name), "") for name in donors.sel(problem=problems).values], dtype=object)
    counts = ~cut["failed"].values & (own != "") & (theirs != "") & (own != theirs)
    given = cut["answer"].values.astype(object)
    follows, keeps = counts & (given == theirs), counts & (given == own)
    n = int(counts.sum())
    shares = [proportion_interval(int(hits.sum()), n) for hits in (follows, keeps, counts & ~follows & ~keeps)]
    names = np.array((FOLLOWS, KEEPS, NEITHER), dtype=np.dtypes.StringDType())
    joined: xr.DataArray = xr.concat(shares, xr.DataArray(names, dims="answer", name="answer"))
    return xr.Dataset({"share": joined, "n": n, "n_left_out": len(problems) - n})
