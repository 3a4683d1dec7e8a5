"""Effects of cuts: paired differences from the baseline with intervals and tests, each placed among its controls.

In: an effects Dataset (`thoughtlens.schema`).  Out: labelled tables, and labels of cuts by what they cut.

1. Each cut is paired with the baseline on the same problems; a problem that failed under either is left out of that
   pair and counted, never taken for wrong.
2. The mean difference over problems gets a bootstrap-t interval from one set of resamples for all cuts, that of
   accuracy a paired score interval. "No effect" is said only where the 90 % interval lies inside a margin.
3. Accuracy is tested by McNemar's exact test, log-probabilities by sign flips. Holm's and Benjamini and
   Hochberg's corrections are over all cuts of the plan, without baseline and controls; so is the max-T p-value. Cuts
   that were added later are corrected over all cuts there are, and leave the p-values of the first plan as they were.
4. A cut's effect is placed among the effects of its own controls, which needs no model of chance.
5. `families`, `doses` and `orders` read the coordinates that say what was cut. Cuts of single units by different edits,
   or at different positions, are different questions and form families of their own.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from thoughtlens.analysis.attention_measures import concatenated, where
from thoughtlens.analysis.intervals import (
    VALUES,
    bootstrap_mean,
    bootstrap_t,
    effective_size,
    exact_labels,
    paired_difference_interval,
    proportion_interval,
    shrunk,
)
from thoughtlens.analysis.resampled_sums import Variables, bare, labels_of_sums
from thoughtlens.analysis.significance import (
    benjamini_hochberg,
    detectable_mean,
    detectable_one_way,
    detectable_proportion,
    equivalent_means,
    equivalent_proportions,
    holm,
    mcnemar,
    sign_flip_test,
)
from thoughtlens.errors import OptionError, RunError
from thoughtlens.notation import EDGES, HEADS, THOUGHTS, text
from thoughtlens.schema import BASELINE

OUTCOMES: Final = ("accuracy", "joint_logprob", "gold_logprob", "kl")
LOGPROBS: Final = ("joint_logprob", "gold_logprob")
TESTED: Final = ("accuracy", *LOGPROBS)
"""KL can't fall below the baseline's 0: that it is above 0 is no finding, so it is set against controls alone."""

OF_PREFIX: Final = ("said_prefix", "prefix_logprob")
"""Outcomes of a model that answers behind a prefix; they have intervals and no tests."""

RANKED_BY: Final = "joint_logprob"
"""The outcome of headlines, rankings and verdicts: finer than accuracy, and it counts a prefix no longer said."""

ALPHA: Final = 0.05
MARGIN: Final = 0.05
"""Nats: a mean effect on log-probability nearer to 0 is called none where its interval shows that."""

ACCURACY_MARGIN: Final = 0.02
"""The same for accuracy, as a share of problems."""

MARGINS: Final = {"margin": MARGIN, "accuracy_margin": ACCURACY_MARGIN}
"""The attributes of effects that hold the margins of their study, and what these are where nothing is said."""

COLUMNS: Final = {
    "accuracy": ("p", "p_holm", "p_bh", "no_effect", "mde", "p_controls"),
    "joint_logprob": ("p", "p_holm", "p_bh", "p_max_t", "effective_n", "no_effect", "mde", "p_controls"),
    "gold_logprob": ("p", "p_holm", "p_bh", "p_max_t", "effective_n", "no_effect", "mde", "p_controls"),
    "kl": ("p_controls",),
}
"""What a table says of each outcome beside its interval."""

WORSE: Final = {"accuracy": -1.0, "joint_logprob": -1.0, "gold_logprob": -1.0, "kl": 1.0}
"""The sign of an effect for the worse: a loss is negative, and KL, which has no sign, grows."""

ROUNDING: Final = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 1e-1, "float16": 1e-2}
"""Nats by which log-probabilities of one answer differ between passes that differ in their batch alone, at most.

Such differences have a direction: over many problems a test would find it, and call nothing an effect."""

TOP: Final = 5
"""Heads that are told to be among the top k: at most a third of those that were cut."""


ADDRESS: Final = ("family", "unit", "edit", "at", "dose")
"""Coordinates that say what a cut cuts, and how."""

ZERO: Final = "zero"


class Study(NamedTuple):
    """What `study` returns."""

    effects: xr.Dataset
    """what every cut did to every problem"""
    summary: xr.Dataset
    """as `analysis.effects.summarise` gives it"""
    families: dict[str, dict[str, str]]
    """cuts of single heads, thoughts and edges: label by unit"""
    importances: dict[str, dict[str, xr.DataArray]]
    """by family of three units or more and kind of attention, dims (unit)"""
    verdicts: dict[str, xr.Dataset]
    """by family of enough units, as `analysis.attention_against_effects.judge` gives it"""
    attention: xr.DataArray
    """mean attention over problems, layers and heads, dims (query, key)"""

    def __repr__(self) -> str:
        kinds = [str(kind) for kind in self.summary["kind"].values]
        numbers = {kind: kinds.count(kind) for kind in ("cut", "control")}
        counts = ", ".join(f"{n} {kind}{'s' * (n != 1)}" for kind, n in numbers.items())
        of_families = ", ".join(f"{name} ({len(its)})" for name, its in self.families.items())
        return (
            f"<Study {self.effects.attrs.get('study', 'unnamed')}: {counts}, "
            f"{self.effects.sizes['problem']:,} problems"
            f"{'; ' + of_families if of_families else ''}>"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        import thoughtlens  # the package's face, as from outside: reports are above this and slow to import

        return thoughtlens.reports.notebook_view(self)

    def table(self) -> pd.DataFrame:
        """A row a cut or control: the table `effects.csv` of the page on the run folder."""
        import thoughtlens  # as above

        return thoughtlens.reports.study_table(self)


def paired_differences(effects: xr.Dataset) -> xr.Dataset:
    """Each cut less the baseline, problem by problem.

    difference[cut, problem] = outcome[cut, problem] − outcome[baseline, problem].

    Args:
        effects: an effects Dataset (`thoughtlens.schema`).

    Returns:
        float64, dims (intervention, problem), without the baseline: `accuracy` (−1 broken, 0, 1 mended),
        `joint_logprob` and `gold_logprob` (nats; what the model's precision can't tell from 0 is 0), `kl` (nats, 0 or
        more), and where the model has an answer prefix `said_prefix` (−1, 0, 1) and `prefix_logprob`; NaN where the
        problem failed under the cut or in the baseline.

    Example:
        >>> from thoughtlens.schema import example_effects
        >>> paired_differences(example_effects())["accuracy"].sel(intervention="L0H0 zero").values.tolist()
        [-1.0, -1.0, 0.0, 0.0]
    """
    cuts, baseline = _cuts_and_baseline(effects)
    paired = ~(cuts["failed"] | baseline["failed"])
    # What the precision of the model that was cut makes of no difference.
    dtype = str(json.loads(effects.attrs.get("model", "{}")).get("dtype"))
    rounding = ROUNDING.get(dtype, ROUNDING["float32"])
    found = {"accuracy": cuts["correct"].astype(np.float64) - baseline["correct"]}
    for name in (name for name in (*LOGPROBS, *OF_PREFIX) if name in cuts):
        gained = cuts[name].astype(np.float64) - baseline[name]
        found[name] = where(abs(gained) > rounding, gained, 0.0)
    found["kl"] = cuts["kl"].astype(np.float64)
    labels = effects.coords.to_dataset().isel(intervention=effects["intervention"].values != BASELINE).coords
    return xr.Dataset({name: where(paired, values) for name, values in found.items()}, labels, effects.attrs)


def _cuts_and_baseline(effects: xr.Dataset) -> tuple[Variables, Variables]:
    """The variables of the cuts (intervention, problem), in their order, and those of the baseline (problem)."""
    is_cut, of = effects["intervention"].values != BASELINE, bare(effects)
    baseline = np.flatnonzero(~is_cut).item()
    return {name: its[is_cut] for name, its in of.items()}, {name: its[baseline] for name, its in of.items()}


@exact_labels()
def summarise(effects: xr.Dataset, *, n_resamples: int = 1000, n_flips: int = 10_000, seed: int = 0) -> xr.Dataset:
    """Effect of every cut and control, with intervals, tests and its place among its controls.

    The margins of the effects (attributes `margin`, nats, and `accuracy_margin`) are 0.05 and 0.02 where they say none.

    Args:
        effects: an effects Dataset.
        n_resamples: bootstrap resamples of the problems.
        n_flips: draws of the sign-flip test.
        seed: same seed, same numbers.

    Returns:
        dims (intervention), the baseline left out, with the coordinates of the effects Dataset:
        `accuracy`, `joint_logprob`, `gold_logprob`, `kl` (…, value): mean paired difference, cut − baseline;
        `n` pairs, `n_failed`, `n_broken` (right before, wrong after) and `n_mended`;
        where the model has an answer prefix `said_prefix` and `prefix_logprob` (…, value), and accuracy's difference
        split by whether the prefix is said under the cut: `accuracy_said`, `accuracy_unsaid`, `n_said` and `n_unsaid`;
        `p`, `p_holm`, `p_bh` (…, outcome) over the plan's cuts, NaN for controls and for kl; `p_max_t` of the
        log-probabilities, which like Holm's holds for all cuts at once, and makes use of what cuts share;
        `no_effect` (…, outcome), bool: an effect inside the margin is shown (`equivalent_means`,
        `equivalent_proportions`); `effective_n` (…, outcome) of the log-probabilities: how many problems carry the mean
        (`effective_size`);
        `mde` (…, outcome): smallest mean difference that n pairs find with power 0.8 at 5 %, corrected for the number
        of the plan's cuts (Bonferroni);
        `shrunk` of joint_logprob, drawn towards the mean of the heads that were cut alike, and `p_top_k`, the posterior
        chance of a head to be among the k that lose most; NaN of what is no single head;
        `controls` (…, outcome, value): mean, least and largest effect of the cut's controls, `n_controls`, and
        `p_controls` (…, outcome) = (1 + #{controls at least as bad}) / (1 + n_controls), NaN without controls;
        and of the baseline `baseline_accuracy`, `baseline_joint_logprob` and `baseline_gold_logprob` (value),
        `baseline_said_prefix` (value) where there is a prefix, and `n_problems`.

    Raises:
        RunError: no problem was run both with and without a cut.

    Example:
        >>> from thoughtlens.schema import example_effects
        >>> summary = summarise(example_effects(), n_resamples=50, n_flips=50)
        >>> summary["accuracy"].sel(value="estimate").values.tolist()
        [-0.5, 0.0]
        >>> summary["n_broken"].values.tolist(), summary["n"].values.tolist()
        ([2, 0], [4, 4])
    """
    labelled = paired_differences(effects)
    # From here on without labels, which are the same throughout: to compare them takes longer than the arithmetic.
    differences, (cuts, baseline) = bare(labelled), _cuts_and_baseline(effects)
    flips = differences["accuracy"]
    among = (labelled["kind"].values == "cut") & flips.notnull().any("problem").values
    if not among.any():
        raise RunError("no problem was run both with and without a cut; intervene again on problems that can be run.")
    added = exploratory(effects).values[effects["intervention"].values != BASELINE]
    options = {"n_resamples": n_resamples, "seed": seed}
    these = {"n": flips.notnull(), "n_failed": flips.isnull(), "n_broken": flips < 0, "n_mended": flips > 0}
    counted = {name: of.sum("problem") for name, of in these.items()}
    found: dict[str, Any] = _means(differences, **options) | counted
    found |= _split_by_prefix(cuts, flips) | _baseline(baseline, **options) | {"n_problems": effects.sizes["problem"]}
    found |= _tests(cuts, baseline, differences, among=among, first=among & ~added, n_flips=n_flips, seed=seed)
    found |= _none(effects, differences, counted, **options)
    found |= _heads_shrunk(labelled, differences[RANKED_BY], seed=seed)
    names = [str(name) for name in labelled["intervention"].values]
    found |= _against_controls({name: found[name].values[:, 0] for name in OUTCOMES}, names, controls_of(effects))
    labels = labels_of_sums(labelled).assign(value=text(VALUES), outcome=text(OUTCOMES))
    attributes = effects.attrs | options | {"confidence": 0.95, "n_flips": n_flips}
    return xr.Dataset(found, labels, attributes)


def controls_of(effects: xr.Dataset) -> dict[str, list[str]]:
    """The labels of each cut's controls, by its own label."""
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
        `accuracy_p_controls`, …; where the model has an answer prefix its outcomes and the split of accuracy;
        `shrunk`, `p_top_k`, `n_controls` and `spec`.

    Example:
        >>> from thoughtlens.schema import example_effects
        >>> table = effects_table(summarise(example_effects(), n_resamples=50, n_flips=50))
        >>> table[["intervention", "accuracy", "n_broken"]].to_csv(index=False).splitlines()[-1]
        'L0H1 zero,0.0,0'
    """
    of = summary.variables
    columns = {name: of[name].values for name in ("kind", "n", "n_failed", "n_broken", "n_mended")}
    for place, outcome in enumerate(OUTCOMES):
        columns |= _bounds(outcome, of[outcome])
        columns |= {f"{outcome}_{name}": of[name].values[:, place] for name in COLUMNS[outcome]}
    for outcome in (name for name in OF_PREFIX if name in of):
        columns |= _bounds(outcome, of[outcome])
    columns |= {name: of[name].values for name in SPLIT if name in of}
    columns |= {name: of[name].values for name in ("shrunk", "p_top_k", "n_controls", "spec")}
    return pd.DataFrame({"intervention": summary["intervention"].values, **columns})


def _bounds(name: str, values: xr.Variable) -> dict[str, np.ndarray]:
    """The columns of an outcome (intervention, value)."""
    return {name + suffix: of for suffix, of in zip(("", "_low", "_high"), values.values.T, strict=True)}


def _baseline(ran: Variables, *, n_resamples: int, seed: int) -> dict[str, xr.Variable]:
    known = ~ran["failed"]
    n, logprobs = int(known.sum()), where(known, concatenated((ran[name] for name in LOGPROBS), "outcome"))
    means = bootstrap_mean(xr.DataArray(logprobs), n_resamples=n_resamples, seed=seed).variable
    n_right = int(ran["correct"][known.values].sum())
    found = {"accuracy": proportion_interval(n_right, n).variable, **dict(zip(LOGPROBS, means, strict=True))}
    if "said_prefix" in ran:
        found["said_prefix"] = proportion_interval(int(ran["said_prefix"].sum()), n).variable
    return {f"baseline_{name}": values for name, values in found.items()}


SPLIT: Final = ("n_said", "accuracy_said", "n_unsaid", "accuracy_unsaid")


def _split_by_prefix(cuts: Variables, flips: xr.Variable) -> dict[str, xr.Variable]:
    """The effect on accuracy among problems that say the answer prefix under the cut, and among the others."""
    if "said_prefix" not in cuts:
        return {}
    among = {"said": where(cuts["said_prefix"], flips), "unsaid": where(~cuts["said_prefix"], flips)}
    return {f"n_{name}": its.notnull().sum("problem") for name, its in among.items()} | {
        f"accuracy_{name}": its.mean("problem") for name, its in among.items()
    }


def _means(differences: Variables, *, n_resamples: int, seed: int) -> dict[str, xr.Variable]:
    """Means over problems with their intervals (…, value): score intervals of what is true or false."""
    drawn = [name for name in differences if name not in ("accuracy", "said_prefix")]
    values = xr.DataArray(concatenated((differences[name] for name in drawn), "outcome"))
    found = dict(zip(drawn, bootstrap_t(values, n_resamples=n_resamples, seed=seed).variable, strict=True))
    for name in differences.keys() - drawn:
        its = differences[name]
        counts = [these.sum("problem").values for these in (its < 0, its > 0, its.notnull())]
        found[name] = xr.Variable(("intervention", "value"), paired_difference_interval(*counts))
    return {name: found[name] for name in differences}


def _none(
    effects: xr.Dataset, differences: Variables, counted: Variables, *, n_resamples: int, seed: int
) -> dict[str, xr.Variable]:
    """Where no effect is shown, and how many problems carry a mean."""
    margin, of_accuracy = (float(effects.attrs.get(name, usual)) for name, usual in MARGINS.items())
    broken, mended, n = (counted[name].values for name in ("n_broken", "n_mended", "n"))
    logprobs = concatenated((differences[name] for name in LOGPROBS), "outcome")
    of_logprobs = equivalent_means(xr.DataArray(logprobs), margin, n_resamples=n_resamples, seed=seed).values
    none = {"accuracy": equivalent_proportions(broken, mended, n, of_accuracy)}
    none |= dict(zip(LOGPROBS, of_logprobs, strict=True))
    carrying = dict(zip(LOGPROBS, effective_size(logprobs.transpose("problem", ...).values), strict=True))
    return {"no_effect": _by_outcome(none, missing=False), "effective_n": _by_outcome(carrying)}


def _heads_shrunk(labelled: xr.Dataset, differences: xr.Variable, *, seed: int) -> dict[str, xr.Variable]:
    """Effects of single heads, shrunk within each family of heads, and their chance to be among the first."""
    n = differences.notnull().sum("problem").values
    mean, error = differences.mean("problem").values, differences.std("problem", ddof=1).values / np.sqrt(n)
    place = {str(label): row for row, label in enumerate(labelled["intervention"].values)}
    found = {name: np.full(mean.shape, np.nan) for name in ("shrunk", "p_top_k")}
    for cuts in (its for name, its in families(labelled).items() if name.split(",")[0] == HEADS):
        known = [place[label] for label in cuts.values() if n[place[label]] > 1]
        if len(known) > 2:
            k = min(TOP, len(known) // 3)
            for of, its in zip(found.values(), shrunk(mean[known], error[known], k=k, seed=seed), strict=True):
                of[known] = its
    return {name: xr.Variable("intervention", of) for name, of in found.items()}


def _tests(
    cuts: Variables,
    baseline: Variables,
    differences: Variables,
    *,
    among: np.ndarray,
    first: np.ndarray,
    n_flips: int,
    seed: int,
) -> dict[str, xr.Variable]:
    """p-values of the plan's cuts (`among`), corrected over these, and what n pairs could find.

    What was added later must not change what the first plan (`first`) found.
    """
    # A pair that is left out is wrong both times here: it flips neither way.
    known = differences["accuracy"].notnull()
    before, after = (xr.DataArray(ran["correct"] & known) for ran in (baseline, cuts))
    plans = [its for its in (first, among) if its.any()][: 1 + bool((among & ~first).any())]
    logprobs = xr.DataArray(concatenated((differences[name] for name in LOGPROBS), "outcome"))
    of_logprobs, max_t = np.full((2, *logprobs.shape[:2]), np.nan)
    for its in reversed(plans):
        tested = sign_flip_test(logprobs[:, its], family=("intervention",), n_flips=n_flips, seed=seed)
        of_logprobs[:, its], max_t[:, its] = tested["p"].values, tested["p_familywise"].values
    p = {"accuracy": np.where(among, mcnemar(before, after)["p"].values, np.nan)}
    each = xr.DataArray(_by_outcome(p | dict(zip(LOGPROBS, of_logprobs, strict=True))))

    def corrected(correct: Callable[..., xr.DataArray]) -> xr.Variable:
        of_first = correct(each.where(xr.DataArray(first, dims="intervention")), over=("intervention",))
        return of_first.fillna(correct(each, over=("intervention",))).variable

    return {
        "p": each.variable,
        "p_holm": corrected(holm),
        "p_bh": corrected(benjamini_hochberg),
        "p_max_t": _by_outcome(dict(zip(LOGPROBS, max_t, strict=True))),
        "mde": _detectable(differences, alpha=ALPHA / max(1, int(first.sum() or among.sum()))),
    }


def exploratory(effects: xr.Dataset) -> xr.DataArray:
    """Whether each intervention was added after the study had begun; of effects made elsewhere none is known to be."""
    if "exploratory" in effects:
        return effects["exploratory"]
    return xr.zeros_like(effects["kind"], dtype=bool)


def _detectable(differences: Variables, *, alpha: float) -> xr.Variable:
    """What n pairs find with power 0.8 at this level, from how much the pairs differ."""
    flips = differences["accuracy"]
    counts = flips.notnull().sum("problem").values.tolist()
    pairs = list(zip(abs(flips).mean("problem").values.tolist(), counts, strict=True))
    # Few shares differ, and each takes a search.
    proportions = {(share, count): _detectable_flips(share, count, alpha) for share, count in set(pairs)}
    found = {"accuracy": np.array([proportions[pair] for pair in pairs])}
    for name in LOGPROBS:
        sizes = zip(differences[name].std("problem", ddof=1).values.tolist(), counts, strict=True)
        # Pairs that do not differ at all say nothing of how much others would.
        found[name] = np.array([detectable_mean(sd, n, alpha=alpha) if n > 1 and sd > 0 else np.nan for sd, n in sizes])
    return _by_outcome(found)


def _detectable_flips(share: float, n: int, alpha: float) -> float:
    """Where too few problems differ to show anything, the smallest share of problems that could."""
    if not n:
        return float("nan")
    found = detectable_proportion(share, n, alpha=alpha)
    return detectable_one_way(n, alpha=alpha) if np.isnan(found) else found


def _by_outcome(columns: Mapping[str, np.ndarray], *, missing: float = np.nan) -> xr.Variable:
    """One variable with an `outcome` dim, of columns (intervention, …); what is missing is NaN, or as said."""
    nothing = np.full_like(next(iter(columns.values())), missing)
    joined = np.stack([columns.get(name, nothing) for name in OUTCOMES], axis=1)
    return xr.Variable(("intervention", "outcome", "value")[: joined.ndim], joined)


def _against_controls(
    effect: Mapping[str, np.ndarray], labels: Sequence[str], controls: Mapping[str, Sequence[str]]
) -> dict[str, xr.Variable]:
    """Empirical p of each cut among its controls; mean, least and largest effect of these."""
    place = {label: row for row, label in enumerate(labels)}
    p = {outcome: np.full(len(labels), np.nan) for outcome in OUTCOMES}
    spread = {outcome: np.full((len(labels), len(VALUES)), np.nan) for outcome in OUTCOMES}
    for outcome, of in effect.items():
        for label, others in controls.items():
            cut, known = place[label], [place[other] for other in others if not np.isnan(of[place[other]])]
            if known and not np.isnan(of[cut]):
                # Equal effects may differ in their last bits.
                as_bad = WORSE[outcome] * (of[known] - of[cut]) >= -1e-9
                p[outcome][cut] = (1 + as_bad.sum()) / (1 + len(known))
                spread[outcome][cut] = of[known].mean(), of[known].min(), of[known].max()
    n_controls = xr.Variable("intervention", [len(controls.get(label, ())) for label in labels])
    return {"n_controls": n_controls, "p_controls": _by_outcome(p), "controls": _by_outcome(spread)}


def families(effects: xr.Dataset) -> dict[str, dict[str, str]]:
    """Cuts of single heads, thoughts and edges that compare: the label of each unit's cut.

    Args:
        effects: an effects Dataset or its summary; controls are left out, and so are doses below a unit's largest.

    Returns:
        By name such as `heads`, or `heads, zero at answer` if heads are cut in several ways: label by unit, in the
        order of the plan.

    Example:
        >>> from thoughtlens.schema import example_effects
        >>> families(example_effects())
        {'heads': {'L0H0': 'L0H0 zero', 'L0H1': 'L0H1 zero'}}
    """
    found: dict[tuple[str, str], dict[str, tuple[float, str]]] = {}
    for label, (family, unit, edit, at, dose) in _single_units(effects):
        cuts, size = found.setdefault((family, edit + _at(at)), {}), 1.0 if np.isnan(dose) else dose
        if unit not in cuts or size > cuts[unit][0]:
            cuts[unit] = size, label
    kinds = [family for family, _ in found]
    names = {(family, how): family if kinds.count(family) == 1 else f"{family}, {how}" for family, how in found}
    return {names[key]: {unit: label for unit, (_, label) in cuts.items()} for key, cuts in found.items()}


def doses(effects: xr.Dataset) -> dict[str, dict[float, str]]:
    """The label of each dose of a unit, by unit, such as `L4H5 at answer`; a unit with a single dose is left out.

    A unit that is scaled, and zeroed at the same positions, has the latter as its dose 1.
    """
    graded: dict[str, dict[float, str]] = {}
    whole: dict[str, str] = {}
    for label, (_, unit, edit, at, dose) in _single_units(effects):
        if not np.isnan(dose):
            graded.setdefault(unit + _at(at), {})[dose] = label
        elif edit == ZERO:
            whole[unit + _at(at)] = label
    for target in graded.keys() & whole.keys():
        graded[target].setdefault(1.0, whole[target])
    return {target: levels for target, levels in graded.items() if len(levels) > 1}


def orders(effects: xr.Dataset) -> dict[str, list[str]]:
    """The labels of the first 1, 2, … cuts of each order, by its name; an order that lacks a step is left out."""
    steps: dict[str, dict[int, str]] = {}
    for label, name, k in zip(*(effects[c].values.tolist() for c in ("intervention", "order", "k")), strict=True):
        if name:
            steps.setdefault(name, {})[k] = label
    whole = {name: its for name, its in steps.items() if sorted(its) == list(range(1, len(its) + 1))}
    return {name: [its[k] for k in sorted(its)] for name, its in whole.items()}


def _single_units(effects: xr.Dataset) -> Iterator[tuple[str, tuple[str, str, str, str, float]]]:
    """Label, and family, unit, edit, at and dose, of the plan's cuts of single heads, thoughts and edges."""
    columns = (effects[name].values.tolist() for name in ("intervention", "kind", *ADDRESS))
    for label, kind, family, *address in zip(*columns, strict=True):
        if kind == "cut" and family in (HEADS, THOUGHTS, EDGES) and address[0]:
            yield label, (family, *address)


def _at(positions: str) -> str:
    return f" at {positions}" if positions else ""
