"""Maps of thoughts, one tile a head or a layer, and the map of a question's tokens.

In: an `Analysis`, or what `question_attention` returns for one problem. Out: Axes. A row is a query and a column a key;
a cell that the causal mask forbids stays blank. All tiles of a figure share one colour scale from 0.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from thoughtlens.analysis.metrics import thought_map
from thoughtlens.analysis.run_analysis import Analysis
from thoughtlens.analysis.tables import selected_on
from thoughtlens.errors import OptionError
from thoughtlens.notation import head_name
from thoughtlens.plots.primitives import add_colour_bar, draw_map, outline_cells, scale_of
from thoughtlens.plots.style import (
    CHARACTER,
    LABEL_SIZE,
    LINE,
    TICK_SIZE,
    Names,
    add_title,
    clipped,
    fit,
    new_axes,
    panel_figure,
    panels,
    plain,
    size_of,
)

N_TOP = 20
"""Heads that a figure of top heads draws."""


def head_maps(
    analysis: Analysis,
    *,
    heads: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    top: int = N_TOP,
    ax: Axes | None = None,
) -> Axes:
    """Draw the mean thought map of each top head.

    Args:
        analysis: of a run.
        heads: names such as L4H5, in the order in which they are drawn; the first by importance if None.
        layers: the layers whose heads are drawn; all if None.
        top: how many heads are drawn where none are named, at least 1.
        ax: an Axes of a grid, whose place the tiles take; a new figure if None.

    Returns:
        The Axes given; its tiles are the Axes of the subfigure that has its place.

    Raises:
        OptionError: the run has no such head or layer, or `top` is below 1.

    Example:
        >>> ax = head_maps(analysis, heads=["L1H0", "L0H1"])
        >>> [tile.get_title() for tile in ax.get_figure().subfigs[0].axes[:2]]
        ['L1H0', 'L0H1']
    """
    check_layers(analysis.moments["layer"].values, layers)
    ranking = analysis.ranking
    if layers is not None:
        ranking = ranking.isel(rank=np.flatnonzero(np.isin(ranking["layer"], layers)))
    picked = pick_heads(ranking, heads, top)
    maps = _visible(analysis).sel(layer=picked["layer"], head=picked["head"])
    title = (
        f"mean attention of the top heads, {selected_on(analysis)}"
        if heads is None
        else "mean attention of chosen heads"
    )
    return draw_tiles(maps, picked["name"].values, title=title, n=_n(analysis), ax=ax)


def layer_means(analysis: Analysis, *, layers: Sequence[int] | None = None, ax: Axes | None = None) -> Axes:
    """Draw the mean thought map of each layer, over its heads.

    Args:
        analysis: of a run.
        layers: the layers drawn, in this order; all if None.
        ax: an Axes of a grid, whose place the tiles take; a new figure if None.

    Returns:
        The Axes given; its tiles are the Axes of the subfigure that has its place.

    Raises:
        OptionError: the run has no such layer.

    Example:
        >>> ax = layer_means(analysis)
        >>> ax.get_figure().subfigs[0].axes[0].get_title()
        'layer 0'
    """
    maps = _visible(analysis)
    check_layers(maps["layer"].values, layers)
    maps = (maps if layers is None else maps.sel(layer=list(layers))).mean("head", skipna=False)
    names = [f"layer {layer}" for layer in maps["layer"].values]
    return draw_tiles(maps, names, title="mean attention, all heads of a layer", n=_n(analysis), ax=ax)


def pick_heads(ranking: xr.Dataset, heads: Sequence[str] | None, top: int = N_TOP) -> xr.Dataset:
    """The heads of a ranking that are to be drawn: those named, in their order, or the first `top`."""
    if heads is None:
        return ranking.isel(rank=slice(check_top(top)))
    known = [str(name) for name in ranking["name"].values]
    for name in heads:
        if name not in known:
            last = head_name(int(ranking["layer"].max()), int(ranking["head"].max()))
            raise OptionError(f"no head {name!r} in this run, expected L0H0 to {last}; name one of them.")
    return ranking.isel(rank=[known.index(name) for name in heads])


def check_top(top: int) -> int:
    """The number of top heads, if there can be so many."""
    if top < 1:
        raise OptionError(f"the number of top heads is {top}, expected at least 1; name a larger one.")
    return top


def check_layers(known: np.ndarray, chosen: Sequence[int] | None) -> None:
    """Raise `OptionError` where a chosen layer is none of the run's."""
    for layer in chosen or ():
        if layer not in known:
            raise OptionError(f"no layer {layer} in this run, expected 0 to {known.max()}; name one of them.")


def _visible(analysis: Analysis) -> xr.DataArray:
    """Mean thought maps (layer, head, query, key), NaN where the causal mask forbids a cell."""
    maps = thought_map(analysis.moments["mean"])
    order = np.arange(maps.sizes["query"])
    return maps.where(xr.DataArray(order[:, None] >= order[None, :], dims=("query", "key")))


def _n(analysis: Analysis) -> int:
    return int(analysis.moments["n"].sel(query="z1").max())


VALUE_WIDTH = 3.4 * CHARACTER * TICK_SIZE
"""Points that a printed value such as .12 takes, with a little air."""
WIDEST = 800.0
"""Points that the tiles of a new figure may take side by side with their values printed."""


def draw_tiles(
    maps: xr.DataArray,
    names: Names,
    *,
    title: str,
    n: int,
    x: str = "key (attended to)",
    y: str = "query (attends)",
    ax: Axes | None,
) -> Axes:
    """Maps (tile, query, key), each under its name, on one scale."""
    maps = maps.transpose(..., "query", "key")
    n_columns = _n_columns(len(names), ax)
    side = max(72.0, maps.sizes["query"] * VALUE_WIDTH)
    if side * n_columns > WIDEST:
        # Too many cells to print all values: smaller tiles, on a page that can still be read.
        side = min(150.0, max(90.0, WIDEST / n_columns))
    ax, tiles = panels(
        ax, len(names), n_columns, (side + 14.0, side + 20.0), title=title, n=n, least=(16.0, 16.0), margin=(84.0, 36.0)
    )
    if not tiles:
        return ax
    whole, scale = panel_figure(tiles[0]), scale_of(maps)
    for place, (tile, name) in enumerate(zip(tiles, names, strict=True)):
        image = draw_map(tile, maps[place], scale, x="", y="", square=True)
        tile.set_title(plain(name), fontsize=TICK_SIZE, pad=3.0, parse_math=False)
        tile.tick_params(
            labelleft=place % n_columns == 0, labelbottom=place + n_columns >= len(names), length=2.0, pad=1.5
        )
    whole.supxlabel(plain(x), fontsize=LABEL_SIZE, parse_math=False)
    whole.supylabel(plain(y), fontsize=LABEL_SIZE, parse_math=False)
    add_colour_bar(image, tiles, maps, shrink=0.7)
    fit(*tiles)
    return ax


def _n_columns(n_tiles: int, ax: Axes | None) -> int:
    """Columns of a grid about as wide as high, or up to twice as wide, with the fewest places left empty."""
    if ax is not None:
        width, height = size_of(ax)
        return max(1, min(n_tiles, round(float(np.sqrt(n_tiles * width / height)))))
    fewest, most = int(np.ceil(n_tiles**0.5)), int(np.ceil((2 * n_tiles) ** 0.5))
    return min(range(max(1, fewest), max(1, most) + 1), key=lambda columns: (-n_tiles % columns, columns))


LONGEST = 14
"""Characters of a token that are shown."""


def question_tokens(question_attention: xr.Dataset, *, n_top: int = 3, ax: Axes | None = None) -> Axes:
    """Draw how much each position attends to each token of one question, the largest cells of a row outlined.

    Args:
        question_attention: of one problem, as `thoughtlens.question_attention` returns it: `attention` (query, token),
            `text` (token), the attribute `problem`.
        n_top: how many tokens of each row are outlined, 0 for none; of equal ones the earlier.
        ax: where to draw; a new figure if None.

    Returns:
        The Axes drawn on.

    Example:
        >>> ax = question_tokens(of_one_question, n_top=1)
        >>> ax.get_xlabel()
        'token of the question (outlined: top 1 of a row)'
    """
    cells = question_attention["attention"].transpose("query", "token")
    texts = [str(text) for text in question_attention["text"].values]
    top = _largest(cells, n_top)
    if ax is None:
        longest = min(LONGEST, max(map(len, texts), default=1))
        width = min(900.0, max(220.0, 13.0 * len(texts))) + 110.0
        ax = new_axes(width, max(56.0, 14.0 * len(cells)) + longest * CHARACTER * TICK_SIZE + 68.0)
    outlined = f" (outlined: top {n_top} of a row)" if top.any() else ""
    image = draw_map(ax, cells, scale_of(cells), x=f"token of the question{outlined}", y="query")
    outline_cells(ax, image, top)
    _name_tokens(ax, texts, top.sum(0))
    add_colour_bar(image, [ax], cells)
    problem = clipped(question_attention.attrs["problem"], 48)
    add_title(ax, f"{problem}: attention to the question, mean over layers and heads", n=1)
    fit(ax)
    return ax


def _largest(cells: xr.DataArray, n_top: int) -> np.ndarray:
    """Which cells (query, token) are the `n_top` largest of their row; none of a row that does not exist."""
    order = np.argsort(-cells.values, axis=1, kind="stable")[:, :n_top]
    top = np.zeros(cells.shape, dtype=bool)
    np.put_along_axis(top, order, True, axis=1)
    existing: np.ndarray = top & np.isfinite(cells.values).all(1, keepdims=True)
    return existing


def _name_tokens(ax: Axes, texts: list[str], weight: np.ndarray) -> None:
    """Tokens upright, spaces at their ends shown; where they would touch, those of most weight."""
    step = max(1.0, 1.25 * LINE * TICK_SIZE * len(texts) / size_of(ax)[0])
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
