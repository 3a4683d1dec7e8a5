"""Cuts made one after the other are found by their order and step, whatever they are called."""

import numpy as np
import pytest

from tests.analysis.effects_made import made_effects
from thoughtlens.analysis import summarise
from thoughtlens.analysis.effects import orders
from thoughtlens.analysis.effects_by_design import curve_of
from thoughtlens.notation import step_label

RIGHT = np.ones(4, dtype=bool)


def effects_of(steps):
    """Cuts with these labels, in this order, each a step (order, k)."""
    addresses = {label: {"order": order, "k": k} for label, (order, k) in steps.items()}
    return made_effects(dict.fromkeys(["L4H5", *steps], RIGHT), baseline=RIGHT, addresses=addresses)


def test_orders_are_read_back_in_the_order_of_their_steps():
    names = ("attention", "random order 3", "a · first 2")
    expected = {name: [step_label(name, k) for k in range(1, 13)] for name in names}
    shuffled = {label: (name, k) for name in names for k, label in reversed([*enumerate(expected[name], start=1)])}
    assert orders(effects_of(shuffled)) == expected


def test_an_order_that_lacks_a_step_is_no_order():
    assert orders(effects_of({"a": ("attention", 1), "b": ("attention", 3)})) == {}


def test_random_orders_are_what_the_others_are_set_against():
    steps = {"y": ("attention", 2), "x": ("attention", 1), "u": ("random order 1", 1), "v": ("random order 1", 2)}
    curve = curve_of(summarise(effects_of(steps), n_resamples=20, n_flips=20))
    assert (curve["order"].values.tolist(), int(curve["n_random"])) == (["attention"], 1)


@pytest.mark.parametrize("steps", [{}, {"u": ("random order 1", 1)}, {"x": ("a", 1), "y": ("b", 1), "z": ("b", 2)}])
def test_without_orders_of_one_length_there_is_no_curve(steps):
    assert curve_of(summarise(effects_of(steps), n_resamples=20, n_flips=20)) is None
