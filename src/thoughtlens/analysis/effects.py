"""Turn what cuts did to each problem into paired effects with intervals, tests, and a place among their controls.

1. Each cut is paired with the baseline on the same problems; a problem that failed under either is left out of that
   pair and counted, never taken for wrong.
2. The mean difference over problems gets its interval from one set of resamples for all cuts.
3. Accuracy is tested by McNemar's exact test, the gold answer's log-probability by sign flips. Holm and Benjamini and
   Hochberg correct over the family, the plan's cuts without baseline and controls; so does the largest of each flip.
4. A cut's damage is placed among the damages of its own controls, which need no model of chance.

It knows nothing of models, files or figures; what was cut is only a label here.

Turn the specs of cuts into what they cut: one head, one thought, one edge, one degree of the same.

A spec is a JSON list of parts, each with `site`, `edit`, `layers`, `heads`, `queries` and `keys`, None meaning all.
Only cuts of one part are read: what several parts do together is no property of a single unit. Cuts of one unit by
different edits, or in different scopes, are different questions and form families of their own.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from thoughtlens.analysis.significance import (
    benjamini_hochberg,
    detectable_mean,
    detectable_proportion,
    holm,
    mcnemar,
    sign_flip_test,
)
from thoughtlens.analysis.statistics import bootstrap_mean, proportion_interval
from thoughtlens.errors import OptionError, RunError
from thoughtlens.names import EDGES, HEADS, THOUGHTS
from thoughtlens.schema import BASELINE

OUTCOMES: Final = ("accuracy", "gold_logprob", "kl")
TESTED: Final = ("accuracy", "gold_logprob")
"""KL can't fall below the baseline's 0: that it is above 0 is no finding, so it is set against controls alone."""

COLUMNS: Final = {
    "accuracy": ("p", "p_holm", "p_bh", "mde", "p_controls"),
    "gold_logprob": ("p", "p_holm", "p_bh", "p_max_t", "mde", "p_controls"),
    "kl": ("p_controls",),
}
"""What a table says of each outcome beside its interval."""

DAMAGE_SIGN: Final = {"accuracy": -1.0, "gold_logprob": -1.0, "kl": 1.0}
"""What turns an effect into damage, larger for worse."""

ROUNDING: Final = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 1e-1, "float16": 1e-2}
"""Nats by which log-probabilities of one answer differ between passes that differ in their batch alone, at most.

Such differences have a direction: over many problems a test would find it, and call nothing an effect."""

FEWEST_FLIPS: Final = 6
"""Problems that must flip, all one way, for McNemar's exact p below 0.05: 2 · 0.5⁶ = 0.031."""


class Study(NamedTuple):
    """What `study` returns."""

    effects: xr.Dataset
    """what every cut did to every problem"""
    summary: xr.Dataset
    """as `analysis.effects.summarise` gives it"""
    families: dict[str, dict[str, str]]
    """cuts of single heads, thoughts and edges: label by unit"""
    importances: dict[str, dict[str, xr.DataArray]]
    """by family and kind of attention, dims (resample, unit)"""
    verdicts: dict[str, xr.Dataset]
    """by family of three units or more, as `analysis.verdict.judge` gives it"""
    attention: xr.DataArray
    """mean attention over problems, layers and heads, dims (query, key)"""


def paired_differences(effects: xr.Dataset) -> xr.Dataset:
    """Each cut less the baseline, problem by problem.

    Args:
        effects: an effects Dataset (`thoughtlens.schema`).

    Returns:
        float64, dims (intervention, problem), without the baseline: `accuracy` (−1 broken, 0, 1 mended),
        `gold_logprob` (nats; what the model's precision can't tell from 0 is 0) and `kl` (nats); NaN where the problem
        failed under the cut or in the baseline.
    """
    cuts = effects.drop_sel(intervention=BASELINE)
    baseline = effects.sel(intervention=BASELINE, drop=True)
    paired = ~(cuts["failed"] | baseline["failed"])
    logprob = cuts["gold_logprob"].astype(np.float64) - baseline["gold_logprob"]
    found = {
        "accuracy": cuts["correct"].astype(np.float64) - baseline["correct"],
        "gold_logprob": logprob.where(abs(logprob) > _rounding(effects), 0.0),
        "kl": cuts["kl"].astype(np.float64),
    }
    return xr.Dataset({name: values.where(paired) for name, values in found.items()}, attrs=effects.attrs)


def _rounding(effects: xr.Dataset) -> float:
    """What the precision of the model that was cut makes of no difference."""
    model = json.loads(effects.attrs.get("model", "{}"))
    return ROUNDING.get(str(model.get("dtype")), ROUNDING["float32"])


def summarise(effects: xr.Dataset, *, n_resamples: int = 1000, n_flips: int = 10_000, seed: int = 0) -> xr.Dataset:
    """Effect of every cut and control, with intervals, tests and its place among its controls.

    Args:
        effects: an effects Dataset.
        n_resamples: bootstrap resamples of the problems.
        n_flips: draws of the sign-flip test.
        seed: same seed, same numbers.

    Returns:
        dims (intervention), the baseline left out, with coords `kind` and `spec`:
        `accuracy`, `gold_logprob`, `kl` (…, value): mean paired difference, cut − baseline;
        `n` pairs, `n_failed`, `n_broken` (right before, wrong after) and `n_mended`;
        `p`, `p_holm`, `p_bh` (…, outcome) over the plan's cuts, NaN for controls and for kl; `p_max_t` of gold_logprob,
        which like Holm's holds for all cuts at once, and makes use of what cuts share;
        `mde` (…, outcome): smallest mean difference that n pairs find with power 0.8 at 5 %, uncorrected;
        `controls` (…, outcome, value): mean, least and largest effect of the cut's controls, `n_controls`, and
        `p_controls` (…, outcome) = (1 + #{controls at least as damaging}) / (1 + n_controls), NaN without controls;
        and of the baseline `baseline_accuracy` and `baseline_gold_logprob` (value), `n_problems`.
    """
    differences = paired_differences(effects)
    if not differences["accuracy"][(differences["kind"] == "cut").values].notnull().any():
        raise RunError("no problem was run both with and without a cut; intervene again on problems that can be run.")
    options = {"n_resamples": n_resamples, "seed": seed}
    means = {name: bootstrap_mean(differences[name].transpose("problem", ...), **options) for name in OUTCOMES}
    summary = xr.Dataset(means).assign(_counts(differences["accuracy"])).assign(_baseline(effects, **options))
    summary = summary.assign(_tests(effects, differences, n_flips=n_flips, seed=seed))
    placed = _against_controls(summary, controls_of(effects))
    return summary.assign(placed).assign_attrs(effects.attrs | options | {"confidence": 0.95, "n_flips": n_flips})


def damage_of(summary: xr.Dataset, outcome: str) -> xr.DataArray:
    """The effect with larger for worse, dims (intervention, value); its low and high are the damage's own."""
    return as_damage(summary[check_outcome(outcome)], outcome)


def as_damage(effect: xr.DataArray, outcome: str) -> xr.DataArray:
    """An effect on this outcome, dims (…, value), with larger for worse; its low and high are the damage's own."""
    if DAMAGE_SIGN[outcome] > 0:
        return effect
    turned = -effect.sel(value=["estimate", "high", "low"])
    return turned.assign_coords(value=effect["value"].values)


def controls_of(effects: xr.Dataset) -> dict[str, list[str]]:
    """The labels of each cut's controls."""
    found: dict[str, list[str]] = json.loads(effects.attrs.get("controls", "{}"))
    return found


def check_outcome(outcome: str) -> str:
    """The outcome, or a sentence that names those there are."""
    if outcome not in OUTCOMES:
        raise OptionError(f"no outcome {outcome!r}; there are {', '.join(OUTCOMES)}.")
    return outcome


def effects_table(summary: xr.Dataset) -> pd.DataFrame:
    """A row a cut or control, in the order of the plan, ready for CSV.

    Returns:
        `intervention`, `kind`, `n`, `n_failed`, `n_broken`, `n_mended`; for each outcome its effect as `accuracy`,
        `accuracy_low`, `accuracy_high`, …; `accuracy_p`, `accuracy_p_holm`, `accuracy_p_bh`, `accuracy_mde`,
        `accuracy_p_controls`, …; `n_controls` and `spec`.
    """
    told = summary.reset_coords(["kind", "spec"])
    table = told[["kind", "n", "n_failed", "n_broken", "n_mended"]].to_dataframe()
    for outcome in OUTCOMES:
        for value, suffix in (("estimate", ""), ("low", "_low"), ("high", "_high")):
            table[outcome + suffix] = told[outcome].sel(value=value).values
        for name in COLUMNS[outcome]:
            table[f"{outcome}_{name}"] = told[name].sel(outcome=outcome).values
    table = table.assign(n_controls=told["n_controls"].values, spec=told["spec"].values)
    return table.reset_index()


def _counts(accuracy: xr.DataArray) -> dict[str, xr.DataArray]:
    return {
        "n": accuracy.notnull().sum("problem"),
        "n_failed": accuracy.isnull().sum("problem"),
        "n_broken": (accuracy < 0).sum("problem"),
        "n_mended": (accuracy > 0).sum("problem"),
    }


def _baseline(effects: xr.Dataset, *, n_resamples: int, seed: int) -> dict[str, xr.DataArray | int]:
    ran = effects.sel(intervention=BASELINE, drop=True)
    correct = ran["correct"].values[~ran["failed"].values]
    logprob = bootstrap_mean(ran["gold_logprob"].where(~ran["failed"]), n_resamples=n_resamples, seed=seed)
    return {
        "baseline_accuracy": proportion_interval(int(correct.sum()), len(correct)),
        "baseline_gold_logprob": logprob,
        "n_problems": effects.sizes["problem"],
    }


def _tests(effects: xr.Dataset, differences: xr.Dataset, *, n_flips: int, seed: int) -> dict[str, xr.DataArray]:
    """p-values of the family, corrected within it, and what n pairs could find."""
    known = differences["accuracy"].notnull()
    in_family = ((differences["kind"] == "cut") & known.any("problem")).values
    family = differences["intervention"].values[in_family]
    # A pair that is left out is wrong both times here: it flips neither way.
    before = effects["correct"].sel(intervention=BASELINE, drop=True) & known
    after = effects["correct"].sel(intervention=differences["intervention"]) & known
    logprob = differences["gold_logprob"].sel(intervention=family).drop_vars(["kind", "spec"])
    flipped = sign_flip_test(logprob, n_flips=n_flips, seed=seed).reindex(intervention=differences["intervention"])
    p = {"accuracy": mcnemar(before, after)["p"].where(in_family), "gold_logprob": flipped["p"]}
    corrections = {"p_holm": holm, "p_bh": benjamini_hochberg}
    corrected = {
        name: _by_outcome({outcome: correct(values) for outcome, values in p.items()})
        for name, correct in corrections.items()
    }
    max_t = _by_outcome({"gold_logprob": flipped["p_familywise"]})
    return {"p": _by_outcome(p), **corrected, "p_max_t": max_t, "mde": _detectable(differences)}


def _detectable(differences: xr.Dataset) -> xr.DataArray:
    """What n pairs find with power 0.8 at 5 %, from how much the pairs differ."""
    n = differences["accuracy"].notnull().sum("problem")
    flipped, spread = abs(differences["accuracy"]).mean("problem"), differences["gold_logprob"].std("problem", ddof=1)
    counts = [int(count) for count in n.values]
    proportions = [
        detectable_proportion(float(x), c) if c else np.nan for x, c in zip(flipped.values, counts, strict=True)
    ]
    means = [detectable_mean(float(x), c) if c > 1 else np.nan for x, c in zip(spread.values, counts, strict=True)]
    # Where hardly a problem flipped, the formula has no answer or too good a one; the exact test needs six flips.
    least = (FEWEST_FLIPS / n.where(n > 0)).clip(max=1.0)
    accuracy = xr.ufuncs.fmax(n.copy(data=proportions), least)
    # Pairs that do not differ at all say nothing of how much others would.
    return _by_outcome({"accuracy": accuracy, "gold_logprob": n.copy(data=means).where(spread > 0)})


def _by_outcome(columns: Mapping[str, xr.DataArray]) -> xr.DataArray:
    """One array with an `outcome` dim; what is missing is NaN."""
    template = next(iter(columns.values()))
    parts = [columns.get(name, xr.full_like(template, np.nan, dtype=np.float64)) for name in OUTCOMES]
    names = xr.DataArray(np.array(OUTCOMES, dtype=np.dtypes.StringDType()), dims="outcome", name="outcome")
    joined: xr.DataArray = xr.concat(parts, names, coords="minimal", compat="override")
    return joined.transpose("intervention", "outcome", ...)


def _against_controls(summary: xr.Dataset, controls: Mapping[str, Sequence[str]]) -> dict[str, xr.DataArray]:
    labels = [str(label) for label in summary["intervention"].values]
    place = {label: k for k, label in enumerate(labels)}
    own = {place[cut]: [place[label] for label in others] for cut, others in controls.items() if others}
    columns = {outcome: _placed_among(summary, outcome, own) for outcome in OUTCOMES}
    n_controls = summary["n"].copy(data=[len(own.get(k, ())) for k in range(len(labels))])
    return {
        "n_controls": n_controls,
        "p_controls": _by_outcome({outcome: p for outcome, (p, _) in columns.items()}),
        "controls": _by_outcome({outcome: spread for outcome, (_, spread) in columns.items()}),
    }


def _placed_among(
    summary: xr.Dataset, outcome: str, own: Mapping[int, Sequence[int]]
) -> tuple[xr.DataArray, xr.DataArray]:
    """Empirical p of each cut among its controls; mean, least and largest effect of these."""
    effect = summary[outcome].sel(value="estimate", drop=True).values
    damage = DAMAGE_SIGN[outcome] * effect
    p, spread = np.full(len(effect), np.nan), np.full((len(effect), 3), np.nan)
    for cut, others in own.items():
        known = [k for k in others if not np.isnan(effect[k])]
        if known and not np.isnan(effect[cut]):
            # Equal effects may differ in their last bits.
            p[cut] = (1 + (damage[known] >= damage[cut] - 1e-9).sum()) / (1 + len(known))
            spread[cut] = effect[known].mean(), effect[known].min(), effect[known].max()
    return summary["n"].copy(data=p), summary[outcome].copy(data=spread)


FACTOR: Final = "factor"
"""What is left of what an edit scales: 1 leaves all, and is dose 0."""


STOP: Final = "stop"
"""The edit that leaves out a thought and all after it: it is of one thought only where that is the last."""


class Unit(NamedTuple):
    """What one cut cuts."""

    kind: str
    """heads, thoughts or edges"""
    name: str
    """such as L4H5, z1 or z4 ⊣ z1"""
    manner: str
    """the edit and the scope, the same for cuts that compare"""
    dose: float | None
    """its degree, where the edit has one"""


def families(effects: xr.Dataset) -> dict[str, dict[str, str]]:
    """Cuts of single units that compare: the label of each unit's cut, by what was cut and, if there are several, how.

    Args:
        effects: an effects Dataset or its summary; controls are left out, and so are degrees below the largest.

    Returns:
        By name such as `heads` or `heads, zero`: label by unit, in the order of the plan.
    """
    found: dict[tuple[str, str], dict[str, tuple[float, str]]] = {}
    for label, unit in _units(effects):
        family, dose = found.setdefault((unit.kind, unit.manner), {}), 1.0 if unit.dose is None else unit.dose
        if unit.name not in family or dose > family[unit.name][0]:
            family[unit.name] = dose, label
    kinds = [kind for kind, _ in found]
    names = {key: key[0] if kinds.count(key[0]) == 1 else f"{key[0]}, {key[1]}" for key in found}
    return {names[key]: {name: label for name, (_, label) in family.items()} for key, family in found.items()}


def doses(effects: xr.Dataset) -> dict[str, dict[float, str]]:
    """Graded cuts: by unit, the label of each degree; units with one degree alone are left out.

    A unit that is scaled and is also zeroed in the same scope has that as its degree 1.
    """
    found: dict[tuple[str, str], dict[float, str]] = {}
    whole: dict[tuple[str, str], str] = {}
    for label, unit in _units(effects):
        if unit.dose is not None:
            found.setdefault((unit.name, unit.manner.removeprefix("scale")), {})[unit.dose] = label
        elif unit.manner.startswith("zero"):
            whole[unit.name, unit.manner.removeprefix("zero")] = label
    for unit_in_scope, levels in found.items():
        if unit_in_scope in whole:
            levels.setdefault(1.0, whole[unit_in_scope])
    return {f"{name}{scope}": levels for (name, scope), levels in found.items() if len(levels) > 1}


def head_places(family: Mapping[str, str]) -> dict[tuple[int, int], str]:
    """A family of heads by (layer, head)."""
    places = {name: name.removeprefix("L").split("H") for name in family}
    return {(int(layer), int(head)): family[name] for name, (layer, head) in places.items()}


def edge_ends(family: Mapping[str, str]) -> dict[tuple[str, str], str]:
    """A family of edges by (query, key)."""
    ends = {name: name.split(" ⊣ ") for name in family}
    return {(query, key): family[name] for name, (query, key) in ends.items()}


def _units(effects: xr.Dataset) -> Iterator[tuple[str, Unit]]:
    columns = (effects[name].values for name in ("intervention", "kind", "spec"))
    for label, kind, spec in zip(*columns, strict=True):
        parts = json.loads(str(spec))
        unit = _unit(parts[0]) if kind == "cut" and len(parts) == 1 else None
        if unit is not None:
            yield str(label), unit


def _unit(part: Mapping[str, Any]) -> Unit | None:
    edit = part["edit"] if isinstance(part["edit"], dict) else {"name": part["edit"]}
    dose = 1.0 - float(edit[FACTOR]) if FACTOR in edit else None
    how = ", ".join(str(value) for name, value in edit.items() if name != FACTOR)
    layers, heads, queries, keys = (_named(part.get(name)) for name in ("layers", "heads", "queries", "keys"))
    if part["site"] == "head" and len(layers) == len(heads) == 1:
        return Unit(HEADS, f"L{layers[0]}H{heads[0]}", _manner(how, queries), dose)
    if part["site"] == "thought" and len(queries) == 1 and edit["name"] != STOP:
        return Unit(THOUGHTS, queries[0], how, dose)
    if part["site"] in ("scores", "pattern") and len(queries) == len(keys) == 1 and not layers and not heads:
        return Unit(EDGES, f"{queries[0]} ⊣ {keys[0]}", how, dose)
    return None


def _named(names: Iterable[object] | None) -> list[str]:
    """What a part of an address names; nothing where it means all."""
    return [] if names is None else [str(name) for name in names]


def _manner(how: str, queries: list[str]) -> str:
    return f"{how} at {', '.join(queries)}" if queries else how
