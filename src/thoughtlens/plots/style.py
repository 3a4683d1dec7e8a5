"""The look of every figure: palette and sizes, new figures and panels, text that fits, and the files.

In: an Axes, or none; names and titles from data. Out: an Axes on a figure of constrained layout, which a notebook
shows, and PNG, SVG and PDF files that are the same bytes each time. There is no pyplot, no display, no global setting.

`fit` is the last call of every figure. It lays the figure out, then breaks titles, shortens names, thins tick labels
and prints the values of cells by the sizes that were measured. Colours are those of the report page: blue is looking,
orange is cutting, grey is below chance; series differ in their shade and in the shape of their dots.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from textwrap import fill, shorten
from typing import Any, Final

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator
from matplotlib.transforms import BboxBase

from thoughtlens.errors import OptionError
from thoughtlens.files import replacing_bytes

BLUE, ORANGE, GREY = "#0a58a8", "#a8480a", "#8a847d"
"""Looking, cutting, and what is below chance."""
INK, SOFT, FAINT = "#16191d", "#545b64", "#dcddd8"
"""Words, notes, and lines that lead the eye."""
BLUES = ("#eef3f8", "#448dcc", "#07305f")
ORANGES = ("#faf2ea", "#c16d00", "#7a2f00")
GREYS = ("#f4f3f1", "#8a847d", "#3f3a34")

TITLE_SIZE, LABEL_SIZE, TICK_SIZE = 9.0, 8.0, 7.0
SCREEN_DPI: Final = 110.0
"""Pixels per inch of the picture that a notebook shows."""
SMALLEST_SIZE: Final = 4.5
"""Text that would be smaller is left out."""
CHARACTER, WORD_CHARACTER, BOLD_CHARACTER = 0.65, 0.58, 0.66
"""Width of a character over its font size: of digits and capitals, of running text, and of bold text."""
LINE: Final = 1.35
"""Height of a line over its font size."""
POINTS_PER_INCH: Final = 72.0


@cache
def colours_of(*stops: str) -> Colormap:
    """A colour map through these colours; cells that do not exist stay white."""
    return LinearSegmentedColormap.from_list("thoughtlens", stops, N=512).with_extremes(bad="white")


def ink_on(colour: Sequence[float]) -> str:
    """Black or white, whichever contrasts more with this colour (WCAG 2 relative luminance)."""
    red, green, blue = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in colour[:3])
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    # Equal contrast with both: (L + 0.05)² = 1.05 · 0.05.
    return "black" if luminance > 0.179 else "white"


class Picture(Figure):
    """A figure whose picture a notebook shows, once, where it is the value of a cell."""

    def _repr_png_(self) -> bytes:
        with BytesIO() as file:
            self.savefig(file, format="png", dpi=SCREEN_DPI)
            return file.getvalue()


def new_figure(width: float, height: float) -> Picture:
    """A new figure of this size in points."""
    figure = Picture(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH), layout="constrained")
    # A canvas that draws, so that text can be measured.
    FigureCanvasAgg(figure)
    return figure


def new_axes(width: float, height: float) -> Axes:
    """The Axes of a new figure of this size in points."""
    axes: Axes = new_figure(width, height).subplots()
    return axes


def panels(
    ax: Axes | None,
    n_panels: int,
    n_columns: int,
    size: tuple[float, float],
    *,
    title: str,
    caption: str = "",
    least: tuple[float, float] = (90.0, 40.0),
    margin: tuple[float, float] = (0.0, 0.0),
) -> tuple[Figure, list[Axes]]:
    """The whole figure, a new one or that of the Axes given, and its panels, row by row, under title and caption.

    Sizes are in points: `size` of a panel with its words, and `margin` beside all, on a new figure; there are no panels
    where each would have less than `least`.
    """
    n_columns = max(1, min(n_columns, n_panels))
    n_rows = max(1, -(-n_panels // n_columns))
    width, spec = max(300.0, n_columns * size[0] + margin[0]), None
    if ax is not None:
        (width, height), spec = size_of(ax), ax.get_subplotspec()
        if spec is None:
            raise OptionError(
                "a figure of several panels was given an Axes without a grid, expected one such as "
                "Figure(layout='constrained').subplots() gives; pass such an Axes, or none."
            )
    lines = _broken(plain(title), width - 8.0, TITLE_SIZE * BOLD_CHARACTER)
    notes = _broken(caption, width - 8.0, TICK_SIZE * WORD_CHARACTER) if caption else ""
    head = 3.0 + LINE * (TITLE_SIZE * (1 + lines.count("\n")) + TICK_SIZE * (notes.count("\n") + bool(notes)))
    whole: Figure | SubFigure
    if ax is None or spec is None:
        height = head + n_rows * size[1] + margin[1]
        whole = new_figure(width, height)
    else:
        needed = n_columns * least[0], n_rows * least[1] + head
        if width < needed[0] or height < needed[1]:
            say_instead(ax, f"needs {needed[0]:.0f} × {needed[1]:.0f} points")
            return figure_of(ax), []
        ax.set_axis_off()
        place = ax.get_figure(root=False)
        assert place is not None, "an Axes that was removed from its figure can't be drawn on"
        whole = place.add_subfigure(spec)
    top, below = np.ravel(np.array(whole.subfigures(2, 1, height_ratios=[head, height - head])))
    left, words = 4.0 / width, {"ha": "left", "parse_math": False}
    top.text(left, 1.0 - 3.0 / head, lines, va="top", fontsize=TITLE_SIZE, weight="bold", color=INK, **words)
    top.text(left, 2.0 / head, notes, va="bottom", fontsize=TICK_SIZE, color=SOFT, linespacing=1.1, **words)
    tiles = list(below.subplots(n_rows, n_columns, squeeze=False).flat)
    for spare in tiles[n_panels:]:
        spare.remove()
    return figure_of(tiles[0]), tiles[:n_panels]


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


def save_figure(figure: Figure, path_stem: str | Path, *, about: str = "") -> list[Path]:
    """Write a figure as PNG (300 dpi), SVG and PDF, each whole or not at all.

    Args:
        figure: as every function of `thoughtlens.plots` returns it.
        path_stem: path without suffix; its folder exists.
        about: what the files say of themselves in their metadata, as their description.

    Returns:
        The three paths. The same figure gives the same bytes.

    Example:
        >>> import tempfile
        >>> from matplotlib.figure import Figure
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [path.name for path in save_figure(Figure(), f"{folder}/empty")]
        ['empty.png', 'empty.svg', 'empty.pdf']
    """
    stem, paths = Path(path_stem), []
    # Neither date nor version is written, and the salt replaces random ids; text stays text, searchable and small.
    settings: dict[Any, Any] = {"svg.hashsalt": "thoughtlens", "svg.fonttype": "none", "pdf.fonttype": 42}
    engine = figure.get_layout_engine()
    try:
        with matplotlib.rc_context(settings), _fonts_by_number():
            # Laid out once, and alike in all files: each file would do it twice, which takes longer than drawing.
            if engine is not None:
                engine.execute(figure)
            figure.set_layout_engine(None)
            for suffix, fact in (("png", "Software"), ("svg", "Date"), ("pdf", "CreationDate")):
                paths.append(stem.with_name(f"{stem.name}.{suffix}"))
                with replacing_bytes(paths[-1]) as file:
                    facts = {fact: None, "Subject" if suffix == "pdf" else "Description": about or None}
                    figure.savefig(file, format=suffix, dpi=300, metadata=facts)
    finally:
        figure.set_layout_engine(engine)
    return paths


@contextmanager
def _fonts_by_number() -> Iterator[None]:
    """Embed fonts without the tables that name and choose glyphs: a PDF has these by number, and reading is slow."""
    from fontTools import subset  # what writes PDF imports it

    def load(*args: Any, **options: Any) -> Any:
        font = known(*args, **options)
        for table in {"GDEF", "GPOS", "GSUB", "OS/2", "cmap", "post"} & {*font.keys()}:
            del font[table]
        return font

    known, subset.load_font = subset.load_font, load
    try:
        yield
    finally:
        subset.load_font = known


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


def intervals_of(named: Mapping[str, object]) -> str:
    """What the lines of a figure are, for its caption; `named` are the attributes of what is drawn."""
    return f"lines: 95 % bootstrap over {'blocks of ' if 'n_blocks' in named else ''}problems"


def caption_of(named: Mapping[str, object], n: object, *more: str) -> str:
    """The model and the problem set, where their names are known, n, and what else a reader must know."""
    of = " on ".join(plain(named[name]) for name in ("model", "problems") if named.get(name))
    said = "; ".join(words for words in (of, f"n{SPACE}={SPACE}{n}", *more) if words)
    return said.replace(" %", f"{SPACE}%")


def _broken(text: str, room: float, character: float) -> str:
    """Text in lines that fit in `room` points; what a hard space joins is kept in one piece."""
    return fill(text, max(12, int(room / character)), break_on_hyphens=False).replace(SPACE, " ")


_CAPTION: Final = "<caption>"


def add_title(ax: Axes, title: str, caption: str = "") -> None:
    """A title on the left and what the figure is of in small type below it; `fit` breaks both into lines."""
    _set_title(ax, plain(title), bool(caption))
    if caption:
        where: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "annotation_clip": False}
        words: dict[str, Any] = {"ha": "left", "va": "bottom", "fontsize": TICK_SIZE, "color": SOFT}
        note = ax.annotate(caption, (0.0, 1.0), (0.0, 4.0), **where, **words, linespacing=1.1, parse_math=False)
        note.set_label(_CAPTION)
        # The title above it makes room for it, and its width is that of the rest.
        note.set_in_layout(False)


def _set_title(ax: Axes, title: str, n_below: int) -> None:
    """Set the title on the left, over so many lines of a caption."""
    words: dict[str, Any] = {"fontsize": TITLE_SIZE, "weight": "bold", "color": INK, "parse_math": False}
    # Over a caption it has its place, which Matplotlib would otherwise look for by measuring all ticks.
    place, pad = (1.0 if n_below else None), 4.0 + n_below * LINE * TICK_SIZE + 2.0 * bool(n_below)
    ax.set_title(title, loc="left", y=place, pad=pad, **words)


def name_axes(ax: Axes, x: str, y: str = "", *, open_sides: bool = True) -> None:
    """Names of both axes, small ticks, and a frame on the left and below where the sides are open, or none."""
    ax.set_xlabel(plain(x), fontsize=LABEL_SIZE, parse_math=False)
    ax.set_ylabel(plain(y), fontsize=LABEL_SIZE, parse_math=False)
    ax.tick_params(labelsize=TICK_SIZE, length=2.0, color=SOFT)
    ax.spines[:].set_color(SOFT)
    ax.spines[["top", "right"] if open_sides else list(ax.spines)].set_visible(False)
    # They reach no further than the Axes and the names of its ticks; to measure them is slow.
    ax.spines[:].set_in_layout(False)


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


def short(value: float) -> str:
    """Two digits in few characters: .12, 1.2, 12."""
    if abs(value) >= 9.95:
        return f"{value:.0f}"
    if abs(value) >= 0.995:
        return f"{value:.1f}"
    return f"{value:.2f}".replace("0.", ".", 1).replace("-.00", ".00")


def fit(*axes: Axes, write: Callable[[float], str] = short) -> None:
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
        _print_values(ax, write)


def _lay_out(axes: Sequence[Axes]) -> None:
    engine = figure_of(axes[0]).get_layout_engine() if axes else None
    if engine is not None:
        engine.execute(figure_of(axes[0]))
    for ax in axes:
        ax.apply_aspect()


def _break_title(ax: Axes) -> bool:
    """Break title and caption within what the Axes, its legend and its colour bars take; whether they were broken."""
    legend = ax.get_legend()
    beside = [image.colorbar.ax.get_tightbbox() for image in ax.images if image.colorbar is not None]
    beside += [] if legend is None else [legend.get_window_extent()]
    right = max([ax.bbox.x1, *(box.x1 for box in beside if box is not None)])
    room = (right - ax.bbox.x0) / figure_of(ax).dpi * POINTS_PER_INCH
    lines = _broken(ax.get_title(loc="left"), room, TITLE_SIZE * BOLD_CHARACTER)
    note = next((text for text in ax.texts if text.get_label() == _CAPTION), None)
    notes = "" if note is None else _broken(note.get_text(), room, TICK_SIZE * WORD_CHARACTER)
    if note is not None:
        note.set_text(notes)
    _set_title(ax, lines, notes.count("\n") + bool(notes))
    return "\n" in lines + notes


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
    labels = axis.get_ticklabels()
    drawn = [
        (place, label.get_text(), *_along(axis, label.get_window_extent()))
        for place, label in zip(axis.get_majorticklocs(), labels, strict=False)
        if low <= place <= high and label.get_text()
    ]
    drawn.sort(key=lambda tick: tick[2])
    # Words side by side need a space between them, lines below each other need none.
    space = 0.4 if isinstance(axis, XAxis) and not any(label.get_rotation() for label in labels) else 0.1
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


def _print_values(ax: Axes, write: Callable[[float], str]) -> None:
    """Print the values of cells where a cell has room for all of them, in a smaller font where need be."""
    for image in ax.images:
        cells = np.ma.filled(np.ma.asarray(image.get_array(), dtype=np.float64), np.nan)
        width, height = size_of(ax)
        known = cells[np.isfinite(cells)]
        longest = max((len(write(value)) for value in known), default=1)
        pitch = width / cells.shape[1] / ((longest + 0.4) * CHARACTER), height / cells.shape[0] / LINE
        size = min(TICK_SIZE, *pitch)
        if size < SMALLEST_SIZE:
            continue
        filled = image.to_rgba(cells)
        for row, column in np.argwhere(np.isfinite(cells)):
            words: dict[str, Any] = {"fontsize": size, "color": ink_on(filled[row, column]), "parse_math": False}
            # Not measured again by the layout, which would take seconds: it is within its cell.
            words |= {"ha": "center", "va": "center", "in_layout": False}
            ax.text(column, row, write(cells[row, column]), **words)
