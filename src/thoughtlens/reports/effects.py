"""A run and the effects of its cuts become what people open: a table and a verdict.

    RUN/analysis/effects.zarr          what every cut did to every problem (written by whoever made the cuts)
    RUN/analysis/effects.csv           a row a cut or control: effects with intervals, tests, place among controls
    RUN/analysis/effects_summary.json  the headline: what costs most, and whether looking predicted cutting

Everything here but the first can be made again; nothing here measures anything.

The heads of a run become an order: by attention, by what attention moves, or by what cutting them costs.

An order is only names; what it is worth, `studies` says. By cause it is made from effects on the same problems that it
is later tested on, so that chance in them favours it.

A study of cuts becomes its figures, in `RUN/figures/effects/`, as PNG and SVG: those that its cuts give.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr

from thoughtlens import schema
from thoughtlens.analysis import curves
from thoughtlens.analysis.curves import curve_of, influence, transplant_table
from thoughtlens.analysis.effects import (
    DAMAGE_SIGN,
    OUTCOMES,
    TESTED,
    Study,
    as_damage,
    doses,
    effects_table,
    families,
    paired_differences,
    summarise,
)
from thoughtlens.analysis.importance import RAW, Looks, look
from thoughtlens.analysis.pieces import Blocks
from thoughtlens.analysis.statistics import resample_weights
from thoughtlens.analysis.verdict import ALPHA, judge, readings, resampled_means
from thoughtlens.errors import OptionError, RunError
from thoughtlens.files import replacing, write_json, writing
from thoughtlens.names import EDGES, HEADS, THOUGHTS
from thoughtlens.plots import effects as effect_panels
from thoughtlens.reports.run import FIGURES, VALUES, WEIGHTS, pattern_blocks
from thoughtlens.runs.folder import ANALYSIS, Run
from thoughtlens.schema import EFFECTS_STORE, check_effects

TOP: Final = 10
"""Cuts that the headline names."""
FEWEST_UNITS: Final = 3
"""Heads, thoughts or edges that can be in an order at all."""
RANKED_BY: Final = "gold_logprob"
"""The outcome that the verdict and the figures go by: finer than accuracy, on the same problems."""


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
    verdicts = {name: judge(its, _of_units(damages, found[name]), weights) for name, its in importances.items()}
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
    chosen = damages.sel(intervention=list(cuts.values())).reset_coords(drop=True).rename(intervention="unit")
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


CAUSE: Final = "cause"
RANKINGS: Final = (WEIGHTS, VALUES, CAUSE)
_OUTCOME: Final = "gold_logprob"


def other_attention(run: Run) -> dict[str, Blocks]:
    """Kinds of attention that a run holds beside the weights, by name, block by block."""
    return {VALUES: pattern_blocks(run, VALUES)} if schema.VALUE_WEIGHTED in run.attention else {}


def check_ranking(run: Run, by: str) -> None:
    """Raise `OptionError` unless heads can be ranked so."""
    if by not in RANKINGS:
        raise OptionError(f"no ranking of heads by {by!r}, expected {', '.join(RANKINGS)}; pass another --order.")
    if by == VALUES and schema.VALUE_WEIGHTED not in run.attention:
        raise OptionError(f"{run.path} holds no values to rank heads by; extract it with --record values.")


def heads_by_attention(run: Run, by: str, problems: Sequence[str]) -> list[str]:
    """Names of all heads, those first that give thoughts most (`analysis.importance.head_importance`).

    Args:
        run: the run.
        by: `attention` or `value-weighted`.
        problems: ids of the problems that count.
    """
    looked = look(pattern_blocks(run, by), problems, how=by).importances[HEADS][by].mean("problem")
    return _sorted(dict(zip(map(str, looked["unit"].values), looked.values.tolist(), strict=True)))


def heads_by_cause(effects: xr.Dataset) -> list[str]:
    """Names of the heads that were cut one by one, those first whose cut costs the gold answer most log-probability.

    Raises:
        OptionError: no head was cut alone.
    """
    cuts = next((its for name, its in families(effects).items() if name.split(",")[0] == HEADS), None)
    if cuts is None:
        raise OptionError("heads are ranked by cause from cuts of single heads, found none; add --heads all.")
    damage = DAMAGE_SIGN[_OUTCOME] * paired_differences(effects)[_OUTCOME].mean("problem")
    return _sorted({name: float(damage.sel(intervention=label)) for name, label in cuts.items()})


def _sorted(scores: Mapping[str, float]) -> list[str]:
    # Stable: heads that are alike keep the order of layers and heads.
    return sorted(scores, key=lambda name: -scores[name])


CUTS: Final = "effects"
"""The folder of their figures."""


def write_study_figures(run: Run, done: Study) -> list[Path]:
    """Draw the figures of a study, those that its cuts give; return their paths."""
    from thoughtlens import plots  # draws with matplotlib, which is slow to import and needed nowhere else here

    with writing(run.path / FIGURES / CUTS) as folder:
        # What an earlier plan drew is not of this one.
        for old in (*folder.glob("*.png"), *folder.glob("*.svg")):
            old.unlink()
        return [
            path
            for name, (figure, data) in study_figure_data(done).items()
            for path in plots.save_figure(getattr(plots, figure)(data), folder / name)
        ]


def study_figure_data(done: Study) -> dict[str, tuple[str, xr.Dataset]]:
    """By the name of a file, its figure function and what it draws."""
    drawn = {"effect_forest": ("effect_forest", effect_panels.effect_forest_data(done.summary))}
    for name, cuts in done.families.items():
        drawn |= _family_figures(done, name, cuts)
    curve = curve_of(done.summary)
    if curve is not None:
        drawn["ablation_curve"] = ("ablation_curve", effect_panels.ablation_curve_data(curve))
    if (given := transplant_table(done.effects)) is not None:
        drawn["transplants"] = ("transplant_bars", given)
    if graded := doses(done.summary):
        curve = curves.dose_response(done.summary, graded)
        drawn["dose_response"] = ("dose_response", effect_panels.dose_response_data(curve))
    return drawn


def _family_figures(done: Study, name: str, cuts: dict[str, str]) -> dict[str, tuple[str, xr.Dataset]]:
    """The scatter of a family against each kind of attention, and its map."""
    kind, stem = kind_of(name), name.replace(", ", "_").replace(" ", "-")
    drawn = {}
    for how, importance in done.importances.get(name, {}).items():
        row = done.verdicts[name].sel(attention=how)
        named = importance.assign_attrs(long_name=f"importance by {how} attention, {kind}")
        data = effect_panels.attention_against_effect(named, done.summary, cuts, row, outcome=RANKED_BY)
        drawn[f"attention_against_effect_{stem}_{how.replace(' ', '-')}"] = ("attention_against_effect", data)
    if kind == HEADS:
        drawn[f"effect_map_{stem}"] = ("head_map", effect_panels.effect_map(done.summary, cuts))
    if kind == EDGES:
        maps = influence(done.summary, cuts, done.attention)
        drawn[f"influence_maps_{stem}"] = ("influence_maps", effect_panels.influence_maps(maps))
    return drawn
