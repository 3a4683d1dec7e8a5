"""A run and the effects of its cuts become what people open: a table and a verdict.

    RUN/analysis/effects.zarr          what every cut did to every problem (written by whoever made the cuts)
    RUN/analysis/effects.csv           a row a cut or control: effects with intervals, tests, place among controls
    RUN/analysis/effects_summary.json  the headline: what costs most, and whether looking predicted cutting

Everything here but the first can be made again; nothing here measures anything.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import xarray as xr

from thoughtlens.analysis import curves
from thoughtlens.analysis.addresses import families
from thoughtlens.analysis.blocks import Blocks
from thoughtlens.analysis.effects import (
    DAMAGE_SIGN,
    OUTCOMES,
    TESTED,
    as_damage,
    effects_table,
    paired_differences,
    summarise,
)
from thoughtlens.analysis.importance import EDGES, HEADS, RAW, THOUGHTS, Looks, look
from thoughtlens.analysis.statistics import resample_weights
from thoughtlens.analysis.transplants import transplant_table
from thoughtlens.analysis.verdict import ALPHA, readings, resampled_means, verdict
from thoughtlens.effects_schema import EFFECTS_STORE, check_effects
from thoughtlens.errors import RunError
from thoughtlens.files import replacing, write_json, writing
from thoughtlens.order_labels import RANDOM, orders_in
from thoughtlens.runs.reading import ANALYSIS, Run

TOP: Final = 10
"""Cuts that the headline names."""
FEWEST_UNITS: Final = 3
"""Heads, thoughts or edges that can be in an order at all."""
RANKED_BY: Final = "gold_logprob"
"""The outcome that the verdict and the figures go by: finer than accuracy, on the same problems."""


class Study(NamedTuple):
    """What `study` returns."""

    effects: xr.Dataset
    """what every cut did to every problem"""
    summary: xr.Dataset
    """as `analysis.effects.summarise` gives it"""
    families: dict[str, dict[str, str]]
    """cuts of single heads, thoughts and edges: label by unit"""
    importances: dict[str, dict[str, xr.DataArray]]
    """by family and kind of attention, dims (resample, unit)"""
    verdicts: dict[str, xr.Dataset]
    """by family of three units or more, as `analysis.verdict.verdict` gives it"""
    attention: xr.DataArray
    """mean attention over problems, layers and heads, dims (query, key)"""


def open_effects(run: Run) -> xr.Dataset:
    """The effects of a run's cuts, in memory; one sentence if none were made."""
    path = run.path / ANALYSIS / EFFECTS_STORE
    if not path.is_dir():
        raise RunError(
            f"{run.path} has no {ANALYSIS}/{EFFECTS_STORE}; make cuts first: thoughtlens intervene {run.path}."
        )
    effects: xr.Dataset = xr.open_zarr(path, consolidated=False).load()
    return check_effects(effects)


def study(
    run: Run,
    effects: xr.Dataset | None = None,
    *,
    others: Mapping[str, Blocks] | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Study:
    """Summarise the effects of a run's cuts, and set them beside its attention on the same problems.

    Args:
        run: the run whose attention is looked at.
        effects: of cuts made on some of its problems; those of the run's folder if None.
        others: other kinds of attention of this run, by name, such as value-weighted, block by block.
        n_resamples: bootstrap resamples of the problems, the same for attention and effects.
        seed: same seed, same numbers.
    """
    effects = open_effects(run) if effects is None else effects
    found = families(effects)
    weights = resample_weights(effects.sizes["problem"], n_resamples=n_resamples, seed=seed)
    problems = [str(name) for name in effects["problem"].values]
    looked = {
        how: look(blocks, problems, how=how) for how, blocks in ({RAW: run.blocks()} | dict(others or {})).items()
    }
    kinds = {kind: _kinds_of_attention(looked.values(), kind) for kind in (HEADS, THOUGHTS, EDGES)}
    importances = {
        name: {how: resampled_means(values, weights) for how, values in kinds[kind_of(name)].items()}
        for name, cuts in found.items()
        if len(cuts) >= FEWEST_UNITS
    }
    damages = DAMAGE_SIGN[RANKED_BY] * paired_differences(effects)[RANKED_BY]
    verdicts = {name: verdict(its, _of_units(damages, found[name]), weights) for name, its in importances.items()}
    summary = summarise(effects, n_resamples=n_resamples, seed=seed)
    return Study(effects, summary, found, importances, verdicts, looked[RAW].mean)


def write_study(run: Run, done: Study) -> list[Path]:
    """Write `effects.csv` and `effects_summary.json`; return their paths."""
    with writing(run.path / ANALYSIS) as folder:
        with replacing(folder / "effects.csv") as file:
            effects_table(done.summary).to_csv(file, index=False)
        write_json(folder / "effects_summary.json", study_headline(run, done))
        return [folder / "effects.csv", folder / "effects_summary.json"]


def study_headline(run: Run, done: Study) -> dict[str, Any]:
    """What a closing table shows, ready for JSON (undefined is None).

    Returns:
        `model`, `problems`, `n` (problems cut), `confidence`, `baseline` (accuracy, gold_logprob), `n_cuts`,
        `n_controls`, `n_orders` (cuts made one after the other), `n_failed` (pairs), `detectable` (the median of the
        cuts' smallest detectable effects), `n_significant` after Holm, `top` (the most damaging cuts by
        log-probability), `verdict` (by family, a row a kind of attention, with its sentence), `orders`, how orders of
        cuts compare with random ones, and `transplants`, whose answer is given with another problem's thoughts.
    """
    options, summary = run.manifest["options"], done.summary
    cuts = summary.isel(intervention=np.flatnonzero((summary["kind"] == "cut").values))
    return {
        "model": options["model"],
        "problems": options["problems"],
        "n": int(summary["n_problems"]),
        "confidence": summary.attrs["confidence"],
        "baseline": {name: _number(summary[f"baseline_{name}"]) for name in TESTED},
        "n_cuts": cuts.sizes["intervention"],
        "n_controls": int((summary["kind"] == "control").sum()),
        "n_orders": int((summary["kind"] == "order").sum()),
        "n_failed": int(summary["n_failed"].sum()),
        "detectable": {name: _finite(cuts["mde"].sel(outcome=name).median().item()) for name in TESTED},
        "n_significant": {name: int((cuts["p_holm"].sel(outcome=name) < ALPHA).sum()) for name in TESTED},
        "top": _top(cuts),
        "verdict": {name: _verdict_rows(done, name) for name in done.verdicts},
        "orders": _orders(summary),
        "transplants": _transplant_rows(done.effects),
    }


def kind_of(family: str) -> str:
    """Heads, thoughts or edges, of a family such as `heads, zero`."""
    return family.split(",")[0]


def _kinds_of_attention(looks: Iterable[Looks], kind: str) -> dict[str, xr.DataArray]:
    return {how: values for its in looks for how, values in its.importances[kind].items()}


def _of_units(damages: xr.DataArray, cuts: dict[str, str]) -> xr.DataArray:
    """Damage by problem of a family's cuts, dims (problem, unit)."""
    chosen = damages.sel(intervention=list(cuts.values())).drop_vars(["kind", "spec"]).rename(intervention="unit")
    return chosen.assign_coords(unit=np.array(list(cuts), dtype=np.dtypes.StringDType())).transpose("problem", "unit")


def _top(cuts: xr.Dataset) -> list[dict[str, Any]]:
    damage = as_damage(cuts[RANKED_BY], RANKED_BY).sel(value="estimate").values
    order = np.argsort(np.where(np.isnan(damage), np.inf, -damage), kind="stable")[:TOP]
    return [_cut(cuts.isel(intervention=place)) for place in order]


def _cut(cut: xr.Dataset) -> dict[str, Any]:
    counts = {name: int(cut[name]) for name in ("n", "n_failed", "n_broken", "n_mended", "n_controls")}
    ps = {name: {o: _finite(cut[name].sel(outcome=o).item()) for o in TESTED} for name in ("p_holm", "p_controls")}
    return {"cut": str(cut["intervention"].item()), **counts, **{o: _number(cut[o]) for o in OUTCOMES}, **ps}


def _verdict_rows(done: Study, family: str) -> list[dict[str, Any]]:
    table, unit = done.verdicts[family], kind_of(family)
    p = done.summary["p_holm"].sel(outcome=RANKED_BY, intervention=list(done.families[family].values()))
    n_significant = int((p < ALPHA).sum())
    said = readings(table, unit=unit)
    if not n_significant:
        nothing = (
            f"no cut of {unit} is shown to cost anything (Holm over the plan, n = {int(table['n'])}): "
            "there is no effect that attention could be seen to predict"
        )
        said = dict.fromkeys(said, nothing)
    return [
        {
            "attention": str(how),
            "rho": _number(row["rho"]),
            "p": _finite(row["p"].item()),
            "precision": _number(row["precision"]),
            "chance": _finite(row["chance"].item()),
            "k": int(row["k"]),
            "n_units": int(row["n_units"]),
            "reliability": _finite(row["reliability"].item()),
            "n": int(table["n"]),
            "n_significant": n_significant,
            "reading": said[str(how)],
        }
        for how in table["attention"].values
        for row in [table.sel(attention=how)]
    ]


def curve_of(summary: xr.Dataset) -> xr.Dataset | None:
    """The curves of the orders among the cuts, if there are any."""
    orders = orders_in(str(label) for label in summary["intervention"].values)
    named = {name: labels for name, labels in orders.items() if not name.startswith(RANDOM)}
    chance = {name: labels for name, labels in orders.items() if name.startswith(RANDOM)}
    lengths = {len(labels) for labels in orders.values()}
    return curves.ablation_curve(summary, named, chance) if named and len(lengths) == 1 else None


def _orders(summary: xr.Dataset) -> list[dict[str, Any]]:
    curve = curve_of(summary)
    if curve is None:
        return []
    return [
        {
            "order": str(name),
            "n_random": int(curve["n_random"]),
            "area": {o: _finite(curve["area"].sel(order=name, outcome=o).item()) for o in OUTCOMES},
            "p": {o: _finite(curve["p"].sel(order=name, outcome=o).item()) for o in OUTCOMES},
        }
        for name in curve["order"].values
    ]


def _transplant_rows(effects: xr.Dataset) -> list[dict[str, Any]]:
    table = transplant_table(effects)
    if table is None:
        return []
    return [
        {
            "cut": str(row["intervention"].item()),
            "n": int(row["n"]),
            "n_left_out": int(row["n_left_out"]),
            "p": _finite(row["p"].item()),
            **{str(answer): _number(row["share"].sel(answer=answer)) for answer in row["answer"].values},
        }
        for place in range(table.sizes["intervention"])
        for row in [table.isel(intervention=place)]
    ]


def _number(value: xr.DataArray) -> dict[str, float | None]:
    return {str(name): _finite(value.sel(value=name).item()) for name in value["value"].values}


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None
