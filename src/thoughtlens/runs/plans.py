"""What is cut and beside what: a plan, and whether it can be made in a model, on these problems.

Everything that would break a study off in its middle, or be measured as an effect of nothing, is refused here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from thoughtlens.effects_schema import BASELINE
from thoughtlens.errors import OptionError
from thoughtlens.labels import TEXT, key_names, query_names, thought_names
from thoughtlens.runs.controls import Shape, extra
from thoughtlens.runs.cut_job import Target
from thoughtlens.runs.orders import Incremental
from thoughtlens.tracing.cuts import Cut, thoughts_left
from thoughtlens.tracing.edits import Block, Donor, Resample, Shuffle
from thoughtlens.tracing.interventions import EDGE_SITES, Intervention
from thoughtlens.tracing.material import derangement, donors
from thoughtlens.tracing.taps import Site


@dataclass(frozen=True)
class Plan:
    """What is cut, and beside what.

    Attributes:
        cuts: what is studied.
        controls: of each cut, by its label.
        orders: cuts made one after the other.
    """

    cuts: tuple[Cut, ...]
    controls: Mapping[str, Sequence[Cut]] = field(default_factory=dict)
    orders: Incremental | None = None

    @property
    def kinds(self) -> dict[str, tuple[Cut, ...]]:
        """Every cut once, by its kind in the effects Dataset, in the order in which they are made."""
        steps = () if self.orders is None else (*self.orders.cuts, *self.orders.random)
        return {"cut": self.cuts, "control": extra(self.controls, self.cuts), "order": steps}

    @property
    def made(self) -> tuple[Cut, ...]:
        """Every cut once."""
        return tuple(cut for its in self.kinds.values() for cut in its)


def check_plan(cuts: Sequence[Cut], shape: Shape, target: Target) -> None:
    """Raise `OptionError` unless every cut is one of this model, under a label of its own."""
    if not cuts:
        raise OptionError("the plan has no cut, expected at least one; name heads, thoughts or edges.")
    labels = [BASELINE, *(cut.label for cut in cuts)]
    if len(set(labels)) < len(labels):
        twice = next(label for place, label in enumerate(labels) if label in labels[:place])
        raise OptionError(f"two cuts are called {twice!r}, expected each label once; name one otherwise.")
    for cut in cuts:
        if not cut.parts:
            raise OptionError(f"the cut {cut.label!r} has no parts, expected at least one; leave it out.")
        thoughts_left(cut.parts, shape.n_thoughts)
        for part in cut.parts:
            _check_part(part, shape, target)


def _check_part(part: Intervention, shape: Shape, target: Target) -> None:
    slots = set(query_names(shape.n_thoughts)) | {TEXT}
    keys = set(key_names(shape.n_thoughts))
    there: dict[str, tuple[frozenset[Any] | None, set[Any]]] = {
        "layers": (part.layers, set(range(shape.n_layers))),
        "heads": (part.heads, set(range(shape.n_heads))),
        "queries": (part.queries, set(thought_names(shape.n_thoughts)) if part.site is Site.THOUGHT else slots),
        "keys": (part.keys, keys),
    }
    for name, (asked, known) in there.items():
        if asked is not None and (odd := sorted(map(str, asked - known))):
            fit = f"{min(known)} to {max(known)}" if name in ("layers", "heads") else ", ".join(sorted(known))
            raise OptionError(f"the cut {part.label!r} names {odd[0]!r} among its {name}, expected {fit}; name others.")
        if asked is not None and not asked:
            raise OptionError(f"the cut {part.label!r} names no {name}, expected some; leave them out for all.")
    if isinstance(part.edit, Block) and (blind := _blind(part, shape)):
        raise OptionError(f"the cut {part.label!r} leaves {blind} nothing to look at; leave one of its keys.")
    if part.site in EDGE_SITES and not _seen(part, shape):
        raise OptionError(f"the cut {part.label!r} names keys that come after its queries; name earlier ones.")
    if isinstance(part.edit, Resample):
        donors(target.n_steps, part.edit.seed)
    if isinstance(part.edit, Shuffle):
        derangement(shape.n_thoughts, part.edit.seed)
    if isinstance(part.edit, Donor) and part.edit.problem not in target.ids:
        raise OptionError(
            f"the donor {part.edit.problem!r} is not among the {len(target.ids)} problems that are cut; name one of "
            "them, or cut all problems of the run."
        )


def _seen(part: Intervention, shape: Shape) -> bool:
    """Whether any of the queries sees any of the keys."""
    order = {name: place for place, name in enumerate([*key_names(shape.n_thoughts), TEXT])}
    last = max(order[name] for name in part.queries or order)
    return last >= min(order[name] for name in part.keys or order)


def _blind(part: Intervention, shape: Shape) -> str | None:
    """The first query that a block leaves without a key, if there is one."""
    order = key_names(shape.n_thoughts)
    for query in query_names(shape.n_thoughts):
        seen = set(order[: order.index(query) + 1])
        if (part.queries is None or query in part.queries) and seen <= (part.keys or set()):
            return query
    return None
