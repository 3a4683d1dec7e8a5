"""What a user asks to cut, in words such as `top:10`, `z4:z1` or `scale:0.5`, becomes a plan of cuts.

Heads, thoughts and edges are cut one at a time, each by every edit asked for; edges are blocked, or weakened by a
scale. `whole` cuts concern all thoughts at once. It knows nothing of models beyond their sizes, nor what heads do.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from thoughtlens.errors import OptionError
from thoughtlens.labels import key_names, query_names, thought_names
from thoughtlens.runs.controls import Shape
from thoughtlens.tracing.cuts import (
    Cut,
    ablate_head,
    ablate_kv_group,
    ablate_thought,
    cut_from_spec,
    freezable,
    freeze_thoughts,
    head_place,
    knock_out,
    shuffle_thoughts,
    stop_after,
    weaken_edge,
    zero_value_edge,
)
from thoughtlens.tracing.edits import Edit, Mean, Noise, Resample, Scale, Zero

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
