"""Turn the composition of rows into stacked bars: where does each position look?"""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from thoughtlens.labels import ANSWER, BOT, EOT, FIRST, QUESTION
from thoughtlens.plots.style import (
    BLACK,
    BLUE,
    CHARACTER,
    GREEN,
    GREY,
    LABEL_SIZE,
    LINE,
    PURPLE,
    SKY,
    TICK_SIZE,
    TITLE_SIZE,
    VERMILION,
    YELLOW,
    every,
    ink_on,
    new_axes,
    size_of,
)

COLOURS = {
    FIRST: GREY,
    QUESTION: SKY,
    BOT: YELLOW,
    "earlier thoughts": VERMILION,
    "self": PURPLE,
    EOT: GREEN,
    ANSWER: BLUE,
}
ROW_PITCH = 14.0
LEGEND_HEIGHT = 96.0
BAR = 0.84
"""Height of a bar over the distance of rows."""


def row_composition(data: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Share of attention that each query gives to each part of what it sees, from the first query down.

    Args:
        data: `composition` with dims (query, part, value) and the estimate among `value`; `n` with dims (query).
        ax: where to draw, with room for the legend on its right; a new figure without.

    Returns:
        The Axes drawn on.
    """
    if ax is None:
        height = max(LEGEND_HEIGHT, ROW_PITCH * data.sizes["query"])
        ax = new_axes(330.0, height, left=84.0, right=104.0, bottom=34.0, top=24.0)
    shares = data["composition"].sel(value="estimate").transpose("part", "query")
    starts = shares.cumsum("part") - shares
    for part, start in zip(shares, starts, strict=True):
        _draw_part(ax, part, start)
    _label_rows(ax, data["n"])
    ax.set_xlim(0.0, 1.0)
    ax.set_ylim(data.sizes["query"] - 0.5, -0.5)
    ax.set_title(f"where each position looks (n = {int(data['n'].max())})", fontsize=TITLE_SIZE, loc="left")
    ax.set_xlabel("share of attention, mean over layers and heads", fontsize=LABEL_SIZE)
    _add_legend(ax)
    return ax


def _draw_part(ax: Axes, part: xr.DataArray, start: xr.DataArray) -> None:
    name = str(part["part"].item())
    colour = COLOURS.get(name, BLACK)
    rows = np.arange(part.sizes["query"])
    ax.barh(rows, part.fillna(0.0), left=start.fillna(0.0), height=BAR, color=colour, label=name, linewidth=0)
    width, height = size_of(ax)
    if BAR * height / len(rows) < LINE * TICK_SIZE:
        return
    words: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": TICK_SIZE, "color": ink_on(to_rgba(colour))}
    for row, (share, left) in enumerate(zip(part.values, start.values, strict=True)):
        if share * width >= 4 * CHARACTER * TICK_SIZE:
            ax.text(left + share / 2, row, f"{share:.2f}".removeprefix("0"), parse_math=False, **words)


def _label_rows(ax: Axes, n: xr.DataArray) -> None:
    """Name the rows; one that fewer problems have says how many."""
    labels = [
        str(query) if count == n.max() else f"{query} (n = {count})"
        for query, count in zip(n["query"].values, n.values, strict=True)
    ]
    rows = list(range(0, len(labels), every(size_of(ax)[1] / len(labels), LINE * TICK_SIZE)))
    ax.set_yticks(rows, [labels[row] for row in rows], fontsize=TICK_SIZE, parse_math=False)
    ax.tick_params(axis="x", labelsize=TICK_SIZE)
    ax.tick_params(length=2.0)


def _add_legend(ax: Axes) -> None:
    legend = ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=TICK_SIZE, frameon=False, title="looks at")
    legend.set_alignment("left")
    legend.get_title().set_fontsize(TICK_SIZE)
    for text in legend.get_texts():
        text.set_parse_math(False)
