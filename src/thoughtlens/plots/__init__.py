"""Labelled data in, Axes out: figure functions that draw and compute nothing.

Each is `(data, *, ax=None) -> Axes`; without `ax` it draws on a Figure of its own, without pyplot or a display.
"""

from thoughtlens.plots.comparison import model_comparison
from thoughtlens.plots.composition import composition_by_layer, head_counts, row_composition
from thoughtlens.plots.effect_maps import attention_against_effect, influence_maps
from thoughtlens.plots.effects import ablation_curve, dose_response, effect_forest, transplant_bars
from thoughtlens.plots.heads import head_map, head_ranking, metric_distributions
from thoughtlens.plots.maps import head_maps, layer_means
from thoughtlens.plots.profiles import depth_profile, hub_profile, lag_profile, skip_profile
from thoughtlens.plots.question import question_tokens
from thoughtlens.plots.style import save_figure

__all__ = [
    "ablation_curve",
    "attention_against_effect",
    "composition_by_layer",
    "depth_profile",
    "dose_response",
    "effect_forest",
    "head_counts",
    "head_map",
    "head_maps",
    "head_ranking",
    "hub_profile",
    "influence_maps",
    "lag_profile",
    "layer_means",
    "metric_distributions",
    "model_comparison",
    "question_tokens",
    "row_composition",
    "save_figure",
    "skip_profile",
    "transplant_bars",
]
