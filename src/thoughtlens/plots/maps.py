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
from matplotlib.colors import Normalize

from thoughtlens.plots.style import (
    CHARACTER,
    LABEL_SIZE,
    LINE,
    SMALLEST_SIZE,
    TICK_SIZE,
    TITLE_SIZE,
    every,
    figure_of,
    ink_on,
    new_axes,
    sequential_colours,
    size_of,
)

VALUE_SIZE = 7.0
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
    """Mean thought map of each top head, titled L{layer}H{head}.

    Args:
        data: dims (rank, query, key) with coords `layer` and `head`; as many heads as are to be drawn.
        ax: where to draw; a new figure without.

    Returns:
        The Axes that holds all tiles.
    """
    titles = [f"L{layer}H{head}" for layer, head in zip(data["layer"].values, data["head"].values, strict=True)]
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
    largest = float(maps.max()) if maps.notnull().any() else 1.0
    colours = ScalarMappable(Normalize(0.0, largest or 1.0), sequential_colours())
    for place, (box, title) in enumerate(zip(boxes, titles, strict=True)):
        tile = ax.inset_axes(box)
        _draw_map(tile, maps[place], colours, side)
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


def _draw_map(tile: Axes, cells: xr.DataArray, colours: ScalarMappable, side: float) -> None:
    # Unsmoothed, and in SVG one pixel a cell.
    image = tile.imshow(cells.values, cmap=colours.cmap, aspect="auto", interpolation="none")
    image.set_norm(colours.norm)
    size = min(VALUE_SIZE, side / cells.sizes["key"] / (VALUE_CHARACTERS * CHARACTER))
    if size >= SMALLEST_SIZE:
        _print_values(tile, cells, colours, size)


def _label_cells(tile: Axes, cells: xr.DataArray, side: float, *, left: bool, below: bool) -> None:
    """Name queries on the left edge of the grid and keys along its lower edge."""
    queries, keys = ([str(name) for name in cells[dim].values] for dim in ("query", "key"))
    widest = max(len(name) for name in keys)
    rows = range(0, len(queries), every(side / len(queries), LINE * TICK_SIZE)) if left else []
    columns = range(0, len(keys), every(side / len(keys), (widest + 0.7) * CHARACTER * TICK_SIZE)) if below else []
    tile.set_yticks(list(rows), [queries[row] for row in rows], fontsize=TICK_SIZE, parse_math=False)
    tile.set_xticks(list(columns), [keys[column] for column in columns], fontsize=TICK_SIZE, parse_math=False)
    tile.tick_params(length=2.0, pad=1.5)


def _title(tile: Axes, title: str, room: float) -> None:
    size = min(TICK_SIZE, room / ((len(title) + 1) * CHARACTER))
    if size >= SMALLEST_SIZE:
        tile.set_title(title, fontsize=size, pad=3.0, parse_math=False)


def _print_values(tile: Axes, cells: xr.DataArray, colours: ScalarMappable, size: float) -> None:
    words: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": size, "parse_math": False}
    filled = colours.to_rgba(cells.values)
    for row, column in np.argwhere(np.isfinite(cells.values)):
        ink = ink_on(tuple(filled[row, column]))
        tile.text(column, row, _short(cells.values[row, column]), color=ink, **words)


def _short(value: float) -> str:
    """Two decimals in three characters: .12, 1.0."""
    return "1.0" if value >= 0.995 else f"{value:.2f}".removeprefix("0")


def _frame(ax: Axes, maps: xr.DataArray, colours: ScalarMappable, *, n_tiles_high: int, side: float) -> None:
    """Title, axis names and colour bar around the tiles."""
    ax.set_axis_off()
    width, height = size_of(ax)
    tiles_high = n_tiles_high * (side + ROOM.title) + (n_tiles_high - 1) * ROOM.gap
    middle = (height - ROOM.top - tiles_high / 2) / height
    title = str(maps.attrs.get("long_name", "mean attention"))
    if "n" in maps.attrs:
        title += f" (n = {maps.attrs['n']})"
    words: dict[str, Any] = {"transform": ax.transAxes, "parse_math": False}
    ax.text(ROOM.left / width, 1 - 2 / height, title, va="top", fontsize=TITLE_SIZE, **words)
    ax.text(4 / width, middle, "query (attends)", rotation=90, va="center", fontsize=LABEL_SIZE, **words)
    below = height - ROOM.top - tiles_high - ROOM.bottom + 4
    ax.text(ROOM.left / width, below / height, "key (attended to)", fontsize=LABEL_SIZE, **words)
    bar = ax.inset_axes((1 - 48 / width, middle - tiles_high * 0.35 / height, 9 / width, tiles_high * 0.7 / height))
    figure_of(ax).colorbar(colours, cax=bar)
    bar.tick_params(labelsize=TICK_SIZE, length=2.0)
