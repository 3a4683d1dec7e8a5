"""Checks of a plan before it is made: every cut can be made in this model, on these problems, under its own label."""

from collections.abc import Sequence
from typing import Any

from thoughtlens.cuts.controls import Shape
from thoughtlens.cuts.edits import Block, Donor, Mean, Resample, Shuffle
from thoughtlens.cuts.experiments import Cut, thoughts_left
from thoughtlens.cuts.intervention import EDGE_SITES, Intervention
from thoughtlens.cuts.replacements import derangement
from thoughtlens.cuts.study_job import Target
from thoughtlens.errors import OptionError
from thoughtlens.notation import TEXT, key_names, query_names, thought_names
from thoughtlens.schema import BASELINE
from thoughtlens.taps import Site


def check_plan(cuts: Sequence[Cut], target: Target) -> None:
    """Raise `OptionError` unless every cut can be made in this model, on these problems, under a label of its own.

    This refuses what would stop a study halfway, or would be measured as an effect although it cuts nothing.
    """
    if not cuts:
        raise OptionError("the plan has no cut, expected at least one; name heads, thoughts or edges.")
    labels = [BASELINE, *(cut.label for cut in cuts)]
    if len(set(labels)) < len(labels):
        twice = next(label for place, label in enumerate(labels) if label in labels[:place])
        raise OptionError(f"two cuts are called {twice!r}, expected each label once; name one otherwise.")
    for cut in cuts:
        if not cut.parts:
            raise OptionError(f"the cut {cut.label!r} has no parts, expected at least one; leave it out.")
        thoughts_left(cut.parts, target.n_thoughts)
        for part in cut.parts:
            _check_part(part, target)


def _check_part(part: Intervention, target: Target) -> None:
    shape = target.shape
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
        target.pool.donors(part.edit.seed, part.edit.rank)
    if isinstance(part.edit, Mean) and sum(target.pool.choosing) < 2 - bool(target.choosing):
        raise OptionError("found no other problem to take a mean over; study at least 2.")
    if isinstance(part.edit, Shuffle):
        derangement(shape.n_thoughts, part.edit.seed)
    if isinstance(part.edit, Donor) and part.edit.problem not in target.ids:
        raise OptionError(
            f"the donor {part.edit.problem!r} is not among the {len(target.ids)} problems that are cut; name one of "
            "them, or cut all problems of the run."
        )


def _seen(part: Intervention, shape: Shape) -> bool:
    """Whether any of the queries can see any of the keys."""
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
