"""Labelled data in, Axes out: figure functions that draw and compute nothing.

Each is `(data, *, ax=None) -> Axes`; without `ax` it draws on a Figure of its own, without pyplot or a display.
"""

from thoughtlens.plots.composition import row_composition
from thoughtlens.plots.hub import hub_profile
from thoughtlens.plots.maps import head_maps, layer_means
from thoughtlens.plots.style import save_figure

__all__ = ["head_maps", "hub_profile", "layer_means", "row_composition", "save_figure"]
