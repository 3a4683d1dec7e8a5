"""Turn the specs of cuts into what they cut: one head, one thought, one edge, one degree of the same.

A spec is a JSON list of parts, each with `site`, `edit`, `layers`, `heads`, `queries` and `keys`, None meaning all.
Only cuts of one part are read: what several parts do together is no property of a single unit. Cuts of one unit by
different edits, or in different scopes, are different questions and form families of their own.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import xarray as xr

from thoughtlens.analysis.importance import EDGES, HEADS, THOUGHTS

FACTOR: Final = "factor"
"""What is left of what an edit scales: 1 leaves all, and is dose 0."""


STOP: Final = "stop"
"""The edit that leaves out a thought and all after it: it is of one thought only where that is the last."""


class Unit(NamedTuple):
    """What one cut cuts."""

    kind: str
    """heads, thoughts or edges"""
    name: str
    """such as L4H5, z1 or z4 ⊣ z1"""
    manner: str
    """the edit and the scope, the same for cuts that compare"""
    dose: float | None
    """its degree, where the edit has one"""


def families(effects: xr.Dataset) -> dict[str, dict[str, str]]:
    """Cuts of single units that compare: the label of each unit's cut, by what was cut and, if there are several, how.

    Args:
        effects: an effects Dataset or its summary; controls are left out, and so are degrees below the largest.

    Returns:
        By name such as `heads` or `heads, zero`: label by unit, in the order of the plan.
    """
    found: dict[tuple[str, str], dict[str, tuple[float, str]]] = {}
    for label, unit in _units(effects):
        family, dose = found.setdefault((unit.kind, unit.manner), {}), 1.0 if unit.dose is None else unit.dose
        if unit.name not in family or dose > family[unit.name][0]:
            family[unit.name] = dose, label
    kinds = [kind for kind, _ in found]
    names = {key: key[0] if kinds.count(key[0]) == 1 else f"{key[0]}, {key[1]}" for key in found}
    return {names[key]: {name: label for name, (_, label) in family.items()} for key, family in found.items()}


def doses(effects: xr.Dataset) -> dict[str, dict[float, str]]:
    """Graded cuts: by unit, the label of each degree; units with one degree alone are left out.

    A unit that is scaled and is also zeroed in the same scope has that as its degree 1.
    """
    found: dict[tuple[str, str], dict[float, str]] = {}
    whole: dict[tuple[str, str], str] = {}
    for label, unit in _units(effects):
        if unit.dose is not None:
            found.setdefault((unit.name, unit.manner.removeprefix("scale")), {})[unit.dose] = label
        elif unit.manner.startswith("zero"):
            whole[unit.name, unit.manner.removeprefix("zero")] = label
    for unit_in_scope, levels in found.items():
        if unit_in_scope in whole:
            levels.setdefault(1.0, whole[unit_in_scope])
    return {f"{name}{scope}": levels for (name, scope), levels in found.items() if len(levels) > 1}


def head_places(family: Mapping[str, str]) -> dict[tuple[int, int], str]:
    """A family of heads by (layer, head)."""
    places = {name: name.removeprefix("L").split("H") for name in family}
    return {(int(layer), int(head)): family[name] for name, (layer, head) in places.items()}


def edge_ends(family: Mapping[str, str]) -> dict[tuple[str, str], str]:
    """A family of edges by (query, key)."""
    ends = {name: name.split(" ⊣ ") for name in family}
    return {(query, key): family[name] for name, (query, key) in ends.items()}


def _units(effects: xr.Dataset) -> Iterator[tuple[str, Unit]]:
    columns = (effects[name].values for name in ("intervention", "kind", "spec"))
    for label, kind, spec in zip(*columns, strict=True):
        parts = json.loads(str(spec))
        unit = _unit(parts[0]) if kind == "cut" and len(parts) == 1 else None
        if unit is not None:
            yield str(label), unit


def _unit(part: Mapping[str, Any]) -> Unit | None:
    edit = part["edit"] if isinstance(part["edit"], dict) else {"name": part["edit"]}
    dose = 1.0 - float(edit[FACTOR]) if FACTOR in edit else None
    how = ", ".join(str(value) for name, value in edit.items() if name != FACTOR)
    layers, heads, queries, keys = (_named(part.get(name)) for name in ("layers", "heads", "queries", "keys"))
    if part["site"] == "head" and len(layers) == len(heads) == 1:
        return Unit(HEADS, f"L{layers[0]}H{heads[0]}", _manner(how, queries), dose)
    if part["site"] == "thought" and len(queries) == 1 and edit["name"] != STOP:
        return Unit(THOUGHTS, queries[0], how, dose)
    if part["site"] in ("scores", "pattern") and len(queries) == len(keys) == 1 and not layers and not heads:
        return Unit(EDGES, f"{queries[0]} ⊣ {keys[0]}", how, dose)
    return None


def _named(names: Iterable[object] | None) -> list[str]:
    """What a part of an address names; nothing where it means all."""
    return [] if names is None else [str(name) for name in names]


def _manner(how: str, queries: list[str]) -> str:
    return f"{how} at {', '.join(queries)}" if queries else how
