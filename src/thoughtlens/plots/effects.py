"""Effects of cuts: a forest with controls, curves, doses, transplants; cut − uncut, so that a loss is negative.

In: a `Study`. Out: a Figure.
"""

import json
from typing import Any, Final

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thoughtlens.analysis import effects_by_design
from thoughtlens.analysis.effects import ALPHA, RANKED_BY, WORSE, Study, check_outcome, controls_of, doses
from thoughtlens.analysis.effects_by_design import curve_of, transplant_table
from thoughtlens.errors import OptionError
from thoughtlens.notation import KV_GROUPS
from thoughtlens.plots.primitives import (
    Look,
    dodged,
    draw_null,
    draw_number,
    draw_stacks,
    frame_rows,
    limits,
    looks,
    print_stacks,
    titled,
)
from thoughtlens.plots.style import (
    FAINT,
    GREY,
    INK,
    ORANGE,
    ORANGES,
    add_legend,
    add_title,
    caption_of,
    clipped,
    figure_of,
    fit,
    name_axes,
    name_ticks,
    new_axes,
    size_of,
)

EFFECTS: Final = {
    "accuracy": "change in accuracy (cut − uncut)",
    "joint_logprob": "change in log-probability of the answer, nats (cut − uncut)",
    "gold_logprob": "change in log-probability behind the forced prefix, nats (cut − uncut)",
    "kl": "KL from the uncut run, first answer token, nats",
}
"""What a figure calls the effect on each outcome."""
SHORT_EFFECTS: Final = {
    "accuracy": "change in accuracy",
    "joint_logprob": "change in log-probability, nats",
    "gold_logprob": "change behind the prefix, nats",
    "kl": "KL from the uncut run, nats",
}
"""The same beside an axis that is not long; the caption says the rest."""
LONGEST: Final = 28
"""Characters of a cut's label that a figure shows."""
LOWEST: Final = 76.0
"""Points that a legend beside the rows needs."""
FEW_STEPS: Final = 20
"""Steps of an order up to which each is a dot on its curve."""


def caption_of_cuts(study: Study, n: object, *more: str) -> str:
    """The caption of a figure of a study: its model and problem set, n, and more."""
    named = {name: json.loads(study.effects.attrs.get(name, "{}")).get("name") for name in ("model", "problems")}
    return caption_of(named, n, *more)


def lines_of(outcome: str) -> str:
    """What the lines of a figure are, for its caption."""
    return f"lines: 95 % {'score interval' if outcome == 'accuracy' else 'bootstrap'} over problems"


def effect_forest(study: Study, *, outcome: str = RANKED_BY, most: int = 60, ax: Axes | None = None) -> Figure:
    """Draw the plan's cuts, the largest loss on top, each with its interval and, as grey ticks, its controls.

    A dot is filled where the effect is significant: 5 % after Holm over the whole plan, never for kl.

    Args:
        study: of the cuts of a run.
        outcome: accuracy, joint_logprob, gold_logprob or kl.
        most: how many cuts are drawn, those whose effect is farthest from 0.
        ax: where to draw; a new figure if None.

    Returns:
        The figure drawn on.

    Raises:
        OptionError: there is no such outcome.

    Example:
        >>> effect_forest(study, outcome="accuracy").axes[0].get_xlabel()
        'change in accuracy (cut − uncut)'
    """
    summary, effect = study.summary, study.summary[check_outcome(outcome)]
    estimate = effect.sel(value="estimate").values
    cuts = np.flatnonzero((summary["kind"] == "cut").values & np.isfinite(estimate))
    chosen = cuts[np.argsort(-np.abs(estimate[cuts]), kind="stable")[:most]]
    order = chosen[np.argsort(-WORSE[outcome] * estimate[chosen], kind="stable")]
    labels = [str(label) for label in summary["intervention"].values]
    controls, own = np.full((len(order), len(labels)), np.nan), controls_of(summary)
    for row, cut in zip(controls, order, strict=True):
        others = [labels.index(label) for label in own.get(labels[cut], ())]
        row[others] = estimate[others]
    if ax is None:
        ax = new_axes(480.0, max(40.0, 11.0 * len(order)) + 80.0)
    pitch = size_of(ax)[1] / max(1, len(order))
    draw_null(ax, 0.0, upright=True)
    rows, columns = np.nonzero(np.isfinite(controls))
    tick: dict[str, Any] = {"markersize": max(1.5, min(6.0, 0.7 * pitch)), "markeredgewidth": 0.7, "zorder": 0.8}
    ax.plot(controls[rows, columns], rows, "|", color=GREY, **tick)
    size = max(1.0, min(4.0, 0.5 * pitch))
    significant = summary["p_holm"].sel(outcome=outcome).values[order] < ALPHA
    for place, (cut, marked) in enumerate(zip(order, significant, strict=True)):
        draw_number(ax, place, effect.isel(intervention=cut), Look(ORANGE, "o", size, hollow=not marked), across=True)
    frame_rows(
        ax, [clipped(_row_name(summary, cut), LONGEST) for cut in order], np.append(effect.values[order], controls)
    )
    of = "" if len(order) == len(cuts) else f": the largest {len(order)} of {len(cuts)} effects"
    title = f"What each cut costs{of}"
    notes = lines_of(outcome), "filled: 5 % after Holm", "grey ticks: the controls of the cut" if len(rows) else ""
    titled(ax, title, caption_of_cuts(study, int(summary["n"].max()), *notes), EFFECTS[outcome])
    fit(ax)
    return figure_of(ax)


def _row_name(summary: xr.Dataset, place: int) -> str:
    """The label of a cut; a key-value group is called by its own name and not by its heads."""
    cut = summary.isel(intervention=place)
    group = str(cut["family"].item()) == KV_GROUPS
    return f"{cut['unit'].item()} {cut['edit'].item()}" if group else str(cut["intervention"].item())


def ablation_curve(study: Study, *, outcome: str = RANKED_BY, ax: Axes | None = None) -> Figure:
    """Draw the effect of cutting the first k heads, a line a ranking with its interval, over the random orders.

    Args:
        study: with at least one order of cuts, all of one length.
        outcome: accuracy, joint_logprob, gold_logprob or kl.
        ax: where to draw, with room for the legend on its right; a new figure if None.

    Returns:
        The figure drawn on.

    Raises:
        OptionError: there is no such outcome, or the study has no orders.

    Example:
        >>> ablation_curve(study).axes[0].get_xlabel()
        'k: how many are cut, the first of each order'
    """
    check_outcome(outcome)
    table = curve_of(study.summary)
    if table is None:
        raise OptionError("found no orders of cuts in this study, expected one or more; intervene with --order.")
    effect, chance = table[outcome], table[f"random_{outcome}"]
    n_random, k = int(table["n_random"]), table["k"].values.astype(float)
    series = looks([str(name) for name in table["order"].values], ORANGES)
    ax = ax or new_axes(500.0, 254.0)
    draw_null(ax, 0.0)
    ax.fill_between(k, chance.sel(value="low"), chance.sel(value="high"), color=GREY, alpha=0.25, linewidth=0)
    ax.plot(k, chance.sel(value="estimate"), color=GREY, linewidth=1.0, linestyle=":")
    for look, curve in zip(series.values(), effect, strict=True):
        ax.fill_between(k, curve.sel(value="low"), curve.sel(value="high"), color=look.colour, alpha=0.2, linewidth=0)
        few: dict[str, Any] = {"marker": look.marker, "markersize": 3.0} if len(k) <= FEW_STEPS else {}
        ax.plot(k, curve.sel(value="estimate"), color=look.colour, linewidth=1.4, **few)
    ax.set_ylim(*limits(np.append(effect.values, chance.values)))
    x = "k: how many are cut, the first of each order"
    areas = lines_of(outcome).replace("lines", "coloured areas")
    said = EFFECTS[outcome].replace(", nats", "")
    by_chance = "dotted and grey area: mean and range of random orders" if n_random else ""
    caption = caption_of_cuts(study, int(table["n"]), said, areas, by_chance)
    titled(ax, "What cutting more and more heads costs", caption, x, SHORT_EFFECTS[outcome])
    colours = {name: look.colour for name, look in series.items()}
    colours |= {f"{n_random} random orders": GREY} if n_random else {}
    add_legend(ax, colours, markers=[*(look.marker for look in series.values()), "s"][: len(colours)])
    fit(ax)
    return figure_of(ax)


def dose_response(study: Study, *, outcome: str = RANKED_BY, most: int = 7, ax: Axes | None = None) -> Figure:
    """Draw what each degree of a cut costs, a line a target.

    Args:
        study: with cuts of at least one target by two degrees or more.
        outcome: accuracy, joint_logprob, gold_logprob or kl.
        most: how many targets are drawn, the costly ones; 7 can be told apart.
        ax: where to draw, with room for the legend on its right; a new figure if None.

    Returns:
        The figure drawn on.

    Raises:
        OptionError: there is no such outcome, or the study has no degrees of a cut.

    Example:
        >>> dose_response(study).axes[0].get_xlabel()
        'dose: how much of the cut is made'
    """
    check_outcome(outcome)
    graded = doses(study.summary)
    if not graded:
        raise OptionError(
            "found no cut by degrees in this study, expected two of one target; intervene with scale:0.5."
        )
    table = effects_by_design.dose_response(study.summary, graded)
    effect = table[outcome]
    worst = (WORSE[outcome] * effect.sel(value="estimate", drop=True)).max("dose").fillna(-np.inf).values
    effect = effect.isel(target=np.sort(np.argsort(-worst, kind="stable")[:most]))
    series = looks([str(name) for name in effect["target"].values], ORANGES)
    ax = ax or new_axes(500.0, 254.0)
    levels = effect["dose"].values.astype(float)
    step = float(np.diff(levels).min(initial=np.inf)) if len(levels) > 1 else 1.0
    pitch = step / max(1e-9, float(np.ptp(levels))) * size_of(ax)[0]
    # Beside each other, but not so far that a dose looks like another.
    offsets, size = dodged(len(series), 0.4 * pitch)
    draw_null(ax, 0.0)
    for offset, look, curve in zip(offsets, series.values(), effect, strict=True):
        places, known = levels + 0.4 * step * offset, np.isfinite(curve.sel(value="estimate").values)
        ax.plot(places[known], curve.sel(value="estimate").values[known], color=look.colour, linewidth=0.9)
        for place, number in zip(places, curve, strict=True):
            draw_number(ax, float(place), number, look._replace(size=max(2.0, size)))
    ax.set_ylim(*limits(effect))
    of = "" if len(series) == len(worst) else f": the costliest {len(series)} of {len(worst)}"
    title, x = f"What each degree of a cut costs{of}", "dose: how much of the cut is made"
    caption = caption_of_cuts(study, int(table["n"]), EFFECTS[outcome].replace(", nats", ""), lines_of(outcome))
    titled(ax, title, caption, x, SHORT_EFFECTS[outcome])
    add_legend(ax, {name: look.colour for name, look in series.items()}, markers=[x.marker for x in series.values()])
    fit(ax)
    return figure_of(ax)


def transplant_bars(study: Study, *, ax: Axes | None = None) -> Figure:
    """Draw whose answer is given with another problem's thoughts, a bar a transplant, beside donors drawn at random.

    Args:
        study: with at least one transplant of thoughts.
        ax: where to draw, with room for the legend on its right; a new figure if None.

    Returns:
        The figure drawn on; a dark line is the interval of the donor's share.

    Raises:
        OptionError: the study has no transplants.

    Example:
        >>> transplant_bars(study).axes[0].get_title(loc="left")
        "Whose answer is given with another problem's thoughts"
    """
    table = transplant_table(study.effects)
    if table is None:
        raise OptionError("found no transplant of thoughts in this study, expected one; intervene with donor thoughts.")
    share = table["share"].transpose("answer", "intervention", "value")
    names = [
        f"{clipped(name, LONGEST)} (n = {int(n)})"
        for name, n in zip(table["intervention"].values, table["n"].values, strict=True)
    ]
    colours = dict(zip((str(name) for name in share["answer"].values), (ORANGE, "#f0cfae", FAINT), strict=True))
    if ax is None:
        ax = new_axes(600.0, max(LOWEST, 15.0 * len(names)) + 68.0)
    draw_stacks(ax, share.sel(value="estimate"), colours, 1.0)
    for place, number in enumerate(share[0]):
        ends = [float(number.sel(value=name)) for name in ("low", "high")]
        ax.plot(ends, [place + 0.33] * 2, color=INK, linewidth=1.0, solid_capstyle="butt")
    name_ticks(ax.yaxis, names)
    n = int(table["n"].max())
    caption = caption_of_cuts(study, n, "of a row as it says; dark lines: 95 % interval of the donor's share")
    add_title(ax, "Whose answer is given with another problem's thoughts", caption)
    name_axes(ax, "share of problems", open_sides=False)
    add_legend(ax, colours, title="the answer")
    fit(ax)
    print_stacks(ax, lambda share: f"{share:.0%}")
    return figure_of(ax)
