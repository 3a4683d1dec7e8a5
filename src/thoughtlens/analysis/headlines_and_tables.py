"""The headline numbers (for JSON) and tidy tables (for CSV, a row a number) of an analysis and of a comparison."""

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from thoughtlens.analysis.attention_evidence import Levels, null_limits
from thoughtlens.analysis.attention_measures import rollout_note
from thoughtlens.analysis.cautions import LEAST_SHOWN, few_problems, shown_of_analysis, shown_of_comparison
from thoughtlens.analysis.comparison import Comparison
from thoughtlens.analysis.comparison_sides import PROFILES
from thoughtlens.analysis.comparison_statistics import MEASURES, POSITIONS
from thoughtlens.analysis.heads import passing, type_counts, unreliable
from thoughtlens.analysis.hubs import LEAST
from thoughtlens.analysis.intervals import VALUES
from thoughtlens.analysis.nulls import MASSES, PATTERNS, PLACES
from thoughtlens.analysis.run_analysis import Analysis
from thoughtlens.analysis.significance import benjamini_hochberg, holm

LEVEL_MEASURES = ("preference", "lag_preference", "entropy", "sequential", "skip", "thought_mass")
LEVEL_POSITIONS = ("thought", "lag", "query")

TESTS = ("p", "q", "p_familywise", "p_type", "q_type", "null_mean", "null_high", "n_null")
"""Columns of the tables of evidence, of those that there are."""

NULL_NOTE = (
    "Beyond null models: p is the rank of a head among all heads of all null models, by what it has beyond even rows; "
    "q is corrected over heads, each measure apart."
)


def headline(analysis: Analysis, *, n_heads: int = 10) -> dict[str, object]:
    """The few numbers of a run that a closing table shows, ready for JSON (undefined is None).

    Args:
        analysis: of one run.
        n_heads: how many of the top heads.

    Returns:
        `n`, `confidence`; `holdout`, its `share`, `seed` and `n_choosing`, or None; `selected_on`, on which problems
        hubs and heads were chosen, in words; `accuracy`, `sequential` and `skip`, each with estimate, low, high and n;
        `hub` of the mean head, its `thought` (None where there is none), `strength` and `p`, and H as `preference`;
        `preference`, H of every thought; `hub_heads`, how many heads have a hub; `evidence`, for each measure the
        excess of the mean head over its null, with p and the number of heads that pass; `types`, how many heads there
        are of each; `rollout`, which rows it says nothing of, or None; `ranking`, its reliability and `unreliable`, the
        reason not to trust it or None; `top_heads`, a list of the table `heads`' rows; and `strongest`, for `hub`,
        `sequential` and `skip` the three heads that give it most attention beyond an even split, for `hub` of those
        that have one.  Both lists are empty where the ranking is unreliable, and below five problems, where intervals,
        p-values, hubs and counts are None.

    Example:
        `headline(tl.analyze(run))["hub"]["thought"]`
    """
    analysis = shown_of_analysis(analysis)
    model, n = analysis.model, int(analysis.model["n"])
    few = n < LEAST_SHOWN
    named = analysis.ranking.isel(rank=slice(0 if few or unreliable(analysis.ranking) else None))
    with_hub, hub = named.isel(rank=named["hub"].values != ""), model["hub"].item()
    of_hubs = with_hub["preference"].sel(value="estimate", drop=True)
    trust = ("reliability", "top_overlap", "top_overlap_by_chance")
    hub_heads = int((analysis.heads["hub"] != "").sum())
    return {
        "n": n,
        "confidence": model.attrs["confidence"],
        "holdout": held_out(analysis),
        "selected_on": selected_on(analysis),
        "accuracy": as_number(analysis.accuracy["accuracy"], n=n),
        "hub": {
            "thought": hub or None,
            "strength": _finite(model["hub_strength"].item()),
            "p": _finite(model["hub_p"].item()),
            "preference": as_number(model["preference"].sel(thought=hub), n=n) if hub else None,
        },
        "preference": {
            str(thought): as_number(model["preference"].sel(thought=thought), n=n)
            for thought in model["thought"].values
        },
        "sequential": as_number(model["sequential"], n=n),
        "skip": as_number(model["skip"], n=n),
        "evidence": _evidence_headline(Levels(analysis.evidence, analysis.layer_evidence, analysis.model_evidence)),
        "hub_heads": {"n_heads": None if few else hub_heads, "of": analysis.hubs["p"].size, "least": LEAST},
        "types": None if few else type_counts(analysis.evidence["type"]),
        "rollout": rollout_note(analysis.rollout["reached"]),
        "ranking": {name: _finite(float(analysis.ranking[name])) for name in trust}
        | {"unreliable": unreliable(analysis.ranking)},
        "top_heads": [
            {str(key): _finite(value) for key, value in row.items()}
            for row in _heads_table(named.isel(rank=slice(n_heads))).to_dict("records")
        ],
        "strongest": {
            "hub": _strongest(with_hub, of_hubs.sel(thought=with_hub["hub"])),
            **{
                name: _strongest(named, named[name].sel(value="estimate", drop=True)) for name in ("sequential", "skip")
            },
        },
    }


def held_out(analysis: Analysis) -> dict[str, Any] | None:
    """The tested share, the seed and the number of problems that chose; None where all problems did both."""
    attributes = analysis.model.attrs
    if "holdout" not in attributes:
        return None
    return {"share": attributes["holdout"], "seed": attributes["holdout_seed"], "n_choosing": attributes["n_choosing"]}


def selected_on(analysis: Analysis) -> str:
    """On which problems hubs and heads were chosen, in words."""
    held = held_out(analysis)
    return "selected on these problems" if held is None else f"selected on {held['n_choosing']} other problems"


def null_headline(analysis: Analysis) -> dict[str, object] | None:
    """The few numbers of what a run has beyond its null models, ready for JSON; None without any."""
    levels, nulls = analysis.over_null, analysis.options["null"]
    if levels is None:
        return None
    levels = shown_of_analysis(analysis).over_null or levels
    few = int(levels.model["n"]) < LEAST_SHOWN
    names = [str(null["model"]["name"]) for null in nulls]
    return {
        "null_runs": nulls,
        "pattern": analysis.options["pattern"],
        "n": int(levels.model["n"]),
        "evidence": _evidence_headline(levels, null=f"{len(names)} null models, {names[0]} first"),
        "types": None if few else type_counts(levels.heads["type"]),
        "note": f"{NULL_NOTE} {null_limits(len(names), levels.heads['type'].size)}",
    }


def analysis_tables(analysis: Analysis) -> dict[str, pd.DataFrame]:
    """Tidy tables, a row a number, by the name of their file.

    Args:
        analysis: of one run.

    Returns:
        `composition`, `readout` and `rollout` (a row a query and part, thought or key), `preferences_model`,
        `preferences_layer`, `preferences_head` (measure, position, estimate, low, high, n), `evidence_model`,
        `evidence_layer` and `evidence_head` (measure, thought of the hub, excess with its interval, p, q,
        p_familywise, of heads p_type and q_type, n), `position_null` (key, effect, low, high, p, n), `moments` (a row
        a cell of each head), and `heads` (a row a head, by rank, with its type, its hub, the strength and corrected p
        of the hub test, and the reliability of the ranking).

    Example:
        `analysis_tables(tl.analyze(run))["heads"].query("type == 'hub'")`
    """
    analysis = shown_of_analysis(analysis)
    # Dims and variables of a Dataset are in the order in which they were read, which differs from time to time.
    cell = {dim: analysis.moments.get_index(dim) for dim in ("layer", "head", "query", "key")}
    moments = {name: analysis.moments.variables[name] for name in ("mean", "sd", "n")}
    return {
        "composition": _rows_table(analysis.composition, "composition"),
        "readout": _rows_table(analysis.readout, "readout"),
        "rollout": _rows_table(analysis.rollout, "rollout"),
        "preferences_model": _preferences_table(analysis.model),
        "preferences_layer": _preferences_table(analysis.layers),
        "preferences_head": _preferences_table(analysis.heads),
        **evidence_tables(Levels(analysis.evidence, analysis.layer_evidence, analysis.model_evidence)),
        "heads": _heads_table(analysis.ranking),
        "position_null": _position_table(analysis.position_null),
        "moments": _long(cell, moments),
    }


def evidence_tables(levels: Levels) -> dict[str, pd.DataFrame]:
    """`evidence_model`, `evidence_layer` and `evidence_head` as in `analysis_tables`."""
    return {
        "evidence_model": _evidence_table(levels.model),
        "evidence_layer": _evidence_table(levels.layers),
        "evidence_head": _evidence_table(levels.heads),
    }


def as_number(value: xr.DataArray, **more: float) -> dict[str, float | None]:
    """A number with its interval for JSON: estimate, low, high and what else belongs to it; None where undefined."""
    numbers = {str(name): float(number) for name, number in zip(value["value"].values, value.values, strict=True)}
    return {name: number if np.isfinite(number) else None for name, number in (numbers | more).items()}


def _finite(value: object) -> object:
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value or None if isinstance(value, str) else value


def _evidence_headline(levels: Levels, *, null: str = "") -> dict[str, object]:
    """For each measure the excess of the mean head over its null, or over `null`, with p and the heads that pass."""
    own = dict.fromkeys(PATTERNS, "row-mass-preserving") | dict.fromkeys((*PLACES, *MASSES), "causal-uniform")
    n, passes = int(levels.model["n"]), passing(levels.heads)
    found: dict[str, object] = {}
    for measure, of_measure in own.items():
        at = levels.model.sel(measure=measure)
        n_heads = int(passes.sel(measure=measure).sum())
        found[measure] = {
            **({"thought": at["hub"].item() or None} if measure == "hub" else {}),
            **as_number(at["excess"], n=n, p=float(at["p"])),
            "n_heads": None if n < LEAST_SHOWN else n_heads,
            "null": null or of_measure,
        }
    return found


def _strongest(ranking: xr.Dataset, preference: xr.DataArray, n_heads: int = 3) -> list[dict[str, object]]:
    """Heads by thought mass · (preference − 1), what they give beyond an even split; undefined ones are left out."""
    excess = ranking["thought_mass"].sel(value="estimate", drop=True) * (preference - 1.0)
    table = excess.to_dataframe("excess").assign(preference=preference.values).dropna()
    first = table.sort_values("excess", ascending=False, kind="stable").head(n_heads)
    return [{"name": str(r["name"]), "preference": r["preference"], "excess": r["excess"]} for _, r in first.iterrows()]


def _rows_table(rows: xr.Dataset, name: str) -> pd.DataFrame:
    return _wide(rows[name], n=rows["n"])


def _position_table(found: xr.Dataset) -> pd.DataFrame:
    """A row a key; `effect` is the estimate."""
    wide = _wide(found["effect"], p=found["p"]).rename(columns={"estimate": "effect"})
    return wide.assign(n=int(found["n"]))


def _preferences_table(level: xr.Dataset) -> pd.DataFrame:
    frames = []
    for measure in LEVEL_MEASURES:
        wide = _wide(level[measure])
        positions = [wide[dim].astype(str) for dim in LEVEL_POSITIONS if dim in wide]
        frames.append(wide.assign(measure=measure, position=positions[0] if positions else ""))
    places = [dim for dim in ("layer", "head") if dim in level.dims]
    columns = [*places, "measure", "position", *VALUES]
    return pd.concat([frame[columns] for frame in frames], ignore_index=True).assign(n=int(level["n"]))


def _heads_table(ranking: xr.Dataset) -> pd.DataFrame:
    names = ["name", "layer", "head", "type", "hub", "hub_strength", "hub_p", "preferred"]
    table = ranking[names].reset_coords().to_dataframe().reset_index()[["rank", *names]]
    for measure in ("largest_preference", "sequential", "skip", "thought_mass", "importance"):
        for name, suffix in (("estimate", ""), ("low", "_low"), ("high", "_high")):
            table[measure + suffix] = ranking[measure].sel(value=name).values
    selected = "these problems" if "n_choosing" not in ranking.attrs else "other problems"
    return table.assign(reliability=float(ranking["reliability"]), selected_on=selected, n=int(ranking["n"]))


def _evidence_table(level: xr.Dataset) -> pd.DataFrame:
    places = [dim for dim in ("layer", "head") if dim in level.dims]
    known = [name for name in TESTS if name in level]
    thought = level["hub"].where(level["measure"] == "hub", "")
    table = _wide(level["excess"], thought=thought, **{name: level[name] for name in known})
    return table[[*places, "measure", "thought", *VALUES, *known]].assign(n=int(level["n"]))


def _wide(value: xr.DataArray, **others: xr.DataArray) -> pd.DataFrame:
    """Estimate, low and high as columns, and those of other arrays beside them."""
    labels = {str(dim): value.get_index(dim) for dim in value.dims if dim != "value"}
    bounds = {name: value.variable.isel(value=place) for place, name in enumerate(VALUES)}
    return _long(labels, bounds | {name: of.variable for name, of in others.items()})


def _long(labels: Mapping[str, pd.Index], columns: Mapping[str, xr.Variable]) -> pd.DataFrame:
    """A row a place along the dims: its labels, and what the arrays have there, which may lack some of the dims."""
    shape = [len(index) for index in labels.values()]
    places = np.indices(shape).reshape(len(labels), prod(shape))
    table: dict[str, Any] = {dim: of.take(place) for (dim, of), place in zip(labels.items(), places, strict=True)}
    for name, of in columns.items():
        own = [size if dim in of.dims else 1 for dim, size in zip(labels, shape, strict=True)]
        values = of.transpose(*(dim for dim in labels if dim in of.dims)).values.reshape(own)
        table[name] = np.broadcast_to(values, shape).ravel()
    return pd.DataFrame(table)


HEADLINE = ("accuracy", "preference", "sequential", "skip", "thought_mass")
_COUNTS = ("n", "n_minus")


def comparison_tables(comparison: Comparison) -> dict[str, pd.DataFrame]:
    """Every number of a comparison; undefined numbers are left out.

    Args:
        comparison: of models or of groups.

    Returns:
        By the name of their file, with the column `model`, `recipe` or `group`: `models`, `recipes` or `groups`
        (measure, position, depth, estimate, low, high, n, of recipes n_models); `differences`, the same with `minus`,
        `p`, `p_bh` (Benjamini and Hochberg, over all rows of the table) and `n_minus`; `rank_correlations` (minus,
        measure, estimate, low, high); `type_counts` (depth, type, n_heads); `head_types` (layer, head, type).

    Example:
        `comparison_tables(tl.compare(runs))["differences"].query("p_bh < 0.05")`
    """
    comparison = shown_of_comparison(comparison)
    dim = comparison.dim
    frames = [
        types.rename("type").reset_coords(drop=True).to_dataframe().reset_index().assign(**{dim: name})
        for name, types in comparison.head_types.items()
    ]
    columns = [dim, "layer", "head", "type"]
    return {
        f"{dim}s": _tidy([comparison.measures], [dim], [of for of in ("n", "n_models") if of in comparison.measures]),
        "differences": _corrected(_tidy([comparison.differences, comparison.p_values], [dim, "minus"], _COUNTS)),
        "rank_correlations": _tidy([comparison.rank_correlations], [dim, "minus"]).drop(columns=["position", "depth"]),
        "type_counts": comparison.type_counts["type_count"].rename("n_heads").to_dataframe().reset_index(),
        "head_types": pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns),
    }


def group_table(comparison: Comparison, *, without: Iterable[str] = ()) -> pd.DataFrame:
    """Every number of each group over all layers, then the differences between each two; undefined ones are left out.

    Args:
        comparison: as `compare_groups` returns it.
        without: measures that say nothing, such as the accuracy of groups made by it.

    Returns:
        A row a number: group, minus (empty for a group's own, as p is), measure, position, depth, estimate, low, high,
        p, p_bh (over all differences of the table), n, n_minus.

    Example:
        `group_table(compare_groups(sums, {"solved": right, "failed": ~right}, correct=right), without=["accuracy"])`
    """
    comparison = shown_of_comparison(comparison)
    parts = (comparison.measures, comparison.differences, comparison.p_values)
    own, values, p_values = (part.sel(depth=["all"]) if "depth" in part.dims else part for part in parts)
    frames = [_tidy([own], ["group"], _COUNTS[:1]).assign(minus="", p=np.nan, n_minus=0)]
    if values.sizes["pair"]:
        frames.append(_tidy([values, p_values], ["group", "minus"], _COUNTS))
    columns = ["group", "minus", "measure", "position", "depth", *VALUES, "p", *_COUNTS]
    table = pd.concat(frames, ignore_index=True)[columns]
    return _corrected(table[~table["measure"].isin(list(without))].reset_index(drop=True))


def comparison_headline(comparison: Comparison, *, without: Iterable[str] = ()) -> dict[str, Any]:
    """The few numbers of a comparison that a closing table shows, over all layers, ready for JSON (undefined is None).

    Args:
        comparison: of models or of groups.
        without: measures that say nothing, as in `group_table`.

    Returns:
        `own`, for each model or group its `n`, estimate, low, high of accuracy, sequential, skip, thought mass and, by
        thought, `preference`, and `types`, its heads of each type, if known; `differences`, a list of the same numbers
        for each pair (`of`, `minus`) with `p` and `p_holm`, Holm's correction over all of these numbers of all pairs;
        `warnings`, sentences on sides of few problems, whose intervals and p-values are None below five.

    Example:
        `comparison_headline(tl.compare(runs))["differences"][0]["sequential"]["p_holm"]`
    """
    comparison = shown_of_comparison(comparison)
    parts = (comparison.measures, comparison.differences, comparison.p_values)
    values, differences, p_values = (part.drop_vars(list(without), errors="ignore") for part in parts)
    dim = comparison.dim
    sides = {str(name): values.sel({dim: name, "depth": "all"}) for name in values[dim].values}
    own: dict[str, Any] = {name: {"n": int(side["n"].item()), **_numbers(side)} for name, side in sides.items()}
    for name, types in comparison.head_types.items():
        own[name]["types"] = type_counts(types)
    tests = _with_holm(p_values.sel(depth="all")) if p_values.data_vars else ()
    pairs = []
    for pair in differences["pair"].values:
        row, *p = (part.sel(pair=pair) for part in (differences.sel(depth="all"), *tests))
        pairs.append({"of": str(row[dim].item()), "minus": str(row["minus"].item()), **_numbers(row, *p)})
    means = bool(comparison.measures.attrs["paired"])
    warnings = [sentence for name, of in own.items() for sentence in few_problems(of["n"], name, means=means)]
    return {"own": own, "differences": pairs, "warnings": warnings}


def _with_holm(p: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """The p-values of a closing table, dims (pair, …), and the same corrected by Holm, all together."""
    shown = p[[name for name in HEADLINE if name in p]]
    flat = np.concatenate([values.values.ravel() for values in shown.data_vars.values()])
    left = iter(holm(xr.DataArray(flat, dims="test")).values)
    corrected = shown.map(lambda of: of.copy(data=np.fromiter(left, np.float64, of.size).reshape(of.shape)))
    return shown, corrected


def _numbers(row: xr.Dataset, *tests: xr.Dataset) -> dict[str, Any]:
    def number(name: str, **at: str) -> dict[str, float | None]:
        p_values = (float(of[name].sel(at)) for of in tests)
        return as_number(row[name].sel(at), **dict(zip(("p", "p_holm"), p_values, strict=False)))

    thoughts = [str(thought) for thought in row["thought"].values]
    return {
        name: {thought: number(name, thought=thought) for thought in thoughts} if name == "preference" else number(name)
        for name in HEADLINE
        if name in row
    }


def _corrected(table: pd.DataFrame) -> pd.DataFrame:
    """The table with `p_bh` beside `p`."""
    q = benjamini_hochberg(xr.DataArray(table["p"].to_numpy(dtype=np.float64), dims="test"))
    table.insert(list(table.columns).index("p") + 1, "p_bh", q.values)
    return table


def _tidy(parts: list[xr.Dataset], sides: list[str], counts: Sequence[str] = ()) -> pd.DataFrame:
    """A row for each defined number of the first part, with its p of the second part if there is one."""
    values, *p_values = parts
    tests, frames = ["p"][: len(p_values)], []
    for name in (name for name in dict.fromkeys((*MEASURES, *PROFILES)) if name in values):
        of = values[name]
        others = {side: values[side] for side in sides if side not in of.dims} | dict(
            zip(tests, (its[name] for its in p_values), strict=True)
        )
        wide = _wide(of, **others, **{count: values[count] for count in counts})
        positions = [wide[dim].astype(str) for dim in POSITIONS.values() if dim in wide]
        about = {"measure": name, "position": positions[0] if positions else "", "depth": wide.get("depth", "all")}
        frames.append(wide.assign(**about))
    columns = [*sides, "measure", "position", "depth", *VALUES, *tests, *counts]
    if not frames:
        return pd.DataFrame(columns=columns)
    frames = [frame[columns] for frame in frames]
    return pd.concat(frames, ignore_index=True).dropna(subset=["estimate"], ignore_index=True)
