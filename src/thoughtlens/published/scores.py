"""The step-indexed map of the 2025 scripts, and the statistics, summary and comparison of models made from it.

*The step-indexed convention.* The scripts fed `bot` as step 0 and wrote the pattern of step s into row s. Row s is
therefore the query of thought `z{s}`, column j is the key `z{j+1}`, and the cell [s, s − 1] is that thought's attention
*to itself*. Row 0 and the last column are empty, and the row of the last thought was never recorded. Everything in
`published` follows this convention, so that published numbers can be compared; conclusions belong to `analysis`.

In: attention, or its mean map. Out: maps, and dicts with the scripts' keys. Sums are float32, on the unrounded mean
(the scripts rounded it to float16). Every formula is theirs for six steps; for T steps the last step is T − 1, the
early steps are the first ⌈T/2⌉, and an even share is 1/T. Names of keys that hold a step (`position_5_to_4`) hold the
last step and the one before it. Their thresholds are kept, though most can't be passed, since a row holds only what a
thought gives to thoughts.

Source of the formulas: src/experiments/codi_attention_flow/scripts of github.com/GusSand/CoT_Exploration.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from thoughtlens.analysis.metrics import thought_map
from thoughtlens.files import Json
from thoughtlens.published.ranks import N_TOP, ranked, skip_cells, top_counts

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
