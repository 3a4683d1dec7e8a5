"""Turn the summary of a run into the few numbers of a closing table (JSON) and tidy tables (CSV)."""

import numpy as np
import pandas as pd
import xarray as xr

from thoughtlens.analysis.evidence import LEVEL, Levels, passing, type_counts
from thoughtlens.analysis.excess_cells import MASSES, PATTERNS, PLACES
from thoughtlens.analysis.hubs import LEAST
from thoughtlens.analysis.ranking import unreliable
from thoughtlens.analysis.statistics import VALUES
from thoughtlens.analysis.summary import Analysis

_LISTS = {"hub": "hub_preference", "sequential": "sequential", "skip": "skip"}
MEASURES = ("preference", "lag_preference", "entropy", "sequential", "skip", "thought_mass")
POSITIONS = ("thought", "lag", "query")


def headline(analysis: Analysis, *, n_heads: int = 10) -> dict[str, object]:
    """The few numbers of a run that a closing table shows, ready for JSON (undefined is None).

    Args:
        analysis: of one run.
        n_heads: how many of the top heads.

    Returns:
        `n`, `confidence`, `accuracy`, `hub` (with `thought` and `support`), `sequential` and `skip`, each with
        estimate, low, high and n; `evidence`, for each measure the excess of the mean head over its null, with p and
        the number of heads that pass; `hub_heads`, how many heads `hub_test` finds a hub in; `types`, how many heads
        there are of each; `ranking`, its reliability and `unreliable`, the reason not to trust it or None; `top_heads`,
        a list of the table `heads`' rows; and `strongest`, for `hub`, `sequential` and `skip` the three heads that give
        it most attention beyond an even split.  Both lists are empty where the ranking is unreliable.
    """
    model, n = analysis.model, int(analysis.model["n"])
    named = analysis.ranking.isel(rank=slice(0 if unreliable(analysis.ranking) else None))
    return {
        "n": n,
        "confidence": model.attrs["confidence"],
        "accuracy": _number(analysis.accuracy["accuracy"], n),
        "hub": {
            "thought": str(model["hub"].item()) or None,
            **_number(model["hub_preference"], n),
            "support": _finite(model["hub_support"].item()),
        },
        "sequential": _number(model["sequential"], n),
        "skip": _number(model["skip"], n),
        "evidence": evidence_headline(_levels(analysis)),
        "hub_heads": _hub_heads(analysis.hubs),
        "types": type_counts(analysis.evidence["type"]),
        "ranking": _trust(analysis.ranking),
        "top_heads": [
            {str(key): _finite(value) for key, value in row.items()}
            for row in _heads_table(named.isel(rank=slice(n_heads))).to_dict("records")
        ],
        "strongest": {name: _strongest(named, measure) for name, measure in _LISTS.items()},
    }


def tables(analysis: Analysis) -> dict[str, pd.DataFrame]:
    """Tidy tables, a row a number, by the name of their file.

    Returns:
        `composition` and `readout` (a row a query and part or thought), `preferences_model`, `preferences_layer`,
        `preferences_head` (measure, position, estimate, low, high, n), `evidence_model`, `evidence_layer` and
        `evidence_head` (measure, thought of a hub, excess with its interval, p, q, p_familywise, n), and `heads` (a row
        a head, by rank, with its type, its hub test, and the reliability of the ranking).
    """
    return {
        "composition": _rows_table(analysis.composition, "composition"),
        "readout": _rows_table(analysis.readout, "readout"),
        "preferences_model": _preferences_table(analysis.model),
        "preferences_layer": _preferences_table(analysis.layers),
        "preferences_head": _preferences_table(analysis.heads),
        **evidence_tables(_levels(analysis)),
        "heads": _heads_table(analysis.ranking).merge(_hub_test_table(analysis.hubs), on=["layer", "head"]),
    }


def evidence_headline(levels: Levels, *, null: str = "") -> dict[str, object]:
    """For each measure the excess of the mean head over its null, with p and the number of heads that pass.

    Args:
        levels: of one run.
        null: what the excess is over, if not the measure's own null.
    """
    own = dict.fromkeys(PATTERNS, "row-mass-preserving") | dict.fromkeys((*PLACES, *MASSES), "causal-uniform")
    return {measure: _evidence(levels, measure, null or name) for measure, name in own.items()}


def evidence_tables(levels: Levels) -> dict[str, pd.DataFrame]:
    """`evidence_model`, `evidence_layer` and `evidence_head` as in `tables`."""
    return {
        "evidence_model": _evidence_table(levels.model),
        "evidence_layer": _evidence_table(levels.layers),
        "evidence_head": _evidence_table(levels.heads),
    }


def rollout_table(rollout: xr.Dataset) -> pd.DataFrame:
    """A row a query and key: estimate, low, high, n.

    Args:
        rollout: as `mean_rollout` gives it.
    """
    return _rows_table(rollout, "rollout")


def _levels(analysis: Analysis) -> Levels:
    return Levels(analysis.evidence, analysis.layer_evidence, analysis.model_evidence)


def _evidence(levels: Levels, measure: str, null: str) -> dict[str, object]:
    found, n = levels.model.sel(measure=measure), int(levels.model["n"])
    n_heads = int(passing(levels.heads).sel(measure=measure).sum())
    thought = {"thought": str(found["hub"].item()) or None} if measure == "hub" else {}
    return thought | _number(found["excess"], n) | {"p": _finite(float(found["p"])), "n_heads": n_heads, "null": null}


def _hub_heads(hubs: xr.Dataset) -> dict[str, object]:
    return {"n_heads": int((hubs["p_corrected"] < LEVEL).sum()), "of": hubs["p"].size, "least": LEAST}


def _trust(ranking: xr.Dataset) -> dict[str, object]:
    names = ("reliability", "top_overlap", "top_overlap_by_chance")
    return {name: _finite(float(ranking[name])) for name in names} | {"unreliable": unreliable(ranking)}


def _strongest(ranking: xr.Dataset, measure: str, n_heads: int = 3) -> list[dict[str, object]]:
    """Heads by thought mass · (preference − 1), what they give beyond an even split; undefined ones are left out."""
    values = ranking[[measure, "thought_mass"]].sel(value="estimate", drop=True)
    excess = values["thought_mass"] * (values[measure] - 1.0)
    table = excess.to_dataframe("excess").assign(preference=values[measure].values).dropna()
    first = table.sort_values("excess", ascending=False, kind="stable").head(n_heads)
    return [{"name": str(r["name"]), "preference": r["preference"], "excess": r["excess"]} for _, r in first.iterrows()]


def _number(value: xr.DataArray, n: int) -> dict[str, object]:
    return {str(name.item()): _finite(value.sel(value=name).item()) for name in value["value"]} | {"n": n}


def _finite(value: object) -> object:
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value or None if isinstance(value, str) else value


def _rows_table(rows: xr.Dataset, name: str) -> pd.DataFrame:
    return _wide(rows[name]).merge(rows["n"].to_dataframe().reset_index(), on="query")


def _preferences_table(level: xr.Dataset) -> pd.DataFrame:
    frames = []
    for measure in MEASURES:
        value = level[measure].rename({dim: "position" for dim in POSITIONS if dim in level[measure].dims})
        frame = _wide(value if "position" in value.dims else value.expand_dims(position=[""]))
        frames.append(frame.assign(measure=measure, position=frame["position"].astype(str)))
    places = [dim for dim in ("layer", "head") if dim in level.dims]
    columns = [*places, "measure", "position", *VALUES]
    return pd.concat([frame[columns] for frame in frames], ignore_index=True).assign(n=int(level["n"]))


def _heads_table(ranking: xr.Dataset) -> pd.DataFrame:
    table = ranking[["name", "layer", "head", "type", "hub", "hub_support"]].reset_coords().to_dataframe().reset_index()
    for measure in ("hub_preference", "sequential", "skip", "thought_mass", "importance"):
        for name, suffix in (("estimate", ""), ("low", "_low"), ("high", "_high")):
            table[measure + suffix] = ranking[measure].sel(value=name).values
    return table.assign(reliability=float(ranking["reliability"]), n=int(ranking["n"]))


def _hub_test_table(hubs: xr.Dataset) -> pd.DataFrame:
    table = hubs[["strength", "p", "p_corrected"]].to_dataframe().reset_index()
    return table.rename(columns={name: f"hub_{name}" for name in ("strength", "p", "p_corrected")})


def _evidence_table(level: xr.Dataset) -> pd.DataFrame:
    table = _wide(level["excess"])
    places = [dim for dim in ("layer", "head") if dim in level.dims]
    tests = level[["p", "q", "p_familywise"]].assign(thought=level["hub"].where(level["measure"] == "hub", ""))
    table = table.merge(tests.to_dataframe().reset_index(), on=[*places, "measure"])
    columns = [*places, "measure", "thought", *VALUES, "p", "q", "p_familywise"]
    return table[columns].assign(n=int(level["n"]))


def _wide(value: xr.DataArray) -> pd.DataFrame:
    """Estimate, low and high as columns."""
    return value.reset_coords(drop=True).to_dataset(dim="value").to_dataframe().reset_index()
