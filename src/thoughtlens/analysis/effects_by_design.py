"""Effects of cuts, read by design of the experiment: orders, doses, influence, transplants, variants, restorations.

In: summarised effects, and labels of cuts by what they cut (`analysis.effects`).  Out: labelled tables with intervals.

- An *order* is a list of cuts, each made together with those before it: the first 1, 2, … heads of a ranking. It is set
  against random orders of the same heads: a ranking that costs more, sooner, found the heads that matter.
- A *dose* is how much of one cut is made.
- The *influence* of zk on zq is the effect of blocking the edge `zq ⊣ zk` in all heads. Attention and influence have
  other units, so that they are compared by rank.
- A *transplant* gives a problem the thoughts of another, the donor. Whose answer follows is known only where donor and
  receiver answer differently when nothing is cut; other problems are left out and counted.
- A *variant* does the same to the same by another edit (a head by its mean), or with later thoughts frozen. The latter
  is the direct effect; the indirect one is what is left of the total, problem by problem.
- A *restoration* puts one unit back into a run in which all thoughts are another problem's. Recovered is
  Σ(restored − corrupted) / Σ(uncut − corrupted) over problems, of the log-probability that ranks cuts.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import xarray as xr
from scipy.stats import rankdata

from thoughtlens.analysis.attention_measures import thought_map
from thoughtlens.analysis.effects import ALPHA, MARGIN, OUTCOMES, RANKED_BY, WORSE, orders, paired_differences
from thoughtlens.analysis.intervals import VALUES, bootstrap_mean, bootstrap_ratio, proportion_interval
from thoughtlens.errors import OptionError
from thoughtlens.notation import RANDOM, edge_name, text
from thoughtlens.schema import BASELINE, effects_dataset

DECIMALS: Final = 5
"""Effects that differ in later decimals alone count as alike: float32 passes in other batches differ there too."""

Orders = Mapping[str, Sequence[str]]
"""Labels of the cuts of an order, for k = 1, 2, …, by the order's name."""


def curve_of(summary: xr.Dataset) -> xr.Dataset | None:
    """`ablation_curve` of the orders among the cuts; None if all are random orders, or if they differ in length."""
    every = orders(summary)
    chance = {name: labels for name, labels in every.items() if name.startswith(RANDOM)}
    named = {name: labels for name, labels in every.items() if name not in chance}
    lengths = {len(labels) for labels in every.values()}
    return ablation_curve(summary, named, chance) if named and len(lengths) == 1 else None


def ablation_curve(summary: xr.Dataset, orders: Orders, random_orders: Orders) -> xr.Dataset:
    """What is lost as the first k of a ranking are cut, against random orders.

    area = mean effect over k = 1 … all; `p` = (1 + #{random orders with an area at least as bad}) / (1 + #random
    orders): how often chance would have found those that cost most as soon.

    Args:
        summary: as `summarise` gives it.
        orders: labels of the cuts for k = 1, 2, …, by the ranking's name; of one length.
        random_orders: random orders of the same length; may be empty.

    Returns:
        dims (order, k) with k = 0, 1, …: `accuracy`, `joint_logprob`, … (…, value), the effect against the
        baseline, 0 at k = 0; `random_accuracy`, … (k, value): mean over random orders and the range of 95 % of them
        (of all of them, if under 40), NaN without; `area` and `p` (order, outcome), p in 0-1; `n_random`; `n` problems.

    Raises:
        OptionError: there is no order, or they differ in length.

    Example:
        >>> from thoughtlens.analysis import summarise
        >>> from thoughtlens.schema import example_effects
        >>> summary = summarise(example_effects(), n_resamples=50, n_flips=50)
        >>> curve = ablation_curve(summary, {"attention": ["L0H1 zero", "L0H0 zero"]}, {})
        >>> curve["accuracy"].sel(order="attention", value="estimate").values.tolist()
        [0.0, 0.0, -0.5]
    """
    lengths = {len(labels) for labels in (*orders.values(), *random_orders.values())}
    if not orders or len(lengths) != 1:
        raise OptionError(f"found {len(orders)} orders of {sorted(lengths)} cuts, expected one or more of one length.")
    found: dict[str, Any] = {"n_random": len(random_orders), "n": int(summary["n"].max())}
    areas, p = (np.full((len(orders), len(OUTCOMES)), np.nan) for _ in range(2))
    for place, name in enumerate(OUTCOMES):
        curve = _curves(summary[name], orders)
        areas[:, place] = xr.Variable(("order", "k"), curve[:, 1:, 0]).mean("k").values
        band = np.full(curve.shape[1:], np.nan)
        if random_orders:
            drawn = _curves(summary[name], random_orders)[..., 0]
            levels = (0.025, 0.975) if len(drawn) >= 40 else (0.0, 1.0)
            band = np.stack([drawn.mean(0), *np.quantile(drawn, levels, axis=0)], axis=-1)
            # Equal areas may differ in their last bits.
            worse = WORSE[name] * (drawn[:, 1:].mean(1) - areas[:, place, None]) >= -1e-9
            p[:, place] = (1 + worse.sum(1)) / (1 + len(drawn))
        found |= {name: (("order", "k", "value"), curve), f"random_{name}": (("k", "value"), band)}
    found |= {name: (("order", "outcome"), of) for name, of in (("area", areas), ("p", p))}
    labels = {"order": text(list(orders)), "k": np.arange(1 + lengths.pop()), "value": summary["value"].values}
    return xr.Dataset(found, labels | {"outcome": text(OUTCOMES)})


def dose_response(summary: xr.Dataset, doses: Mapping[str, Mapping[float, str]]) -> xr.Dataset:
    """What each degree of a cut costs.

    Args:
        summary: as `summarise` gives it.
        doses: by the name of what is cut, the label of each degree (`analysis.effects.doses`); 0 is no cut at all and
            need not be given.

    Returns:
        dims (target, dose): `accuracy`, `joint_logprob`, … (…, value), the effect against the baseline, 0 at dose
        0 and NaN where a target was not given that dose; `n` problems.

    Example:
        >>> from thoughtlens.analysis import summarise
        >>> from thoughtlens.schema import example_effects
        >>> summary = summarise(example_effects(), n_resamples=50, n_flips=50)
        >>> curve = dose_response(summary, {"L0H0": {0.5: "L0H1 zero", 1.0: "L0H0 zero"}})
        >>> curve["accuracy"].sel(target="L0H0", value="estimate").values.tolist()
        [0.0, 0.0, -0.5]
    """
    levels = sorted({0.0} | {dose for given in doses.values() for dose in given})
    shape = (len(doses), len(levels), len(VALUES))
    found = {outcome: np.full(shape, np.nan) for outcome in OUTCOMES}
    for outcome, values in found.items():
        values[:, levels.index(0.0)] = 0.0
        for place, given in enumerate(doses.values()):
            for dose, label in given.items():
                values[place, levels.index(dose)] = summary[outcome].sel(intervention=label).values
    return xr.Dataset(
        {outcome: (("target", "dose", "value"), values) for outcome, values in found.items()},
        coords={"target": text(list(doses)), "dose": levels, "value": summary["value"].values},
    ).assign(n=int(summary["n"].max()))


def _curves(effect: xr.DataArray, orders: Orders) -> np.ndarray:
    """Shape (order, k, value), from k = 0."""
    place, values = _places_of(effect), effect.values
    found = [values[[place[str(label)] for label in labels]] for labels in orders.values()]
    return np.stack([np.concatenate([np.zeros((1, len(VALUES))), rows]) for rows in found])


def _places_of(cuts: xr.DataArray | xr.Dataset) -> dict[str, int]:
    """The place of each cut by its label."""
    return {str(label): place for place, label in enumerate(cuts["intervention"].values)}


def influence(
    summary: xr.Dataset, edges: Mapping[str, str], attention: xr.DataArray, *, ranked_by: str = RANKED_BY
) -> xr.Dataset:
    """Influence of thoughts on thoughts, the attention between them, and where the two disagree.

    disagreement = r(loss) − r(attention), r an edge's rank among the edges cut, from 0 (least) to 1 (most), ties
    at their mean, loss being −effect, and 0 where the interval of the effect holds 0.  Range −1 to 1, 0 where both
    order the edge alike; above 0, cutting matters more than looking says.
    It sums to 0 over the edges: it says where attention and influence part, `judge` says how far they agree.

    Args:
        summary: as `summarise` gives it.
        edges: label of the cut of each edge, such as `z4 ⊣ z1`, as `families` gives them; other edges than those from a
            thought to an earlier one are left out.
        attention: mean attention, dims (query, key) with the thoughts among both, such as the moments' mean over heads.
        ranked_by: the outcome whose loss is ranked.

    Returns:
        dims (query, key), both the thoughts: `accuracy`, `joint_logprob`, … (…, value), the effect of cutting the
        edge; `attention` of the same edges; `disagreement`; NaN where no edge was cut. And `significant`, after Holm
        over the whole plan, 5 %. Attributes `ranked_by` and `n`.

    Raises:
        OptionError: no edge between thoughts was cut.

    Example:
        >>> import numpy as np, xarray as xr
        >>> from thoughtlens.analysis import summarise
        >>> from thoughtlens.notation import key_names, query_names
        >>> from thoughtlens.schema import example_effects
        >>> summary = summarise(example_effects(), n_resamples=50, n_flips=50)
        >>> even = xr.DataArray(np.full((5, 7), 0.1), {"query": query_names(2), "key": key_names(2)})
        >>> maps = influence(summary, {"z2 ⊣ z1": "L0H0 zero"}, even)
        >>> maps["accuracy"].sel(query="z2", key="z1", value="estimate").item()
        -0.5
    """
    seen = thought_map(attention).astype(np.float64)
    thoughts = [str(name) for name in seen["query"].values]
    among = {
        (row, column): edges[name]
        for row, query in enumerate(thoughts)
        for column, key in enumerate(thoughts[:row])
        if (name := edge_name(query, key)) in edges
    }
    if not among:
        raise OptionError(
            "no edge between thoughts was cut, expected some such as z4 ⊣ z1; intervene with --edges all."
        )
    rows, columns = (list(ends) for ends in zip(*among, strict=True))
    labels, shape = list(among.values()), (len(thoughts), len(thoughts))
    maps = xr.Dataset(coords={"query": text(thoughts), "key": text(thoughts), "value": summary["value"].values})
    for outcome in OUTCOMES:
        values = np.full((*shape, len(VALUES)), np.nan)
        values[rows, columns] = summary[outcome].sel(intervention=labels).values
        maps[outcome] = ("query", "key", "value"), values
    significant = np.zeros(shape, dtype=bool)
    significant[rows, columns] = summary["p_holm"].sel(outcome=ranked_by, intervention=labels) < ALPHA
    seen = seen.where(maps[ranked_by].sel(value="estimate", drop=True).notnull())
    return maps.assign(
        attention=seen,
        disagreement=_places(WORSE[ranked_by] * _known(maps[ranked_by])) - _places(seen),
        significant=(("query", "key"), significant),
    ).assign_attrs(ranked_by=ranked_by, n=int(summary["n"].max()))


def _known(effect: xr.DataArray) -> xr.DataArray:
    """Estimates, 0 where the interval holds 0: effects of nothing have no order."""
    estimate, low, high = (effect.sel(value=value, drop=True) for value in ("estimate", "low", "high"))
    known = estimate.where((low > 0) | (high < 0), 0.0).round(DECIMALS)
    return known.where(estimate.notnull())


def _places(cells: xr.DataArray) -> xr.DataArray:
    """Rank of each cell among those that are not NaN, from 0 to 1; 0.5 for a single one."""
    known = cells.notnull().values
    places = np.full(cells.shape, np.nan)
    ranks = rankdata(cells.values[known]) - 1.0
    places[known] = ranks / (len(ranks) - 1) if len(ranks) > 1 else 0.5
    return cells.copy(data=places)


FOLLOWS, KEEPS, NEITHER = "follows the donor", "keeps its own", "neither"
AT_RANDOM: Final = "by chance"


def transplants(effects: xr.Dataset, donors: xr.DataArray) -> xr.Dataset:
    """`share` (intervention, answer, value) of problems that give the answer of their donor, their own, or neither.

    `donors` (intervention, problem) names the donors; `n` problems count, and `n_left_out` do not.
    """
    own, place = _own_answers(effects), _places_of(effects)
    mine, answers, failed = np.array([*own.values()], object), effects["answer"].values, effects["failed"].values
    shares, counted = [], []
    for label, names in zip(donors["intervention"].values, donors.values, strict=True):
        theirs = np.array([own.get(str(name), "") for name in names], dtype=object)
        given = answers[place[str(label)]].astype(object)
        counts = ~failed[place[str(label)]] & (mine != "") & (theirs != "") & (mine != theirs)
        follows, keeps = counts & (given == theirs), counts & (given == mine)
        n = int(counts.sum())
        shares.append(
            [proportion_interval(int(its.sum()), n).values for its in (follows, keeps, counts & ~follows & ~keeps)]
        )
        counted.append((n, len(counts) - n))
    labels = {"intervention": donors["intervention"].values, "answer": text((FOLLOWS, KEEPS, NEITHER))}
    n_problems, n_left_out = np.array(counted).T
    return xr.Dataset(
        {
            "share": (("intervention", "answer", "value"), np.array(shares)),
            "n": ("intervention", n_problems),
            "n_left_out": ("intervention", n_left_out),
        },
        labels | {"value": text(VALUES)},
    )


def transplant_table(effects: xr.Dataset, *, n_permutations: int = 1000, seed: int = 0) -> xr.Dataset | None:
    """Every transplant of thoughts among the cuts, as `transplants` gives it, and the same for donors drawn at random.

    The second row of each, named `…, by chance`, is the null: how often the answer is that of any other problem of as
    many steps as the donor, whose thoughts were not given. Problems of different numbers of steps have different
    answers; a donor of as many steps as the receiver would be followed by chance more than others.

    Args:
        effects: an effects Dataset with `donor`.
        n_permutations: of the donors' names.
        seed: of the draw.

    Returns:
        Also `p` (intervention) of the true donors, one-sided: (1 + #{permutations of problems within step counts whose
        donors are followed by as large a share}) / (1 + #permutations); NaN by chance. None if no thought was
        transplanted.

    Example:
        >>> from thoughtlens.schema import example_effects
        >>> print(transplant_table(example_effects()))
        None
    """
    labels = _transplanted(effects)
    if not labels:
        return None
    donors = effects["donor"].sel(intervention=labels).reset_coords(drop=True)
    problems = [str(name) for name in effects["problem"].values]
    given = np.array([[problems.index(str(name)) for name in row] for row in donors.values])
    orders = _within(effects["n_steps"].values, n_permutations, np.random.default_rng(seed))
    by_order = effects["problem"].values[orders[0][given]]
    true, by_chance = transplants(effects, donors), transplants(effects, donors.copy(data=by_order))
    p = [[_donor_p(effects, label, its, orders), np.nan] for label, its in zip(labels, given, strict=True)]
    in_pairs = {
        name: (of.dims, np.stack([of.values, by_chance[name].values], axis=1).reshape(-1, *of.shape[1:]))
        for name, of in true.data_vars.items()
    }
    names = [name for label in labels for name in (label, f"{label}, {AT_RANDOM}")]
    coords = {"intervention": text(names), "answer": true["answer"].values, "value": true["value"].values}
    return xr.Dataset(in_pairs | {"p": ("intervention", np.ravel(p))}, coords)


def _own_answers(effects: xr.Dataset) -> dict[str, str]:
    """The baseline answer of each problem, "" if there is none."""
    baseline = effects.sel(intervention=BASELINE, drop=True)
    answers = np.where(baseline["failed"].values, "", baseline["answer"].values)
    return dict(zip(map(str, effects["problem"].values), map(str, answers), strict=True))


def _within(groups: np.ndarray, n_orders: int, rng: np.random.Generator) -> np.ndarray:
    """Orders of the places of problems in which each place is taken by one of its group: (order, place)."""
    orders = np.tile(np.arange(len(groups)), (n_orders, 1))
    for group in np.unique(groups):
        places = np.flatnonzero(groups == group)
        orders[:, places] = rng.permuted(np.broadcast_to(places, (n_orders, len(places))), axis=-1)
    return orders


def _donor_p(effects: xr.Dataset, label: str, donor: np.ndarray, orders: np.ndarray) -> float:
    """How often other donors of as many steps would be followed by as large a share of problems as the true ones."""
    cut = {name: effects[name].values[_places_of(effects)[label]] for name in ("answer", "failed")}
    own = list(_own_answers(effects).values())
    # Equal texts have equal numbers, which compare faster.
    _, codes = np.unique(np.array([*own, *cut["answer"].tolist()], dtype=str), return_inverse=True)
    receiver, given = codes[: len(own)], codes[len(own) :]
    known = np.array(own, dtype=object) != ""
    # The true donors first.
    theirs = np.concatenate([donor[None], orders[:, donor]])
    counts = ~cut["failed"] & known & known[theirs] & (receiver != receiver[theirs])
    follows = (counts & (given == receiver[theirs])).sum(-1)
    share = np.divide(follows, counts.sum(-1), out=np.full(len(theirs), np.nan), where=counts.any(-1))
    drawn = share[1:][np.isfinite(share[1:])]
    return float((1 + (drawn >= share[0] - 1e-12).sum()) / (1 + len(drawn))) if np.isfinite(share[0]) else float("nan")


def _transplanted(effects: xr.Dataset) -> list[str]:
    """Cuts that put one other problem's thoughts in the place of every problem's."""
    if "donor" not in effects:
        return []
    given = (effects["donor"].values != "").all(1) & (effects["kind"].values == "cut")
    specs = zip(effects["intervention"].values[given], effects["spec"].values[given], strict=True)
    return [str(cut) for cut, spec in specs if all(part["site"] == "thought" for part in json.loads(str(spec)))]


DIRECT: Final = "direct"
INDIRECT: Final = "indirect"


def variant_effects(effects: xr.Dataset, *, n_resamples: int = 1000, seed: int = 0) -> xr.DataArray | None:
    """The effect of each variant on the log-probability that ranks cuts, beside that of its cut.

    total − direct is the indirect effect, problem by problem: what goes by way of later thoughts, and what of the
    cut's effect beside them depends on these.

    Args:
        effects: an effects Dataset.
        n_resamples: bootstrap resamples of the problems.
        seed: of these.

    Returns:
        dims (intervention, variant, value), nats: `intervention` the cuts that have variants; `variant` total, mean,
        direct, indirect, …, those that there are; NaN where a cut has none. None without variants.

    Example:
        >>> from thoughtlens.schema import example_effects
        >>> print(variant_effects(example_effects()))
        None
    """
    variants: dict[str, dict[str, str]] = json.loads(effects.attrs.get("variants", "{}"))
    if not variants:
        return None
    lost = paired_differences(effects)[RANKED_BY].reset_coords(drop=True)
    names = list(dict.fromkeys(name for its in variants.values() for name in its))
    names = [*names, *([INDIRECT] if DIRECT in names else [])]
    place, values = _places_of(lost), lost.transpose("intervention", "problem").values
    rows = []
    for label, its in variants.items():
        total = values[place[label]]
        found = {name: values[place[variant]] for name, variant in its.items()}
        if DIRECT in found:
            found[INDIRECT] = total - found[DIRECT]
        rows.append([total, *(found.get(name, np.full_like(total, np.nan)) for name in names)])
    coords = {"intervention": text(variants), "variant": text(["total", *names])}
    table = xr.DataArray(np.array(rows), coords, ("intervention", "variant", "problem"), RANKED_BY)
    return bootstrap_mean(table, n_resamples=n_resamples, seed=seed)


def recovered(
    effects: xr.Dataset, *, margin: float = MARGIN, n_resamples: int = 1000, seed: int = 0
) -> xr.Dataset | None:
    """What share of what a run loses with another problem's thoughts comes back with one unit of its own.

    share = Σ_p(restored − corrupted) / Σ_p(uncut − corrupted).  1 where all comes back, 0 where nothing does; it may be
    below 0, or above 1.

    Args:
        effects: an effects Dataset with restorations, and the cut of all thoughts that they are made in.
        margin: nats; without a mean loss beyond this no share is given.
        n_resamples: bootstrap resamples of the problems.
        seed: of these.

    Returns:
        dims (intervention): `share` (…, value), NaN where the loss is within the margin, with the coordinates `family`
        and `unit`; `loss`, the mean of uncut − corrupted in nats; `n`. None without restorations.

    Raises:
        RunError: no problem was run both with and without a cut.

    Example:
        >>> found = recovered(example_restoration(), n_resamples=50)
        >>> found["share"].sel(value="estimate").values.tolist(), found["loss"].item()
        ([0.75], 2.0)
    """
    restored = effects["kind"].values == "restored"
    if not restored.any():
        return None
    lost = paired_differences(effects)[RANKED_BY]
    labels = effects["intervention"].values[restored]
    specs = {
        str(spec): str(label)
        for label, spec in zip(effects["intervention"].values, effects["spec"].values, strict=True)
    }
    first = json.loads(str(effects["spec"].values[restored][0]))[0]
    corrupted = lost.sel(intervention=specs[json.dumps([first], ensure_ascii=False)]).reset_coords(drop=True)
    both = lost.sel(intervention=labels).transpose("problem", "intervention")
    known = (both.notnull().all("intervention") & corrupted.notnull()).values
    both, corrupted = both.isel(problem=known), corrupted.isel(problem=known)
    loss = -float(corrupted.mean())
    gained = (both - corrupted).reset_coords(drop=True)
    whole = (-corrupted).broadcast_like(gained).transpose("problem", "intervention")
    share = bootstrap_ratio(gained, whole, n_resamples=n_resamples, seed=seed)
    coords = {name: both[name] for name in ("family", "unit")}
    return xr.Dataset({"share": share.where(abs(loss) > margin), "loss": loss, "n": int(known.sum())}).assign_coords(
        coords
    )


def example_restoration() -> xr.Dataset:
    """Effects for examples: with another problem's thoughts two nats are lost, of which z1 brings 1.5 back."""
    corrupted: list[Any] = [{"site": "thought", "edit": "resample", "queries": None}]
    whole, part = (json.dumps(spec) for spec in (corrupted, [*corrupted, {"site": "thought", "edit": "own"}]))
    values = np.repeat([[-1.0], [-3.0], [-1.5]], 4, axis=1)
    nothing = np.zeros_like(values)
    return effects_dataset(
        {"gold_logprob": values, "correct": nothing, "kl": nothing, "answer": nothing.astype(str), "failed": nothing},
        labels=["none", "thoughts resample", "z1 restored"],
        kinds=["baseline", "cut", "restored"],
        specs=["[]", whole, part],
        problem_ids=["p0", "p1", "p2", "p3"],
        addresses=[{}, {"family": "whole"}, {"family": "thoughts", "unit": "z1"}],
    )
