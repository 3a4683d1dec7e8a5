"""Turn a comparison of models or groups into tidy tables, a row a number, and the few numbers of a closing table."""

import numpy as np
import pandas as pd
import xarray as xr

from thoughtlens.analysis.compare import Comparison
from thoughtlens.analysis.groups import Grouped
from thoughtlens.analysis.ratios import MEASURES, POSITIONS
from thoughtlens.analysis.statistics import VALUES
from thoughtlens.analysis.subjects import PROFILES

Number = dict[str, str | float | None]

HEADLINE = ("accuracy", "sequential", "skip", "thought_mass")
_COUNTS = ("n", "n_minus")


def comparison_tables(comparison: Comparison) -> dict[str, pd.DataFrame]:
    """Every number of a comparison.

    Returns:
        `models` (model, measure, position, depth, estimate, low, high, n); `differences`, the same with `minus`, `p`
        and `n_minus`; `rank_correlations` (model, minus, measure, estimate, low, high); `type_counts` (model, depth,
        type, n_heads). Undefined numbers are left out.
    """
    correlations = _tidy(comparison.rank_correlations, ["model", "minus"])
    counts = comparison.type_counts["type_count"].rename("n_heads")
    return {
        "models": _tidy(comparison.models, ["model"]),
        "differences": _tidy(comparison.differences, ["model", "minus"], comparison.p_values),
        "rank_correlations": correlations.drop(columns=["position", "depth"]),
        "type_counts": counts.to_dataframe().reset_index(),
    }


def group_table(grouped: Grouped, *, without: tuple[str, ...] = ()) -> pd.DataFrame:
    """Every number of each group, over all layers, then the differences between each two.

    Args:
        grouped: the groups.
        without: measures that say nothing, such as the accuracy of groups made by it.

    Returns:
        A row a number: group, minus (empty for a group's own, as p is), measure, position, depth, estimate, low, high,
        p, n, n_minus. Undefined numbers are left out.
    """
    own, values, p_values = (part.sel(depth=["all"]) if "depth" in part.dims else part for part in grouped[:3])
    frames = [_tidy(own, ["group"]).assign(minus="", p=np.nan, n_minus=0)]
    if values.sizes["pair"]:
        frames.append(_tidy(values, ["group", "minus"], p_values))
    columns = ["group", "minus", "measure", "position", "depth", *VALUES, "p", *_COUNTS]
    table = pd.concat(frames, ignore_index=True)[columns]
    return table[~table["measure"].isin(without)].reset_index(drop=True)


def comparison_headline(
    values: xr.Dataset, differences: xr.Dataset, p_values: xr.Dataset, *, without: tuple[str, ...] = ()
) -> dict[str, object]:
    """The few numbers of a closing table, over all layers, ready for JSON (undefined is None).

    Args:
        values: `Comparison.models` or `Grouped.groups`.
        differences: of the same.
        p_values: of the differences.
        without: measures that say nothing, as in `group_table`.

    Returns:
        `own`, for each model or group its `n` and estimate, low, high of accuracy, hub (the most preferred `thought`),
        sequential, skip and thought mass; `differences`, a list of the same for each pair (`of`, `minus`) with `p`, the
        hub being the thought that is the hub of `minus`.
    """
    said = (part.drop_vars(without, errors="ignore") for part in (values, differences, p_values))
    values, differences, p_values = said
    who = str(values["n"].dims[0])
    own = {str(name.item()): values.sel({who: name, "depth": "all"}) for name in values[who]}
    hubs = {name: _hub(row["preference"]) for name, row in own.items()}
    pairs = []
    for pair in differences["pair"]:
        row, test = (part.sel(pair=pair, depth="all") for part in (differences, p_values))
        minus = str(row["minus"].item())
        pairs.append({"of": str(row[who].item()), "minus": minus, **_numbers(row, hubs[minus], test)})
    rows = {name: {"n": int(row["n"].item()), **_numbers(row, hubs[name])} for name, row in own.items()}
    return {"own": rows, "differences": pairs}


def _hub(preference: xr.DataArray) -> str | None:
    observed = preference.sel(value="estimate", drop=True).dropna("thought")
    return str(observed["thought"].values[observed.values.argmax()]) if observed.size else None


def _numbers(row: xr.Dataset, hub: str | None, test: xr.Dataset | None = None) -> dict[str, Number]:
    found = {name: _number(row[name], None if test is None else test[name]) for name in HEADLINE if name in row}
    # Without a hub every preference is undefined, that of z1 like any other.
    place = {"thought": "z1" if hub is None else hub}
    preference = _number(row["preference"].sel(place), None if test is None else test["preference"].sel(place))
    return {"hub": {"thought": hub, **preference}, **found}


def _number(value: xr.DataArray, p: xr.DataArray | None) -> Number:
    found: dict[str, float] = {name: value.sel(value=name).item() for name in VALUES}
    found |= {} if p is None else {"p": p.item()}
    return {name: number if np.isfinite(number) else None for name, number in found.items()}


def _tidy(values: xr.Dataset, who: list[str], p_values: xr.Dataset | None = None) -> pd.DataFrame:
    counts = [name for name in _COUNTS if name in values]
    tests = ["p"] if p_values is not None else []
    frames = []
    for name in dict.fromkeys((*MEASURES, *PROFILES)):
        if name in values:
            wide = values[name].to_dataset(dim="value").assign(values[counts])
            wide = wide if p_values is None else wide.assign(p=p_values[name])
            frames.append(_labelled(wide, name))
    table = pd.concat(frames, ignore_index=True).dropna(subset=["estimate"])
    return table[[*who, "measure", "position", "depth", *VALUES, *tests, *counts]].reset_index(drop=True)


def _labelled(wide: xr.Dataset, measure: str) -> pd.DataFrame:
    """A frame with the columns that every measure has: its name, its position or "", its depth or all."""
    frame = wide.to_dataframe().reset_index().rename(columns=dict.fromkeys(POSITIONS.values(), "position"))
    missing = {name: value for name, value in (("position", ""), ("depth", "all")) if name not in frame}
    frame = frame.assign(measure=measure, **missing)
    return frame.assign(position=frame["position"].astype(str))
