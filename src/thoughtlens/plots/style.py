"""Turn figures into files that look alike and are the same bytes each time.

Colours are told apart by colour-blind readers (Okabe and Ito 2008) or run evenly from light to dark (magma). Sizes
are in points, so that text fits at any size of figure. No pyplot, no display, no global settings: figures are objects.

Turn names from data into text on a figure: thinned, shortened, escaped, never markup. It knows no numbers.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from textwrap import fill, shorten
from typing import Final, Literal

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from thoughtlens.files import replacing_path

ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILION, PURPLE, BLACK = "#0072B2", "#D55E00", "#CC79A7", "#000000"
GREY: Final = "#999999"

TITLE_SIZE: Final = 9.0
LABEL_SIZE: Final = 8.0
TICK_SIZE: Final = 7.0
SMALLEST_SIZE: Final = 4.5
"""Smaller text is left out."""

CHARACTER: Final = 0.65
"""Width of a character over its font size: DejaVu Sans digits are 0.64."""

LINE: Final = 1.35
"""Height of a line over its font size."""

POINTS_PER_INCH: Final = 72.0


def sequential_colours() -> Colormap:
    """Light for little, dark for much, grey-scale safe; cells that don't exist stay white."""
    return matplotlib.colormaps["magma_r"].with_extremes(bad="white")


def diverging_colours() -> Colormap:
    """Blue below a null, white at it, red above; values that don't exist are grey."""
    return matplotlib.colormaps["RdBu_r"].with_extremes(bad="#dddddd")


def ink_on(colour: tuple[float, float, float, float]) -> str:
    """Black or white, whichever contrasts more with this colour (WCAG 2 relative luminance)."""
    red, green, blue = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in colour[:3])
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    # Equal contrast with both: (L + 0.05)² = 1.05 · 0.05.
    return BLACK if luminance > 0.179 else "white"


def new_axes(
    width: float, height: float, *, left: float = 0.0, right: float = 0.0, bottom: float = 0.0, top: float = 0.0
) -> Axes:
    """An Axes of this size in points, on a Figure of its own, with margins in points around it."""
    total_width, total_height = width + left + right, height + bottom + top
    figure = Figure(figsize=(total_width / POINTS_PER_INCH, total_height / POINTS_PER_INCH))
    box = (left / total_width, bottom / total_height, width / total_width, height / total_height)
    return figure.add_axes(box)


def figure_of(ax: Axes) -> Figure:
    """The whole figure that an Axes is on, also where it sits in a subfigure."""
    figure = ax.get_figure(root=True)
    assert figure is not None, "an Axes that was removed from its figure can't be drawn on"
    return figure


def size_of(ax: Axes) -> tuple[float, float]:
    """Width and height of an Axes in points."""
    extent, dpi = ax.get_window_extent(), figure_of(ax).dpi
    return extent.width / dpi * POINTS_PER_INCH, extent.height / dpi * POINTS_PER_INCH


def every(step_size: float, room: float) -> int:
    """Label every n-th tick, so that labels needing `room` points fit on ticks `step_size` points apart."""
    return max(1, -int(-room // step_size))


def save_figure(ax: Axes, path_stem: str | Path) -> list[Path]:
    """Write the figure of an Axes as PNG (300 dpi) and SVG, each whole or not at all.

    Args:
        ax: any Axes of the figure.
        path_stem: path without suffix; its folder exists.

    Returns:
        The paths written. The same figure gives the same bytes.
    """
    figure, stem = figure_of(ax), Path(path_stem)
    # The salt replaces random ids; text stays text, searchable and small; neither date nor version is written.
    with matplotlib.rc_context({"svg.hashsalt": "thoughtlens", "svg.fonttype": "none"}):
        return [
            _save(figure, stem.with_name(f"{stem.name}.png"), {"Software": None}),
            _save(figure, stem.with_name(f"{stem.name}.svg"), {"Date": None}),
        ]


def _save(figure: Figure, path: Path, metadata: dict[str, None]) -> Path:
    with replacing_path(path) as partial:
        figure.savefig(partial, format=path.suffix[1:], dpi=300, metadata=metadata)
    return path


WORD_CHARACTER = 0.58
"""Width of a character of running text over its font size: narrower than digits and capitals."""


def plain(text: object) -> str:
    """Text as it can be drawn: what is no printable character of the font is written as its escape."""
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


def add_title(ax: Axes, title: str, *, n: object = None, room: float | None = None) -> None:
    """A title on the left, broken into lines within `room` points (the Axes' width if None), with n where known."""
    lines = heading(title, n, size_of(ax)[0] if room is None else room)
    ax.set_title(lines, fontsize=TITLE_SIZE, loc="left", parse_math=False)


def heading(title: str, n: object, room: float) -> str:
    """A title of lines that fit in `room` points, with n where known, in one piece."""
    # A line may not end at a space that doesn't break.
    known = plain(title) if n is None else f"{plain(title)} (n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{n})"
    lines = fill(known, max(12, int(room / (WORD_CHARACTER * TITLE_SIZE))))
    return lines.replace("\N{NO-BREAK SPACE}", " ")


def name_axes(ax: Axes, x: str, y: str = "") -> None:
    """Names of both axes and small ticks; names that would be longer than their axis are shortened."""
    width, height = size_of(ax)
    for name, room, put in ((x, width, ax.set_xlabel), (y, height, ax.set_ylabel)):
        fitting = shorten(plain(name), max(8, int(room / (WORD_CHARACTER * LABEL_SIZE))), placeholder=" …")
        put(fitting, fontsize=LABEL_SIZE, parse_math=False)
    ax.tick_params(labelsize=TICK_SIZE, length=2.0)


def name_columns(ax: Axes, names: Iterable[object], *, width: float | None = None) -> None:
    """Tick labels of columns 0, 1, … along x, thinned where they would touch."""
    labels = [plain(name) for name in names]
    widest = max((len(label) for label in labels), default=1)
    pitch = (size_of(ax)[0] if width is None else width) / max(1, len(labels))
    shown = list(range(0, len(labels), every(pitch, (widest + 0.7) * CHARACTER * TICK_SIZE)))
    ax.set_xticks(shown, [labels[place] for place in shown], fontsize=TICK_SIZE, parse_math=False)


def name_rows(ax: Axes, names: Iterable[object], *, height: float | None = None) -> None:
    """Tick labels of rows 0, 1, … along y, thinned where they would touch."""
    labels = [plain(name) for name in names]
    pitch = (size_of(ax)[1] if height is None else height) / max(1, len(labels))
    shown = list(range(0, len(labels), every(pitch, LINE * TICK_SIZE)))
    ax.set_yticks(shown, [labels[place] for place in shown], fontsize=TICK_SIZE, parse_math=False)


def few_ticks(ax: Axes, axis: Literal["x", "y"]) -> None:
    """No more numbers along an axis than there is room for."""
    width, height = size_of(ax)
    room = width / (6 * CHARACTER * TICK_SIZE) if axis == "x" else height / (2 * LINE * TICK_SIZE)
    ax.locator_params(axis=axis, nbins=max(1, min(6, int(room))))


def add_legend(ax: Axes, colours: Mapping[str, str], *, title: str = "", markers: Sequence[str] = ()) -> None:
    """What the colours mean, to the right of the Axes; dots of these shapes instead of patches if `markers`."""
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
