"""Turn preferences for thoughts into a profile against 1, what an even split of attention would give."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from thoughtlens.plots.style import (
    BLUE,
    CHARACTER,
    GREY,
    LABEL_SIZE,
    TICK_SIZE,
    TITLE_SIZE,
    VERMILION,
    every,
    new_axes,
    size_of,
)

INK_GREY = "#666666"
UNDEFINED = "undefined for fewer than three thoughts"


def hub_profile(data: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Preference H of each thought with its interval, the hub in red, against 1.

    Args:
        data: `preference` with dims (thought, value), `value` holding estimate, low and high; `hub`, a thought's
            name or ""; `n`. Thoughts without a preference (NaN) are left out.
        ax: where to draw; a new figure without.

    Returns:
        The Axes drawn on.
    """
    preference = _defined(data["preference"])
    if ax is None:
        width = min(460.0, max(220.0, 26.0 * preference.sizes["thought"]))
        ax = new_axes(width, 170.0, left=40.0, right=34.0, bottom=34.0, top=24.0)
    ax.axhline(1.0, color=GREY, linestyle="--", linewidth=1.0)
    ax.text(1.01, 1.0, "even", transform=ax.get_yaxis_transform(), va="center", fontsize=TICK_SIZE, color=INK_GREY)
    for place, thought in enumerate(preference):
        _draw_thought(ax, place, thought, is_hub=thought["thought"].item() == data["hub"].item())
    _label(ax, preference, int(data["n"]))
    return ax


def _draw_thought(ax: Axes, place: int, values: xr.DataArray, *, is_hub: bool) -> None:
    colour = VERMILION if is_hub else BLUE
    # Not an error bar: a percentile interval need not hold its estimate.
    ax.vlines(place, values.sel(value="low").item(), values.sel(value="high").item(), color=colour, linewidth=1.5)
    ax.plot([place], [values.sel(value="estimate").item()], "o", color=colour, markersize=4.5)


def _label(ax: Axes, preference: xr.DataArray, n: int) -> None:
    names = [str(name) for name in preference["thought"].values]
    top = float(preference.max()) if names else 1.0
    ax.set_ylim(0.0, max(1.5, 1.08 * top))
    ax.set_xlim(-0.6, max(1, len(names)) - 0.4)
    widest = max((len(name) for name in names), default=1)
    pitch = size_of(ax)[0] / max(1, len(names))
    places = list(range(0, len(names), every(pitch, (widest + 0.7) * CHARACTER * TICK_SIZE)))
    ax.set_xticks(places, [names[place] for place in places], fontsize=TICK_SIZE, parse_math=False)
    ax.tick_params(axis="y", labelsize=TICK_SIZE)
    ax.tick_params(length=2.0)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title(f"is one thought a hub? (n = {n})", fontsize=TITLE_SIZE, loc="left")
    ax.set_xlabel("key: thought attended to (red: most preferred)" if names else UNDEFINED, fontsize=LABEL_SIZE)
    ax.set_ylabel("preference, observed / even", fontsize=LABEL_SIZE)


def _defined(preference: xr.DataArray) -> xr.DataArray:
    known = preference.sel(value="estimate").notnull().values
    return preference.isel(thought=np.flatnonzero(known))
