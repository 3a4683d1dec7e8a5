"""The step-indexed map of the 2025 scripts, and the numbers made from it: statistics, head scores, rankings, findings.

*The step-indexed convention.* The scripts fed `bot` as step 0 and wrote the pattern of step s into row s. Row s is
therefore the query of thought `z{s}`, column j is the key `z{j+1}`, and the cell [s, s − 1] is that thought's attention
*to itself*. Row 0 and the last column are empty, and the row of the last thought was never recorded. Everything in
`published` follows this convention, so that published numbers can be compared; conclusions belong to `analysis`.

In: attention, or its mean map. Out: maps; dicts with the scripts' keys; a table with a row a head, four rankings of it,
and a text. Sums are float32, on the unrounded mean (the scripts rounded it to float16). Every formula is theirs for six
steps; for T steps the last step is T − 1, the early steps are the first ⌈T/2⌉, and an even share is 1/T. Names of keys
that hold a step (`position_5_to_4`) hold the last step and the one before it. Their thresholds are kept, though most
can't be passed, since a row holds only what a thought gives to thoughts.

*Head scores.* Each head's T×T map gives a flow, a hub and a skip score. Each score is scaled over all heads of the
model; the three make a composite and a type. No row of a step-indexed map has anything on or above its diagonal. So
flow is 1 for every head that gives thoughts any attention, scaled flow is 0 for all of them, and the composite ends at
0.6; this is reported as it is. Where some head gives thoughts no attention at all, its flow is 0 and the scaled flow of
the others is 1. What heads do is for `analysis.attention_measures` to say.

Source of the formulas: src/experiments/codi_attention_flow/scripts of github.com/GusSand/CoT_Exploration.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from thoughtlens.analysis.attention_measures import thought_map
from thoughtlens.files import Json
from thoughtlens.notation import head_name

CONSISTENT: Final = 0.2
"""Mean standard deviation below which patterns were called consistent."""
STRONG_HUB: Final = 2.0
"""Hub ratio above which a hub was called strong."""
SEQUENTIAL: Final = 0.3
"""Mean of [i, i − 1] above which a model was said to have sequential flow."""
LAST_TO_PREVIOUS: Final = 0.15
"""[T − 1, T − 2] above which the last step was said to attend to the one before."""
SKIP: Final = 0.1
"""Mean of the skip cells above which a model was said to have skip connections."""

_HEADS: Final = ("layer", "head")

CONVENTION = "step-indexed: row s is the query of thought z{s}, column j the key z{j+1}; [s, s-1] is self-attention"


def step_indexed(attention: xr.DataArray) -> xr.DataArray:
    """The step-indexed map, as this module's docstring says.

    B[s, j] = A[query z{s}, key z{j+1}] for j < s, else 0.  Range 0-1.  Null: with attention that is even over what a
    thought sees, columns fall from left to right by the causal mask alone, so that no column sum shows a hub.

    Args:
        attention: dims (..., query, key), of one problem, of many, or their mean; any float dtype, which is kept.

    Returns:
        dims (..., row, column), steps from 0; a row that does not exist is NaN where it would have values.

    Example:
        >>> from thoughtlens.notation import key_names, query_names
        >>> even = xr.DataArray(np.ones((5, 7)), [("query", query_names(2)), ("key", key_names(2))])
        >>> step_indexed(even).values.tolist()
        [[0.0, 0.0], [1.0, 0.0]]
    """
    thoughts = thought_map(attention)
    cells = thoughts.transpose(..., "query", "key").values
    steps = np.arange(cells.shape[-1])
    shifted = np.zeros_like(cells)
    shifted[..., 1:, :-1] = np.where(steps[1:, None] > steps[None, :-1], cells[..., :-1, :-1], 0)
    leading = thoughts.drop_vars(["query", "key"]).isel(query=0, key=0)
    return xr.DataArray(
        shifted,
        dims=(*leading.dims, "row", "column"),
        coords={**leading.coords, "row": steps, "column": steps},
        name="attention",
        attrs={**attention.attrs, "convention": CONVENTION},
    )


class Published(NamedTuple):
    """What is known of one model in a comparison."""

    size: str | None
    """the model's size, as text"""
    summary: Json
    """as `attention_summary` returns it"""
    heads: pd.DataFrame
    """as `head_scores` returns it"""


def attention_stats(mean: xr.DataArray, sd: xr.DataArray, *, model: str, n_problems: int) -> Json:
    """The content of `attention_stats.json`: spread over problems, heads by their largest cell, positions.

    mean_std = mean of sd over all cells, with those that are always 0; incoming of a position = its column sum,
    outgoing = its row sum, both averaged over layers and heads.

    Args:
        mean: maps of `step_indexed`, averaged over problems, dims (layer, head, row, column).
        sd: their population standard deviation over problems (ddof = 0), the same dims.
        model: the model's name.
        n_problems: how many problems were averaged.

    Returns:
        Ready for JSON, with the keys of the 2025 scripts.

    Example:
        >>> axes = [("layer", [0]), ("head", [0, 1]), ("row", [0, 1, 2]), ("column", [0, 1, 2])]
        >>> mean = xr.DataArray(np.tril(np.ones((1, 2, 3, 3)), -1), axes)
        >>> attention_stats(mean, 0 * mean, model="even", n_problems=9)["position_stats"][0]["avg_incoming_attention"]
        2.0
    """
    maps, spread = mean.astype(np.float32), sd.astype(np.float32)
    mean_std = float(spread.mean())
    return {
        "model": model,
        "n_problems": n_problems,
        "n_layers": maps.sizes["layer"],
        "n_heads": maps.sizes["head"],
        "consistency": {
            "mean_std": mean_std,
            "max_std": float(spread.max()),
            "min_std": float(spread.min()),
            "consistent": mean_std < CONSISTENT,
        },
        "top_20_heads": _heads_by_largest_cell(maps, spread),
        "position_stats": _position_stats(maps),
        "overall_stats": {
            "mean_attention": float(maps.mean()),
            "max_attention": float(maps.max()),
            "min_attention": float(maps.min()),
        },
    }


def attention_summary(mean: xr.DataArray, *, model: str) -> Json:
    """The content of `attention_summary.json`: hub, sequential flow and skips of a whole model.

    hub scores = column sums averaged over layers and heads, hub = the first of the largest, ratio = hub score / (1/T),
    1/T being an even share of *one* row; sequential = [i, i − 1] for i = 1 … T − 1, which is self-attention; skip =
    `skip_cells`.  Null: without structure the hub is column 0, by the causal mask alone.

    Args:
        mean: maps of `step_indexed`, averaged over problems, dims (layer, head, row, column).
        model: the model's name.

    Returns:
        Ready for JSON, with the keys of the 2025 scripts; an average of no cells (T = 1) is None.

    Example:
        >>> axes = [("layer", [0]), ("head", [0, 1]), ("row", [0, 1, 2]), ("column", [0, 1, 2])]
        >>> mean = xr.DataArray(np.tril(np.ones((1, 2, 3, 3)), -1), axes)
        >>> attention_summary(mean, model="even")["hub_analysis"]["all_hub_scores"]
        [2.0, 1.0, 0.0]
    """
    maps = mean.astype(np.float32)
    last, before = _last_steps(maps)
    hub, flow, skips = _hub(maps), _sequential_flow(maps), _skip_connections(maps)
    to_previous = flow[f"position_{last}_to_{before}"] > LAST_TO_PREVIOUS
    answers = {
        "which_position_is_hub": hub["hub_position"],
        "is_there_sequential_flow": flow["has_sequential_flow"],
        f"does_pos{last}_attend_to_pos{before}": to_previous,
        "are_there_skip_connections": skips["has_skip_connections"],
    }
    return {
        "model": model,
        "hub_analysis": hub,
        "sequential_flow": flow,
        "skip_connections": skips,
        "answers": answers,
    }


def model_comparison(models: Mapping[str, Published]) -> Json:
    """The content of `model_comparison.json`: models side by side, without a test between them.

    Args:
        models: by name, in the order of the result.

    Returns:
        Ready for JSON, with the keys of the 2025 scripts.
    """
    order = {name: ranked(model.heads, "composite_score") for name, model in models.items()}
    return {
        "models": {name: _shape(model) for name, model in models.items()},
        "hub_analysis": {name: model.summary["hub_analysis"] for name, model in models.items()},
        "top_heads": {name: _top_head(heads) for name, heads in order.items()},
        f"functional_type_distribution_top{N_TOP}": {
            name: top_counts(heads, "functional_type") for name, heads in order.items()
        },
        f"layer_distribution_top{N_TOP}": {name: top_counts(heads, "layer_type") for name, heads in order.items()},
        "key_findings": _key_findings({name: model.summary for name, model in models.items()}),
    }


def _last_steps(maps: xr.DataArray) -> tuple[int, int]:
    """The last step and the one before it; of a single step, that step twice."""
    last = maps.sizes["row"] - 1
    return last, max(0, last - 1)


def _hub(maps: xr.DataArray) -> Json:
    scores = _incoming(maps)
    even = 1.0 / maps.sizes["column"]
    position = int(scores.argmax("column"))
    score = float(scores.sel(column=position))
    return {
        "hub_position": position,
        "hub_score": score,
        "uniform_baseline": even,
        "hub_ratio": score / even,
        "is_strong_hub": score / even > STRONG_HUB,
        "all_hub_scores": _numbers(scores),
    }


def _sequential_flow(maps: xr.DataArray) -> Json:
    model = maps.mean(_HEADS)
    last, before = _last_steps(maps)
    steps = xr.DataArray(np.arange(1, last + 1), dims="step")
    scores = _numbers(model.sel(row=steps, column=steps - 1))
    return {
        "has_sequential_flow": _exceeds(scores, SEQUENTIAL),
        "avg_sequential_attention": _average(scores),
        "sequential_scores": scores,
        f"position_{last}_to_{before}": float(model.sel(row=last, column=before)),
    }


def _skip_connections(maps: xr.DataArray) -> Json:
    scores = _numbers(skip_cells(maps).mean(_HEADS))
    return {
        "has_skip_connections": _exceeds(scores, SKIP),
        "avg_skip_attention": _average(scores),
        "skip_scores": scores,
    }


def _heads_by_largest_cell(maps: xr.DataArray, spread: xr.DataArray) -> list[Json]:
    cells = ("row", "column")
    values = xr.Dataset(
        {"max_attention": maps.max(cells), "mean_attention": maps.mean(cells), "std_attention": spread.mean(cells)}
    )
    table = values.reset_coords(drop=True).to_dataframe(dim_order=list(_HEADS)).reset_index()
    return [_plain(row) for row in ranked(table, "max_attention").head(N_TOP).to_dict("records")]


def _position_stats(maps: xr.DataArray) -> list[Json]:
    pairs = zip(_numbers(_incoming(maps)), _numbers(maps.sum("column").mean(_HEADS)), strict=True)
    return [
        {"position": position, "avg_incoming_attention": incoming, "avg_outgoing_attention": outgoing}
        for position, (incoming, outgoing) in enumerate(pairs)
    ]


def _incoming(maps: xr.DataArray) -> xr.DataArray:
    return maps.sum("row").mean(_HEADS)


def _shape(model: Published) -> Json:
    n_layers, n_heads = (int(model.heads[name].nunique()) for name in _HEADS)
    return {"model_size": model.size, "n_layers": n_layers, "n_heads": n_heads, "total_heads": n_layers * n_heads}


def _top_head(order: pd.DataFrame) -> Json:
    columns = ["layer", "head", "functional_type", "composite_score", "flow_score", "hub_score", "skip_score"]
    return _plain(order[columns].head(1).to_dict("records")[0])


def _key_findings(summaries: Mapping[str, Json]) -> Json:
    hubs = {name: summary["hub_analysis"] for name, summary in summaries.items()}
    return {
        "hub_position": {name: hub["hub_position"] for name, hub in hubs.items()},
        "hub_strength": {
            name: {"score": hub["hub_score"], "ratio": hub["hub_ratio"], "strong": hub["is_strong_hub"]}
            for name, hub in hubs.items()
        },
        "sequential_flow": {name: s["sequential_flow"]["has_sequential_flow"] for name, s in summaries.items()},
        "skip_connections": {name: s["skip_connections"]["has_skip_connections"] for name, s in summaries.items()},
    }


def _numbers(values: xr.DataArray) -> list[float]:
    return [float(value) for value in values.values]


def _average(scores: list[float]) -> float | None:
    return sum(scores) / len(scores) if scores else None


def _exceeds(scores: list[float], threshold: float) -> bool:
    average = _average(scores)
    return average is not None and average > threshold


def _plain(row: Mapping[Any, Any]) -> Json:
    """A row of a table in types that JSON knows."""
    return {str(name): value.item() if isinstance(value, np.generic) else value for name, value in row.items()}


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
