"""Turn attention to the question's tokens into a heat map: which thought looks at which word?"""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from thoughtlens.plots.heat import add_colour_bar, colours_for, draw_cells, outline_cells
from thoughtlens.plots.style import CHARACTER, LINE, TICK_SIZE, every, new_axes, size_of
from thoughtlens.plots.text import add_title, clipped, name_axes, name_rows

LONGEST = 14
"""Characters of a token that are shown."""
CELL_WIDTH, CELL_HEIGHT = 13.0, 14.0
WIDEST = 900.0
RIGHT = 66.0


def question_tokens(data: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """How much each thought attends to each token of a question.

    Args:
        data: `attention` with dims (query, token) and `text` (token), each token's text; optionally `n`, and `top`,
            bool (query, token), cells to outline, the `n_top` largest of a row; the attribute `title` says more of it.
        ax: where to draw, with room for tokens below and the colour bar on its right; a new figure without.

    Returns:
        The Axes drawn on.
    """
    cells = data["attention"].transpose("query", "token")
    n_rows, n_columns = cells.shape
    if ax is None:
        width = min(WIDEST, max(220.0, CELL_WIDTH * n_columns))
        height = max(56.0, CELL_HEIGHT * n_rows)
        longest = max((len(str(text)) for text in data["text"].values), default=1)
        below = min(LONGEST, longest) * CHARACTER * TICK_SIZE + 28.0
        ax = new_axes(width, height, left=46.0, right=RIGHT, bottom=below, top=30.0)
    width, height = size_of(ax)
    colours = colours_for(cells)
    draw_cells(ax, cells.values, colours, pitch=(width / n_columns, height / n_rows))
    name_rows(ax, cells["query"].values)
    top = data["top"].transpose("query", "token").values if "top" in data else np.zeros(cells.shape, dtype=bool)
    outline_cells(ax, top, colours.to_rgba(cells.values))
    _name_tokens(ax, [str(text) for text in data["text"].values], top.sum(0))
    add_colour_bar(ax, colours, cells, (1 + 12.0 / width, 0.0, 10.0 / width, 1.0))
    title = str(data.attrs.get("title", "which words do thoughts look at?"))
    add_title(ax, title, n=int(data["n"]) if "n" in data else None, room=width + RIGHT - 8.0)
    outlined = f" (outlined: top {data.attrs['n_top']} of a row)" if top.any() else ""
    name_axes(ax, f"token of the question{outlined}", "query")
    return ax


def _name_tokens(ax: Axes, texts: list[str], weight: np.ndarray) -> None:
    """Tokens upright, spaces at their ends shown; where they would touch, those of most weight."""
    step = every(size_of(ax)[0] / len(texts), LINE * TICK_SIZE)
    shown: list[int] = []
    for place in np.argsort(-weight, kind="stable").tolist():
        if all(abs(place - other) >= step for other in shown):
            shown.append(place)
    names = [clipped(_with_spaces(texts[place]), LONGEST) for place in shown]
    ax.set_xticks(np.array(shown), names, fontsize=TICK_SIZE, rotation=90, parse_math=False)


def _with_spaces(text: str) -> str:
    inner = text.strip(" ")
    if not inner:
        return "␣" * len(text)
    start = len(text) - len(text.lstrip(" "))
    return "␣" * start + inner + "␣" * (len(text) - start - len(inner))
