"""The look of every figure: palette and sizes, new figures and panels, text that fits, and the files.

In: an Axes, or none; names and titles from data. Out: an Axes on a figure of constrained layout, and PNG
and SVG files that are the same bytes each time. There is no pyplot, no display and no global setting.

`fit` is the last call of every figure. It lays the figure out, then breaks titles, shortens names, thins tick labels
and prints the values of cells by the sizes that were measured. The palette can be told apart by colour-blind readers
(Okabe and Ito 2008); colour maps run evenly from light to dark.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from textwrap import fill, shorten
from typing import Any, Final

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator
from matplotlib.transforms import BboxBase

from thoughtlens.errors import OptionError
from thoughtlens.files import replacing_bytes

ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILION, PURPLE, BLACK = "#0072B2", "#D55E00", "#CC79A7", "#000000"
GREY: Final = "#999999"

TITLE_SIZE, LABEL_SIZE, TICK_SIZE = 9.0, 8.0, 7.0
SMALLEST_SIZE: Final = 4.5
"""Text that would be smaller is left out."""
CHARACTER, WORD_CHARACTER = 0.65, 0.58
"""Width of a character over its font size: of digits and capitals, and of running text."""
LINE: Final = 1.35
"""Height of a line over its font size."""
POINTS_PER_INCH: Final = 72.0


def sequential_colours() -> Colormap:
    """Light for little and dark for much, also in grey; cells that do not exist stay white."""
    return matplotlib.colormaps["magma_r"].with_extremes(bad="white")


def diverging_colours() -> Colormap:
    """Blue below a null, white at it, red above; cells that do not exist are grey."""
    return matplotlib.colormaps["RdBu_r"].with_extremes(bad="#dddddd")


def ink_on(colour: Sequence[float]) -> str:
    """Black or white, whichever contrasts more with this colour (WCAG 2 relative luminance)."""
    red, green, blue = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in colour[:3])
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    # Equal contrast with both: (L + 0.05)² = 1.05 · 0.05.
    return BLACK if luminance > 0.179 else "white"


def new_axes(width: float, height: float) -> Axes:
    """The Axes of a new Figure of this size in points."""
    figure = Figure(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH), layout="constrained")
    # A canvas that draws, so that text can be measured.
    FigureCanvasAgg(figure)
    axes: Axes = figure.subplots()
    return axes


def panels(
    ax: Axes | None,
    n_panels: int,
    n_columns: int,
    size: tuple[float, float],
    *,
    title: str,
    n: object = None,
    least: tuple[float, float] = (90.0, 40.0),
    margin: tuple[float, float] = (0.0, 24.0),
) -> tuple[Axes, list[Axes]]:
    """The Axes given (or a new one) and, row by row, the panels in its place, under one title.

    Sizes are in points: `size` of a panel with its words, and `margin` beside and above all, on a new figure; there are
    no panels where each would have less than `least`.
    """
    n_columns = max(1, min(n_columns, n_panels))
    n_rows = max(1, -(-n_panels // n_columns))
    if ax is None:
        ax = new_axes(max(300.0, n_columns * size[0] + margin[0]), n_rows * size[1] + margin[1])
    (width, height), spec = size_of(ax), ax.get_subplotspec()
    if spec is None:
        raise OptionError(
            "a figure of several panels was given an Axes without a grid, expected one such as "
            "Figure(layout='constrained').subplots() gives; pass such an Axes, or none."
        )
    needed = n_columns * least[0], n_rows * least[1]
    if width < needed[0] or height < needed[1]:
        say_instead(ax, f"needs {needed[0]:.0f} × {needed[1]:.0f} points")
        return ax, []
    ax.set_axis_off()
    place = ax.get_figure(root=False)
    assert place is not None, "an Axes that was removed from its figure can't be drawn on"
    whole = place.add_subfigure(spec)
    tiles = list(whole.subplots(n_rows, n_columns, squeeze=False).flat)
    for spare in tiles[n_panels:]:
        spare.remove()
    lines = _broken(_with_n(title, n), width)
    whole.suptitle(lines, x=0.01, ha="left", fontsize=TITLE_SIZE, parse_math=False)
    return ax, tiles[:n_panels]


def figure_of(ax: Axes) -> Figure:
    """The whole figure that an Axes is on, also where it sits in a subfigure."""
    figure = ax.get_figure(root=True)
    assert figure is not None, "an Axes that was removed from its figure can't be drawn on"
    return figure


def panel_figure(panel: Axes) -> SubFigure:
    """The subfigure that a panel of `panels` is on."""
    figure = panel.get_figure(root=False)
    assert isinstance(figure, SubFigure), "panels are made on a subfigure"
    return figure


def size_of(ax: Axes) -> tuple[float, float]:
    """Width and height of an Axes in points."""
    extent, dpi = ax.get_window_extent(), figure_of(ax).dpi
    return extent.width / dpi * POINTS_PER_INCH, extent.height / dpi * POINTS_PER_INCH


def save_figure(ax: Axes, path_stem: str | Path, *, about: str = "") -> list[Path]:
    """Write the figure of an Axes as PNG (300 dpi) and SVG, each whole or not at all.

    Args:
        ax: any Axes of the figure, such as every function of `thoughtlens.plots` returns.
        path_stem: path without suffix; its folder exists.
        about: what the files say of themselves in their metadata, as their description.

    Returns:
        The two paths. The same figure gives the same bytes.

    Example:
        >>> import tempfile
        >>> from matplotlib.figure import Figure
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [path.name for path in save_figure(Figure().subplots(), f"{folder}/empty")]
        ['empty.png', 'empty.svg']
    """
    figure, stem, paths = figure_of(ax), Path(path_stem), []
    # Laid out once, and alike in both files: every file would do it twice, which takes longer than drawing.
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)
    figure.set_layout_engine(None)
    # Neither date nor version is written, and the salt replaces random ids; text stays text, searchable and small.
    try:
        with matplotlib.rc_context({"svg.hashsalt": "thoughtlens", "svg.fonttype": "none"}):
            for suffix, fact in (("png", "Software"), ("svg", "Date")):
                paths.append(stem.with_name(f"{stem.name}.{suffix}"))
                with replacing_bytes(paths[-1]) as file:
                    facts = {fact: None, "Description": about or None}
                    figure.savefig(file, format=suffix, dpi=300, metadata=facts)
    finally:
        figure.set_layout_engine(engine)
    return paths


def plain(text: object) -> str:
    """Text as it can be drawn: a character that is not printable or not in the font is written as its escape."""
    known = _characters(findfont(FontProperties()))
    return "".join(c if c.isprintable() and ord(c) in known else ascii(c)[1:-1] for c in str(text))


@cache
def _characters(font: str) -> frozenset[int]:
    return frozenset(get_font(font).get_charmap())


def clipped(text: object, longest: int) -> str:
    """Text of at most so many characters, its middle left out where it is longer."""
    words = plain(text)
    if len(words) <= longest:
        return words
    end = (longest - 1) // 2
    return f"{words[: longest - 1 - end]}…{words[len(words) - end :] if end else ''}"


Names = Sequence[object] | np.ndarray
"""Names of heads, queries or whatever else data has."""

SPACE: Final = "\N{NO-BREAK SPACE}"


def _with_n(title: str, n: object) -> str:
    return plain(title) if n is None else f"{plain(title)} (n{SPACE}={SPACE}{n})"


def _broken(title: str, room: float) -> str:
    """A title of lines that fit in `room` points; its n is kept in one piece."""
    return fill(title, max(12, int(room / (WORD_CHARACTER * TITLE_SIZE)))).replace(SPACE, " ")


def add_title(ax: Axes, title: str, *, n: object = None) -> None:
    """A title on the left, with n where known; `fit` breaks it into lines."""
    ax.set_title(_with_n(title, n), fontsize=TITLE_SIZE, loc="left", parse_math=False)


def name_axes(ax: Axes, x: str, y: str = "", *, open_sides: bool = True) -> None:
    """Names of both axes, small ticks, and no frame on the right and on top where the sides are open."""
    ax.set_xlabel(plain(x), fontsize=LABEL_SIZE, parse_math=False)
    ax.set_ylabel(plain(y), fontsize=LABEL_SIZE, parse_math=False)
    ax.tick_params(labelsize=TICK_SIZE, length=2.0)
    if open_sides:
        ax.spines[["top", "right"]].set_visible(False)


def name_ticks(axis: Axis, names: Names) -> None:
    """Names of columns or rows 0, 1, …; `fit` thins them."""
    labels = [plain(name) for name in names]
    axis.set_ticks(range(len(labels)), labels, fontsize=TICK_SIZE, parse_math=False)


def add_legend(ax: Axes, colours: Mapping[str, str], *, title: str = "", markers: Sequence[str] = ()) -> None:
    """What the colours mean, to the right of the Axes: patches, or dots of these shapes if `markers`."""
    handles: list[Artist] = (
        [
            Line2D([], [], color=colour, marker=marker, linestyle="")
            for colour, marker in zip(colours.values(), markers, strict=True)
        ]
        if markers
        else [Patch(color=colour, linewidth=0) for colour in colours.values()]
    )
    # Labels are set afterwards: matplotlib would leave out one that begins with an underscore.
    legend = ax.legend(
        handles,
        ["x"] * len(handles),
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        fontsize=TICK_SIZE,
        frameon=False,
        title=title,
        markerscale=0.8,
    )
    legend.set_alignment("left")
    legend.get_title().set_fontsize(TICK_SIZE)
    for text, name in zip(legend.get_texts(), colours, strict=True):
        text.set_parse_math(False)
        text.set_text(clipped(name, 28))


def say_instead(ax: Axes, words: str) -> None:
    """One line in place of a figure that there is no room or no data for."""
    ax.set_axis_off()
    width, _ = size_of(ax)
    size = min(TICK_SIZE, width / (len(words) * WORD_CHARACTER))
    ax.text(0.5, 0.5, plain(words), transform=ax.transAxes, ha="center", va="center", fontsize=size, parse_math=False)


def fit(*axes: Axes) -> None:
    """Lay out the figure of these Axes, then make their titles, names, tick labels and cell values fit."""
    _lay_out(axes)
    # Lines that are broken make an Axes lower.
    broken = [_break_title(ax) for ax in axes]
    if any(broken):
        _lay_out(axes)
    for ax in axes:
        _shrink_title(ax)
        bars = [image.colorbar.ax.yaxis for image in ax.images if image.colorbar is not None]
        for axis in (ax.xaxis, ax.yaxis, *bars):
            _shorten_name(axis)
            _thin(axis)
        _print_values(ax)


def _lay_out(axes: Sequence[Axes]) -> None:
    engine = figure_of(axes[0]).get_layout_engine() if axes else None
    if engine is not None:
        engine.execute(figure_of(axes[0]))
    for ax in axes:
        ax.apply_aspect()


def _break_title(ax: Axes) -> bool:
    """Break the title on the left within what the Axes, its legend and its colour bars take; whether it was broken."""
    legend = ax.get_legend()
    beside = [image.colorbar.ax.get_tightbbox() for image in ax.images if image.colorbar is not None]
    beside += [] if legend is None else [legend.get_window_extent()]
    right = max([ax.bbox.x1, *(box.x1 for box in beside if box is not None)])
    room = (right - ax.bbox.x0) / figure_of(ax).dpi * POINTS_PER_INCH
    lines = _broken(ax.get_title(loc="left"), room)
    ax.set_title(lines, fontsize=TITLE_SIZE, loc="left", parse_math=False)
    return "\n" in lines


def _shrink_title(ax: Axes) -> None:
    """Make the title in the middle no wider than its tile, or leave it out."""
    width = ax.title.get_window_extent().width
    if not ax.title.get_text() or width <= ax.bbox.width:
        return
    size = float(ax.title.get_fontsize()) * ax.bbox.width / width
    ax.title.set_fontsize(size)
    ax.title.set_visible(size >= SMALLEST_SIZE)


def _shorten_name(axis: Axis) -> None:
    """Shorten the name of an axis that is longer than the axis."""
    box, name = axis.label.get_window_extent(), axis.label.get_text()
    taken, room = _along(axis, box), _along(axis, axis.axes.bbox)
    length, most = taken[1] - taken[0], room[1] - room[0]
    if name and length > most:
        axis.label.set_text(shorten(name, max(8, int(len(name) * most / length)), placeholder=" …"))


def _along(axis: Axis, box: BboxBase) -> tuple[float, float]:
    """Where a box begins and ends along an axis."""
    return (box.x0, box.x1) if isinstance(axis, XAxis) else (box.y0, box.y1)


def _thin(axis: Axis) -> None:
    """Keep every second, third, … tick where their labels would touch."""
    low, high = sorted(axis.get_view_interval())
    drawn = [
        (place, label.get_text(), *_along(axis, label.get_window_extent()))
        for place, label in zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=False)
        if low <= place <= high and label.get_text()
    ]
    drawn.sort(key=lambda tick: tick[2])
    # Words side by side need a space between them, lines below each other need none.
    space = 0.4 if isinstance(axis, XAxis) and not any(label.get_rotation() for label in axis.get_ticklabels()) else 0.1
    gap = space * TICK_SIZE / POINTS_PER_INCH * figure_of(axis.axes).dpi
    step = 1
    while any(start < end + gap for (*_, end), (*_, start, _) in zip(drawn[::step], drawn[step::step], strict=False)):
        step += 1
    if step == 1:
        return
    drawn.sort(key=lambda tick: tick[0])
    places, names = [tick[0] for tick in drawn[::step]], [tick[1] for tick in drawn[::step]]
    words: dict[str, Any] = {"fontsize": TICK_SIZE, "parse_math": False}
    named = isinstance(axis.get_major_locator(), FixedLocator)
    axis.set_ticks(places, names, **words) if named else axis.set_ticks(places)


def _print_values(ax: Axes) -> None:
    """Print the values of cells where a cell has room for all of them, in a smaller font where need be."""
    for image in ax.images:
        cells = np.ma.filled(np.ma.asarray(image.get_array(), dtype=np.float64), np.nan)
        width, height = size_of(ax)
        known = cells[np.isfinite(cells)]
        longest = max((len(short(value)) for value in known), default=1)
        pitch = width / cells.shape[1] / ((longest + 0.4) * CHARACTER), height / cells.shape[0] / LINE
        size = min(TICK_SIZE, *pitch)
        if size < SMALLEST_SIZE:
            continue
        filled = image.to_rgba(cells)
        for row, column in np.argwhere(np.isfinite(cells)):
            words: dict[str, Any] = {"fontsize": size, "color": ink_on(filled[row, column]), "parse_math": False}
            # Not measured again by the layout, which would take seconds: it is within its cell.
            words |= {"ha": "center", "va": "center", "in_layout": False}
            ax.text(column, row, short(cells[row, column]), **words)


def short(value: float) -> str:
    """Two digits in few characters: .12, 1.2, 12."""
    if abs(value) >= 9.95:
        return f"{value:.0f}"
    if abs(value) >= 0.995:
        return f"{value:.1f}"
    return f"{value:.2f}".replace("0.", ".", 1).replace("-.00", ".00")
