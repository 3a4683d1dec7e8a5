"""Turn thought maps into tiles of one Axes: a row for each query, a column for each key, darker for more attention.

1. The Axes is cut into a grid of squares with room for titles, ticks, axis names and a colour bar, all in points.
2. All tiles share one colour scale from 0, so that they compare.
3. Values are printed where a cell has room for them, in a smaller font where need be; tick labels are thinned alike.

Cells that are NaN (forbidden by the causal mask) stay blank.
"""

from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable

from thoughtlens.plots.heat import VALUE_SIZE, add_colour_bar, colours_for, draw_cells
from thoughtlens.plots.style import (
    CHARACTER,
    LABEL_SIZE,
    LINE,
    SMALLEST_SIZE,
    TICK_SIZE,
    TITLE_SIZE,
    new_axes,
    size_of,
)
from thoughtlens.plots.text import name_columns, name_rows, plain

VALUE_CHARACTERS = 3.4
"""A printed value such as .12, with a little air."""
WIDEST = 800.0
"""Points that the tiles of a new figure may take side by side with their values printed."""


class Room(NamedTuple):
    """Points kept free around and between tiles."""

    left: float = 2 * LINE * LABEL_SIZE + 3 * CHARACTER * TICK_SIZE
    right: float = 66.0
    bottom: float = LINE * (LABEL_SIZE + TICK_SIZE) + 10.0
    top: float = LINE * TITLE_SIZE + 8.0
    gap: float = 12.0
    title: float = LINE * TICK_SIZE + 4.0


ROOM = Room()


def head_maps(data: xr.DataArray, *, ax: Axes | None = None) -> Axes:
    """Mean thought map of each top head, titled L{layer}H{head}, or as the data says.

    Args:
        data: dims (rank, query, key) with coords `layer` and `head`, or `title` (rank); as many heads as are to be
            drawn.
        ax: where to draw; a new figure without.

    Returns:
        The Axes that holds all tiles.
    """
    own = [f"L{layer}H{head}" for layer, head in zip(data["layer"].values, data["head"].values, strict=True)]
    titles = [str(title) for title in data["title"].values] if "title" in data.coords else own
    return _draw_tiles(data.transpose("rank", "query", "key"), titles, ax)


def layer_means(data: xr.DataArray, *, ax: Axes | None = None) -> Axes:
    """Mean thought map of each layer.

    Args:
        data: dims (layer, query, key).
        ax: where to draw; a new figure without.

    Returns:
        The Axes that holds all tiles.
    """
    titles = [f"layer {layer}" for layer in data["layer"].values]
    return _draw_tiles(data.transpose("layer", "query", "key"), titles, ax)


def _draw_tiles(maps: xr.DataArray, titles: list[str], ax: Axes | None) -> Axes:
    if ax is None:
        n_columns = _n_columns(len(titles))
        ax = _axes_for(len(titles), n_columns, maps.sizes["query"])
    else:
        n_columns = _n_columns_in(ax, len(titles))
    side = _side(ax, len(titles), n_columns)
    boxes = _boxes(ax, len(titles), n_columns, side)
    colours = colours_for(maps)
    for place, (box, title) in enumerate(zip(boxes, titles, strict=True)):
        tile = ax.inset_axes(box)
        draw_cells(tile, maps[place].values, colours, pitch=(side / maps.sizes["key"], side / maps.sizes["query"]))
        _title(tile, title, side + ROOM.gap)
        _label_cells(tile, maps[place], side, left=place % n_columns == 0, below=place + n_columns >= len(titles))
    _frame(ax, maps, colours, n_tiles_high=-(-len(titles) // n_columns), side=side)
    return ax


def _n_columns(n_tiles: int) -> int:
    """Columns of a grid about as wide as high, or up to twice as wide, with the fewest places left empty."""
    fewest, most = int(np.ceil(n_tiles**0.5)), int(np.ceil((2 * n_tiles) ** 0.5))
    return min(range(max(1, fewest), max(1, most) + 1), key=lambda columns: (-n_tiles % columns, columns))


def _axes_for(n_tiles: int, n_columns: int, n_thoughts: int) -> Axes:
    side = max(72.0, n_thoughts * VALUE_SIZE * VALUE_CHARACTERS * CHARACTER)
    if side * n_columns > WIDEST:
        # Too many cells to print all values: smaller tiles, on a page that can still be read.
        side = min(150.0, max(90.0, WIDEST / n_columns))
    n_rows = -(-n_tiles // n_columns)
    width = n_columns * side + (n_columns - 1) * ROOM.gap + ROOM.left + ROOM.right
    height = n_rows * (side + ROOM.title) + (n_rows - 1) * ROOM.gap + ROOM.bottom + ROOM.top
    # Room for the title, which may be wider than a single tile.
    return new_axes(max(width, 300.0), height)


def _n_columns_in(ax: Axes, n_tiles: int) -> int:
    """Columns of the grid with the largest tiles on an Axes of a given size."""
    return max(range(1, max(1, n_tiles) + 1), key=lambda n_columns: _side(ax, n_tiles, n_columns))


def _side(ax: Axes, n_tiles: int, n_columns: int) -> float:
    """Side of the square tiles in points."""
    width, height = size_of(ax)
    n_rows = max(1, -(-n_tiles // n_columns))
    across = (width - ROOM.left - ROOM.right - (n_columns - 1) * ROOM.gap) / n_columns
    down = (height - ROOM.bottom - ROOM.top - (n_rows - 1) * ROOM.gap) / n_rows - ROOM.title
    return max(1.0, min(across, down))


def _boxes(ax: Axes, n_tiles: int, n_columns: int, side: float) -> list[tuple[float, float, float, float]]:
    """Boxes of the tiles in fractions of the Axes, row by row from the top."""
    width, height = size_of(ax)
    boxes = []
    for place in range(n_tiles):
        row, column = divmod(place, n_columns)
        x = ROOM.left + column * (side + ROOM.gap)
        y = height - ROOM.top - row * (side + ROOM.title + ROOM.gap) - ROOM.title - side
        boxes.append((x / width, y / height, side / width, side / height))
    return boxes


def _label_cells(tile: Axes, cells: xr.DataArray, side: float, *, left: bool, below: bool) -> None:
    """Name queries on the left edge of the grid and keys along its lower edge."""
    name_rows(tile, cells["query"].values if left else [])
    name_columns(tile, cells["key"].values if below else [])
    tile.tick_params(length=2.0, pad=1.5)


def _title(tile: Axes, title: str, room: float) -> None:
    size = min(TICK_SIZE, room / ((len(title) + 1) * CHARACTER))
    if size >= SMALLEST_SIZE:
        tile.set_title(title, fontsize=size, pad=3.0, parse_math=False)


def _frame(ax: Axes, maps: xr.DataArray, colours: ScalarMappable, *, n_tiles_high: int, side: float) -> None:
    """Title, axis names and colour bar around the tiles."""
    ax.set_axis_off()
    width, height = size_of(ax)
    tiles_high = n_tiles_high * (side + ROOM.title) + (n_tiles_high - 1) * ROOM.gap
    middle = (height - ROOM.top - tiles_high / 2) / height
    title = plain(maps.attrs.get("long_name", "mean attention"))
    if "n" in maps.attrs:
        title += f" (n = {maps.attrs['n']})"
    words: dict[str, Any] = {"transform": ax.transAxes, "parse_math": False}
    ax.text(ROOM.left / width, 1 - 5 / height, title, va="top", fontsize=TITLE_SIZE, **words)
    attends, attended = (
        plain(maps[dim].attrs.get("long_name", name))
        for dim, name in (("query", "query (attends)"), ("key", "key (attended to)"))
    )
    ax.text(4 / width, middle, attends, rotation=90, va="center", fontsize=LABEL_SIZE, **words)
    below = height - ROOM.top - tiles_high - ROOM.bottom + 4
    ax.text(ROOM.left / width, below / height, attended, fontsize=LABEL_SIZE, **words)
    box = (1 - 48 / width, middle - tiles_high * 0.35 / height, 9 / width, tiles_high * 0.7 / height)
    add_colour_bar(ax, colours, maps, box)
