"""Cuts, and the functions that name each experiment: ablation of a head, a thought or an edge, patching, stopping.

in: what is cut, by name; out: a `Cut`, which is one or more interventions made together under one label. A cut is a
frozen value that can be written as JSON and read back. It holds no values of a particular problem: what edits such as
`Mean` put in place is found when the cut is made.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import nan
from typing import Any, Final

from thoughtlens.cuts.edits import Block, Donor, Edit, Own, Received, Resample, Scale, Shuffle, Stop, Zero
from thoughtlens.cuts.interventions import Intervention, as_spec, from_spec
from thoughtlens.errors import OptionError
from thoughtlens.notation import (
    EDGES,
    HEADS,
    KV_GROUPS,
    THOUGHTS,
    WHOLE,
    edge_name,
    head_name,
    head_place,
    thought_names,
)
from thoughtlens.taps import Site

FROZEN: Final = "thoughts frozen"
_RESAMPLE: Final = Resample()
Names = str | Collection[str]


@dataclass(frozen=True)
class Cut:
    """Interventions that are made together. Two cuts are equal if their labels and parts are.

    Attributes:
        label: its readable name, unique in a plan.
        parts: the interventions, made in this order.
        family: what sort of thing is cut: heads, kv_groups, thoughts, edges or whole; "" if none of these.
        unit: the one thing of its family that is cut, such as `L4H5`, `z1` or `z4 ⊣ z1`; "" if it is not one thing.
        dose: 1 − factor where the cut scales: 0 leaves all, 1 nothing.
        order: the name of the order whose first `k` units are cut, "" if it is of none.
        k: how many of the order.
    """

    label: str
    parts: tuple[Intervention, ...]
    family: str = field(default="", compare=False)
    unit: str = field(default="", compare=False)
    dose: float | None = field(default=None, compare=False)
    order: str = field(default="", compare=False)
    k: int = field(default=0, compare=False)

    def spec(self) -> list[dict[str, Any]]:
        """The parts as JSON can say them."""
        return [as_spec(part) for part in self.parts]


def cut(*parts: Intervention, label: str | None = None) -> Cut:
    """Join interventions into one cut; family, unit and dose are known only where there is a single part.

    Args:
        parts: the interventions, in the order in which they are made.
        label: of the cut; the labels of its parts, joined by a plus, if None.

    Returns:
        The cut.

    Raises:
        OptionError: there is no part.

    Example:
        >>> cut(*ablate_head("L1H0").parts, *ablate_thought("z2").parts).label
        'L1H0 resample + z2 resample'
        >>> ablate_head("L1H0").family, ablate_head("L1H0").unit
        ('heads', 'L1H0')
    """
    if not parts:
        raise OptionError("found no intervention, expected at least one; a cut of nothing is the baseline.")
    said = " + ".join(part.label for part in parts) if label is None else label
    return Cut(said, parts, *(_unit(parts[0]) if len(parts) == 1 else ()))


def _unit(part: Intervention) -> tuple[str, str, float | None]:
    """Family, unit and dose of the cut of this part alone; what several parts do is no property of one unit."""
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
    """The cut that a JSON list describes, as `Cut.spec` writes it; `OptionError` if it describes none."""
    if not isinstance(spec, list):
        raise OptionError(f"found {spec!r}, expected a list of interventions; write one as [{{…}}].")
    return cut(*map(from_spec, spec), label=label)


def address_of(cut: Cut) -> dict[str, Any]:
    """What a cut cuts and how, as the coordinates of the effects Dataset say it."""
    # That later thoughts are as they were is said once, behind the edit.
    still = [part.site is Site.THOUGHT and isinstance(part.edit, Own) for part in cut.parts]
    frozen = [part for part, own in zip(cut.parts, still, strict=True) if own and still[0]]
    specs = [as_spec(part) for part in cut.parts if part not in frozen]
    edits = [spec["edit"] if isinstance(spec["edit"], dict) else {"name": spec["edit"]} for spec in specs]
    named = [", ".join(str(value) for name, value in edit.items() if name != "factor") for edit in edits]
    scopes = {tuple(spec["queries"] or ()) for spec in specs if spec["site"] == Site.HEAD}
    return {
        "family": cut.family,
        "unit": cut.unit,
        "edit": " + ".join(dict.fromkeys(named)) + (f", {FROZEN}" if frozen else ""),
        "at": ", ".join(scopes.pop()) if len(scopes) == 1 else "",
        "dose": nan if cut.dose is None else cut.dose,
        "order": cut.order,
        "k": cut.k,
    }


def ablate_head(head: str | tuple[int, int], *, edit: Edit = _RESAMPLE, queries: Collection[str] | None = None) -> Cut:
    """Replace a head's output, before the output projection mixes it with the outputs of other heads.

    Args:
        head: such as `L4H5`, or (layer, head).
        edit: what takes its place; what another problem had there if not given.
        queries: slots at which it is replaced, of bot, z1 … zT, eot, answer, text; all of these if None. The
            question's pass is never cut.

    Raises:
        OptionError: the name is none of a head, or the edit cannot be made on a head's output.

    Example:
        >>> ablate_head("L4H5", queries=["eot", "answer"]).label
        'L4H5 resample at answer, eot'
    """
    layer, number = head_place(head) if isinstance(head, str) else head
    return cut(_head_part(layer, [number], edit, queries))


def ablate_kv_group(
    layer: int,
    group: int,
    *,
    n_heads: int,
    n_groups: int,
    edit: Edit = _RESAMPLE,
    queries: Collection[str] | None = None,
) -> Cut:
    """Replace the outputs of all query heads that share one key-value head (grouped-query attention).

    Args:
        layer: index of the layer.
        group: index of the key-value head.
        n_heads: query heads of the layer.
        n_groups: key-value heads of the layer.
        edit: what takes their place.
        queries: as for `ablate_head`.

    Raises:
        OptionError: the layer has no such group.

    Example:
        >>> ablate_kv_group(2, 1, n_heads=8, n_groups=2).label
        'L2G1 resample'
    """
    if n_heads % n_groups or not 0 <= group < n_groups:
        raise OptionError(f"found group {group} of {n_groups} over {n_heads} heads; expected 0 to {n_groups - 1}.")
    size = n_heads // n_groups
    made = cut(_head_part(layer, range(group * size, (group + 1) * size), edit, queries))
    unit = f"L{layer}G{group}"
    label = f"{unit} {made.label.partition(' ')[2]}"
    return made if size == 1 else replace(made, label=label, family=KV_GROUPS, unit=unit)


def ablate_thought(thought: Names | None, *, edit: Edit = _RESAMPLE) -> Cut:
    """Replace a thought, or several; later thoughts are computed anew.

    Args:
        thought: such as `z3`, or several; all if None.
        edit: what takes its place.

    Raises:
        OptionError: the edit cannot be made on a thought.

    Example:
        >>> ablate_thought(["z2", "z10"]).label
        'z2, z10 resample'
    """
    return cut(Intervention(Site.THOUGHT, edit, queries=None if thought is None else _names(thought)))


def knock_out(
    query: Names,
    key: Names,
    *,
    layers: Collection[int] | None = None,
    heads: Collection[int] | None = None,
) -> Cut:
    """Block an edge before the softmax: the row is spread over the keys that are left and still sums to 1.

    Args:
        query: the slot that attends, or several.
        key: the slot attended to, or several.
        layers: in which; in all if None.
        heads: in which; in all if None.

    Example:
        >>> knock_out("z4", "z1", layers=[4], heads=[5]).label
        'z4 ⊣ z1, L4H5'
    """
    return cut(_edge_part(Site.SCORES, Block(), query, key, layers, heads))


def zero_value_edge(
    query: Names,
    key: Names,
    *,
    layers: Collection[int] | None = None,
    heads: Collection[int] | None = None,
) -> Cut:
    """Zero an edge after the softmax: the rest of the row stays as it was, and sums to less than 1.

    Args:
        query: the slot that attends, or several.
        key: the slot attended to, or several.
        layers: in which; in all if None.
        heads: in which; in all if None.

    Example:
        >>> zero_value_edge("z4", "z1").label
        'z4 ⊣ z1 zero'
    """
    return cut(_edge_part(Site.PATTERN, Zero(), query, key, layers, heads))


def weaken_edge(
    query: Names,
    key: Names,
    factor: float,
    *,
    layers: Collection[int] | None = None,
    heads: Collection[int] | None = None,
) -> Cut:
    """Multiply the weight of an edge after the softmax.

    Args:
        query: the slot that attends, or several.
        key: the slot attended to, or several.
        factor: 1 leaves all, 0 is `zero_value_edge`.
        layers: in which; in all if None.
        heads: in which; in all if None.

    Raises:
        OptionError: the factor is not finite.

    Example:
        >>> weaken_edge("z4", "z1", 0.25).dose
        0.75
    """
    return cut(_edge_part(Site.PATTERN, Scale(factor), query, key, layers, heads))


def patch_thought(thought: Names, donor: str) -> Cut:
    """Give every problem the thought of one problem in the place of its own.

    Args:
        thought: such as `z3`, or several.
        donor: id of the problem, one of the study.

    Example:
        >>> patch_thought("z3", "gsm_7").label
        'z3 donor gsm_7'
    """
    return ablate_thought(thought, edit=Donor(donor))


def patch_head(head: str | tuple[int, int], donor: str, *, queries: Collection[str] | None = None) -> Cut:
    """Give every problem the output of a head on one problem, at the same positions.

    Args:
        head: as for `ablate_head`.
        donor: id of the problem, one of the study.
        queries: as for `ablate_head`.

    Example:
        >>> patch_head("L0H1", "gsm_7", queries=["z6"]).label
        'L0H1 donor gsm_7 at z6'
    """
    return ablate_head(head, edit=Donor(donor), queries=queries)


def shuffle_thoughts(seed: int = 0) -> Cut:
    """Feed each problem its own thoughts in another order, in which none is in its place.

    Args:
        seed: same seed, same order.

    Example:
        >>> shuffle_thoughts().label
        'thoughts shuffle'
    """
    return cut(Intervention(Site.THOUGHT, Shuffle(seed)))


def stop_after(k: int, *, n_thoughts: int) -> Cut:
    """Think the first k thoughts only; `eot` follows at once.

    Args:
        k: 0 for none, up to n_thoughts − 1.
        n_thoughts: of the model.

    Raises:
        OptionError: k is out of range.

    Example:
        >>> stop_after(2, n_thoughts=6).label
        'stop after z2'
    """
    if not 0 <= k < n_thoughts:
        raise OptionError(f"found a stop after {k} of {n_thoughts} thoughts, expected 0 to {n_thoughts - 1}.")
    left_out = frozenset(thought_names(n_thoughts)[k:])
    where = f"stop after z{k}" if k else "no thoughts"
    return cut(Intervention(Site.THOUGHT, Stop(), queries=left_out), label=where)


def freeze_thoughts(base: Cut, *, thoughts: Collection[str] | None = None) -> Cut:
    """The same cut, with thoughts as they were when nothing was cut: what is left is its direct effect, past them.

    Args:
        base: the cut; a thought that it replaces itself is not frozen.
        thoughts: which are frozen; all if None.

    Raises:
        OptionError: the cut leaves no thought that could be frozen.

    Example:
        >>> freeze_thoughts(ablate_head("L1H0")).label
        'L1H0 resample, thoughts frozen'
    """
    if not freezable(base):
        raise OptionError(f"the cut {base.label!r} leaves no thought that could be frozen; make it without freezing.")
    # First, so that the cut's own edits of thoughts come on top.
    part = Intervention(Site.THOUGHT, Own(), queries=None if thoughts is None else frozenset(thoughts))
    said = FROZEN if thoughts is None else f"{part.label.removesuffix(' own')} frozen"
    return replace(base, label=f"{base.label}, {said}", parts=(part, *base.parts))


def cut_together(cuts: Sequence[Cut], said: str) -> Cut:
    """One cut of several single things by one edit, which are named by what is said of them."""
    families = {one.family for one in cuts}
    (family,) = families if len(families) == 1 else ("",)
    edits = dict.fromkeys(one.parts[0].label.removeprefix(one.unit).strip() for one in cuts if one.family != EDGES)
    suffix = " ".join(edit.split(" ", 1)[-1] if family == KV_GROUPS else edit for edit in edits)
    parts = tuple(part for one in cuts for part in one.parts)
    return Cut(f"{said} together {suffix}".strip(), parts, family=family, dose=cuts[0].dose)


def restore_head(head: str, *, seed: int = 0) -> Cut:
    """All thoughts are another problem's, but this head gives what it gave; its output at `text` is made anew."""
    layer, number = head_place(head)
    return _restored(head, HEADS, seed, Intervention(Site.HEAD, Own(), frozenset({layer}), frozenset({number})))


def restore_thought(thought: str, *, seed: int = 0) -> Cut:
    """All thoughts are another problem's but this one."""
    return _restored(thought, THOUGHTS, seed, Intervention(Site.THOUGHT, Own(), queries=frozenset({thought})))


def restore_edge(query: str, key: str, *, seed: int = 0) -> Cut:
    """All thoughts are another problem's, but the query gets from this key, in every head, what it got without a cut.

    The key's weight is zeroed after the softmax, and its weight times value of the uncut pass is added in its place.
    """
    removed = Intervention(Site.PATTERN, Zero(), queries=frozenset({query}), keys=frozenset({key}))
    given = Intervention(Site.HEAD, Received(key), queries=frozenset({query}))
    return _restored(edge_name(query, key), EDGES, seed, removed, given)


def _restored(unit: str, family: str, seed: int, *parts: Intervention) -> Cut:
    corrupted = Intervention(Site.THOUGHT, Resample(seed))
    return Cut(f"{unit} restored", (corrupted, *parts), family=family, unit=unit)


def resamples(base: Cut) -> bool:
    """Whether a cut puts another problem's values in place, so that it may have several donors."""
    return any(isinstance(part.edit, Resample) for part in base.parts)


def of_donor(base: Cut, rank: int) -> Cut:
    """The cut with values of the donor of this rank."""
    parts = (
        replace(part, edit=replace(part.edit, rank=rank)) if isinstance(part.edit, Resample) else part
        for part in base.parts
    )
    return replace(base, parts=tuple(parts))


def freezable(base: Cut) -> bool:
    """Whether a cut leaves a thought as it is: it stops none, and does not replace all."""
    own = [part for part in base.parts if part.site is Site.THOUGHT]
    return not any(isinstance(part.edit, Stop) or part.queries is None for part in own)


def thoughts_left(parts: Sequence[Intervention], n_thoughts: int) -> int:
    """How many thoughts are thought; `OptionError` where a stop has gaps or is made together with something else."""
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
    site: Site, edit: Edit, query: Names, key: Names, layers: Collection[int] | None, heads: Collection[int] | None
) -> Intervention:
    layers, heads = (None if its is None else frozenset(its) for its in (layers, heads))
    return Intervention(site, edit, layers, heads, _names(query), _names(key))


def _names(given: Names) -> frozenset[str]:
    return frozenset({given} if isinstance(given, str) else given)
