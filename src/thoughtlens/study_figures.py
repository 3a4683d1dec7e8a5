"""A study of cuts becomes its figures, in `RUN/figures/effects/`, as PNG and SVG: those that its cuts give."""

from pathlib import Path
from typing import Final

import xarray as xr

from thoughtlens.analysis import curves, effect_panels
from thoughtlens.analysis.addresses import doses, edge_ends, head_places
from thoughtlens.analysis.importance import EDGES, HEADS
from thoughtlens.analysis.influence import influence
from thoughtlens.analysis.transplants import transplant_table
from thoughtlens.files import writing
from thoughtlens.outputs import FIGURES
from thoughtlens.runs.reading import Run
from thoughtlens.studies import RANKED_BY, Study, curve_of, kind_of

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
    drawn = {"effect_forest": ("effect_forest", effect_panels.effect_forest(done.summary))}
    for name, cuts in done.families.items():
        drawn |= _family_figures(done, name, cuts)
    curve = curve_of(done.summary)
    if curve is not None:
        drawn["ablation_curve"] = ("ablation_curve", effect_panels.ablation_curve(curve))
    if (given := transplant_table(done.effects)) is not None:
        drawn["transplants"] = ("transplant_bars", given)
    if graded := doses(done.summary):
        curve = curves.dose_response(done.summary, graded)
        drawn["dose_response"] = ("dose_response", effect_panels.dose_response(curve))
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
        drawn[f"effect_map_{stem}"] = ("head_map", effect_panels.effect_map(done.summary, head_places(cuts)))
    if kind == EDGES:
        maps = influence(done.summary, edge_ends(cuts), done.attention)
        drawn[f"influence_maps_{stem}"] = ("influence_maps", effect_panels.influence_maps(maps))
    return drawn
