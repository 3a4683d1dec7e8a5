"""Turn cuts of edges into the influence of each thought on each later one, beside the attention between them.

Influence of k on q is the damage of blocking the edge `zq ⊣ zk` in all heads. Attention and influence have other units,
so that they are compared by rank: the disagreement of an edge is its place by influence less its place by attention.
"""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from scipy.stats import rankdata

from thoughtlens.analysis.effects import OUTCOMES, damage_of
from thoughtlens.analysis.metrics import thought_map
from thoughtlens.analysis.verdict import ALPHA, DECIMALS
from thoughtlens.errors import OptionError
from thoughtlens.labels import thought_names

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


def edge_names(n_thoughts: int) -> list[tuple[str, str]]:
    """Every edge (query, key) from a thought to an earlier one, in the order in which they are met."""
    names = thought_names(n_thoughts)
    return [(query, key) for place, query in enumerate(names) for key in names[:place]]


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
