"""Labelled data in, Axes out: figure functions that draw and compute nothing.

Each is `(data, *, ax=None) -> Axes`; without `ax` it draws on a Figure of its own, without pyplot or a display.
"""

from thoughtlens.plots.comparison import model_comparison
from thoughtlens.plots.composition import composition_by_layer, head_counts, row_composition
from thoughtlens.plots.heads import head_map, head_ranking, metric_distributions
from thoughtlens.plots.maps import head_maps, layer_means
from thoughtlens.plots.profiles import depth_profile, hub_profile, lag_profile, skip_profile
from thoughtlens.plots.question import question_tokens
from thoughtlens.plots.style import save_figure

__all__ = [
    "composition_by_layer",
    "depth_profile",
    "head_counts",
    "head_map",
    "head_maps",
    "head_ranking",
    "hub_profile",
    "lag_profile",
    "layer_means",
    "metric_distributions",
    "model_comparison",
    "question_tokens",
    "row_composition",
    "save_figure",
    "skip_profile",
]
