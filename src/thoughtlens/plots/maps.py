"""Turn mean attention into the labelled thought maps that figures show; they draw what they get and compute nothing.

Cells that the causal mask forbids are NaN here, so that a figure leaves them blank instead of showing a 0.

Turn thought maps into tiles of one Axes: a row for each query, a column for each key, darker for more attention.

1. The Axes is cut into a grid of squares with room for titles, ticks, axis names and a colour bar, all in points.
2. All tiles share one colour scale from 0, so that they compare.
3. Values are printed where a cell has room for them, in a smaller font where need be; tick labels are thinned alike.

Cells that are NaN (forbidden by the causal mask) stay blank.

Turn attention to the question's tokens into a heat map: which thought looks at which word?
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable

from thoughtlens.analysis.metrics import thought_map
from thoughtlens.errors import OptionError
from thoughtlens.plots.parts import VALUE_SIZE, add_colour_bar, colours_for, draw_cells, outline_cells
from thoughtlens.plots.style import (
    CHARACTER,
    LABEL_SIZE,
    LINE,
    SMALLEST_SIZE,
    TICK_SIZE,
    TITLE_SIZE,
    add_title,
    clipped,
    every,
    name_axes,
    name_columns,
    name_rows,
    new_axes,
    plain,
    size_of,
)


def layer_maps(moments: xr.Dataset, *, layers: Sequence[int] | None = None) -> xr.DataArray:
    """Mean thought map of each layer, or of those chosen: dims (layer, query, key)."""
    mean = moments["mean"]
    check_layers(mean["layer"].values, layers)
    maps = _visible(mean if layers is None else mean.sel(layer=list(layers))).mean("head", skipna=False)
    return maps.assign_attrs(long_name="mean attention, all heads of a layer", n=_n_problems(moments))


def head_maps_data(moments: xr.Dataset, ranking: xr.Dataset, *, n_heads: int = 12) -> xr.DataArray:
    """Mean thought maps of the first heads of a ranking: dims (rank, query, key) with `layer` and `head` of each."""
    top = ranking.isel(rank=slice(n_heads))
    maps = _visible(moments["mean"]).sel(layer=top["layer"], head=top["head"])
    return maps.assign_attrs(long_name="mean attention of the top heads", n=_n_problems(moments))


def check_layers(known: np.ndarray, chosen: Sequence[int] | None) -> None:
    """Raise `OptionError` where a chosen layer is none of the run's."""
    for layer in chosen or ():
        if layer not in known:
            raise OptionError(f"no layer {layer} in this run, expected 0 to {known.max()}; name one of them.")


def _visible(mean: xr.DataArray) -> xr.DataArray:
    maps = thought_map(mean)
    order = np.arange(maps.sizes["query"])
    seen = xr.DataArray(order[:, None] >= order[None, :], dims=("query", "key"))
    return maps.where(seen)


def _n_problems(moments: xr.Dataset) -> int:
    return int(moments["n"].sel(query="z1").max())


VALUE_CHARACTERS = 3.4
"""A printed value such as .12, with a little air."""
WIDEST_maps = 800.0
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
    if side * n_columns > WIDEST_maps:
        # Too many cells to print all values: smaller tiles, on a page that can still be read.
        side = min(150.0, max(90.0, WIDEST_maps / n_columns))
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
