"""What is cut, selected by words such as `top:10`, `z4:z1` or `scale:0.5`, and the orders in which heads are cut.

in: words as a user types them, and the sizes of a model; out: edits, names of what is there, and the cuts of these.
Also in: a run, or the effects of cutting single heads; out: names of heads in order, and the cuts of the first 1, 2, …
of them. These words are read here and nowhere else: `all`, `top:10`, `L4H5`, `L4G1`, `z4:z1`, `readout`, `mean`,
`scale:0.5`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import numpy as np
import xarray as xr

from thoughtlens.analysis.attention_against_effects import look
from thoughtlens.analysis.effects import RANKED_BY, paired_differences
from thoughtlens.analysis.streamed_attention import VALUES, patterned
from thoughtlens.cuts.controls import Shape
from thoughtlens.cuts.cut_types import (
    Cut,
    ablate_head,
    ablate_kv_group,
    ablate_thought,
    cut_together,
    knock_out,
    restore_edge,
    restore_head,
    restore_thought,
    shuffle_thoughts,
    stop_after,
    weaken_edge,
    zero_value_edge,
)
from thoughtlens.cuts.edits import NAME_OF, Edit, Mean, Noise, Resample, Scale, Zero
from thoughtlens.errors import OptionError
from thoughtlens.notation import (
    EDGES,
    GRAPH_GROUPS,
    HEADS,
    KV_GROUPS,
    RANDOM,
    TEXT,
    THOUGHTS,
    edge_names,
    head_name,
    head_place,
    key_names,
    query_names,
    step_label,
    thought_names,
)
from thoughtlens.runs.reader import Run

EDITS: Final = ("zero", "mean", "resample", "noise", "scale:F")
ALL: Final = "all"
READOUT: Final = "readout"
TOP: Final = "top:"

Words = str | Iterable[str] | None
"""Names joined by commas, or one by one."""


def named_edit(name: str, seed: int = 0) -> Edit:
    """The edit of a name: `zero`, `mean`, `resample`, `noise`, or `scale:F` with a number F."""
    word, _, factor = name.partition(":")
    plain: dict[str, Edit] = {"zero": Zero(), "mean": Mean(), "resample": Resample(seed), "noise": Noise(seed)}
    if word in plain and not factor:
        return plain[word]
    if word == "scale":
        with suppress(ValueError):
            return Scale(float(factor))
    raise OptionError(f"no edit {name!r}, expected one of {', '.join(EDITS)} with a number F; pass another --edit.")


def listed(given: Words) -> list[str]:
    """The names of a list, one by one."""
    names = given.split(",") if isinstance(given, str) else given or ()
    return [name.strip() for name in names if name.strip()]


def is_top(heads: Words) -> bool:
    """Whether heads are named as the first of a ranking."""
    return isinstance(heads, str) and heads.startswith(TOP)


def heads_named(given: Words, shape: Shape, ranked: Callable[[], Sequence[str]]) -> list[str]:
    """Names of heads; `ranked` gives them all in order."""
    if given == ALL:
        return [head_name(layer, head) for layer in range(shape.n_layers) for head in range(shape.n_heads)]
    if isinstance(given, str) and is_top(given):
        n, n_heads = given.removeprefix(TOP), shape.n_layers * shape.n_heads
        if not n.isdecimal() or not 1 <= int(n) <= n_heads:
            raise OptionError(f"--heads is {given!r}, expected top:1 to top:{n_heads}; write it so.")
        return list(ranked()[: int(n)])
    return [head_name(*head_place(name)) for name in listed(given)]


def groups_named(given: Words, shape: Shape, n_groups: int) -> list[tuple[int, int]]:
    """Layer and number of key-value groups."""
    if given == ALL:
        return [(layer, group) for layer in range(shape.n_layers) for group in range(n_groups)]
    names = [name.upper() for name in listed(given)]
    if odd := [name for name in names if "G" not in name]:
        raise OptionError(f"--kv-groups names {odd[0]!r}, expected such as L4G1, or all; write it so.")
    return [head_place(name.replace("G", "H")) for name in names]


def thoughts_named(given: Words, shape: Shape) -> list[str]:
    """Names of thoughts."""
    known = thought_names(shape.n_thoughts)
    return known if given == ALL else _known(listed(given), known, "--thoughts")


def edges_named(given: Words, shape: Shape) -> list[tuple[str, str]]:
    """Query and key of edges, each once."""
    groups = {
        ALL: edge_names(shape.n_thoughts),
        READOUT: [(query, key) for query in ("eot", "answer") for key in thought_names(shape.n_thoughts)],
    }
    edges = [edge for name in listed(given) for edge in groups.get(name) or [_edge(name, shape)]]
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
    if (
        key in GRAPH_GROUPS
    ):  # in the question, before every query; whether the model has them is known once it is loaded
        return query, key
    _known([key], order, "--edges")
    if order.index(key) > order.index(query):
        raise OptionError(f"--edges names {name}, which the causal mask forbids; the query comes first.")
    return query, key


def positions_named(given: Words, shape: Shape) -> list[str]:
    """Names of positions at which heads are cut."""
    known = [*query_names(shape.n_thoughts), TEXT]
    names = [name for part in listed(given) for name in (known[1:-3] if part == THOUGHTS else [part])]
    return _known(names, known, "--at")


def _known(names: list[str], known: Sequence[Any], option: str) -> list[str]:
    if odd := [name for name in names if name not in known]:
        raise OptionError(f"{option} names {odd[0]!r}, expected some of {', '.join(known)}; pass others.")
    return names


def cuts_named(
    words: Mapping[str, Words],
    shape: Shape,
    edits: Sequence[Edit],
    of_heads: Sequence[Edit],
    *,
    ranked: Callable[[], Sequence[str]],
    n_groups: Callable[[], int],
    leave_out: Words,
    at: Words,
    together: bool,
) -> tuple[list[Cut], dict[str, dict[str, Cut]]]:
    """The cuts of what is named of each family by each edit, one by one or all together; and by label their variants.

    `of_heads` are further edits of single heads, as variants; the others are those of `plan_cuts`.
    """
    readers: dict[str, Callable[[Words], list[Any]]] = {
        HEADS: lambda given: heads_named(given, shape, ranked),
        KV_GROUPS: lambda given: groups_named(given, shape, n_groups()),
        THOUGHTS: lambda given: thoughts_named(given, shape),
        EDGES: lambda given: edges_named(given, shape),
    }
    named = {family: [] if words[family] is None else read(words[family]) for family, read in readers.items()}
    if leave_out is not None:
        named = _without(named, readers, leave_out)
    where = None if at is None else positions_named(at, shape)
    build: dict[str, Callable[[Any, Edit], Cut]] = {
        HEADS: lambda head, edit: ablate_head(head, edit=edit, queries=where),
        KV_GROUPS: lambda place, edit: ablate_kv_group(
            *place, n_heads=shape.n_heads, n_groups=n_groups(), edit=edit, queries=where
        ),
        THOUGHTS: lambda thought, edit: ablate_thought(thought, edit=edit),
        EDGES: lambda edge, edit: (
            weaken_edge(edge[0], edge[1], edit.factor) if isinstance(edit, Scale) else knock_out(*edge)
        ),
    }
    if not together:
        return _one_by_one(named, build, edits, of_heads)
    left_out = "" if leave_out is None else f" but {', '.join(listed(leave_out))}"
    said = [
        f"all {family}{left_out}" if words[family] == ALL else ", ".join(map(_said, its))
        for family, its in named.items()
        if its
    ]
    return _joint(named, build, edits, " and ".join(said)), {}


def _without(
    named: Mapping[str, list[Any]], readers: Mapping[str, Callable[[Words], list[Any]]], leave_out: Words
) -> dict[str, list[Any]]:
    """What is named, less what is left out of its one family."""
    families = [family for family, its in named.items() if its]
    if len(families) != 1:
        said = ", ".join(families) or "nothing"
        raise OptionError(f"--except leaves out of the one family that is named, found {said}; name one.")
    (family,) = families
    out = readers[family](leave_out)
    if odd := [thing for thing in out if thing not in named[family]]:
        raise OptionError(f"--except names {_said(odd[0])}, which is not among the {family} named; leave it out.")
    return {**named, family: [thing for thing in named[family] if thing not in out]}


def _said(thing: Any) -> str:
    return thing if isinstance(thing, str) else ":".join(map(str, thing))


def _one_by_one(
    named: Mapping[str, list[Any]],
    build: Mapping[str, Callable[[Any, Edit], Cut]],
    edits: Sequence[Edit],
    of_heads: Sequence[Edit],
) -> tuple[list[Cut], dict[str, dict[str, Cut]]]:
    """A cut of each thing by each edit; by edits that do not decide, and for heads by further ones, as variants."""
    made: list[Cut] = []
    variants: dict[str, dict[str, Cut]] = {}
    deciding = [edit for edit in edits if isinstance(edit, Resample)]
    beside = [edit for edit in edits if deciding and not isinstance(edit, Resample | Scale)]
    for family, things in named.items():
        others = [*beside, *(of_heads if family == HEADS else ())]
        for thing in things:
            if family == EDGES:
                made += _of_edge(thing, edits)
                continue
            for edit in edits:
                if edit not in beside:
                    made.append(build[family](thing, edit))
                if others and isinstance(edit, Resample):
                    variants[made[-1].label] = {NAME_OF[type(other)]: build[family](thing, other) for other in others}
    return made, variants


def _joint(
    named: Mapping[str, list[Any]], build: Mapping[str, Callable[[Any, Edit], Cut]], edits: Sequence[Edit], said: str
) -> list[Cut]:
    """One cut of everything that is named, by each edit; edges alone are blocked once."""
    things = [(build[family], thing) for family, its in named.items() for thing in its]
    if not things:
        return []
    made = [cut_together([one(thing, edit) for one, thing in things], said) for edit in edits]
    return list({cut.parts: cut for cut in made}.values())


def _of_edge(edge: tuple[str, str], edits: Iterable[Edit]) -> list[Cut]:
    """An edge blocked; weakened too where a scale is asked for, after the softmax."""
    weak = [weaken_edge(*edge, edit.factor) for edit in edits if isinstance(edit, Scale)]
    # What is left of an edge that is scaled to nothing belongs to the same curve.
    return [knock_out(*edge), *weak, *([zero_value_edge(*edge)] if weak else [])]


def cuts_of_all_thoughts(shape: Shape, edits: Sequence[Edit], seed: int) -> list[Cut]:
    """All thoughts at once: by each edit, stopped after each, and shuffled."""
    cuts = [ablate_thought(None, edit=edit) for edit in edits]
    cuts += [stop_after(k, n_thoughts=shape.n_thoughts) for k in range(shape.n_thoughts)]
    return cuts if shape.n_thoughts < 2 else [*cuts, shuffle_thoughts(seed)]


def restorations(kind: str, shape: Shape, seed: int) -> tuple[Cut, ...]:
    """Each head, thought or edge put back alone."""
    if kind == HEADS:
        return tuple(restore_head(name, seed=seed) for name in heads_named(ALL, shape, list))
    if kind == THOUGHTS:
        return tuple(restore_thought(name, seed=seed) for name in thoughts_named(ALL, shape))
    return tuple(restore_edge(*edge, seed=seed) for edge in edges_named([ALL, READOUT], shape))


ATTENTION: Final = "attention"
CAUSE: Final = "cause"
RANKINGS: Final = (ATTENTION, VALUES, CAUSE)


def heads_by_attention(run: Run, by: str, problems: Sequence[str]) -> list[str]:
    """Names of all heads, those that give thoughts most attention first, on these problems (`head_importance`).

    `by` is `attention` or `value-weighted`. Heads that are alike keep the order of layers and heads.
    """
    importances, _ = look(patterned(run, by), problems, how=by)
    looked = importances[HEADS][by].mean("problem")
    return [str(name) for name in looked["unit"].values[np.argsort(-looked.values, kind="stable")]]


def heads_by_cause(effects: xr.Dataset, single: Mapping[str, Cut]) -> list[str]:
    """Names of heads that were cut alone, those whose cut costs prefix and answer most log-probability first.

    The ranking and its order are measured on the same problems, so chance in the effects favours this order.
    """
    gained = paired_differences(effects)[RANKED_BY].mean("problem")
    of_heads = gained.sel(intervention=[cut.label for cut in single.values()]).values
    return [list(single)[place] for place in np.argsort(of_heads, kind="stable")]


def cumulative(rankings: Mapping[str, Sequence[Cut]], *, n_random: int = 10, seed: int = 0) -> tuple[Cut, ...]:
    """Cuts of the first 1, 2, … of each ranking, and of random orders of the same cuts, with `order` and `k`.

    Orders differ only in what comes first: the last step of each is the same cut of everything.
    """
    members = {name: sorted(cut.label for cut in ranking) for name, ranking in rankings.items()}
    if not members or not all(its and its == next(iter(members.values())) for its in members.values()):
        raise OptionError(f"found {len(members)} rankings, expected one or more of the same cuts; rank the same ones.")
    if odd := [name for name in rankings if name.startswith(RANDOM)]:
        raise OptionError(f"a ranking is called {odd[0]!r}, which names random orders; call it otherwise.")
    # By label, so that the random orders are the same whatever the rankings are.
    first = sorted(next(iter(rankings.values())), key=lambda cut: cut.label)
    rng = np.random.default_rng(seed)
    drawn = {f"{RANDOM} {k}": [first[place] for place in rng.permutation(len(first))] for k in range(1, n_random + 1)}
    # The parts by label, so that two orders with the same first k make the same cut.
    return tuple(
        Cut(
            step_label(name, k),
            tuple(part for cut in sorted(order[:k], key=lambda cut: cut.label) for part in cut.parts),
            order=name,
            k=k,
        )
        for name, order in (*rankings.items(), *drawn.items())
        for k in range(1, len(order) + 1)
    )
