"""Head scores, rankings and findings of the 2025 scripts.

In: mean step-indexed maps (see `scores`). Out: a table with a row a head, four rankings of it, and a text.

1. Each head's T×T map gives a flow, a hub and a skip score.
2. Each score is scaled over all heads of the model; the three make a composite and a type.
3. Heads are sorted by one score at a time.

All sums are float32, on the unrounded mean (the scripts rounded it to float16). No row of a step-indexed map has
anything on or above its diagonal. So flow is 1 for every head that gives thoughts any attention, scaled flow is 0 for
all of them, and the composite ends at 0.6; this is reported as it is. Where some head gives thoughts no attention at
all, its flow is 0 and the scaled flow of the others is 1. What heads do is for `analysis.metrics` to say.

Source of the formulas: src/experiments/codi_attention_flow/scripts of github.com/GusSand/CoT_Exploration.
"""

from typing import Final

import numpy as np
import pandas as pd
import xarray as xr

from thoughtlens.notation import head_name

N_TOP: Final = 20
"""Heads whose types and layers are counted."""

CRITICAL: Final = 0.7
"""Composite above which a head was to be called critical; it can't be reached if flow is 1 for every head."""

TYPES: Final = {"flow_score": "Forward Flow", "hub_score": "Hub Aggregator", "skip_score": "Skip Connection"}
WEIGHTS: Final = {"flow_score": 0.4, "hub_score": 0.4, "skip_score": 0.2}

TABLES: Final = {
    "heads_ranked_by_flow": ("flow_score", ["layer", "head", "flow_score", "layer_type"]),
    "heads_ranked_by_hub": ("hub_score", ["layer", "head", "hub_score", "hub_position", "layer_type"]),
    "heads_ranked_by_skip": ("skip_score", ["layer", "head", "skip_score", "layer_type"]),
    "ranked_heads": (
        "composite_score",
        ["layer", "head", "layer_type", *TYPES, "composite_score", "functional_type", "max_attention"],
    ),
}
"""The column that each table is sorted by, and its columns."""


def head_scores(mean: xr.DataArray) -> pd.DataFrame:
    """Every score of every head.

    flow = Σ_{j<i} B[i, j] / Σ_{j≤i} B[i, j], 0 without any mass; hub = population variance over columns of the column
    sums, hub_position the first of the largest; skip = mean of `skip_cells`; composite = 0.4 flow' + 0.4 hub' +
    0.2 skip' with x' = (x − min) / (max − min + 1e-10) over heads; type = name of the largest x', in the order flow,
    hub, skip, or Multi-Purpose where two of them exceed 0.7.  Range 0-1 each but hub, which grows with T.

    Args:
        mean: maps of `step_indexed`, averaged over problems, dims (layer, head, row, column).

    Returns:
        A row a head, in the order of layers and heads: `layer`, `head`, `layer_type`, `flow_score`, `hub_score`,
        `hub_position`, `skip_score`, `max_attention`, `mean_attention`, `composite_score`, `functional_type`; floats
        are float32.

    Example:
        >>> axes = [("layer", [0]), ("head", [0, 1]), ("row", [0, 1, 2]), ("column", [0, 1, 2])]
        >>> mean = xr.DataArray(np.tril(np.ones((1, 2, 3, 3)), -1), axes)
        >>> head_scores(mean)["flow_score"].tolist()
        [1.0, 1.0]
    """
    maps = mean.reset_coords(drop=True).astype(np.float32)
    columns = maps.sum("row", skipna=False)
    scores = xr.Dataset(
        {
            "flow_score": _flow(maps),
            "hub_score": columns.var("column", skipna=False),
            "hub_position": columns.argmax("column"),
            "skip_score": skip_cells(maps).mean("column", skipna=False),
            "max_attention": maps.max(("row", "column")),
            "mean_attention": maps.mean(("row", "column"), skipna=False),
        }
    )
    table: pd.DataFrame = scores.to_dataframe(dim_order=["layer", "head"]).reset_index()
    table.insert(2, "layer_type", layer_types(table["layer"].to_numpy(), maps.sizes["layer"]))
    return _with_composite(table)


def skip_cells(maps: xr.DataArray) -> xr.DataArray:
    """The last row's attention to the first ⌈T/2⌉ columns: [5, 0], [5, 1] and [5, 2] of six steps, dims (…, column)."""
    n_steps = maps.sizes["row"]
    return maps.sel(row=n_steps - 1, column=np.arange((n_steps + 1) // 2)).drop_vars("row")


def layer_types(layers: np.ndarray, n_layers: int) -> np.ndarray:
    """Early, middle or late: layer < ⌊L/3⌋, < ⌊2L/3⌋, or not."""
    return np.select([layers < n_layers // 3, layers < 2 * n_layers // 3], ["early", "middle"], "late")


def ranked(scores: pd.DataFrame, by: str) -> pd.DataFrame:
    """Heads from the highest score to the lowest; heads that tie keep their order by layer and head."""
    return scores.sort_values(by, ascending=False, kind="stable", ignore_index=True)


def ranked_tables(scores: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The four rankings of the scripts, each sorted by its own score, the highest first.

    Args:
        scores: as `head_scores` returns them.

    Returns:
        By the name of their file, without its ending: `heads_ranked_by_flow`, `heads_ranked_by_hub`,
        `heads_ranked_by_skip` and, by composite, `ranked_heads`.

    Example:
        `ranked_tables(head_scores(mean))["ranked_heads"].head(3)`, the top three heads.
    """
    return {name: ranked(scores, by)[columns] for name, (by, columns) in TABLES.items()}


def findings(scores: pd.DataFrame, *, model: str) -> str:
    """The text about critical heads: the top three, counts in the top 20, score statistics, composites above 0.7.

    Args:
        scores: as `head_scores` returns them.
        model: the model's name.

    Returns:
        The lines of `critical_heads_findings.txt` below its note.
    """
    order = ranked(scores, "composite_score")
    critical = order[order["composite_score"] > CRITICAL]
    sections = [
        [f"{model}: critical heads by composite score", ""],
        ["TOP 3 CRITICAL HEADS:", ""],
        *([*_described(place, head), ""] for place, head in order.head(3).iterrows()),
        [f"FUNCTIONAL TYPE DISTRIBUTION (top {N_TOP} heads):", *_counted(order, "functional_type"), ""],
        [f"LAYER DISTRIBUTION (top {N_TOP} heads):", *_counted(order, "layer_type"), ""],
        ["SCORE STATISTICS (all heads):", *(_spread(scores, name) for name in TYPES), ""],
        [f"CRITICAL HEADS (composite > {CRITICAL}): {len(critical)}", *_listed(critical)],
    ]
    return "\n".join(line for section in sections for line in section) + "\n"


def top_counts(order: pd.DataFrame, column: str) -> dict[str, int]:
    """How often each value of a column occurs among the first 20 heads, the most frequent first."""
    return {str(name): int(count) for name, count in order[column].head(N_TOP).value_counts().items()}


def _flow(maps: xr.DataArray) -> xr.DataArray:
    # Both sums run over arrays of one memory layout, so that equal cells give equal sums, to the last bit.
    below, seen = maps.where(maps["row"] > maps["column"], 0), maps.where(maps["row"] >= maps["column"], 0)
    forward, total = (cells.sum(("row", "column"), skipna=False) for cells in (below, seen))
    return forward / total.where(total > 0, 1)


def _with_composite(table: pd.DataFrame) -> pd.DataFrame:
    names = list(TYPES)
    scaled = np.stack([_scaled(table[name].to_numpy()) for name in names], axis=-1)
    weights = np.array([WEIGHTS[name] for name in names], dtype=np.float32)
    largest = np.array(list(TYPES.values()))[scaled.argmax(-1)]
    several = (scaled > CRITICAL).sum(-1) > 1
    return table.assign(
        composite_score=scaled @ weights, functional_type=np.where(several, "Multi-Purpose", largest).astype(object)
    )


def _scaled(score: np.ndarray) -> np.ndarray:
    lowest, highest = score.min(), score.max()
    scaled: np.ndarray = (score - lowest) / (highest - lowest + np.float32(1e-10))
    return scaled


def _described(place: object, head: pd.Series) -> list[str]:
    return [
        f"{int(str(place)) + 1}. {head_name(head['layer'], head['head'])} - {head['functional_type']}",
        f"   Composite score: {head['composite_score']:.3f}",
        f"   - Flow: {head['flow_score']:.3f}",
        f"   - Hub: {head['hub_score']:.3f} (largest column: {head['hub_position']})",
        f"   - Skip: {head['skip_score']:.3f}",
        f"   - Max attention: {head['max_attention']:.3f}",
    ]


def _counted(order: pd.DataFrame, column: str) -> list[str]:
    return [f"  {name}: {count}" for name, count in top_counts(order, column).items()]


def _spread(scores: pd.DataFrame, name: str) -> str:
    label = name.removesuffix("_score").capitalize()
    return f"  {label}: mean={scores[name].mean():.3f}, max={scores[name].max():.3f}"


def _listed(critical: pd.DataFrame) -> list[str]:
    names = list(map(head_name, critical["layer"], critical["head"]))
    return [f"  {', '.join(names)}"] if names else []
