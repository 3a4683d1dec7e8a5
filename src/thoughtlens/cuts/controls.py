"""Matched random cuts, the controls of a cut: the same edit in the same scope, made on something else of the same kind.

in: cuts, the sizes of the model, and what heads are matched by: attention mass and output norm (measured by
`study_batches.head_measures`); out: controls by cut, and how near they come to the heads that are cut (`balance_rows`).

1. A cut is taken apart into units: a head, a layer, a thought or an edge. A part that concerns all of them is kept.
2. Each unit is moved: a head to the nearest within a caliper on attention mass and output norm (Austin 2011,
   Pharmaceutical Statistics 10), which may be none; a thought to another thought; an edge to another of the same lag. A
   unit that the cut itself has is never chosen. Another thought or edge that the plan cuts is chosen where no other is
   left; a head that is near is chosen even so, since those that the plan cuts differ from the others.
3. Controls are made once: several cuts may share one, and another cut of the plan may serve as one. `extra` gives the
   controls that the plan does not make already.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from functools import partial
from itertools import chain, count, islice, product
from typing import Any, Final, NamedTuple

import numpy as np
import xarray as xr

from thoughtlens.cuts import cut_types
from thoughtlens.cuts.cut_types import Cut
from thoughtlens.cuts.edits import Own, Stop
from thoughtlens.cuts.interventions import Intervention
from thoughtlens.errors import OptionError
from thoughtlens.notation import thought_names
from thoughtlens.taps import Site

Unit = tuple[tuple[str, Any], ...]
"""One thing that is cut, by its address: (("layers", 4), ("heads", 5)) or (("queries", "z4"), ("keys", "z1"))."""

CALIPER: Final = 0.5
"""In standard deviations of the logarithm of what heads are matched by.

In a simulation in which damage depends on mass alone, the thirty heads of most mass of 144 then exceed all their
controls as often as chance has it, and one in twelve has no control."""

PATIENCE: Final = 20
"""Rounds without a new control of a cut of several units, after which there is taken to be no other."""
Likes = Mapping[Any, tuple[float, ...]]
"""What a head is matched by, in standard deviations, by layer and head."""
Candidates = Callable[[Unit], list[Unit]]
_HEAD, _LAYER, _THOUGHT, _EDGE = ("layers", "heads"), ("layers",), ("queries",), ("queries", "keys")
_MOVED: Final = {Site.HEAD: _HEAD, Site.THOUGHT: _THOUGHT, Site.SCORES: _EDGE, Site.PATTERN: _EDGE}
"""The fields that say what is cut at each site; the others are its scope."""


class Shape(NamedTuple):
    """The sizes of a model, which say what can be cut.

    Example:
        >>> Shape(n_layers=2, n_heads=4, n_thoughts=6).n_heads
        4
    """

    n_layers: int
    n_heads: int
    n_thoughts: int
    groups: tuple[str, ...] = ()  # of prompt tokens, which can be keys


def controls_for(
    cuts: Sequence[Cut],
    *,
    n: int,
    seed: int,
    shape: Shape,
    like: xr.Dataset | None = None,
    caliper: float = CALIPER,
) -> dict[str, tuple[Cut, ...]]:
    """Controls of each cut: the same number of other heads, layers, thoughts or edges.

    Heads are those of any layer that are within the caliper of each in every measure, the nearest first; without
    measures they are drawn from its layer, matched by nothing.  Edges between thoughts keep their lag, or take the
    nearest lag where no other edge has it; an edge from or to another slot keeps that slot.

    Args:
        cuts: the plan.
        n: controls a cut, at least 1; fewer where there are fewer.
        seed: same seed, same controls.
        shape: of the model.
        like: what heads are matched by, such as `mass` and `norm`: positive numbers, dims (layer, head).
        caliper: how far a control may be from its head in each, in standard deviations of their logarithms over heads.

    Returns:
        By the cut's label, its controls; none where no head is within the caliper. One that is shared, or is itself in
        the plan, is there under the same label.

    Raises:
        OptionError: a cut has no control, as when it cuts everything there is.

    Example:
        >>> from thoughtlens.cuts import ablate_head
        >>> found = controls_for([ablate_head("L0H1")], n=3, seed=0, shape=Shape(n_layers=2, n_heads=4, n_thoughts=6))
        >>> sorted(control.label for control in found["L0H1 resample"])
        ['control L0H0', 'control L0H2', 'control L0H3']
    """
    if n < 1:
        raise OptionError(f"found {n} controls a cut, expected at least 1; leave controls out, or ask for more.")
    planned = {unit for cut in cuts for part in cut.parts for unit in _units(part)}
    made = {_content(cut.parts): cut for cut in cuts}
    labels = {cut.label for cut in cuts}
    likes = None if like is None else _standardised(like)
    rng = np.random.default_rng(seed)
    candidates = partial(_candidates, shape=shape, likes=likes, caliper=caliper, planned=planned, rng=rng)
    found: dict[str, tuple[Cut, ...]] = {}
    for cut in cuts:
        moved = list(islice(_moved(cut.parts, candidates), n))
        if not moved and likes is None:
            raise OptionError(
                f"the cut {cut.label!r} has no control, since a model of {shape.n_layers} layers, {shape.n_heads} "
                f"heads and {shape.n_thoughts} thoughts has nothing else like it; leave controls out for it."
            )
        for parts in moved:
            if _content(parts) not in made:
                made[_content(parts)] = cut_types.cut(*parts, label=_new_label(parts, labels))
        found[cut.label] = tuple(made[_content(parts)] for parts in moved)
    return found


def controllable(cuts: Sequence[Cut], shape: Shape) -> list[Cut]:
    """The cuts that have a control; a cut of all thoughts, for instance, has none."""
    found = []
    for cut in cuts:
        with suppress(OptionError):
            controls_for([cut], n=1, seed=0, shape=shape)
            found.append(cut)
    return found


def extra(controls: Mapping[str, Sequence[Cut]], cuts: Iterable[Cut]) -> tuple[Cut, ...]:
    """The controls that are not among the cuts, each once, in their order."""
    planned = {cut.label for cut in cuts}
    once = {control.label: control for its in controls.values() for control in its if control.label not in planned}
    return tuple(once.values())


def _units(part: Intervention) -> list[Unit]:
    """The units of a part; none where its address means all, or where it cannot be moved."""
    if isinstance(part.edit, Own | Stop):
        return []
    names = _MOVED[part.site]
    if part.site is Site.HEAD and part.heads is None:
        names = _LAYER
    given = [getattr(part, name) for name in names]
    if any(values is None for values in given):
        return []
    return [tuple(zip(names, values, strict=True)) for values in product(*map(sorted, given))]


def _moved(parts: Sequence[Intervention], candidates: Candidates) -> Iterator[tuple[Intervention, ...]]:
    """The parts with every unit moved elsewhere, each set of units once; drawn again as long as that gives new sets."""
    places = [(part, unit) for part in parts for unit in _units(part)]
    left = tuple(part for part in parts if not _units(part))
    own = {unit for _, unit in places}
    seen = {frozenset(own)}
    # One round lists every place to which a single unit can be moved, but only some pairs and triples of places.
    rounds = left_over = 1 if len(places) == 1 else PATIENCE
    while places and left_over:
        n_seen = len(seen)
        orders = [[unit for unit in candidates(unit) if unit not in own] for _, unit in places]
        for skip in range(max(map(len, orders))):
            chosen = _pick(orders, skip)
            if chosen and frozenset(chosen) not in seen:
                seen.add(frozenset(chosen))
                yield left + tuple(_placed(part, unit) for (part, _), unit in zip(places, chosen, strict=True))
        left_over = rounds if len(seen) > n_seen else left_over - 1


def _pick(orders: Sequence[Sequence[Unit]], skip: int) -> list[Unit]:
    """From each order, after skipping some, the first unit that is not taken yet; nothing if an order has none."""
    chosen: list[Unit] = []
    for order in orders:
        left = [unit for unit in order if unit not in chosen]
        if skip >= len(left):
            return []
        chosen.append(left[skip])
    return chosen


def _placed(part: Intervention, unit: Unit) -> Intervention:
    return replace(part, **{name: type(getattr(part, name))((value,)) for name, value in unit})


def _candidates(
    unit: Unit, *, shape: Shape, likes: Likes | None, caliper: float, planned: set[Unit], rng: np.random.Generator
) -> list[Unit]:
    """The units to which a unit may be moved, the best first, in random order among equals."""
    names, values = zip(*unit, strict=True)
    thoughts = thought_names(shape.n_thoughts)
    if names == _HEAD:
        layers = [values[0]] if likes is None else range(shape.n_layers)
        places = [*product(layers, range(shape.n_heads))]
        if likes is not None:
            places = [place for place in places if _apart(likes[values], likes[place]) <= caliper]
        others = [tuple(zip(_HEAD, place, strict=True)) for place in places]
    elif names == _EDGE:
        others = _edges(values[0], values[1], thoughts)
    else:
        others = [((names[0], value),) for value in (range(shape.n_layers) if names == _LAYER else thoughts)]

    def rank(other: Unit) -> tuple[float, float]:
        distance = _distance(unit, other, thoughts=thoughts, likes=likes)
        # Edges and matched heads: the nearest first, then those that the plan does not cut. Others the other way round.
        nearest = names == _EDGE or (names == _HEAD and likes is not None)
        return (distance, other in planned) if nearest else (other in planned, distance)

    ranked = sorted(zip(map(rank, others), rng.permutation(len(others)), others, strict=True), key=lambda row: row[:2])
    return [other for *_, other in ranked if other != unit]


def _edges(query: str, key: str, thoughts: Sequence[str]) -> list[Unit]:
    """The edges to which an edge may be moved: an end that is a thought moves, another slot stays."""
    queries = thoughts if query in thoughts else [query]
    keys = thoughts if key in thoughts else [key]
    order = {name: place for place, name in enumerate(thoughts)}
    return [
        (("queries", q), ("keys", k))
        for q, k in product(queries, keys)
        if q not in order or k not in order or order[k] < order[q]
    ]


def _standardised(like: xr.Dataset) -> Likes:
    """The logarithm of each measure in its standard deviations over heads, by layer and head."""
    found: dict[Any, tuple[float, ...]] = {}
    for values in like.transpose("layer", "head").data_vars.values():
        with np.errstate(divide="ignore"):
            logs = np.log(values.to_series())
        spread = float(logs[np.isfinite(logs)].std(ddof=0)) or 1.0
        found = {place: (*found.get(place, ()), log / spread) for place, log in logs.items()}
    return found


def _apart(here: tuple[float, ...], there: tuple[float, ...]) -> float:
    """The largest difference of any measure; infinite where one is not known, as the logarithm of 0."""
    return max(abs(one - other) if np.isfinite(one - other) else np.inf for one, other in zip(here, there, strict=True))


def _distance(unit: Unit, other: Unit, *, thoughts: Sequence[str], likes: Likes | None) -> float:
    """How far a candidate is from the unit in what is matched: the measures of heads, the lag of edges."""
    here, there = dict(unit), dict(other)
    if "heads" in here and likes is not None:
        return _apart(likes[here["layers"], here["heads"]], likes[there["layers"], there["heads"]])
    if "keys" in here and here["queries"] in thoughts and here["keys"] in thoughts:
        lags = [thoughts.index(x["queries"]) - thoughts.index(x["keys"]) for x in (here, there)]
        return float(abs(lags[0] - lags[1]))
    return 0.0


def _content(parts: Sequence[Intervention]) -> frozenset[tuple[str, Unit]]:
    """What a cut does, whatever its label and however it is divided into parts."""
    found = set()
    for part in parts:
        moved = _MOVED[part.site] if _units(part) else ()
        scope = {f.name: getattr(part, f.name) for f in fields(part) if f.name not in moved}
        plain = {name: sorted(map(str, its)) if isinstance(its, frozenset) else its for name, its in scope.items()}
        manner = repr(plain)
        found |= {(manner, unit) for unit in _units(part) or [()]}
    return frozenset(found)


def _new_label(parts: Sequence[Intervention], labels: set[str]) -> str:
    """A label that no other cut has; it is added to the labels."""
    plain = f"control {', '.join(_name(unit) for part in parts for unit in _units(part))}"
    numbered = chain([plain], (f"{plain} ({k})" for k in count(2)))
    label = next(label for label in numbered if label not in labels)
    labels.add(label)
    return label


def _name(unit: Unit) -> str:
    """Such as L4H5, L4, z1, z4 ⊣ z1."""
    names, values = zip(*unit, strict=True)
    if names in (_HEAD, _LAYER):
        return "".join(f"{letter}{value}" for letter, value in zip("LH", values, strict=False))
    return " ⊣ ".join(map(str, values))


def balance_rows(
    cuts: Sequence[Cut], controls: Mapping[str, Sequence[Cut]], measures: xr.Dataset
) -> list[dict[str, Any]]:
    """A row for each cut of heads that has controls: each measure of what is cut, and the mean of its controls."""
    rows = []
    for cut in cuts:
        if cut.label in controls and (own := _total(cut, measures)):
            its = [_total(control, measures) for control in controls[cut.label]]
            rows.append({"cut": cut.label, "n_controls": len(its)})
            for name, value in own.items():
                rows[-1] |= {name: value, f"{name}_controls": float(np.mean([one[name] for one in its]))}
    return rows


def _total(cut: Cut, measures: xr.Dataset) -> dict[str, float]:
    """The sum of each measure over the heads of a cut; empty where it cuts none."""
    places = {
        (layer, head)
        for part in cut.parts
        if part.site is Site.HEAD and part.layers and part.heads
        for layer in part.layers
        for head in part.heads
    }
    return {
        str(name): float(sum(values.sel(layer=layer, head=head) for layer, head in places))
        for name, values in measures.items()
        if places
    }
