"""Turn rankings of cuts into plans that make them one after the other: the first 1, 2, … of each, and of random orders.

A random order is of the same cuts, so that only what comes first differs; the last step of all orders is one and the
same cut of everything. It knows nothing of sites or edits: cuts are added up part by part.

What is cut and beside what: a plan, and whether it can be made in a model, on these problems.

Everything that would break a study off in its middle, or be measured as an effect of nothing, is refused here.

What a user asks to cut, in words such as `top:10`, `z4:z1` or `scale:0.5`, becomes a plan of cuts.

Heads, thoughts and edges are cut one at a time, each by every edit asked for; edges are blocked, or weakened by a
scale. `whole` cuts concern all thoughts at once. It knows nothing of models beyond their sizes, nor what heads do.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from thoughtlens.cuts.controls import Shape, extra
from thoughtlens.cuts.edits import Block, Donor, Edit, Mean, Noise, Resample, Scale, Shuffle, Zero
from thoughtlens.cuts.interventions import EDGE_SITES, Intervention
from thoughtlens.cuts.job import Target
from thoughtlens.cuts.material import derangement, donors
from thoughtlens.cuts.named import (
    Cut,
    ablate_head,
    ablate_kv_group,
    ablate_thought,
    cut_from_spec,
    freezable,
    freeze_thoughts,
    knock_out,
    shuffle_thoughts,
    stop_after,
    thoughts_left,
    weaken_edge,
    zero_value_edge,
)
from thoughtlens.errors import OptionError
from thoughtlens.names import RANDOM, TEXT, head_place, key_names, query_names, step_label, thought_names
from thoughtlens.schema import BASELINE
from thoughtlens.taps import Site


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
        Cuts with `order` and `k`, from which `analysis.curves.ablation_curve` is drawn.

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
        Cut(step_label(name, k), tuple(part for its in parts[:k] for part in its), order=name, k=k)
        for k in range(1, len(order) + 1)
    ]


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


EDITS: Final = ("zero", "mean", "resample", "noise", "scale:F")
ALL: Final = "all"
READOUT: Final = "readout"
_TOP: Final = "top:"
_LATENT: Final = "thoughts"
"""Stands for all thoughts among the positions of `at`."""


@dataclass(frozen=True)
class Asked:
    """What a user asks to cut, as text.

    Attributes:
        heads: `all`, `top:10` (of a ranking), or names such as `L4H5,L0H1`.
        kv_groups: `all`, or names such as `L4G1,L0G0`: all query heads of a key-value head at once.
        thoughts: `all`, or names such as `z1,z4`.
        edges: `all` (thought to earlier thought), `readout` (eot and answer to each thought), or such as `z4:z1`;
            several by commas.
        edits: of `EDITS`; for heads and thoughts, and those that scale or zero also for edges.
        at: positions at which heads are cut, such as `thoughts`, `eot,answer`; all from bot on if None.
        whole: also all thoughts at once: by each edit, shuffled, stopped after each.
        frozen: later thoughts stay what they were when nothing was cut.
        file: a JSON file of further cuts: a list of objects with `label` and `parts`.
        seed: of edits that draw.
    """

    heads: str | None = None
    kv_groups: str | None = None
    thoughts: str | None = None
    edges: str | None = None
    edits: tuple[str, ...] = ("zero",)
    at: str | None = None
    whole: bool = False
    frozen: bool = False
    file: Path | None = None
    seed: int = 0


def plan_cuts(asked: Asked, shape: Shape, *, n_groups: int, ranking: Callable[[], Sequence[str]]) -> list[Cut]:
    """The plan that was asked for, in the order heads, groups, thoughts, edges, whole, file.

    Args:
        asked: what to cut.
        shape: of the model.
        n_groups: key-value heads of a layer; as many as heads where each has its own.
        ranking: gives the names of all heads, the first first; called only where the top is asked for.

    Raises:
        OptionError: something asked for is not there, or nothing is.
    """
    edits = [named_edit(name, asked.seed) for name in dict.fromkeys(asked.edits)]
    at = None if asked.at is None else _positions(asked.at, shape)
    cuts = [ablate_head(head, edit=edit, queries=at) for head in _heads(asked.heads, shape, ranking) for edit in edits]
    group = partial(ablate_kv_group, n_heads=shape.n_heads, n_groups=n_groups, queries=at)
    cuts += [group(*place, edit=edit) for place in _groups(asked.kv_groups, shape, n_groups) for edit in edits]
    cuts += [ablate_thought(thought, edit=edit) for thought in _thoughts(asked.thoughts, shape) for edit in edits]
    cuts += [cut for edge in _edges(asked.edges, shape) for cut in _of_edge(edge, edits)]
    if asked.whole:
        cuts += _whole(shape, edits, asked.seed)
    if asked.frozen:
        cuts = [freeze_thoughts(cut) if freezable(cut) else cut for cut in cuts]
    if asked.file is not None:
        cuts += read_plan(asked.file)
    if not cuts:
        raise OptionError("nothing to cut was named; pass --heads all, --thoughts all, --edges all, or --plan FILE.")
    return cuts


def named_edit(name: str, seed: int = 0) -> Edit:
    """The edit of a name such as `mean` or `scale:0.5`.

    Raises:
        OptionError: there is no such edit.
    """
    word, _, factor = name.partition(":")
    plain: dict[str, Edit] = {"zero": Zero(), "mean": Mean(), "resample": Resample(seed), "noise": Noise(seed)}
    if word in plain and not factor:
        return plain[word]
    try:
        if word == "scale":
            return Scale(float(factor))
    except ValueError:
        pass
    raise OptionError(f"no edit {name!r}, expected one of {', '.join(EDITS)} with a number F; pass another --edit.")


def read_plan(path: Path) -> list[Cut]:
    """Cuts from a JSON file: a list of objects with `label` (may be missing) and `parts`, as `Cut.spec` gives them.

    Raises:
        OptionError: it is missing or no such list.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return [cut_from_spec(entry["parts"], entry.get("label")) for entry in found]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OptionError(
            f"{path} can't be read as a plan ({type(error).__name__}: {error}), expected a JSON list of objects with "
            "label and parts; write one so."
        ) from error


def _listed(given: str) -> list[str]:
    return [name.strip() for name in given.split(",") if name.strip()]


def _heads(given: str | None, shape: Shape, ranking: Callable[[], Sequence[str]]) -> list[str]:
    if given is None:
        return []
    if given == ALL:
        return [f"L{layer}H{head}" for layer in range(shape.n_layers) for head in range(shape.n_heads)]
    if given.startswith(_TOP):
        count, n_heads = given.removeprefix(_TOP), shape.n_layers * shape.n_heads
        if not count.isdecimal() or not 1 <= int(count) <= n_heads:
            raise OptionError(f"--heads is {given!r}, expected top:1 to top:{n_heads}; write it so.")
        return list(ranking())[: int(count)]
    for name in _listed(given):
        head_place(name)
    return _listed(given)


def _groups(given: str | None, shape: Shape, n_groups: int) -> list[tuple[int, int]]:
    if given is None:
        return []
    if given == ALL:
        return [(layer, group) for layer in range(shape.n_layers) for group in range(n_groups)]
    if odd := [name for name in _listed(given) if "G" not in name]:
        raise OptionError(f"--kv-groups names {odd[0]!r}, expected such as L4G1, or all; write it so.")
    return [head_place(name.replace("G", "H")) for name in _listed(given)]


def _thoughts(given: str | None, shape: Shape) -> list[str]:
    known = thought_names(shape.n_thoughts)
    if given is None:
        return []
    return known if given == ALL else _known(_listed(given), known, "--thoughts")


def _edges(given: str | None, shape: Shape) -> list[tuple[str, str]]:
    thoughts = thought_names(shape.n_thoughts)
    groups = {
        ALL: [(query, key) for place, query in enumerate(thoughts) for key in thoughts[:place]],
        READOUT: [(query, key) for query in ("eot", "answer") for key in thoughts],
    }
    edges = [edge for name in _listed(given or "") for edge in groups.get(name) or [_edge(name, shape)]]
    return list(dict.fromkeys(edges))


def _edge(name: str, shape: Shape) -> tuple[str, str]:
    """Query and key of a name such as `z4:z1`."""
    query, colon, key = name.partition(":")
    if not colon:
        raise OptionError(
            f"--edges names {name!r}, expected all, readout, or query and key such as z4:z1; write it so."
        )
    order = key_names(shape.n_thoughts)
    _known([query], query_names(shape.n_thoughts), "--edges")
    _known([key], order, "--edges")
    if order.index(key) > order.index(query):
        raise OptionError(f"--edges names {name}, which the causal mask forbids; the query comes first.")
    return query, key


def _of_edge(edge: tuple[str, str], edits: Iterable[Edit]) -> list[Cut]:
    """An edge blocked; weakened too where a scale is asked for, after the softmax."""
    weak = [weaken_edge(*edge, edit.factor) for edit in edits if isinstance(edit, Scale)]
    # What is left of an edge that is scaled to nothing belongs to the same curve.
    return [knock_out(*edge), *weak, *([zero_value_edge(*edge)] if weak else [])]


def _whole(shape: Shape, edits: Sequence[Edit], seed: int) -> list[Cut]:
    cuts = [ablate_thought(None, edit=edit) for edit in edits]
    cuts += [stop_after(k, n_thoughts=shape.n_thoughts) for k in range(shape.n_thoughts)]
    return cuts if shape.n_thoughts < 2 else [*cuts, shuffle_thoughts(seed)]


def _positions(given: str, shape: Shape) -> list[str]:
    known = [*query_names(shape.n_thoughts), "text"]
    names = [name for part in _listed(given) for name in (known[1:-3] if part == _LATENT else [part])]
    return _known(names, known, "--at")


def _known(names: list[str], known: Sequence[Any], option: str) -> list[str]:
    if odd := [name for name in names if name not in known]:
        raise OptionError(f"{option} names {odd[0]!r}, expected some of {', '.join(known)}; pass others.")
    return names
