"""Whether attention predicts what cutting does: importance by attention, its correlation with losses, and sentences.

In: attention, and effects by problem, labelled arrays.  Out: importances (problem, unit); a labelled table of
correlations and a sentence a row.

1. A *unit* is a head, a thought or an edge. Its importance is the mean weight that raw, value-weighted or rolled-out
   attention gives it (`look`); rows that see no earlier thought say nothing, and an answer row that does not exist is
   left out of its problem's mean. Its loss is −effect, what cutting it costs. Mean effects below the margin count as 0
   and tie: noise has no order.
2. rho is the correlation of ranks centred within groups: heads of one layer, edges of one lag. Layers differ in how
   much they look at thoughts and in what cutting costs; that alone would correlate heads, and says nothing of heads.
3. p is the share of relabellings of the units within their groups that correlate as strongly. It is exact if the units
   of a group are exchangeable, however much groups differ. Holm's correction is over all verdicts of a study.
4. Problems are resampled nowhere: a percentile interval of a rank correlation over few units covers far too little.
   What says how far the losses can be relied on is their reliability.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import permutations, product
from math import factorial, prod
from typing import Final

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy.stats import rankdata

from thoughtlens.analysis.attention_measures import LEAST_REACHED, later_rows, reached, rollout, rollout_note
from thoughtlens.analysis.effects import ALPHA, MARGIN
from thoughtlens.analysis.intervals import short
from thoughtlens.analysis.significance import holm
from thoughtlens.analysis.streamed_attention import Blocks, in_pieces
from thoughtlens.errors import OptionError, RunError
from thoughtlens.notation import (
    EDGES,
    HEADS,
    THOUGHTS,
    edge_name,
    edge_names,
    head_name,
    head_place,
    text,
    thought_names,
)
from thoughtlens.schema import n_thoughts_of

log = logging.getLogger(__name__)

MOST_ORDERS = 10_000
"""Relabellings of the units: all of them if there are no more, else as many drawn at random."""

TOP = 5
RELIABLE = 0.5
"""Below this, effects order the units too poorly for anything to predict them."""
FEWEST_JUDGED = 7
"""Units that a verdict needs: six thoughts in one order have too few others to say anything of attention."""


def judge(
    importances: Mapping[str, xr.DataArray], effects: xr.DataArray, *, margin: float = MARGIN, top: int = TOP
) -> xr.Dataset:
    """Agreement of each kind of attention with the loss by cutting.

    rho = Pearson's correlation of the ranks of importance and of mean loss over units, each less the mean of its group
    (the layer of a head, the lag of an edge), range −1 to 1, null 0.  precision = |top k by importance ∩ top k by loss|
    / k, range 0-1, null k / n_units; units that tie for the last places share them.  k = `top`, but at most a third of
    the units.

    Args:
        importances: by the attention's name: dims (unit). Units that a kind of attention says nothing about (NaN, or
            absent) are left out of its row.
        effects: dims (problem, unit), cut − uncut, so that a loss is negative; NaN where a problem could not be run.
        margin: mean effects nearer to 0 than this count as 0.
        top: the most that k may be.

    Returns:
        dims (attention): `rho` and `precision` (NaN if all units are alike), `p` of rho by relabelling units within
        groups, `p_holm` over the kinds of attention, `chance` of precision, `k`, `n_units`, `n_above` (units whose mean
        effect reaches the margin), `reliability` of the effects and `n`, the number of problems; `margin`.

    Raises:
        OptionError: there is no kind of attention, or `top` is below 1.

    Example:
        >>> import numpy as np, xarray as xr
        >>> names = ["z1", "z2", "z3", "z4"]
        >>> effects = xr.DataArray(
        ...     np.tile([0.0, -1.0, -2.0, -3.0], (9, 1)), dims=("problem", "unit"), coords={"unit": names}
        ... )
        >>> looked = xr.DataArray([0.1, 0.2, 0.3, 0.4], dims="unit", coords={"unit": names})
        >>> table = judge({"raw": looked}, effects)
        >>> table["rho"].sel(attention="raw").item(), round(table["p"].item(), 3)
        (1.0, 0.083)

    References: Spearman (1904), American Journal of Psychology 15; permutation within strata: Good (2005),
    Permutation, Parametric and Bootstrap Tests of Hypotheses.
    """
    if not importances or top < 1:
        raise OptionError(f"found {len(importances)} kinds of attention and top {top}; a verdict needs one of each.")
    loss = -effects.mean("problem")
    loss = loss.where(~(abs(loss) < margin), 0.0)
    rows = [
        _row(looked, lost, top) | {"reliability": effects_reliability(effects.sel(unit=looked["unit"].values))}
        for looked, lost in (_known(importance, loss) for importance in importances.values())
    ]
    columns = {name: ("attention", [row[name] for row in rows]) for name in rows[0]}
    table = xr.Dataset(columns, {"attention": text(importances)})
    return table.assign(p_holm=holm(table["p"]), n=int(effects.notnull().any("unit").sum()), margin=margin)


def judged_together(verdicts: Mapping[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    """Verdicts whose `p_holm` holds for all of them at once."""
    if not verdicts:
        return {}
    corrected = holm(xr.concat([table["p"] for table in verdicts.values()], "attention"))
    ends = np.cumsum([table.sizes["attention"] for table in verdicts.values()])[:-1]
    parts = np.split(corrected.values, ends)
    return {
        name: table.assign(p_holm=("attention", its))
        for (name, table), its in zip(verdicts.items(), parts, strict=True)
    }


def effects_reliability(effects: xr.DataArray) -> float:
    """The share of the variance of mean effects over units that is not noise of the problems (Hoyt 1941), at least 0.

    1 − MS_residual / MS_units of the table (problem, unit); NaN for fewer than two of either.
    """
    table = effects.transpose("problem", "unit").dropna("problem").values.astype(np.float64)
    n_problems, n_units = table.shape
    if min(n_problems, n_units) < 2 or np.ptp(table.mean(0)) == 0:
        return float("nan")
    units = table.mean(0) - table.mean()
    residual = table - table.mean(1, keepdims=True) - units
    noise = float((residual**2).sum()) / ((n_problems - 1) * (n_units - 1))
    signal = n_problems * float((units**2).sum()) / (n_units - 1)
    return float(max(0.0, 1.0 - noise / signal))


def precision_at(first: np.ndarray, second: np.ndarray, k: int) -> np.ndarray:
    """Share of the k largest of the one among the k largest of the other; units that tie for the last places share."""
    shared: np.ndarray = (_membership(first, k) * _membership(second, k)).sum(-1) / max(1, k)
    return shared


def group_of(unit: str) -> str:
    """What a unit is exchangeable within: a head's layer, an edge's lag or its query eot or answer; "" of a thought."""
    query, _, key = unit.partition(" ⊣ ")
    if query[:1] + key[:1] == "zz":
        return f"lag {int(query[1:]) - int(key[1:])}"
    if key:
        return query
    return f"L{head_place(unit)[0]}" if unit.startswith("L") else ""


def grouped_rho(first: npt.ArrayLike, second: npt.ArrayLike, groups: Sequence[str]) -> float:
    """The correlation of ranks centred within groups, −1 to 1; NaN where a side is alike within all groups."""
    one, other = (_centred(values, groups) for values in (first, second))
    spread = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float(np.clip((one * other).sum() / spread, -1.0, 1.0)) if spread > 0 else float("nan")


def grouped_p(first: npt.ArrayLike, second: npt.ArrayLike, groups: Sequence[str], *, seed: int = 0) -> float:
    """Two-sided p of `grouped_rho`, one side's units relabelled within groups: exact for few, then drawn."""
    one, other = (_centred(values, groups) for values in (first, second))
    observed = abs(float((one * other).sum()))
    if not (one**2).sum() * (other**2).sum() > 0:
        return float("nan")
    units, orders, drawn = _orders(tuple(groups), seed)
    null = np.abs(other[orders] @ one[units])
    # Equal sums may differ in their last bits.
    n_extreme = int((null >= observed - 1e-9).sum())
    return float((drawn + n_extreme) / (drawn + len(null)))


# All kinds of attention are set beside the same units, one after another.
@lru_cache(maxsize=1)
def _orders(groups: tuple[str, ...], seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """The units group by group, their orders within groups (order, unit), and 0 if these are all, 1 if drawn."""
    members = [np.flatnonzero(np.array(groups) == group) for group in dict.fromkeys(groups)]
    exact = prod(factorial(len(its)) for its in members) <= MOST_ORDERS
    orders = _every_order(members) if exact else _drawn_orders(members, np.random.default_rng(seed))
    # In few bytes a unit, since they stay in memory.
    return np.concatenate(members), orders.astype(np.min_scalar_type(len(groups))), int(not exact)


def _every_order(members: Sequence[np.ndarray]) -> np.ndarray:
    """Every order of units within their groups, group by group: (order, unit)."""
    return np.array([np.concatenate(its) for its in product(*map(permutations, members))], dtype=np.intp)


def _drawn_orders(members: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    drawn = [rng.permuted(np.broadcast_to(its, (MOST_ORDERS, len(its))), axis=-1) for its in members]
    return np.concatenate(drawn, axis=-1)


def _centred(values: npt.ArrayLike, groups: Sequence[str]) -> npt.NDArray[np.float64]:
    """Ranks over all units, each less the mean of its group."""
    numbers = np.asarray(values, dtype=np.float64)
    if not len(numbers):
        return numbers
    _, place = np.unique(np.array(groups, dtype=str), return_inverse=True)
    ranks = rankdata(numbers)
    centred: npt.NDArray[np.float64] = ranks - (np.bincount(place, ranks) / np.bincount(place))[place]
    return centred


def readings(table: xr.Dataset, *, unit: str) -> dict[str, str]:
    """One sentence a kind of attention, which claims no more than its corrected p-value allows.

    Args:
        table: as `judge` gives it.
        unit: what was cut, in the plural: heads, thoughts, edges.

    Returns:
        By the attention's name.

    Example:
        >>> import numpy as np, xarray as xr
        >>> effects = xr.DataArray(np.zeros((9, 2)), dims=("problem", "unit"), coords={"unit": ["z1", "z2"]})
        >>> table = judge({"raw": effects.isel(problem=0)}, effects)
        >>> readings(table, unit="thoughts")["raw"]
        "raw attention and the effect of cutting thoughts can't be set side by side: all 2 effects are below .05 nats"
    """
    return {str(name): _reading(table.sel(attention=name), str(name), unit) for name in table["attention"].values}


def _known(importance: xr.DataArray, loss: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Both, over the units that both say something about."""
    looked, lost = xr.align(importance, loss, join="inner")
    known = np.flatnonzero((looked.notnull() & lost.notnull()).values)
    return looked.isel(unit=known), lost.isel(unit=known)


def _row(looked: xr.DataArray, lost: xr.DataArray, top: int) -> dict[str, float]:
    first, second, n_units = looked.values, lost.values, looked.sizes["unit"]
    groups = [group_of(str(unit)) for unit in looked["unit"].values]
    k = min(top, max(1, n_units // 3))
    rho = grouped_rho(first, second, groups)
    return {
        "rho": rho,
        "p": grouped_p(first, second, groups),
        # Where all units are alike there is no first k.
        "precision": np.nan if np.isnan(rho) else float(precision_at(first, second, min(k, n_units))),
        "chance": k / n_units if n_units else np.nan,
        "k": k,
        "n_units": n_units,
        "n_above": int((second != 0).sum()),
    }


def _membership(values: np.ndarray, k: int) -> np.ndarray:
    """1 for the k largest, 0 for the rest; what ties across the border shares the places left."""
    if not values.shape[-1]:
        return np.zeros(values.shape)
    border = np.sort(values, axis=-1)[..., -k, None]
    above, at = values > border, values == border
    places = (k - above.sum(-1, keepdims=True)) / at.sum(-1, keepdims=True)
    members: np.ndarray = np.where(above, 1.0, np.where(at, places, 0.0))
    return members


def _reading(row: xr.Dataset, name: str, unit: str) -> str:
    n_units, k, rho, p = int(row["n_units"]), int(row["k"]), float(row["rho"]), float(row["p_holm"])
    if np.isnan(rho):
        alike = (
            "are alike within their groups"
            if int(row["n_above"])
            else f"effects are below {short(float(row['margin']))} nats"
        )
        return f"{name} attention and the effect of cutting {unit} can't be set side by side: all {n_units} {alike}"
    many = f"{float(row['precision']) * k:.1f}".removesuffix(".0")
    overlap = f"{many} of the top {k} by attention {'is' if many == '1' else 'are'} among the top {k} by effect"
    numbers = f"rho = {short(rho)}{WITHIN.get(unit, '')}, p = {p:.2g} after Holm, n = {n_units} {unit}"
    steady = float(row["reliability"])
    # Written so that NaN speaks too.
    noise = "" if steady >= RELIABLE else f"; the effects themselves are noise (reliability {short(steady)})"
    return f"{_claim(rho, p, name, unit)}: {numbers}; {overlap}{noise}"


WITHIN = {"heads": " within layers", "edges": " within lags"}


def _claim(rho: float, p: float, name: str, unit: str) -> str:
    if not p < ALPHA:
        return f"{name} attention is not shown to predict the effect of cutting {unit}"
    if rho < 0:
        return f"{name} attention misled about cutting {unit}: the more attention, the less was lost"
    return f"{name} attention predicts the effect of cutting {unit}"


RAW: Final = "raw"


ROLLED_OUT: Final = "rolled-out"


def look(
    blocks: Blocks, problems: Sequence[str], *, how: str = RAW
) -> tuple[dict[str, dict[str, xr.DataArray]], xr.DataArray]:
    """All importances of these problems, in their order, and their mean attention (query, key), in one reading.

    Importances are by kind of unit (heads, thoughts, edges) and of attention (`how`, rolled-out): (problem, unit).
    Rolled-out importances are of the rows that thoughts reach (`LEAST_REACHED`), and missing where there are none.
    """
    found: list[xr.Dataset] = []
    wanted = frozenset(problems)
    for attention in (piece["attention"] for piece in in_pieces(blocks)):
        here = [place for place, name in enumerate(attention["problem"].values) if str(name) in wanted]
        if here:
            found.append(_look_at(attention.isel(problem=here), how))
    n_found = sum(part.sizes["problem"] for part in found)
    if n_found != len(problems):
        raise RunError(
            f"the run has {n_found} of the {len(problems)} problems that were cut; name the run they are of."
        )
    joined = xr.concat(found, "problem").sel(problem=list(problems))
    share = reached(joined["rolled"]).mean("problem")
    if note := rollout_note(share):
        log.warning("%s", note)
    rolled = joined["rolled"].where(~(share < LEAST_REACHED))
    joined = joined.drop_vars("rolled")
    of_rollout = {THOUGHTS: thought_importance(rolled), EDGES: edge_importance(rolled)}
    importances: dict[str, dict[str, xr.DataArray]] = {HEADS: {}, THOUGHTS: {}, EDGES: {}}
    for name in joined.drop_vars("mean").data_vars:
        kind, kind_of_attention = str(name).split(", ")
        importances[kind][kind_of_attention] = joined[name].rename({kind: "unit"}).rename(None)
    for kind, values in of_rollout.items():
        if (known := values.dropna("unit", how="all")).size:
            importances[kind][ROLLED_OUT if how == RAW else f"{ROLLED_OUT} {how}"] = known
    return importances, joined["mean"].mean("problem")


def _look_at(attention: xr.DataArray, how: str) -> xr.Dataset:
    """A variable for each kind of unit, the mean over heads, and the rollout."""
    looks = {
        (HEADS, how): head_importance(attention),
        (THOUGHTS, how): thought_importance(attention),
        (EDGES, how): edge_importance(attention),
    }
    named = {f"{kind}, {name}": values.rename(unit=kind) for (kind, name), values in looks.items()}
    means = {"mean": attention.mean(("layer", "head"), skipna=False), "rolled": rollout(attention)}
    return xr.Dataset(named).assign(means)


def head_importance(attention: xr.DataArray) -> xr.DataArray:
    """Mean over the rows z2 … zT, eot, answer of their mass on earlier thoughts: dims (problem, unit)."""
    rows = later_rows(attention, 0.0).sum("key", skipna=False).mean("query")
    names = [head_name(layer, head) for layer, head in product(rows["layer"].values, rows["head"].values)]
    values = rows.transpose("problem", "layer", "head").values
    return _of_units(attention, values.reshape(len(values), -1), names)


def thought_importance(attention: xr.DataArray) -> xr.DataArray:
    """Mean of A[q, k] over the rows q after k, over layers and heads: dims (problem, unit).

    It is a mean over rows and not a sum, since a sum rewards being seen by many rows.
    """
    rows = _over_heads(later_rows(attention, np.nan)).mean("query").transpose("problem", "key")
    return _of_units(attention, rows.values, thought_names(n_thoughts_of(attention)))


def edge_importance(attention: xr.DataArray) -> xr.DataArray:
    """Mean over layers and heads of A[q, k]: dims (problem, unit), units named such as `z4 ⊣ z1`."""
    mean = _over_heads(attention.astype(np.float64)).transpose("problem", "query", "key")
    edges = edge_names(n_thoughts_of(attention))
    places = [{str(name): place for place, name in enumerate(mean[dim].values)} for dim in ("query", "key")]
    rows, columns = ([place[edge[end]] for edge in edges] for end, place in enumerate(places))
    return _of_units(attention, mean.values[:, rows, columns], [edge_name(*edge) for edge in edges])


def _over_heads(attention: xr.DataArray) -> xr.DataArray:
    return attention.mean([dim for dim in ("layer", "head") if dim in attention.dims])


def _of_units(attention: xr.DataArray, values: np.ndarray, names: Sequence[str]) -> xr.DataArray:
    labels = {name: of for name, of in attention.coords.items() if of.dims == ("problem",)}
    return xr.DataArray(values, {**labels, "unit": text(names)}, ("problem", "unit"))
