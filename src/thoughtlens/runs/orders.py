"""Turn rankings of cuts into plans that make them one after the other: the first 1, 2, … of each, and of random orders.

A random order is of the same cuts, so that only what comes first differs; the last step of all orders is one and the
same cut of everything. It knows nothing of sites or edits: cuts are added up part by part.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from thoughtlens.errors import OptionError
from thoughtlens.order_labels import RANDOM, step_label
from thoughtlens.tracing.cuts import Cut


class Incremental(NamedTuple):
    """What `plan_incremental` returns."""

    cuts: tuple[Cut, ...]
    """the first k of each ranking, for k = 1 … all"""
    random: tuple[Cut, ...]
    """the first k of each random order: the controls of all rankings"""


def plan_incremental(rankings: Mapping[str, Sequence[Cut]], *, n_orders: int = 10, seed: int = 0) -> Incremental:
    """Cuts of the first 1, 2, … of each ranking, and of random orders of the same cuts.

    Args:
        rankings: by name, such as `attention`: cuts, the most important first; all rankings of the same cuts.
        n_orders: random orders drawn.
        seed: same seed, same orders.

    Returns:
        Cuts labelled as `order_labels.step_label` does, from which `analysis.curves.ablation_curve` is drawn.

    Raises:
        OptionError: no ranking, one of other cuts, or one named like a random order.
    """
    members = {name: sorted(cut.label for cut in ranking) for name, ranking in rankings.items()}
    if not members or not all(its and its == next(iter(members.values())) for its in members.values()):
        raise OptionError(f"found {len(members)} rankings, expected one or more of the same cuts; rank the same ones.")
    if odd := [name for name in rankings if name.startswith(RANDOM)]:
        raise OptionError(f"a ranking is called {odd[0]!r}, which names random orders; call it otherwise.")
    # By label, so that the random orders are the same whatever the rankings are.
    first = sorted(next(iter(rankings.values())), key=lambda cut: cut.label)
    rng = np.random.default_rng(seed)
    drawn = {f"{RANDOM} {k}": [first[place] for place in rng.permutation(len(first))] for k in range(1, n_orders + 1)}
    return Incremental(_steps_of_all(rankings), _steps_of_all(drawn))


def _steps_of_all(orders: Mapping[str, Sequence[Cut]]) -> tuple[Cut, ...]:
    return tuple(step for name, order in orders.items() for step in _steps(name, order))


def _steps(name: str, order: Sequence[Cut]) -> list[Cut]:
    parts = [cut.parts for cut in order]
    return [
        replace(order[0], label=step_label(name, k), parts=tuple(part for its in parts[:k] for part in its))
        for k in range(1, len(order) + 1)
    ]
