"""Turn names from data into text on a figure: thinned, shortened, escaped, never markup. It knows no numbers."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from textwrap import fill, shorten
from typing import Literal

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from thoughtlens.plots.style import CHARACTER, LABEL_SIZE, LINE, TICK_SIZE, TITLE_SIZE, every, size_of

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
