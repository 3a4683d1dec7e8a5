"""Turn numbers by thought, lag or layer into profiles against their null, with intervals."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from thoughtlens.plots.intervals import Look, draw_null, draw_number, estimate_of, limits
from thoughtlens.plots.panels import Panel, panel_axes
from thoughtlens.plots.style import BLUE, GREY, VERMILION, new_axes
from thoughtlens.plots.text import add_title, few_ticks, name_axes, name_columns

UNDEFINED = "undefined for fewer than three thoughts"
OBSERVED = "preference, observed / even"
PANEL = Panel(width=196.0, height=92.0, left=38.0, right=12.0, bottom=30.0, top=24.0)


def hub_profile(data: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Preference H of each thought with its interval, the hub in red, against 1.

    Args:
        data: `preference` with dims (thought, value), `value` holding estimate, low and high; `hub`, a thought's
            name or ""; `n`. Thoughts without a preference (NaN) are left out. Attributes may say otherwise what is
            drawn: `title` of the Dataset, `long_name`, `null` and `null_name` of the preference, `long_name` of the
            thoughts.
        ax: where to draw; a new figure without.

    Returns:
        The Axes drawn on.
    """
    words = ("is one thought a hub?", "key: thought attended to (red: most preferred)", OBSERVED)
    numbers = _defined(data["preference"])
    colours = [VERMILION if name == data["hub"].item() else BLUE for name in numbers["thought"].values]
    return _profile(data, numbers, words, colours, ax)


def lag_profile(data: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Preference for thoughts so many steps back, with its interval, against 1.

    Args:
        data: `lag_preference` with dims (lag, value); `n`. Lags without a preference (NaN) are left out.
        ax: where to draw; a new figure without.

    Returns:
        The Axes drawn on.
    """
    words = ("how far back do thoughts look?", "lag: how many thoughts back", OBSERVED)
    return _profile(data, _defined(data["lag_preference"]), words, None, ax)


def skip_profile(data: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """How the last thought shares out what it gives to earlier thoughts, with intervals, against an even share.

    Args:
        data: `share` with dims (thought, value), its attribute `null` the even share; `n`; attributes as in
            `hub_profile`.
        ax: where to draw; a new figure without.

    Returns:
        The Axes drawn on.
    """
    words = ("does the last thought skip?", "key: thought attended to", "share of what earlier thoughts get")
    return _profile(data, _defined(data["share"]), words, None, ax)


def depth_profile(data: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Metrics by layer with their intervals, each in a panel of its own against its null.

    Args:
        data: `score` with dims (metric, layer, value) or (metric, layer); `null` with dims (metric), NaN where there
            is none; `n`.
        ax: where to draw; a new figure without.

    Returns:
        The Axes that holds all panels.
    """
    score, null = data["score"], data["null"]
    ax, panels = panel_axes(score.sizes["metric"], 2, PANEL, ax, title=title_of(data, "metrics by layer"), n=_n(data))
    for panel, name, level in zip(panels, score["metric"].values, null.values, strict=False):
        _draw_depth(panel, score.sel(metric=name), float(level))
        add_title(panel, str(name))
    return ax


def _draw_depth(ax: Axes, numbers: xr.DataArray, null: float) -> None:
    ax.plot(np.arange(numbers.sizes["layer"]), estimate_of(numbers).values, color=GREY, linewidth=0.8, zorder=0.8)
    draw_profile(ax, numbers, null=null, name="layer")
    few_ticks(ax, "y")


def _defined(numbers: xr.DataArray) -> xr.DataArray:
    (dim,) = (str(dim) for dim in numbers.dims if dim != "value")
    return numbers.isel({dim: np.flatnonzero(estimate_of(numbers).notnull().values)})


def title_of(data: xr.Dataset, otherwise: str) -> str:
    """What a Dataset says that it shows."""
    return str(data.attrs.get("title", otherwise))


def _n(data: xr.Dataset) -> int | None:
    return int(data["n"]) if "n" in data else None


def _profile(
    data: xr.Dataset,
    numbers: xr.DataArray,
    words: tuple[str, str, str],
    colours: Sequence[str] | None,
    ax: Axes | None,
) -> Axes:
    """One profile with its own margins; what attributes say goes before the words of the figure."""
    title, x, y = words
    (dim,) = (str(dim) for dim in numbers.dims if dim != "value")
    if ax is None:
        width = min(460.0, max(220.0, 26.0 * numbers.sizes[dim]))
        ax = new_axes(width, 170.0, left=40.0, right=34.0, bottom=34.0, top=24.0)
    null = float(numbers.attrs.get("null", 1.0))
    draw_profile(ax, numbers, null=null, null_name=str(numbers.attrs.get("null_name", "even")), colours=colours)
    add_title(ax, title_of(data, title), n=_n(data))
    named = numbers[dim].attrs.get("long_name", x) if numbers.sizes[dim] else UNDEFINED
    name_axes(ax, str(named), str(numbers.attrs.get("long_name", y)))
    return ax


def draw_profile(
    ax: Axes,
    numbers: xr.DataArray,
    *,
    null: float,
    null_name: str = "",
    name: str = "",
    colours: Sequence[str] | None = None,
) -> None:
    """Dots with intervals side by side over a dashed null, columns named, on an Axes with open sides."""
    (dim,) = (str(dim) for dim in numbers.dims if dim != "value")
    draw_null(ax, null, null_name)
    for place in range(numbers.sizes[dim]):
        draw_number(ax, place, numbers.isel({dim: place}), Look(colours[place] if colours else BLUE))
    ax.set_ylim(*limits(numbers, null))
    ax.set_xlim(-0.6, max(1, numbers.sizes[dim]) - 0.4)
    ax.spines[["top", "right"]].set_visible(False)
    name_columns(ax, numbers[dim].values)
    name_axes(ax, name)
