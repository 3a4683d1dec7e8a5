"""Turn cuts made one after the other, or by degrees, into curves with intervals.

An *order* is a list of cuts, each made together with those before it: the top 1, 2, … heads of a ranking. It is set
against random orders of the same heads: whichever ranking costs more, sooner, found the heads that matter. A *dose* is
how much of one cut is made. Which cut stands where is given by its label; nothing here reads what was cut.

Turn cuts of edges into the influence of each thought on each later one, beside the attention between them.

Influence of k on q is the damage of blocking the edge `zq ⊣ zk` in all heads. Attention and influence have other units,
so that they are compared by rank: the disagreement of an edge is its place by influence less its place by attention.

Turn answers given with another problem's thoughts into whom they follow: the donor, the problem itself, or neither.

A thought that carries the answer takes it along. What a transplant does is known only where donor and receiver answer
differently when left alone, so that other problems are left out and counted.
"""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from scipy.stats import rankdata

from thoughtlens.analysis.effects import DAMAGE_SIGN, OUTCOMES, damage_of
from thoughtlens.analysis.metrics import thought_map
from thoughtlens.analysis.statistics import VALUES, proportion_interval
from thoughtlens.analysis.verdict import ALPHA, DECIMALS
from thoughtlens.errors import OptionError
from thoughtlens.names import RANDOM, orders_in
from thoughtlens.schema import BASELINE

Orders = Mapping[str, Sequence[str]]
"""Labels of the cuts of an order, for k = 1, 2, …, by the order's name."""


def ablation_curve(summary: xr.Dataset, orders: Orders, random_orders: Orders) -> xr.Dataset:
    """What is lost as the first k of a ranking are cut, against random orders.

    area = mean effect over k = 1 … all; `p` = (1 + #{random orders with an area at least as damaging}) / (1 + #random
    orders): how often chance would have found the damaging ones as soon.

    Args:
        summary: as `summarise` gives it.
        orders: by the ranking's name; of one length.
        random_orders: random orders of the same length; may be empty.

    Returns:
        dims (order, k) with k = 0, 1, …: `accuracy`, `gold_logprob` and `kl` (…, value), the effect against the
        baseline, 0 at k = 0; `random_accuracy`, … (k, value): mean over random orders and the range of 95 % of them
        (of all of them, if under 40), NaN without; `area` and `p` (order, outcome); `n_random`.
    """
    n_steps = {len(labels) for labels in (*orders.values(), *random_orders.values())}
    if not orders or len(n_steps) != 1:
        raise OptionError(f"found {len(orders)} orders of {sorted(n_steps)} cuts, expected one or more of one length.")
    curves = {name: _curves(summary[name], orders) for name in OUTCOMES}
    chance = {name: _curves(summary[name], random_orders) for name in OUTCOMES} if random_orders else {}
    bands = {f"random_{name}": _band(chance[name] if chance else None, curve) for name, curve in curves.items()}
    scores = [_areas(curve, chance.get(name), DAMAGE_SIGN[name]) for name, curve in curves.items()]
    outcome = xr.DataArray(np.array(OUTCOMES, dtype=np.dtypes.StringDType()), dims="outcome", name="outcome")
    joined: xr.Dataset = xr.concat(scores, outcome)
    table = xr.Dataset({**curves, **bands}).merge(joined.transpose("order", "outcome"))
    return table.assign(n_random=len(random_orders), n=int(summary["n"].max()))


def curve_of(summary: xr.Dataset) -> xr.Dataset | None:
    """The curves of the orders among the cuts, as `ablation_curve` gives them, if there are any."""
    orders = orders_in(str(label) for label in summary["intervention"].values)
    named = {name: labels for name, labels in orders.items() if not name.startswith(RANDOM)}
    chance = {name: labels for name, labels in orders.items() if name.startswith(RANDOM)}
    lengths = {len(labels) for labels in orders.values()}
    return ablation_curve(summary, named, chance) if named and len(lengths) == 1 else None


def dose_response(summary: xr.Dataset, doses: Mapping[str, Mapping[float, str]]) -> xr.Dataset:
    """What each degree of a cut costs.

    Args:
        summary: as `summarise` gives it.
        doses: by the name of what is cut, the label of each degree; 0 is no cut at all and need not be given.

    Returns:
        dims (target, dose): `accuracy`, `gold_logprob` and `kl` (…, value), the effect against the baseline, 0 at dose
        0 and NaN where a target was not given that dose.
    """
    levels = np.array(sorted({0.0} | {dose for given in doses.values() for dose in given}))
    names = np.array(list(doses), dtype=np.dtypes.StringDType())
    coords = {"target": names, "dose": levels, "value": summary["value"].values}
    found = {}
    for outcome in OUTCOMES:
        values = np.full((len(names), len(levels), len(VALUES)), np.nan)
        values[:, levels == 0.0] = 0.0
        for place, given in enumerate(doses.values()):
            for dose, label in given.items():
                values[place, np.flatnonzero(levels == dose)[0]] = summary[outcome].sel(intervention=label).values
        found[outcome] = (("target", "dose", "value"), values)
    return xr.Dataset(found, coords=coords).assign(n=int(summary["n"].max()))


def _curves(effect: xr.DataArray, orders: Orders) -> xr.DataArray:
    """Dims (order, k, value), from k = 0."""
    names = np.array(list(orders), dtype=np.dtypes.StringDType())
    found = [effect.sel(intervention=list(labels)).values for labels in orders.values()]
    values = np.stack([np.concatenate([np.zeros((1, len(VALUES))), rows]) for rows in found])
    coords = {"order": names, "k": np.arange(values.shape[1]), "value": effect["value"].values}
    return xr.DataArray(values, dims=("order", "k", "value"), coords=coords)


def _band(chance: xr.DataArray | None, like: xr.DataArray) -> xr.DataArray:
    template = like.isel(order=0, drop=True)
    if chance is None:
        return xr.full_like(template, np.nan)
    drawn = chance.sel(value="estimate").values
    levels = (0.025, 0.975) if len(drawn) >= 40 else (0.0, 1.0)
    low, high = np.quantile(drawn, levels, axis=0)
    return template.copy(data=np.stack([drawn.mean(0), low, high], axis=-1))


def _areas(curve: xr.DataArray, chance: xr.DataArray | None, sign: float) -> xr.Dataset:
    area, drawn = (None if c is None else c.sel(value="estimate", drop=True)[:, 1:].mean("k") for c in (curve, chance))
    assert area is not None, "there is an order, since `ablation_curve` checked that there is"
    if drawn is None:
        return xr.Dataset({"area": area, "p": xr.full_like(area, np.nan)})
    # Equal areas may differ in their last bits.
    as_bad = (sign * drawn.values[None, :] >= sign * area.values[:, None] - 1e-9).sum(1)
    return xr.Dataset({"area": area, "p": area.copy(data=(1 + as_bad) / (1 + drawn.sizes["order"]))})


Edges = Mapping[tuple[str, str], str]
"""The label of the cut of each edge (query, key)."""


def influence(
    summary: xr.Dataset, edges: Edges, attention: xr.DataArray, *, ranked_by: str = "gold_logprob"
) -> xr.Dataset:
    """Influence of thoughts on thoughts, the attention between them, and where the two disagree.

    disagreement = r(influence) − r(attention), r an edge's rank among the edges cut, from 0 (least) to 1 (most), ties
    at their mean, an influence whose interval holds 0 being 0.  Range −1 to 1, 0 where both order the edge alike;
    above 0, cutting matters more than looking says.
    It sums to 0 over the edges: it says where attention and influence part, `verdict` says how far they agree.

    Args:
        summary: as `summarise` gives it.
        edges: the cuts of edges between thoughts; cuts of other edges are left out.
        attention: mean attention, dims (query, key) with the thoughts among both, such as the moments' mean over heads.
        ranked_by: the outcome whose damage is ranked.

    Returns:
        dims (query, key), both the thoughts: `accuracy`, `gold_logprob` and `kl` (…, value), the damage of cutting the
        edge; `attention` of the same edges; `disagreement`; NaN where no edge was cut. And `significant`, after Holm
        over the whole plan, 5 %.
    """
    cells = thought_map(attention)
    thoughts = [str(name) for name in cells["query"].values]
    among = {edge: label for edge, label in edges.items() if set(edge) <= set(thoughts)}
    if not among:
        raise OptionError(
            "no edge between thoughts was cut, expected some such as z4 ⊣ z1; intervene with --edges all."
        )
    maps = xr.Dataset({outcome: _map_of(damage_of(summary, outcome), among, thoughts) for outcome in OUTCOMES})
    seen = cells.astype(np.float64).where(maps[ranked_by].sel(value="estimate", drop=True).notnull())
    apart = _places(_known(maps[ranked_by])) - _places(seen)
    p = summary["p_holm"].sel(outcome=ranked_by)
    significant = seen.copy(data=np.zeros(seen.shape, dtype=bool))
    for (query, key), label in among.items():
        significant.loc[{"query": query, "key": key}] = bool(p.sel(intervention=label) < ALPHA)
    return maps.assign(attention=seen, disagreement=apart, significant=significant).assign_attrs(
        ranked_by=ranked_by, n=int(summary["n"].max())
    )


def _map_of(damage: xr.DataArray, edges: Edges, thoughts: list[str]) -> xr.DataArray:
    values = np.full((len(thoughts), len(thoughts), damage.sizes["value"]), np.nan)
    for (query, key), label in edges.items():
        values[thoughts.index(query), thoughts.index(key)] = damage.sel(intervention=label).values
    names = np.array(thoughts, dtype=np.dtypes.StringDType())
    return xr.DataArray(
        values, dims=("query", "key", "value"), coords={"query": names, "key": names, "value": damage["value"].values}
    )


def _known(damage: xr.DataArray) -> xr.DataArray:
    """Estimates, 0 where the interval holds 0: effects of nothing have no order."""
    estimate, low, high = (damage.sel(value=value, drop=True) for value in ("estimate", "low", "high"))
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
