"""What is cut, selected by words such as `top:10`, `z4:z1` or `scale:0.5`, and the orders in which heads are cut.

in: words as a user types them, and the sizes of a model; out: names of what is there, and edits. Also in: a run, or the
effects of cutting single heads; out: names of heads in order, and the cuts of the first 1, 2, … . These words are read
here and nowhere else: `all`, `top:10`, `L4H5`, `L4G1`, `z4:z1`, `readout`, `mean`, `scale:0.5`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import numpy as np
import xarray as xr

from thoughtlens.analysis.effects import RANKED_BY, paired_differences
from thoughtlens.analysis.weighted_attention import VALUES, look, patterned
from thoughtlens.cuts.controls import Shape
from thoughtlens.cuts.cut_types import Cut
from thoughtlens.cuts.edits import Edit, Mean, Noise, Resample, Scale, Zero
from thoughtlens.errors import OptionError
from thoughtlens.notation import (
    HEADS,
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
