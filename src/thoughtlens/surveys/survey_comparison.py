"""The cells of a survey, each a model on a problem set: sets compared within models, models within sets, claims on all.

In: `Cell`s, the problems of all draws pooled, and groups of models. Out: a `SurveyComparison`: tables, and sentences
that follow from their rows.

1. Models meet the same problems of a set: their differences are paired. Sets have different problems: differences
   between sets are unpaired. Both have intervals over problems, and hold for these weights.
2. A group is of training seeds of one recipe. From three models on, its numbers have t intervals over models, and its
   differences Welch's between groups and a paired t between sets; problems are nested in models. With fewer models
   intervals are over problems, and sets are not compared. Members of groups are not compared one by one.
3. A claim is one that a test of one cell makes: a hub, attention beyond its null, a cut that costs. It holds where its
   p, corrected over all cells (Holm), is below 0.05, and on all where it holds in every cell whose accuracy is enough.
4. Where accuracy is below `cautions.LOW_ACCURACY`, a cell says nothing of how problems are solved: its numbers are in
   the tables, and no sentence but that of its accuracy is made of them.
5. Holm's correction is over all differences of a question (sets within models, models within sets, …), over all claims
   from attention, and over all cuts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from thoughtlens.analysis import Analysis, Subject, holm, sign_flip_test
from thoughtlens.analysis.cautions import LEAST_SHOWN, LOW_ACCURACY, shown_of_analysis, warnings_of
from thoughtlens.analysis.comparison import comparable, same_positions
from thoughtlens.analysis.comparison_sides import ENOUGH_SEEDS, Side, common_problems, halves, read_subject
from thoughtlens.analysis.comparison_statistics import (
    POSITIONS,
    Ratios,
    flipped_p,
    mean_linearised,
    mean_of_models,
    measured,
    over_models,
    paired_difference,
    paired_over_models,
    resampled,
    stack,
    unpaired_difference,
    welch,
    with_intervals,
)
from thoughtlens.analysis.effects import ALPHA
from thoughtlens.analysis.heads import type_counts
from thoughtlens.analysis.intervals import VALUES, bootstrap_t, exact_labels, resample_weights
from thoughtlens.analysis.significance import sign_flips
from thoughtlens.errors import OptionError
from thoughtlens.notation import HEADS, KV_GROUPS
from thoughtlens.reports.sentences import UNITS, Finding, counted, percent, with_interval

MEASURES: Final = ("accuracy", "preference", "sequential", "skip", "thought_mass", "composition", "effect")
"""What is compared, over all layers; `effect` is what a cut does to the log-probability of prefix and answer."""

DRAWS: Final = 10_000
"""Resamples, sign flips and permutations: with fewer, no p could pass a correction over hundreds of differences."""

SETS, MODELS, GROUPS, SETS_OF_GROUP = (
    "sets within a model", "models within a set", "groups within a set", "sets within a group"
)  # fmt: skip
"""The questions of a survey, as the column `question` has them."""

PROBLEMS, OVER_MODELS = "problems", "models"
"""What intervals are over."""

_NAMED: Final = 6
"""Differences or claims that a sentence names."""

_KEYS: Final = ("measure", "position", *VALUES)


class Cell(NamedTuple):
    """A model on a problem set, as a comparison of a survey needs it."""

    model: str
    problems: str
    subject: Subject
    """attention of the problems of all draws, each problem once"""
    analysis: Analysis
    """of the same problems"""
    effects: xr.DataArray | None = None
    """nats, dims (intervention, problem), what each cut does to each problem; `family` and `unit` (intervention)"""
    dtype: str = "float32"
    """the precision in which the model ran"""

    @property
    def label(self) -> str:
        """Model and set, as tables and figures name the cell."""
        return f"{self.model} on {self.problems}"


class SurveyComparison(NamedTuple):
    """What `compare_cells` returns."""

    tables: dict[str, pd.DataFrame]
    """`cells`, `cut_effects`, `differences`, `claims`, `claims_on_all`, as the page on the run folder describes them"""
    findings: list[Finding]
    """the answers, in sentences"""
    warnings: list[str]
    """what to beware of in each cell"""
    values: xr.Dataset
    """`MEASURES` of each cell with their intervals, dims (cell, …, value), and `n` (cell)"""


@dataclass(frozen=True)
class _Read:
    cell: Cell
    side: Side
    accuracy: float

    @property
    def low(self) -> bool:
        """Whether accuracy is too low for anything else."""
        return self.accuracy < LOW_ACCURACY

    @cached_property
    def points(self) -> xr.Dataset:
        """The measures as they are, without resamples."""
        one = resample_weights(self.side.n, n_resamples=1, seed=0).isel(resample=[0])
        return resampled(self.side.ratios, one).isel(resample=0)


@exact_labels()
def compare_cells(
    cells: Sequence[Cell],
    groups: Mapping[str, Sequence[str]] | None = None,
    *,
    n_draws: int = DRAWS,
    n_resamples: int = 1000,
    seed: int = 0,
) -> SurveyComparison:
    """Compare the cells of a survey: sets within each model, models and groups within each set, and claims over all.

    Args:
        cells: every model on every set.
        groups: the models of each group, training seeds of one recipe; no model in two of them.
        n_draws: resamples, sign flips and permutations of each difference and each cut.
        n_resamples: bootstrap resamples of the numbers of each cell.
        seed: same seed, same numbers.

    Returns:
        Tables and sentences, see `SurveyComparison`.

    Raises:
        OptionError: there is no cell, or a model is not on every set.

    Example:
        `compare_cells(cells).tables["differences"].query("holds")`

    Reference: Holm (1979), Scandinavian Journal of Statistics 6; Berger (1982), Technometrics 24, for claims on all.
    """
    groups = {name: tuple(its) for name, its in (groups or {}).items()}
    models, sets = (
        list(dict.fromkeys(of)) for of in zip(*((cell.model, cell.problems) for cell in cells), strict=True)
    )
    if not cells or len(cells) != len(models) * len(sets):
        raise OptionError(f"found {len(cells)} cells, expected each model on each set once; measure what is missing.")
    read = _all_read(cells, sets, seed)
    draws: dict[str, Any] = {"n_draws": n_draws, "seed": seed}
    alone = [name for name in models if not any(name in its for its in groups.values())]
    differences = pd.DataFrame(
        [
            *_between_sets(read, models, sets, **draws),
            *_between_models(read, alone, sets, **draws),
            *_between_groups(read, groups, sets, **draws),
            *_between_sets_of_groups(read, groups, sets),
        ],
        columns=[
            "question", "where", "side", "minus", *_KEYS, "over", "p", "n", "n_minus", "n_models", "accuracy_enough"
        ],
    )  # fmt: skip
    values = {key: _values(of, n_resamples=n_resamples, seed=seed) for key, of in read.items()}
    effects = pd.DataFrame(
        [*_effects(read, **draws), *_effects_of_groups(read, groups, sets)],
        columns=[
            "model", "problems", "cut", "family", "unit", *VALUES, "over", "p", "n", "n_models", "accuracy_enough"
        ],
    )  # fmt: skip
    effects = _held(effects, [""] * len(effects))
    claims = pd.DataFrame(
        [row for of in read.values() for row in _claims(of)],
        columns=["model", "problems", "claim", "position", *VALUES, "p", "n", "accuracy_enough", "found"],
    )
    claims = _held(claims, [""] * len(claims))
    claims["holds"] &= claims.pop("found").astype(bool)
    claims = _with_cuts(claims, effects, models)
    tables = {
        "cells": pd.DataFrame(
            [row for key, of in read.items() for row in _own(of, values[key])] + _own_of_groups(read, groups, sets),
            columns=["model", "problems", *_KEYS, "over", "n", "n_models", "accuracy_enough"],
        ),
        "cut_effects": effects,
        "differences": _held(differences, differences["question"].tolist()),
        "claims": claims,
        "claims_on_all": _on_all(claims),
    }
    named = [cell.label for cell in cells]
    joined = xr.concat(
        list(values.values()), xr.DataArray(named, dims="cell", name="cell"), data_vars="all", join="outer"
    )  # fmt: skip
    return SurveyComparison(
        tables,
        [*_said_of_accuracy(read), *_said_of_claims(tables["claims_on_all"], read), *_said_of_differences(tables)],
        [f"{cell.label}: {text}" for cell in cells for text in warnings_of(cell.analysis, dtype=cell.dtype)]
        + _notes(groups, tables, n_draws),
        joined,
    )


def _all_read(cells: Sequence[Cell], sets: Sequence[str], seed: int) -> dict[tuple[str, str], _Read]:
    """Each cell on the problems that all models have of its set, of these the tested ones where some are held out."""
    sides, common = {}, {}
    for of in sets:
        subjects = {cell.model: cell.subject for cell in cells if cell.problems == of}
        common[of] = common_problems(subjects)
    for cell in cells:
        held = cell.analysis.options["holdout"] or {"share": None, "seed": 0}
        compared, _ = halves(cell.subject, common[cell.problems], held["share"], held["seed"])
        sides[cell.label] = read_subject(cell.subject, compared, n_resamples=1, seed=seed)
    sides = same_positions(sides)
    return {
        (cell.model, cell.problems): _Read(
            cell, sides[cell.label], float(sides[cell.label].ratios.above["accuracy"].mean())
        )
        for cell in cells
    }


def _tidy(values: xr.Dataset, p: xr.Dataset | None = None) -> Iterator[dict[str, Any]]:
    """A row for each number that is defined, over all layers."""
    for name in (name for name in MEASURES if name in values):
        of = values[name].sel(depth="all", drop=True) if "depth" in values[name].dims else values[name]
        tested = None if p is None else p[name].sel(depth="all") if "depth" in p[name].dims else p[name]
        dim = "cut" if name == "effect" else POSITIONS.get(name, "")
        places = of[dim].values.tolist() if dim else [""]
        numbers = of.sel(value=list(VALUES)).transpose(..., "value").values.reshape(len(places), -1).tolist()
        p_values = [np.nan] * len(places)
        if tested is not None:
            p_values = (tested.sel({dim: of[dim]}) if dim else tested).values.reshape(-1).tolist()
        for place, its, its_p in zip(places, numbers, p_values, strict=True):
            bounds = dict(zip(VALUES, its, strict=True))
            # A part that no thought can look at, such as `eot`, is no finding.
            nothing = name == "composition" and not any(bounds.values())
            if not (nothing or np.isnan(bounds["estimate"])):
                row = {"measure": name, "position": str(place), **bounds}
                yield row if tested is None else row | {"p": its_p}


def _held(table: pd.DataFrame, families: Sequence[str]) -> pd.DataFrame:
    """The table with `p_holm`, corrected within families, beside `p`, and at its end `holds`: p_holm < 0.05."""
    p, of = table["p"].to_numpy(dtype=np.float64), np.asarray(families, dtype=object)
    corrected = np.full(len(p), np.nan)
    for family in dict.fromkeys(of.tolist()):
        corrected[of == family] = holm(xr.DataArray(p[of == family], dims="test")).values
    table.insert(list(table.columns).index("p") + 1, "p_holm", corrected)
    return table.assign(holds=corrected < ALPHA)


def _values(of: _Read, *, n_resamples: int, seed: int) -> xr.Dataset:
    found = measured(of.side.ratios, n_resamples=n_resamples, seed=seed).sel(depth="all", drop=True)
    if (effects := of.cell.effects) is not None:
        means = bootstrap_t(_by_cut(effects).transpose("problem", ...), n_resamples=n_resamples, seed=seed)
        found = found.assign(effect=means.reset_coords(drop=True))
    few = of.side.n < LEAST_SHOWN
    shown = found.where(found["value"] == "estimate") if few else found
    return shown.assign(n=of.side.n)


def _by_cut(effects: xr.DataArray) -> xr.DataArray:
    return effects.rename(intervention="cut")


def _own(of: _Read, values: xr.Dataset) -> Iterator[dict[str, Any]]:
    """The numbers of a cell: measures, its hub, and its heads of each type."""
    analysis, cell = shown_of_analysis(of.cell.analysis), of.cell
    at = {"model": cell.model, "problems": cell.problems}
    about = {"over": PROBLEMS, "n": of.side.n, "n_models": 1, "accuracy_enough": not of.low}
    yield from (at | row | about for row in _tidy(values.drop_vars("effect", errors="ignore")))
    model = analysis.model
    strength = {"measure": "hub_strength", "position": str(model["hub"].item())}
    yield at | strength | {"estimate": float(model["hub_strength"])} | about
    if of.side.n >= LEAST_SHOWN:
        for kind, n in type_counts(analysis.evidence["type"]).items():
            yield at | {"measure": "heads", "position": kind, "estimate": n} | about


def _own_of_groups(
    read: Mapping[tuple[str, str], _Read], groups: Mapping[str, Sequence[str]], sets: Sequence[str]
) -> list[dict[str, Any]]:
    """The numbers of groups, over models where these are enough."""
    rows = []
    for name, members in groups.items():
        for of in sets:
            its = [read[model, of] for model in members]
            if len(its) >= ENOUGH_SEEDS:
                at = {"model": name, "problems": of, "over": OVER_MODELS, "n": its[0].side.n, "n_models": len(its)}
                means = _points(its).drop_vars("effect", errors="ignore").map(over_models)
                rows += [at | row | {"accuracy_enough": not any(one.low for one in its)} for row in _tidy(means)]
    return rows


def _points(its: Sequence[_Read]) -> xr.Dataset:
    """The measures of several models on one set, dims (model, …); of cuts those that all have and may be matched."""
    found = stack([of.points for of in its], "model")
    found = found.sel(depth="all", drop=True) if "depth" in found.dims else found
    cuts = [of.cell.effects for of in its]
    if all(of is not None for of in cuts):
        means = [_by_cut(_matched(of)).mean("problem").reset_coords(drop=True) for of in cuts if of is not None]
        found = found.assign(effect=xr.concat(xr.align(*means, join="inner"), "model"))
    return found


def _matched(effects: xr.DataArray) -> xr.DataArray:
    """The cuts that are the same thing in two models: heads of two models are not."""
    return effects.isel(intervention=~np.isin(effects["family"].values, [HEADS, KV_GROUPS]))


def _between_sets(
    read: Mapping[tuple[str, str], _Read], models: Sequence[str], sets: Sequence[str], *, n_draws: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Each two sets within each model: unpaired."""
    for model in models:
        for (place, minus), (later, one) in combinations(enumerate(sets), 2):
            pair, seeds = (read[model, one], read[model, minus]), (seed + later, seed + place)
            values, p = unpaired_difference(*comparable(pair[0].side, pair[1].side), n_resamples=n_draws, seeds=seeds)
            both = _both_cut(*pair, matched=False)
            if both is not None:
                more = unpaired_difference(*map(_as_ratios, both), n_resamples=n_draws, seeds=seeds)
                values, p = values.assign(more[0]), p.assign(more[1])
            yield from _difference(SETS, model, (one, minus), pair, values, p)


def _between_models(
    read: Mapping[tuple[str, str], _Read], models: Sequence[str], sets: Sequence[str], *, n_draws: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Each two models within each set: paired."""
    for of in sets:
        for minus, one in combinations(models, 2):
            pair = read[one, of], read[minus, of]
            values, p = paired_difference(*comparable(pair[0].side, pair[1].side), n_resamples=n_draws, seed=seed)
            both = _both_cut(*pair, matched=True)
            if both is not None:
                apart = (_by_cut(both[0]) - _by_cut(both[1])).transpose("problem", ...).reset_coords(drop=True)
                apart = apart.isel(problem=np.flatnonzero(apart.notnull().all("cut")))
                tested = sign_flip_test(apart, n_flips=n_draws, seed=seed)["p"]
                values = values.assign(effect=bootstrap_t(apart, n_resamples=n_draws, seed=seed))
                p = p.assign(effect=tested)
            yield from _difference(MODELS, of, (one, minus), pair, values, p)


def _between_groups(
    read: Mapping[tuple[str, str], _Read],
    groups: Mapping[str, Sequence[str]],
    sets: Sequence[str],
    *,
    n_draws: int,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Each two groups within each set: Welch's t over models, or over problems of the mean over few models."""
    for of in sets:
        for minus, one in combinations(groups, 2):
            its, others = ([read[model, of] for model in groups[name]] for name in (one, minus))
            if min(len(its), len(others)) >= ENOUGH_SEEDS:
                points = _points([*its, *others])
                here = np.arange(points.sizes["model"]) < len(its)
                tested = {
                    name: welch(values.isel(model=here), values.isel(model=~here))
                    for name, values in points.data_vars.items()
                }
                values, p = (xr.Dataset({name: found[part] for name, found in tested.items()}) for part in (0, 1))
                over = OVER_MODELS
            else:
                ratios = [[each.side.ratios for each in group] for group in (its, others)]
                n = its[0].side.n
                weights = resample_weights(n, n_resamples=n_draws, seed=seed)
                flips = sign_flips(n, n_flips=n_draws, seed=seed)
                values = with_intervals(mean_of_models(ratios[0], weights) - mean_of_models(ratios[1], weights))
                p = flipped_p(mean_linearised(ratios[0]) - mean_linearised(ratios[1]), flips)
                over = PROBLEMS
            pair = its[0], others[0]
            low = any(each.low for each in (*its, *others))
            n_models = len(its) + len(others)
            yield from _difference(GROUPS, of, (one, minus), pair, values, p, over=over, n_models=n_models, low=low)


def _between_sets_of_groups(
    read: Mapping[tuple[str, str], _Read], groups: Mapping[str, Sequence[str]], sets: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Each two sets within each group of enough models: a paired t over models."""
    for name, members in groups.items():
        if len(members) < ENOUGH_SEEDS:
            continue
        for minus, one in combinations(sets, 2):
            its, others = ([read[model, of] for model in members] for of in (one, minus))
            points, of_others = xr.align(_points(its), _points(others), join="inner")
            shared = [variable for variable in points if variable in of_others]
            tested = {of: paired_over_models(points[of] - of_others[of]) for of in shared}
            values, p = (xr.Dataset({of: found[part] for of, found in tested.items()}) for part in (0, 1))
            low = any(each.low for each in (*its, *others))
            about: dict[str, Any] = {"over": OVER_MODELS, "n_models": len(members), "low": low}
            yield from _difference(SETS_OF_GROUP, name, (one, minus), (its[0], others[0]), values, p, **about)


def _difference(
    question: str,
    where: str,
    names: tuple[str, str],
    pair: tuple[_Read, _Read],
    values: xr.Dataset,
    p: xr.Dataset,
    *,
    over: str = PROBLEMS,
    n_models: int = 1,
    low: bool | None = None,
) -> Iterator[dict[str, Any]]:
    """The rows of one difference; below five problems without intervals and p-values."""
    counts = [of.side.n for of in pair]
    low = any(of.low for of in pair) if low is None else low
    for row in _tidy(values, p):
        if min(counts) < LEAST_SHOWN:
            row |= {"low": np.nan, "high": np.nan, "p": np.nan}
        yield {"question": question, "where": where, "side": names[0], "minus": names[1], **row} | {
            "over": over,
            "n": counts[0],
            "n_minus": counts[1],
            "n_models": n_models,
            "accuracy_enough": row["measure"] == "accuracy" or not low,
        }


def _both_cut(one: _Read, minus: _Read, *, matched: bool) -> tuple[xr.DataArray, xr.DataArray] | None:
    """The effects of the cuts that two cells share; None if they share none."""
    if one.cell.effects is None or minus.cell.effects is None:
        return None
    both = [
        _matched(of.cell.effects) if matched else of.cell.effects for of in (one, minus) if of.cell.effects is not None
    ]
    names = [name for name in both[0]["intervention"].values if name in both[1]["intervention"].values]
    if not names:
        return None
    first, second = (of.sel(intervention=names) for of in both)
    return first, second


def _as_ratios(effects: xr.DataArray) -> Ratios:
    """Means of effects as ratios of sums over problems, those that failed left out."""
    of = _by_cut(effects).transpose("problem", "cut").reset_coords(drop=True).drop_vars("problem", errors="ignore")
    return Ratios(xr.Dataset({"effect": of.fillna(0.0)}), xr.Dataset({"effect": of.notnull().astype(np.float64)}))


def _effects(read: Mapping[tuple[str, str], _Read], *, n_draws: int, seed: int) -> Iterator[dict[str, Any]]:
    """What every cut of every cell does, over problems."""
    for of in read.values():
        if (effects := of.cell.effects) is None:
            continue
        values = effects.transpose("problem", ...)
        means = bootstrap_t(values, n_resamples=n_draws, seed=seed).values.tolist()
        p = sign_flip_test(values, n_flips=n_draws, seed=seed)["p"].values.tolist()
        counts = values.notnull().sum("problem").values.tolist()
        about = (effects[name].values.tolist() for name in ("intervention", "family", "unit"))
        for name, family, unit, numbers, its_p, n in zip(*about, means, p, counts, strict=True):
            bounds = dict(zip(VALUES, numbers, strict=True))
            if n < LEAST_SHOWN:
                bounds |= {"low": np.nan, "high": np.nan}
            yield {
                "model": of.cell.model, "problems": of.cell.problems, "cut": str(name),
                "family": str(family), "unit": str(unit), **bounds, "over": PROBLEMS,
                "p": its_p, "n": n, "n_models": 1, "accuracy_enough": not of.low,
            }  # fmt: skip


def _effects_of_groups(
    read: Mapping[tuple[str, str], _Read], groups: Mapping[str, Sequence[str]], sets: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """What the cuts that all models of a group share do, over models where these are enough."""
    for name, members in groups.items():
        for of in sets if len(members) >= ENOUGH_SEEDS else ():
            its = [read[model, of] for model in members]
            points = _points(its)
            if "effect" not in points:
                continue
            values, p = paired_over_models(points["effect"])
            effects = its[0].cell.effects
            assert effects is not None
            for cut in points["cut"].values:
                bounds = dict(zip(VALUES, values.sel(cut=cut, value=list(VALUES)).values.tolist(), strict=True))
                yield {
                    "model": name, "problems": of, "cut": str(cut),
                    "family": str(effects["family"].sel(intervention=cut).item()),
                    "unit": str(effects["unit"].sel(intervention=cut).item()), **bounds, "over": OVER_MODELS,
                    "p": float(p.sel(cut=cut)), "n": effects.sizes["problem"], "n_models": len(its),
                    "accuracy_enough": not any(one.low for one in its),
                }  # fmt: skip


HUB, COST = "hub", "cut costs"

CLAIMS: Final = {
    HUB: "{} is a hub",
    "sequential": "a thought attends more to the one before it than to others",
    "skip": "the last thought attends more to the first half of the thoughts",
    "thoughts": "earlier thoughts get more than an even share of attention",
    COST: "the cut {} costs the answer",
}
"""What is claimed of a cell, and its words; the place is that of the thought, or of the cut."""


def _claims(of: _Read) -> Iterator[dict[str, Any]]:
    """What attention in a cell may claim, with the test that says whether it does."""
    analysis = shown_of_analysis(of.cell.analysis)
    at = {"model": of.cell.model, "problems": of.cell.problems}
    about = {"n": of.side.n, "accuracy_enough": not of.low}
    model, evidence = analysis.model, analysis.model_evidence
    hub = str(model["hub"].item())
    test = {"estimate": float(model["hub_strength"]), "p": float(model["hub_p"])}
    yield at | {"claim": HUB, "position": hub} | test | about | {"found": bool(hub)}
    for name in (name for name in CLAIMS if name not in (HUB, COST)):
        found = evidence.sel(measure=name)
        bounds = dict(zip(VALUES, found["excess"].sel(value=list(VALUES)).values.tolist(), strict=True))
        yield at | {"claim": name, "position": ""} | bounds | {"p": float(found["p"])} | about | {"found": True}


def _with_cuts(claims: pd.DataFrame, effects: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    """The claims, and below them that each cut of a model costs the answer."""
    cuts = effects[effects["model"].isin(list(models))].assign(claim=COST)
    # Heads of two models are not the same thing, so that a claim on one is on its model's.
    own = np.where(cuts["family"].isin([HEADS, KV_GROUPS]), " of " + cuts["model"].astype(str), "")
    cuts = cuts.assign(position=cuts["cut"] + own, holds=cuts["holds"] & (cuts["estimate"] < 0.0))
    parts = [part for part in (claims, cuts[list(claims.columns)]) if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else claims


def _on_all(claims: pd.DataFrame) -> pd.DataFrame:
    """A row a claim: in how many cells it could be tested and accuracy is enough, in how many of these it holds."""
    rows = []
    readable = claims[claims["accuracy_enough"].astype(bool) & claims["p"].notna()]
    for claim, its in readable.groupby("claim", sort=False):
        # A cell without a hub is one in which no thought is shown to be a hub.
        for position in dict.fromkeys(its["position"]):
            if claim == HUB and not position:
                continue
            same = its if claim == HUB else its[its["position"] == position]
            holding = same[same["holds"] & (same["position"] == position)]
            others = same.drop(holding.index)
            rows.append(
                {
                    "claim": claim,
                    "position": position,
                    "n_tested": len(same),
                    "n_holds": len(holding),
                    "on_all": len(same) > 1 and len(holding) == len(same),
                    "holds_on": _cells_of(holding),
                    "not_on": _cells_of(others),
                }
            )
    return pd.DataFrame(rows, columns=["claim", "position", "n_tested", "n_holds", "on_all", "holds_on", "not_on"])


def _cells_of(rows: pd.DataFrame) -> str:
    return ", ".join(f"{model} on {of}" for model, of in zip(rows["model"], rows["problems"], strict=True))


def _said_of_accuracy(read: Mapping[tuple[str, str], _Read]) -> Iterator[Finding]:
    shares = ", ".join(f"{of.cell.label} {percent(of.accuracy)}" for of in read.values())
    yield Finding("Accuracy", f"Answered rightly: {shares}.", "comparison")
    if low := [of for of in read.values() if of.low]:
        named = ", ".join(of.cell.label for of in low)
        yield Finding(
            "Accuracy too low",
            f"Below {percent(LOW_ACCURACY)} ({named}) attention and cuts say nothing of how problems are solved: the "
            "sentences below are made without them, and their numbers stand in the tables.",
            "comparison",
        )


def _said_of_claims(on_all: pd.DataFrame, read: Mapping[tuple[str, str], _Read]) -> Iterator[Finding]:
    n_enough = sum(not of.low for of in read.values())
    of_cells = f"all {n_enough} pairs of a model and a set" + f" with enough accuracy (of {len(read)})" * (
        n_enough < len(read)
    )
    if n_enough < 2:
        yield Finding(
            "On all", f"{counted(n_enough, 'pair')} of model and set: no claim can be compared.", "comparison"
        )
        return
    everywhere = on_all[on_all["on_all"] & (on_all["n_tested"] == n_enough)]
    if len(everywhere):
        text = f"On {of_cells}: {_listed(everywhere)} (each by its test, Holm over all of them)."
    else:
        text = f"No claim is shown on {of_cells}; that does not show that models or sets differ."
    yield Finding("On all", text, "comparison")
    some = on_all[~on_all.index.isin(everywhere.index) & (on_all["n_holds"] > 0) & (on_all["n_tested"] > 1)]
    for _, row in some.sort_values("n_holds", ascending=False, kind="stable").head(_NAMED).iterrows():
        claim = str(CLAIMS[row["claim"]]).format(row["position"])
        rest = f"; not shown on {row['not_on']}" if row["not_on"] else ""
        yield Finding("On some", f"{claim} on {row['holds_on']}{rest}.", "comparison")
    if (left := len(some) - _NAMED) > 0:
        verb = "holds" if left == 1 else "hold"
        text = f"{counted(left, 'further claim')} {verb} on some, in claims_on_all.csv."
        yield Finding("On some", text, "comparison")


def _listed(rows: pd.DataFrame) -> str:
    said = [str(CLAIMS[row["claim"]]).format(row["position"]) for _, row in rows.iterrows()]
    left = len(said) - _NAMED
    return "; ".join(said[:_NAMED]) + (f"; and {left} more, in claims_on_all.csv" if left > 0 else "")


_WORDS: Final = {
    "accuracy": "accuracy", "preference": "preference for {}", "sequential": "preference for the previous thought",
    "skip": "preference for the first half", "thought_mass": "attention to earlier thoughts",
    "composition": "share of attention to {}", "effect": "effect of cutting {}",
}  # fmt: skip
_OF: Final = {**UNITS, "composition": "of a thought's attention", "effect": "nats"}


def _said_of_differences(tables: Mapping[str, pd.DataFrame]) -> Iterator[Finding]:
    table = tables["differences"]
    for question, rows in table.groupby("question", sort=False):
        n_tests = int(rows["p"].notna().sum())
        for (where, side, minus), its in rows.groupby(["where", "side", "minus"], sort=False):
            enough = its[its["accuracy_enough"].astype(bool)]
            tested = enough[enough["p"].notna()]
            shown = tested[tested["holds"]].sort_values("p_holm", kind="stable")
            about = f"{where}: {side} minus {minus}"
            over = f"over {counted(int(its['n_models'].iloc[0]), 'model')}" if its["over"].iloc[0] == OVER_MODELS else (
                "over problems"
            )  # fmt: skip
            if len(shown):
                named = "; ".join(_said(row) for _, row in shown.head(_NAMED).iterrows())
                more = len(shown) - _NAMED
                named += f"; and {counted(more, 'other')}, in differences.csv" if more > 0 else ""
                text = (
                    f"{len(shown)} of {counted(len(tested), 'difference')} shown (intervals {over}; Holm over "
                    f"{n_tests} differences of {question}): {named}."
                )
            elif len(tested):
                text = (
                    f"None of {counted(len(tested), 'difference')} is shown (intervals {over}; Holm over {n_tests}); "
                    "that does not show that they are alike."
                )
            else:
                text = "No difference is tested: problems are too few."
            if len(enough) < len(its):
                text += " Accuracy is too low on one side for any but that of accuracy."
            yield Finding(about, text, "comparison")


def _said(row: pd.Series) -> str:
    bounds = {name: None if np.isnan(row[name]) else float(row[name]) for name in VALUES}
    what = _WORDS[row["measure"]].format(row["position"])
    return f"{what} {with_interval(bounds)} {_OF.get(row['measure'], 'even shares')}"


def _notes(groups: Mapping[str, Sequence[str]], tables: Mapping[str, pd.DataFrame], n_draws: int) -> list[str]:
    """What the groups of a survey are too small for, and which corrections no p of so few draws can pass."""
    said = [
        f"{name} has {counted(len(its), 'model')}, fewer than {ENOUGH_SEEDS}: its differences are over problems and "
        "hold for these weights, and its sets are compared model by model alone."
        for name, its in groups.items()
        if len(its) < ENOUGH_SEEDS
    ]
    families = dict(tables["differences"].groupby("question", sort=False)["p"].count())
    families["cuts"] = tables["cut_effects"]["p"].count()
    return said + [
        f"{question}: over {n:,} tests no p of {n_draws:,} draws can pass Holm's correction; compare less at a time."
        for question, n in families.items()
        if n > ALPHA * (n_draws + 1)
    ]
