"""Maps of thoughts, one tile a head or a layer, and the map of a question's tokens.

In: an `Analysis`, or what `question_attention` returns for one problem. Out: a Figure. A row is a query and a column a
key; a cell that the causal mask forbids stays blank. All maps of attention have one colour scale, that of the page.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thoughtlens.analysis.attention_measures import thought_map
from thoughtlens.analysis.headlines_and_tables import selected_on
from thoughtlens.analysis.run_analysis import Analysis
from thoughtlens.errors import OptionError
from thoughtlens.notation import head_name
from thoughtlens.plots.primitives import add_colour_bar, attention_scale, draw_map, outline_cells
from thoughtlens.plots.style import (
    CHARACTER,
    LABEL_SIZE,
    LINE,
    TICK_SIZE,
    Names,
    caption_of,
    clipped,
    fit,
    panel_figure,
    panels,
    plain,
    size_of,
)

N_TOP = 9
"""Heads that a figure of top heads draws: what is most of a small model's heads is no top."""

SHARE = "share of a row"


def head_maps(
    analysis: Analysis,
    *,
    heads: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    top: int = N_TOP,
    ax: Axes | None = None,
) -> Figure:
    """Draw the mean thought map of each top head.

    Args:
        analysis: of a run.
        heads: names such as L4H5, in the order in which they are drawn; the first by importance if None.
        layers: the layers whose heads are drawn; all if None.
        top: how many heads are drawn where none are named, at least 1.
        ax: an Axes of a grid, whose place the tiles take; a new figure if None.

    Returns:
        The figure drawn on; its first Axes are the tiles.

    Raises:
        OptionError: the run has no such head or layer, or `top` is below 1.

    Example:
        >>> [tile.get_title() for tile in head_maps(analysis, heads=["L1H0", "L0H1"]).axes[:2]]
        ['L1H0', 'L0H1']
    """
    check_layers(analysis.moments["layer"].values, layers)
    ranking = analysis.ranking
    if layers is not None:
        ranking = ranking.isel(rank=np.flatnonzero(np.isin(ranking["layer"], layers)))
    picked = pick_heads(ranking, heads, top)
    maps = _visible(analysis).sel(layer=picked["layer"], head=picked["head"])
    of = f"the {picked.sizes['rank']} most important of {ranking.sizes['rank']} heads, {selected_on(analysis)}"
    title = f"Where thoughts look: {of if heads is None else 'chosen heads'}"
    return draw_tiles(maps, picked["name"].values, title=title, caption=_caption(analysis), ax=ax)


def layer_means(analysis: Analysis, *, layers: Sequence[int] | None = None, ax: Axes | None = None) -> Figure:
    """Draw the mean thought map of each layer, over its heads.

    Args:
        analysis: of a run.
        layers: the layers drawn, in this order; all if None.
        ax: an Axes of a grid, whose place the tiles take; a new figure if None.

    Returns:
        The figure drawn on; its first Axes are the tiles.

    Raises:
        OptionError: the run has no such layer.

    Example:
        >>> layer_means(analysis).axes[0].get_title()
        'layer 0'
    """
    maps = _visible(analysis)
    check_layers(maps["layer"].values, layers)
    maps = (maps if layers is None else maps.sel(layer=list(layers))).mean("head", skipna=False)
    names = [f"layer {layer}" for layer in maps["layer"].values]
    title = "Where thoughts look: mean over the heads of each layer"
    return draw_tiles(maps, names, title=title, caption=_caption(analysis), ax=ax)


def pick_heads(ranking: xr.Dataset, heads: Sequence[str] | None, top: int = N_TOP) -> xr.Dataset:
    """The heads of a ranking that are to be drawn: those named, in their order, or the first `top`."""
    if heads is None:
        return ranking.isel(rank=slice(check_top(top)))
    known = [str(name) for name in ranking["name"].values]
    chosen = [name.upper() for name in heads]
    for name in chosen:
        if name not in known:
            last = head_name(int(ranking["layer"].max()), int(ranking["head"].max()))
            raise OptionError(f"no head {name!r} in this run, expected L0H0 to {last}; name one of them.")
    return ranking.isel(rank=[known.index(name) for name in chosen])


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


def _caption(analysis: Analysis) -> str:
    n = int(analysis.moments["n"].sel(query="z1").max())
    return caption_of(analysis.model.attrs, n, "mean over problems", "colours: square-root scale")


VALUE_WIDTH = 3.4 * CHARACTER * TICK_SIZE
"""Points that a printed value such as .12 takes, with a little air."""
WIDEST = 800.0
"""Points that the tiles of a new figure may take side by side with their values printed."""


def draw_tiles(
    maps: xr.DataArray,
    names: Names,
    *,
    title: str,
    caption: str,
    x: str = "key: what is looked at",
    y: str = "query: what looks",
    ax: Axes | None,
) -> Figure:
    """Maps (tile, query, key) of attention, each under its name."""
    maps = maps.transpose(..., "query", "key")
    n_columns = _n_columns(len(names), ax)
    side = max(72.0, maps.sizes["query"] * VALUE_WIDTH)
    if side * n_columns > WIDEST:
        # Too many cells to print all values: smaller tiles, on a page that can still be read.
        side = min(150.0, max(90.0, WIDEST / n_columns))
    size = side + 14.0, side + 20.0
    figure, tiles = panels(
        ax, len(names), n_columns, size, title=title, caption=caption, least=(16.0, 16.0), margin=(84.0, 30.0)
    )
    if not tiles:
        return figure
    whole, scale = panel_figure(tiles[0]), attention_scale()
    for place, (tile, name) in enumerate(zip(tiles, names, strict=True)):
        image = draw_map(tile, maps[place], scale, x="", y="", square=True)
        # At its place, which Matplotlib would look for by measuring all ticks.
        tile.set_title(plain(name), y=1.0, fontsize=TICK_SIZE, pad=3.0, parse_math=False)
        tile.tick_params(
            labelleft=place % n_columns == 0, labelbottom=place + n_columns >= len(names), length=2.0, pad=1.5
        )
    whole.supxlabel(plain(x), fontsize=LABEL_SIZE, parse_math=False)
    whole.supylabel(plain(y), fontsize=LABEL_SIZE, parse_math=False)
    add_colour_bar(image, tiles, maps, SHARE)
    fit(*tiles)
    return figure


def _n_columns(n_tiles: int, ax: Axes | None) -> int:
    """Columns of a grid about as wide as high, or up to twice as wide, with the fewest places left empty."""
    if ax is not None:
        width, height = size_of(ax)
        return max(1, min(n_tiles, round(float(np.sqrt(n_tiles * width / height)))))
    fewest, most = int(np.ceil(n_tiles**0.5)), int(np.ceil((2 * n_tiles) ** 0.5))
    return min(range(max(1, fewest), max(1, most) + 1), key=lambda columns: (-n_tiles % columns, columns))


LONGEST = 14
"""Characters of a token that are shown."""
WRAPPED = 48
"""Tokens of a question that stand side by side; more go on in the next panel."""


def question_tokens(question_attention: xr.Dataset, *, n_top: int = 3, ax: Axes | None = None) -> Figure:
    """Draw how much each position attends to each token of one question, the largest cells of a row outlined.

    A token that the question has several times is followed by its position. The first token, on which much attention
    falls whatever it says, is called the sink.

    Args:
        question_attention: of one problem, as `thoughtlens.question_attention` returns it: `attention` (query, token),
            `text` (token), the attribute `problem`.
        n_top: how many tokens of each row are outlined, 0 for none; of equal ones the earlier.
        ax: an Axes of a grid, whose place the panels take; a new figure if None.

    Returns:
        The figure drawn on; its first Axes are the panels, with 48 tokens each at most.

    Example:
        >>> question_tokens(of_one_question, n_top=1).axes[0].get_xlabel()
        'token of the question'
    """
    cells = question_attention["attention"].transpose("query", "token")
    texts, n_tokens = [str(text) for text in question_attention["text"].values], cells.sizes["token"]
    top, names = _largest(cells, n_top), _token_names(texts)
    n_panels = max(1, -(-n_tokens // WRAPPED))
    side = -(-n_tokens // n_panels)
    size = max(220.0, 13.0 * side), max(56.0, 14.0 * len(cells)) + max(map(len, names)) * CHARACTER * TICK_SIZE + 14.0
    problem, outlined = clipped(question_attention.attrs["problem"], 48), f"outlined: the {n_top} largest of a row"
    notes = ["mean over layers and heads", outlined if top.any() else "", "sink: the first token"]
    notes += ["in brackets: the position of a repeated token"] if len({*texts}) < n_tokens else []
    figure, tiles = panels(
        ax,
        n_panels,
        1,
        size,
        title=f"Where each position looks in the question {problem}",
        caption=caption_of(question_attention.attrs, 1, *notes),
        margin=(110.0, 24.0),
    )
    for place, tile in enumerate(tiles):
        part = slice(place * side, (place + 1) * side)
        last = place == len(tiles) - 1
        image = draw_map(tile, cells[:, part], attention_scale(), x="token of the question" if last else "", y="query")
        outline_cells(tile, image, top[:, part])
        # A short last line is as wide as its tokens.
        tile.set_xlim(-0.5, side - 0.5)
        _name_tokens(tile, names[part], top[:, part].sum(0))
    if tiles:
        add_colour_bar(image, tiles, cells, SHARE)
        fit(*tiles)
    return figure


def _token_names(texts: list[str]) -> list[str]:
    """Tokens as they are drawn: spaces shown, too long ones clipped, repeated ones with their position."""
    shown = [clipped(_with_spaces(text), LONGEST) for text in texts]
    notes = [[str(place)] if shown.count(name) > 1 else [] for place, name in enumerate(shown)]
    notes[0].append("sink")
    return [f"{name} ({', '.join(its)})" if its else name for name, its in zip(shown, notes, strict=True)]


def _largest(cells: xr.DataArray, n_top: int) -> np.ndarray:
    """Which cells (query, token) are the `n_top` largest of their row; none of a row that does not exist."""
    order = np.argsort(-cells.values, axis=1, kind="stable")[:, :n_top]
    top = np.zeros(cells.shape, dtype=bool)
    np.put_along_axis(top, order, True, axis=1)
    existing: np.ndarray = top & np.isfinite(cells.values).all(1, keepdims=True)
    return existing


def _name_tokens(ax: Axes, texts: list[str], weight: np.ndarray) -> None:
    """Tokens upright; where they would touch, those of most weight."""
    step = max(1.0, 1.25 * LINE * TICK_SIZE * np.ptp(ax.get_xlim()) / size_of(ax)[0])
    shown: list[int] = []
    for place in np.argsort(-weight, kind="stable").tolist():
        if all(abs(place - other) >= step for other in shown):
            shown.append(place)
    names = [texts[place] for place in shown]
    ax.set_xticks(np.array(shown), names, fontsize=TICK_SIZE, rotation=90, parse_math=False)


def _with_spaces(text: str) -> str:
    inner = text.strip(" ")
    if not inner:
        return "␣" * len(text)
    start = len(text) - len(text.lstrip(" "))
    return "␣" * start + inner + "␣" * (len(text) - start - len(inner))
