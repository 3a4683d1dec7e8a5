"""Studies of cuts, summarised: what each cut costs, whether attention predicted it, and tables and figures of both.

in: a run and the effects of its cuts; out: a `Study`, and in its folder

    RUN/studies/NAME/effects.csv           a row a cut or control: effects with intervals, tests, place among controls
    RUN/studies/NAME/effects_summary.json  the headline: what costs most, and whether attention predicted cutting
    RUN/studies/NAME/figures/              those that its cuts give, as PNG, SVG and PDF

All of it can be made again from `effects.zarr` beside it; nothing here measures anything.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import xarray as xr

from thoughtlens import plots
from thoughtlens.analysis.attention_against_effects import FEWEST_JUDGED, RAW, judge, judged_together, look, readings
from thoughtlens.analysis.effects import (
    ALPHA,
    LOGPROBS,
    MARGIN,
    MARGINS,
    OF_PREFIX,
    OUTCOMES,
    RANKED_BY,
    SPLIT,
    TESTED,
    WORSE,
    Study,
    doses,
    effects_table,
    exploratory,
    families,
    paired_differences,
    summarise,
)
from thoughtlens.analysis.effects_by_design import curve_of, recovered, transplant_table, variant_effects
from thoughtlens.analysis.headlines_and_tables import as_number
from thoughtlens.analysis.significance import FEWEST_CARRYING
from thoughtlens.analysis.streamed_attention import VALUES, Blocks, patterned
from thoughtlens.cuts.study import read_manifest
from thoughtlens.errors import RunError
from thoughtlens.files import Json, call_of, check_not_written, check_seal, only_writer, write_json, write_table
from thoughtlens.notation import EDGES, HEADS, KV_GROUPS, THOUGHTS, head_place
from thoughtlens.reports.run_files import EFFECTS_SUMMARY, FIGURES, save_figures
from thoughtlens.runs.reader import STUDIES, Run
from thoughtlens.runs.writer import MANIFEST, made_by
from thoughtlens.schema import EFFECTS_STORE, VALUE_WEIGHTED, check_effects

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMED: Final = 5
"""Cuts that a warning names."""
TOP: Final = 10
"""Cuts that the headline names."""
FEWEST_UNITS: Final = 3
"""Heads, thoughts or edges that can be in an order at all."""


def open_effects(run: Run, name: str | None = None) -> xr.Dataset:
    """The effects Dataset of a study, in memory.

    Args:
        run: the run that was cut.
        name: of the study; may be left out where the run has one.

    Returns:
        The effects Dataset (`thoughtlens.schema`), dims (intervention, problem).

    Raises:
        RunError: there is no such study, or it is not finished, or another process writes it.

    Example:
        How many problems does each cut break?

            effects = open_effects(run, "first")
            (~effects.correct).sum("problem")
    """
    there = sorted(path.parent.name for path in (run.path / STUDIES).glob(f"*/{EFFECTS_STORE}"))
    if name is None and len(there) > 1:
        raise RunError(f"{run.path} has the studies {', '.join(there)}, expected one; name which.")
    if not there or name not in (None, *there):
        asked = "finished study" if name is None else f"finished study {name!r}"
        raise RunError(
            f"{run.path} has no {asked}, found {', '.join(there) or 'none'}; make cuts first: "
            f"thoughtlens intervene {run.path}."
        )
    store = run.path / STUDIES / (name or there[0]) / EFFECTS_STORE
    check_not_written(store.parent)
    check_seal(store, remedy="delete it, and run the same `thoughtlens intervene` again")
    # What the store says of its chunks would be copied with every number that is made of them.
    effects: xr.Dataset = xr.open_zarr(store, consolidated=False).load().drop_encoding()
    return check_effects(effects)


def study(
    run: Run,
    effects: xr.Dataset | str | None = None,
    *,
    others: Mapping[str, Blocks] | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Study:
    """Summarise the effects of a run's cuts, and set them beside its attention on the same problems.

    Args:
        run: the run that was cut.
        effects: as `intervene` gives them, or the name of a study; the run's only study if None.
        others: other kinds of attention of this run, by name, piece by piece; those that the run holds
            (value-weighted) if None.
        n_resamples: bootstrap resamples of the problems.
        seed: same seed, same numbers.

    Returns:
        The `Study`: effects, their summary, families of cuts, importance by attention, and verdicts.

    Raises:
        RunError: there is no such study, or the run lacks some of the problems that were cut.

    Example:
        What does each cut cost, in log-probability of the gold answer?

            done = study(run, intervene(run, plan))
            done.summary.joint_logprob
    """
    effects = effects if isinstance(effects, xr.Dataset) else open_effects(run, effects)
    found = families(effects)
    problems = [str(name) for name in effects["problem"].values]
    held = {VALUES: patterned(run, VALUES)} if VALUE_WEIGHTED in run.attention else {}
    attentions = {RAW: run.blocks()} | dict(held if others is None else others)
    looked = {how: look(blocks, problems, how=how) for how, blocks in attentions.items()}
    kinds = {
        kind: {how: values for importances, _ in looked.values() for how, values in importances[kind].items()}
        for kind in (HEADS, THOUGHTS, EDGES)
    }
    importances = {
        name: {how: values.mean("problem") for how, values in kinds[kind_of(name)].items()}
        for name, cuts in found.items()
        if len(cuts) >= FEWEST_UNITS
    }
    differences = paired_differences(effects)[RANKED_BY]
    verdicts = {
        name: judge(its, _of_units(differences, found[name]), margin=float(effects.attrs.get("margin", MARGIN)))
        for name, its in importances.items()
        if len(found[name]) >= FEWEST_JUDGED
    }
    every = [head_place(str(unit)) for unit in kinds[HEADS][RAW]["unit"].values]
    shape = {
        f"n_{name}": 1 + max(place) for name, place in zip(("layers", "heads"), zip(*every, strict=True), strict=True)
    }
    summary = summarise(effects, n_resamples=n_resamples, seed=seed).assign_attrs(shape)
    return Study(effects, summary, found, importances, judged_together(verdicts), looked[RAW][1])


def write_study(run: Run, done: Study, *, figures: bool = True) -> dict[str, Any]:
    """Write the tables of a study into its folder, `RUN/studies/NAME/`, and draw its figures there.

    Args:
        run: the run that was cut.
        done: of it; its effects say the study's name.
        figures: whether they are drawn.

    Returns:
        The facts of `study_headline`, and `files`: what was written.

    Raises:
        RunError: the folder can't be written.

    Example:
        Which cut costs most?

            write_study(run, study(run, "first"))["top"][0]
    """
    facts = study_headline(run, done)
    table = _table(done, facts["variants"], facts["restored"])
    with only_writer(run.path / STUDIES / facts["study"]) as folder:
        written = [write_table(folder / "effects.csv", table), folder / EFFECTS_SUMMARY]
        write_json(written[-1], facts)
        if figures:
            # Figures of an earlier plan do not belong to this one.
            for old in (path for kind in ("png", "svg", "pdf") for path in folder.glob(f"{FIGURES}/*.{kind}")):
                old.unlink()
            written += save_figures(folder / FIGURES, study_figures(done), facts["made_by"])
    return facts | {"files": [str(path) for path in written]}


def study_table(done: Study) -> pd.DataFrame:
    """The table of a study, a row a cut, variant, control or step of an order, as `effects.csv` has it.

    Args:
        done: the study.

    Returns:
        `study` and `edit` (what takes the place of what is cut), then the columns of `analysis.effects_table` with
        `exploratory`, the variants of each cut (`joint_logprob_direct`, …) and what a restored unit brings back
        (`recovered`), each with its interval. The page on the run folder lists all columns with unit and range.

    Example:
        The cuts that lose most.

            study_table(study(run)).query("kind == 'cut'").nsmallest(5, "joint_logprob")
    """
    return _table(done, _variant_rows(done), _restored_rows(done))


def _table(done: Study, variants: Sequence[Json], restored: Sequence[Json]) -> pd.DataFrame:
    """`study_table`, of the variants and restorations of `study_headline`."""
    table = _with_variants(effects_table(done.summary), variants, restored)
    of_rows = {"intervention": table["intervention"].to_list()}
    table.insert(2, "exploratory", exploratory(done.effects).sel(of_rows).values)
    table.insert(0, "study", str(done.effects.attrs.get("study", "unnamed")))
    table.insert(1, "edit", done.effects["edit"].sel(of_rows).values.astype(object))
    return table


def study_headline(run: Run, done: Study) -> dict[str, Any]:
    """The headline numbers of a study, ready for JSON (what is undefined is None).

    Args:
        run: the run that was cut.
        done: of it.

    Returns:
        `study` (its name), `model`, `problems`, `n` (problems cut), `confidence`, `baseline` (its outcomes),
        `n_cuts`, `n_controls`, `n_orders` (steps of orders), `n_exploratory` (of all these, those added after the study
        had begun), `n_failed` (pairs), `margin` and `accuracy_margin`, `detectable` (the smallest effect that would be
        found of any cut, that is for the worst one, corrected for the plan), `warnings` (sentences),
        `n_significant` after Holm, `top` (ten cuts that lose most log-probability, of each kind some), `verdict` (by
        family, a row a kind of attention, with its sentence), `orders`, how orders of cuts compare with random ones,
        `transplants`, whose answer is given with another problem's thoughts, and `made_by`.

    Example:
        How many cuts are significant by accuracy?

            study_headline(run, study(run, "first"))["n_significant"]["accuracy"]
    """
    options, summary = run.manifest["options"], done.summary
    cuts = summary.isel(intervention=np.flatnonzero((summary["kind"] == "cut").values))
    return {
        "study": str(done.effects.attrs.get("study", "unnamed")),
        "model": options["model"],
        "problems": options["problems"],
        "n": int(summary["n_problems"]),
        "confidence": summary.attrs["confidence"],
        "baseline": {
            name: as_number(summary[f"baseline_{name}"])
            for name in (*TESTED, "said_prefix")
            if f"baseline_{name}" in summary
        },
        "n_cuts": cuts.sizes["intervention"],
        "n_controls": int((summary["kind"] == "control").sum()),
        "n_orders": int((summary["kind"] == "order").sum()),
        "n_exploratory": int(exploratory(done.effects).sum()),
        "n_failed": int(summary["n_failed"].sum()),
        **{name: float(done.effects.attrs.get(name, usual)) for name, usual in MARGINS.items()},
        "detectable": {name: _finite(cuts["mde"].sel(outcome=name).max(skipna=False).item()) for name in TESTED},
        "warnings": warnings_of(cuts, done.effects),
        "n_significant": {name: int((cuts["p_holm"].sel(outcome=name) < ALPHA).sum()) for name in TESTED},
        "top": _top(cuts),
        "verdict": {name: _verdict_rows(done, name) for name in done.verdicts},
        "orders": _orders(summary),
        "transplants": _transplant_rows(done.effects),
        "variants": _variant_rows(done),
        "restored": _restored_rows(done),
        "holdout": done.effects.attrs.get("holdout"),
        "donor_rule": str(done.effects.attrs.get("donor_rule", "")),
        "made_by": _made_by(run, str(done.effects.attrs.get("study", "unnamed"))),
    }


def _made_by(run: Run, name: str) -> Json:
    """By which call and with which seed a study was made, as its manifest has it, and from what."""
    folder = run.path / STUDIES / name
    if not (folder / MANIFEST).is_file():  # effects that were never in a folder
        return made_by(call_of("study", study=name), run.manifest)
    found = read_manifest(folder)
    return made_by(found.plans[-1].call, run.manifest, seed=found.seed["plan"])


def _variant_rows(done: Study) -> list[dict[str, Any]]:
    """A row a cut that has variants; each of these the effect on the log-probability that ranks cuts."""
    found = variant_effects(done.effects, n_resamples=done.summary.attrs["n_resamples"])
    if found is None:
        return []
    rows = (found.isel(intervention=place) for place in range(found.sizes["intervention"]))
    return [
        {
            "cut": str(row["intervention"].item()),
            "effects": {str(name): as_number(row.sel(variant=name)) for name in row["variant"].values},
        }
        for row in rows
    ]


def _restored_rows(done: Study) -> list[dict[str, Any]]:
    """A row a unit that was put back; its share is None where corruption costs no more than the margin."""
    margin = float(done.effects.attrs.get("margin", MARGIN))
    found = recovered(done.effects, margin=margin, n_resamples=done.summary.attrs["n_resamples"])
    if found is None:
        return []
    rows = (found.isel(intervention=place) for place in range(found.sizes["intervention"]))
    return [
        {
            "unit": str(row["unit"].item()),
            "family": str(row["family"].item()),
            "share": as_number(row["share"]),
            "loss": float(row["loss"]),
            "n": int(row["n"]),
        }
        for row in rows
    ]


def _with_variants(table: pd.DataFrame, variants: Sequence[Json], restored: Sequence[Json]) -> pd.DataFrame:
    """The table of effects with the variants of each cut as further columns, and what restorations recover."""
    columns: dict[str, dict[str, float | None]] = {}
    rows = [(row["cut"], f"{RANKED_BY}_{name}", of) for row in variants for name, of in row["effects"].items()]
    rows += [(f"{row['unit']} restored", "recovered", row["share"]) for row in restored]
    for label, name, of in rows:
        for value, suffix in (("estimate", ""), ("low", "_low"), ("high", "_high")):
            if not name.endswith("_total"):
                columns.setdefault(name + suffix, {})[label] = of[value]
    return table.assign(**{name: table["intervention"].map(values) for name, values in columns.items()})


def kind_of(family: str) -> str:
    """Heads, thoughts or edges, of a family such as `heads, zero`."""
    return family.split(",")[0]


def _of_units(differences: xr.DataArray, cuts: dict[str, str]) -> xr.DataArray:
    """Effects by problem of a family's cuts, dims (problem, unit)."""
    chosen = differences.sel(intervention=list(cuts.values())).reset_coords(drop=True).rename(intervention="unit")
    return chosen.assign_coords(unit=np.array(list(cuts), dtype=np.dtypes.StringDType())).transpose("problem", "unit")


def _top(cuts: xr.Dataset) -> list[dict[str, Any]]:
    """The costliest cuts, worst first; of each kind of cut some, so that one kind does not hide the others."""
    loss = WORSE[RANKED_BY] * cuts[RANKED_BY].sel(value="estimate").values
    worst = np.argsort(np.where(np.isnan(loss), np.inf, -loss), kind="stable").tolist()
    kinds = [str(kind) for kind in cuts["family"].values[worst]]
    of_kind = [kinds[:place].count(kind) for place, kind in enumerate(kinds)]
    share = TOP // max(len(set(kinds)), 1)
    first = sorted(range(len(worst)), key=lambda place: (of_kind[place] >= share, place))[:TOP]
    return [_cut(cuts.isel(intervention=worst[place])) for place in sorted(first)]


def _cut(cut: xr.Dataset) -> dict[str, Any]:
    counts = {name: int(cut[name]) for name in ("n", "n_failed", "n_broken", "n_mended", "n_controls")}
    names = ("p_holm", "p_controls", "effective_n")
    ps = {name: {o: _finite(cut[name].values[OUTCOMES.index(o)]) for o in TESTED} for name in names}
    effects = {o: as_number(cut[o]) for o in (*OUTCOMES, *OF_PREFIX) if o in cut}
    split = {name: _finite(cut[name].item()) for name in SPLIT if name in cut}
    shown = {o: shown_of(cut, o) for o in TESTED}
    return {"cut": str(cut["intervention"].item()), **counts, **effects, **split, **ps, "shown": shown}


def shown_of(cut: xr.Dataset, outcome: str) -> str:
    """What is shown of a cut's effect on an outcome, after Holm; absence of evidence is "not shown"."""
    none, p = (cut[name].values[OUTCOMES.index(outcome)] for name in ("no_effect", "p_holm"))
    if p < ALPHA:
        word = "a loss" if WORSE[outcome] * cut[outcome].values[0] > 0 else "a gain"
        return f"{word} below the margin" if none else word
    return "no effect" if none else "not shown"


def warnings_of(cuts: xr.Dataset, effects: xr.Dataset) -> list[str]:
    """What a reader of the cuts' numbers must know, a sentence each."""
    margin, found = float(effects.attrs.get("margin", MARGIN)), []
    if "prefix_logprob" in cuts:
        joint, gold = (cuts[name].sel(value="estimate", drop=True) for name in LOGPROBS)
        significant = (cuts["p_holm"].sel(outcome=list(LOGPROBS)) < ALPHA).any("outcome")
        hidden = (abs(joint - gold) > margin) | (significant & (np.sign(joint) * np.sign(gold) < 0))
        if names := _named(cuts, hidden):
            found.append(
                f"the log-probability of the answer behind the forced prefix does not tell what these cuts do, since "
                f"they change whether the prefix is said: {names}; look at that of prefix and answer, and at accuracy"
            )
    few = (cuts["effective_n"].sel(outcome=RANKED_BY) < FEWEST_CARRYING) & (abs(cuts[RANKED_BY][:, 0]) > 0)
    if names := _named(cuts, few):
        found.append(
            f"a handful of problems (fewer than {FEWEST_CARRYING}) carries the mean effect on log-probability of these "
            f"cuts, whose intervals may be too short: {names}; cut more problems"
        )
    return found


def _named(cuts: xr.Dataset, which: xr.DataArray) -> str:
    """The labels of some cuts, the first few of them by name."""
    labels = [str(label) for label in cuts["intervention"].values[which.values]]
    more = f" and {len(labels) - NAMED} more" if len(labels) > NAMED else ""
    return ", ".join(labels[:NAMED]) + more


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
            **{name: _finite(row[name].item()) for name in ("rho", "p", "p_holm", "precision", "chance")},
            **{name: int(row[name]) for name in ("k", "n_units", "n_above")},
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
            **{str(answer): as_number(row["share"].sel(answer=answer)) for answer in row["answer"].values},
        }
        for place in range(table.sizes["intervention"])
        for row in [table.isel(intervention=place)]
    ]


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None


def study_figures(done: Study) -> dict[str, "Figure"]:
    """The figures that the cuts of a study give, by the name of their file."""
    drawn = {"effect_forest": plots.effect_forest(done)}
    for name in done.families:
        kind, stem = kind_of(name), name.replace(", ", "_").replace(" ", "-")
        for how in done.importances.get(name, {}):
            figure = plots.attention_against_effect(done, family=name, attention=how)
            drawn[f"attention_against_effect_{stem}_{how.replace(' ', '-')}"] = figure
        if kind == HEADS:
            drawn[f"effect_map_{stem}"] = plots.effect_map(done, family=name)
        if kind == EDGES:
            drawn[f"influence_maps_{stem}"] = plots.influence_maps(done, family=name)
    if (done.summary["family"] == KV_GROUPS).any():
        drawn["effect_map_kv_groups"] = plots.effect_map(done, family=KV_GROUPS)
    if curve_of(done.summary) is not None:
        drawn["ablation_curve"] = plots.ablation_curve(done)
    if transplant_table(done.effects) is not None:
        drawn["transplants"] = plots.transplant_bars(done)
    if doses(done.summary):
        drawn["dose_response"] = plots.dose_response(done)
    return drawn
