"""What is cut: interventions made together, under one label; every experiment has a function that names it.

A cut is a value: frozen, compared by what it says, written as JSON and read back. It says nothing about problems, and
where it stands for values of other passes (`mean`, `resample`, …) these are found when it is made.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from thoughtlens.cuts.edits import Block, Donor, Edit, Own, Scale, Shuffle, Stop, Zero
from thoughtlens.cuts.interventions import Intervention, as_spec, from_spec
from thoughtlens.errors import OptionError
from thoughtlens.names import EDGES, HEADS, KV_GROUPS, THOUGHTS, WHOLE, edge_name, head_name, head_place, thought_names
from thoughtlens.taps import Site

FROZEN: Final = "thoughts frozen"
_ZERO: Final = Zero()


@dataclass(frozen=True)
class Cut:
    """Interventions that are made together.

    Attributes:
        label: its readable name, unique in a plan.
        parts: the interventions, made in this order.
        family: what sort of thing is cut, "" if none that has a name.
        unit: the one thing of its family, such as `L4H5`, `z1` or `z4 ⊣ z1`; "" if it is not one thing.
        dose: 1 − factor where the cut scales.
        order: the order whose first `k` are cut.
        k: how many of the order.
    """

    label: str
    parts: tuple[Intervention, ...]
    family: str = ""
    unit: str = ""
    dose: float | None = None
    order: str = ""
    k: int = 0

    def spec(self) -> list[dict[str, Any]]:
        """The parts as JSON can say them."""
        return [as_spec(part) for part in self.parts]


def cut(*parts: Intervention, label: str | None = None) -> Cut:
    """Interventions made together, under a label of their own or theirs joined by a plus."""
    if not parts:
        raise OptionError("found no intervention, expected at least one; a cut of nothing is the baseline.")
    said = " + ".join(part.label for part in parts) if label is None else label
    return Cut(said, parts, *(_unit(parts[0]) if len(parts) == 1 else ()))


def _unit(part: Intervention) -> tuple[str, str, float | None]:
    """Family, unit and dose of the cut of this part alone."""
    dose = 1.0 - part.edit.factor if isinstance(part.edit, Scale) else None
    layers, heads = sorted(part.layers or ()), sorted(part.heads or ())
    queries, keys = sorted(part.queries or ()), sorted(part.keys or ())
    match part.site, [len(layers), len(heads), len(queries), len(keys)]:
        case Site.HEAD, [1, 1, _, _]:
            return HEADS, head_name(layers[0], heads[0]), dose
        case Site.THOUGHT, [_, _, n, _] if n == 0 or isinstance(part.edit, Stop):
            return WHOLE, "", dose
        case Site.THOUGHT, [_, _, 1, _]:
            return THOUGHTS, queries[0], dose
        case ((Site.SCORES | Site.PATTERN), [0, 0, 1, 1]):
            return EDGES, edge_name(queries[0], keys[0]), dose
        case _:
            return "", "", dose


def cut_from_spec(spec: Any, label: str | None = None) -> Cut:
    """The cut that a JSON list describes, as `Cut.spec` writes it.

    Raises:
        OptionError: it describes none.
    """
    if not isinstance(spec, list):
        raise OptionError(f"found {spec!r}, expected a list of interventions; write one as [{{…}}].")
    return cut(*map(from_spec, spec), label=label)


def ablate_head(head: str | tuple[int, int], *, edit: Edit = _ZERO, queries: Collection[str] | None = None) -> Cut:
    """Take a head's output away, before the output projection mixes it with the others'.

    Args:
        head: such as `L4H5`, or (layer, head).
        edit: what takes its place.
        queries: slots at which it is taken away, of bot, z1 … zT, eot, answer, text; all of these if None. The
            question's pass is never cut.
    """
    layer, number = head_place(head) if isinstance(head, str) else head
    return cut(_head_part(layer, [number], edit, queries))


def ablate_kv_group(
    layer: int,
    group: int,
    *,
    n_heads: int,
    n_groups: int,
    edit: Edit = _ZERO,
    queries: Collection[str] | None = None,
) -> Cut:
    """Take the outputs of all query heads away that share one key-value head (grouped-query attention).

    Args:
        layer: index of the layer.
        group: index of the key-value head.
        n_heads: query heads of the layer.
        n_groups: key-value heads of the layer.
        edit: what takes their place.
        queries: as for `ablate_head`.
    """
    if n_heads % n_groups or not 0 <= group < n_groups:
        raise OptionError(f"found group {group} of {n_groups} over {n_heads} heads; expected 0 to {n_groups - 1}.")
    size = n_heads // n_groups
    made = cut(_head_part(layer, range(group * size, (group + 1) * size), edit, queries))
    return made if size == 1 else replace(made, family=KV_GROUPS, unit=f"L{layer}G{group}")


def ablate_thought(thought: str | Collection[str] | None, *, edit: Edit = _ZERO) -> Cut:
    """Put something else in the place of a thought, or of several; later thoughts are thought anew.

    Args:
        thought: such as `z3`, or several; all if None.
        edit: what takes its place.
    """
    return cut(Intervention(Site.THOUGHT, edit, queries=None if thought is None else _names(thought)))


def knock_out(
    query: str | Collection[str],
    key: str | Collection[str],
    *,
    layers: Collection[int] | None = None,
    heads: Collection[int] | None = None,
) -> Cut:
    """Block an edge before the softmax, so that the row spreads over what is left and still sums to 1.

    Args:
        query: the slot that attends, or several.
        key: the slot attended to, or several.
        layers: in which; in all if None.
        heads: in which; in all if None.
    """
    return cut(_edge_part(Site.SCORES, Block(), query, key, layers, heads))


def zero_value_edge(
    query: str | Collection[str],
    key: str | Collection[str],
    *,
    layers: Collection[int] | None = None,
    heads: Collection[int] | None = None,
) -> Cut:
    """Take away what an edge moves, after the softmax: the rest of the row stays as it was and sums to less than 1."""
    return cut(_edge_part(Site.PATTERN, Zero(), query, key, layers, heads))


def weaken_edge(
    query: str | Collection[str],
    key: str | Collection[str],
    factor: float,
    *,
    layers: Collection[int] | None = None,
    heads: Collection[int] | None = None,
) -> Cut:
    """Move this share of what an edge moves: 1 leaves all, 0 is `zero_value_edge`."""
    return cut(_edge_part(Site.PATTERN, Scale(factor), query, key, layers, heads))


def patch_thought(thought: str | Collection[str], donor: str) -> Cut:
    """Give every problem one problem's thought in the place of its own.

    Args:
        thought: such as `z3`, or several.
        donor: id of the problem, one of the study.
    """
    return ablate_thought(thought, edit=Donor(donor))


def patch_head(head: str | tuple[int, int], donor: str, *, queries: Collection[str] | None = None) -> Cut:
    """Give every problem what a head put out on one problem, at the same positions."""
    return ablate_head(head, edit=Donor(donor), queries=queries)


def shuffle_thoughts(seed: int = 0) -> Cut:
    """Feed each problem's own thoughts in another order, in which none is in its place."""
    return cut(Intervention(Site.THOUGHT, Shuffle(seed)))


def stop_after(k: int, *, n_thoughts: int) -> Cut:
    """Think the first k thoughts alone; `eot` follows at once.

    Args:
        k: 0 for none, up to n_thoughts − 1.
        n_thoughts: of the model.
    """
    if not 0 <= k < n_thoughts:
        raise OptionError(f"found a stop after {k} of {n_thoughts} thoughts, expected 0 to {n_thoughts - 1}.")
    left_out = frozenset(thought_names(n_thoughts)[k:])
    where = f"stop after z{k}" if k else "no thoughts"
    return cut(Intervention(Site.THOUGHT, Stop(), queries=left_out), label=where)


def freeze_thoughts(base: Cut, *, thoughts: Collection[str] | None = None) -> Cut:
    """The same cut, with thoughts kept as they were when nothing was cut: what is left is its way past them.

    Args:
        base: the cut; what it replaces itself is not frozen.
        thoughts: which are frozen; all if None.

    Raises:
        OptionError: the cut leaves no thought that could be frozen.
    """
    if not freezable(base):
        raise OptionError(f"the cut {base.label!r} leaves no thought that could be frozen; make it without freezing.")
    # First, so that the cut's own edits of thoughts come on top.
    part = Intervention(Site.THOUGHT, Own(), queries=None if thoughts is None else frozenset(thoughts))
    said = FROZEN if thoughts is None else f"{part.label.removesuffix(' own')} frozen"
    return cut(part, *base.parts, label=f"{base.label}, {said}")


def freezable(base: Cut) -> bool:
    """Whether a cut leaves a thought as it is: it stops none, and does not replace all."""
    own = [part for part in base.parts if part.site is Site.THOUGHT]
    return not any(isinstance(part.edit, Stop) or part.queries is None for part in own)


def thoughts_left(parts: Iterable[Intervention], n_thoughts: int) -> int:
    """How many thoughts are thought under these interventions.

    Raises:
        OptionError: a stop leaves out a thought before one that is thought, or is made together with something else.
    """
    parts = tuple(parts)
    stopped = {name for part in parts if isinstance(part.edit, Stop) for name in part.queries or ()}
    left = n_thoughts - len(stopped)
    if stopped != set(thought_names(n_thoughts)[left:]) or (stopped and len(parts) > 1):
        raise OptionError(
            f"found a stop of {', '.join(sorted(stopped))} among {len(parts)} parts, expected the last of {n_thoughts} "
            "thoughts and nothing else; use `stop_after`."
        )
    return left


def _head_part(layer: int, heads: Iterable[int], edit: Edit, queries: Collection[str] | None) -> Intervention:
    scope = None if queries is None else _names(queries)
    return Intervention(Site.HEAD, edit, frozenset({layer}), frozenset(heads), scope)


def _edge_part(
    site: Site,
    edit: Edit,
    query: str | Collection[str],
    key: str | Collection[str],
    layers: Collection[int] | None,
    heads: Collection[int] | None,
) -> Intervention:
    where: Sequence[frozenset[int] | None] = [None if its is None else frozenset(its) for its in (layers, heads)]
    return Intervention(site, edit, where[0], where[1], _names(query), _names(key))


def _names(given: str | Collection[str]) -> frozenset[str]:
    return frozenset({given} if isinstance(given, str) else given)
