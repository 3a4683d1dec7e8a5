"""Turn attention to the question's tokens into a heat map: which thought looks at which word?"""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from thoughtlens.plots.heat import add_colour_bar, colours_for, draw_cells
from thoughtlens.plots.style import CHARACTER, LINE, TICK_SIZE, every, new_axes, size_of
from thoughtlens.plots.text import add_title, clipped, name_axes, name_rows

LONGEST = 14
"""Characters of a token that are shown."""
CELL_WIDTH, CELL_HEIGHT = 13.0, 14.0
WIDEST = 900.0
RIGHT = 66.0
BELOW = LONGEST * CHARACTER * TICK_SIZE + 26.0


def question_tokens(data: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """How much each thought attends to each token of a question.

    Args:
        data: `attention` with dims (query, token) and `text` (token), each token's text; optionally `n`;
            the attribute `title` says more of it.
        ax: where to draw, with room for tokens below and the colour bar on its right; a new figure without.

    Returns:
        The Axes drawn on.
    """
    cells = data["attention"].transpose("query", "token")
    n_rows, n_columns = cells.shape
    if ax is None:
        width = min(WIDEST, max(220.0, CELL_WIDTH * n_columns))
        height = max(56.0, CELL_HEIGHT * n_rows)
        ax = new_axes(width, height, left=46.0, right=RIGHT, bottom=BELOW, top=30.0)
    width, height = size_of(ax)
    colours = colours_for(cells)
    draw_cells(ax, cells.values, colours, pitch=(width / n_columns, height / n_rows))
    name_rows(ax, cells["query"].values)
    _name_tokens(ax, [str(text) for text in data["text"].values])
    add_colour_bar(ax, colours, cells, (1 + 12.0 / width, 0.0, 10.0 / width, 1.0))
    title = str(data.attrs.get("title", "which words do thoughts look at?"))
    add_title(ax, title, n=int(data["n"]) if "n" in data else None, room=width + RIGHT - 8.0)
    name_axes(ax, "token of the question", "query")
    return ax


def _name_tokens(ax: Axes, texts: list[str]) -> None:
    """Tokens upright, spaces at their ends shown; thinned where they would touch."""
    shown = range(0, len(texts), every(size_of(ax)[0] / len(texts), LINE * TICK_SIZE))
    names = [clipped(_with_spaces(texts[place]), LONGEST) for place in shown]
    ax.set_xticks(np.array(shown), names, fontsize=TICK_SIZE, rotation=90, parse_math=False)


def _with_spaces(text: str) -> str:
    inner = text.strip(" ")
    if not inner:
        return "␣" * len(text)
    start = len(text) - len(text.lstrip(" "))
    return "␣" * start + inner + "␣" * (len(text) - start - len(inner))
