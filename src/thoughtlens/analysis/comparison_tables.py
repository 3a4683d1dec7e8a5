"""Turn a comparison of models or groups into tidy tables, a row a number, and the few numbers of a closing table."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from thoughtlens.analysis.compare import Comparison
from thoughtlens.analysis.groups import Grouped
from thoughtlens.analysis.ratios import MEASURES, POSITIONS
from thoughtlens.analysis.significance import benjamini_hochberg, holm
from thoughtlens.analysis.statistics import VALUES
from thoughtlens.analysis.subjects import PROFILES

Number = dict[str, str | float | None]

HEADLINE = ("accuracy", "sequential", "skip", "thought_mass")
_COUNTS = ("n", "n_minus")


def comparison_tables(comparison: Comparison) -> dict[str, pd.DataFrame]:
    """Every number of a comparison.

    Returns:
        `models` (model, measure, position, depth, estimate, low, high, n); `differences`, the same with `minus`, `p`,
        `p_bh` (Benjamini and Hochberg, over all rows of the table) and `n_minus`; `rank_correlations` (model, minus,
        measure, estimate, low, high); `type_counts` (model, depth, type, n_heads); `head_types` (model, layer, head,
        type). Undefined numbers are left out.
    """
    correlations = _tidy(comparison.rank_correlations, ["model", "minus"])
    counts = comparison.type_counts["type_count"].rename("n_heads")
    return {
        "models": _tidy(comparison.models, ["model"]),
        "differences": _corrected(_tidy(comparison.differences, ["model", "minus"], comparison.p_values)),
        "rank_correlations": correlations.drop(columns=["position", "depth"]),
        "type_counts": counts.to_dataframe().reset_index(),
        "head_types": _types_table(comparison.head_types),
    }


def group_table(grouped: Grouped, *, without: tuple[str, ...] = ()) -> pd.DataFrame:
    """Every number of each group, over all layers, then the differences between each two.

    Args:
        grouped: the groups.
        without: measures that say nothing, such as the accuracy of groups made by it.

    Returns:
        A row a number: group, minus (empty for a group's own, as p is), measure, position, depth, estimate, low, high,
        p, p_bh (over all differences of the table), n, n_minus. Undefined numbers are left out.
    """
    own, values, p_values = (part.sel(depth=["all"]) if "depth" in part.dims else part for part in grouped[:3])
    frames = [_tidy(own, ["group"]).assign(minus="", p=np.nan, n_minus=0)]
    if values.sizes["pair"]:
        frames.append(_tidy(values, ["group", "minus"], p_values))
    columns = ["group", "minus", "measure", "position", "depth", *VALUES, "p", *_COUNTS]
    table = pd.concat(frames, ignore_index=True)[columns]
    return _corrected(table[~table["measure"].isin(without)].reset_index(drop=True))


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
        sequential, skip and thought mass; `differences`, a list of the same for each pair (`of`, `minus`) with `p` and
        `p_holm`, the hub being the thought that is the hub of `minus`. Holm's correction is over all of these numbers
        of all pairs, and over the preferences for all thoughts: the one shown is chosen by the data.
    """
    said = (part.drop_vars(without, errors="ignore") for part in (values, differences, p_values))
    values, differences, p_values = said
    who = str(values["n"].dims[0])
    own = {str(name.item()): values.sel({who: name, "depth": "all"}) for name in values[who]}
    hubs = {name: _hub(row["preference"]) for name, row in own.items()}
    tests = _holm(p_values.sel(depth="all")) if p_values.data_vars else []
    pairs = []
    for pair in differences["pair"]:
        row, *test = (part.sel(pair=pair) for part in (differences.sel(depth="all"), *tests))
        minus = str(row["minus"].item())
        pairs.append({"of": str(row[who].item()), "minus": minus, **_numbers(row, hubs[minus], *test)})
    rows = {name: {"n": int(row["n"].item()), **_numbers(row, hubs[name])} for name, row in own.items()}
    return {"own": rows, "differences": pairs}


def _hub(preference: xr.DataArray) -> str | None:
    observed = preference.sel(value="estimate", drop=True).dropna("thought")
    return str(observed["thought"].values[observed.values.argmax()]) if observed.size else None


def _holm(p: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """The p-values of a closing table, dims (pair, …), and what Holm's correction makes of all of them."""
    shown = p[[name for name in (*HEADLINE, "preference") if name in p]]
    ends = np.cumsum([values.size for values in shown.data_vars.values()])
    flat = np.concatenate([values.values.ravel() for values in shown.data_vars.values()])
    parts = np.split(holm(xr.DataArray(flat, dims="test")).values, ends[:-1])
    corrected = {
        name: values.copy(data=part.reshape(values.shape))
        for (name, values), part in zip(shown.data_vars.items(), parts, strict=True)
    }
    return shown, shown.assign(corrected)


def _numbers(row: xr.Dataset, hub: str | None, *tests: xr.Dataset) -> dict[str, Number]:
    found = {name: _number(row[name], *(of[name] for of in tests)) for name in HEADLINE if name in row}
    # Without a hub every preference is undefined, that of z1 like any other.
    place = {"thought": "z1" if hub is None else hub}
    preference = _number(row["preference"].sel(place), *(of["preference"].sel(place) for of in tests))
    return {"hub": {"thought": hub, **preference}, **found}


def _number(value: xr.DataArray, *tests: xr.DataArray) -> Number:
    found: dict[str, float] = {name: value.sel(value=name).item() for name in VALUES}
    found |= {name: p.item() for name, p in zip(("p", "p_holm"), tests, strict=False)}
    return {name: number if np.isfinite(number) else None for name, number in found.items()}


def _corrected(table: pd.DataFrame) -> pd.DataFrame:
    """The table with `p_bh` beside `p`."""
    q = benjamini_hochberg(xr.DataArray(table["p"].to_numpy(dtype=np.float64), dims="test"))
    table.insert(list(table.columns).index("p") + 1, "p_bh", q.values)
    return table


def _types_table(types: Mapping[str, xr.DataArray]) -> pd.DataFrame:
    columns = ["model", "layer", "head", "type"]
    frames = [
        of.rename("type").reset_coords(drop=True).to_dataframe().reset_index().assign(model=name)[columns]
        for name, of in types.items()
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


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
