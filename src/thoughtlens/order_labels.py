"""The labels of cuts made one after the other: the first k of an order, written and read back."""

import re
from collections.abc import Iterable
from typing import Final

RANDOM: Final = "random order"
"""What the names of random orders begin with."""

_STEP: Final = re.compile(r"(?P<order>.+) · first (?P<k>[1-9][0-9]*)")


def step_label(order: str, k: int) -> str:
    """The label of the cut of an order's first k."""
    return f"{order} · first {k}"


def orders_in(labels: Iterable[str]) -> dict[str, list[str]]:
    """The orders among labels: by name, the labels of their steps 1, 2, …; an order that lacks a step is left out."""
    steps: dict[str, dict[int, str]] = {}
    for label in labels:
        if found := _STEP.fullmatch(label):
            steps.setdefault(found["order"], {})[int(found["k"])] = label
    whole = {order: its for order, its in steps.items() if sorted(its) == list(range(1, len(its) + 1))}
    return {order: [its[k] for k in sorted(its)] for order, its in whole.items()}
