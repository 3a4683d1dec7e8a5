"""Turn shares or counts into stacked bars with their values: the one mechanism of all such bars."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from thoughtlens.plots.style import BLACK, CHARACTER, LINE, TICK_SIZE, ink_on, size_of

BAR = 0.84
"""Height of a bar over the distance of rows."""


def draw_stacks(
    ax: Axes, shares: xr.DataArray, colours: Mapping[str, str], total: float, write: Callable[[float], str]
) -> None:
    """A bar a row, from the top, in coloured parts end to end.

    Args:
        ax: where to draw; its limits become those of the bars.
        shares: dims (part, row), by whatever names.
        colours: of each part; black for one that is not in it.
        total: where the x-axis ends.
        write: the text of a value, printed where its part has room for it.
    """
    ax.set_xlim(0.0, total)
    ax.set_ylim(shares.shape[1] - 0.5, -0.5)
    part_dim = str(shares.dims[0])
    starts = shares.cumsum(part_dim) - shares
    for part, start in zip(shares, starts, strict=True):
        colour = colours.get(str(part[part_dim].item()), BLACK)
        _draw_part(ax, part.fillna(0.0).values, start.fillna(0.0).values, colour, write)


def _draw_part(ax: Axes, part: np.ndarray, start: np.ndarray, colour: str, write: Callable[[float], str]) -> None:
    ax.barh(np.arange(len(part)), part, left=start, height=BAR, color=colour, linewidth=0)
    width, height = size_of(ax)
    if BAR * height / len(part) < LINE * TICK_SIZE:
        return
    words: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": TICK_SIZE, "color": ink_on(to_rgba(colour))}
    for row, (share, left) in enumerate(zip(part, start, strict=True)):
        text = write(float(share))
        if share > 0 and share / ax.get_xlim()[1] * width >= (len(text) + 1) * CHARACTER * TICK_SIZE:
            ax.text(left + share / 2, row, text, parse_math=False, **words)
