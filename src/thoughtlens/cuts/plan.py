"""The plan of a study: its cuts, controls and orders, read from words such as `top:10` or `z4:z1`.

in: a run, and the words of a user; out: a `Plan`, which `intervene` makes.

1. Heads, thoughts and edges are cut one at a time, each by every edit asked for. Edges are blocked, and weakened where
   an edit scales. Cuts of the family `whole` concern all thoughts at once.
2. Matched controls are drawn for each cut that has something like it.
3. An order cuts the first 1, 2, … heads of a ranking. The plan keeps its name alone, since a ranking by cause follows
   from effects.

These words are read here and nowhere else: `all`, `top:10`, `L4H5`, `L4G1`, `z4:z1`, `readout`, `mean`, `scale:0.5`.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import chain, count
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr

from thoughtlens.analysis import Analysis, analyze, paired_differences
from thoughtlens.analysis.effects import RANKED_BY
from thoughtlens.analysis.heads import unreliable
from thoughtlens.analysis.weighted_attention import VALUES, look, patterned
from thoughtlens.cuts.controls import Shape, controllable, controls_for, extra
from thoughtlens.cuts.edits import Block, Donor, Edit, Mean, Noise, Resample, Scale, Shuffle, Zero
from thoughtlens.cuts.experiments import (
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
from thoughtlens.cuts.intervention import EDGE_SITES, Intervention
from thoughtlens.cuts.passes import n_kv_heads
from thoughtlens.cuts.replacements import derangement, donors
from thoughtlens.cuts.study_job import Target
from thoughtlens.errors import OptionError
from thoughtlens.models.loader import reasoner_of
from thoughtlens.models.reasoner import LatentReasoner
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
from thoughtlens.runs.folder import Run
from thoughtlens.schema import BASELINE, VALUE_WEIGHTED
from thoughtlens.taps import Site

EDITS: Final = ("zero", "mean", "resample", "noise", "scale:F")
ALL: Final = "all"
READOUT: Final = "readout"
MATCHES: Final = ("layer", "mass")
ATTENTION: Final = "attention"
CAUSE: Final = "cause"
RANKINGS: Final = (ATTENTION, VALUES, CAUSE)

_KNOWN: Final = ("family", "unit", "dose")
"""What a cut says of itself beside its label and parts."""

_TOP: Final = "top:"

Words = str | Iterable[str] | None
"""Names joined by commas, or one by one."""


@dataclass(frozen=True)
class Plan:
    """What a study cuts, with its controls and orders.

    Attributes:
        cuts: what is studied.
        controls: the controls of each cut, by its label.
        orders: rankings, of `RANKINGS`, by which single heads are cut one after the other.
        n_random: how many random orders are made for comparison.
        seed: of controls, of random orders, and of edits that draw.
        controlled: how controls were drawn, as the study's manifest says it.
        exploratory: labels of cuts that were added after the study had begun.
        notes: what a reader of the plan should know, a sentence each.

    Example:
        >>> plan = Plan((ablate_head("L0H0"), ablate_head("L0H1")), orders=("cause",), n_random=2)
        >>> plan.n_steps, plan.n_passes(n_problems=100)
        (6, 1000)
    """

    cuts: tuple[Cut, ...]
    controls: Mapping[str, tuple[Cut, ...]] = field(default_factory=dict)
    orders: tuple[str, ...] = ()
    n_random: int = 0
    seed: int = 0
    controlled: Mapping[str, Any] = field(default_factory=dict)
    exploratory: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def made(self) -> tuple[Cut, ...]:
        """Every cut and control once, in the order in which they are made."""
        return (*self.cuts, *extra(self.controls, self.cuts))

    @property
    def single_heads(self) -> dict[str, Cut]:
        """The first cut of each head that was planned to be cut alone, by the head's name."""
        found: dict[str, Cut] = {}
        for cut in self.cuts:
            if cut.family == HEADS and cut.label not in self.exploratory:
                found.setdefault(cut.unit, cut)
        return found

    @property
    def n_steps(self) -> int:
        """Steps of all orders, random ones among them."""
        return len(self.single_heads) * (len(self.orders) + self.n_random) if self.orders else 0

    def n_passes(self, n_problems: int) -> int:
        """The number of passes that the plan takes: one for each problem under each cut, and under none."""
        rounds = 1 + (CAUSE in self.orders)
        return n_problems * (rounds + len(self.made) + self.n_steps)

    def steps(self, rankings: Mapping[str, Sequence[str]]) -> tuple[Cut, ...]:
        """The cuts of the first 1, 2, … heads of each ranking, and of random orders; none without a ranking."""
        single = self.single_heads
        ranked = {by: [single[name] for name in names if name in single] for by, names in rankings.items()}
        return cumulative(ranked, n_random=self.n_random, seed=self.seed) if ranked else ()

    def extended(self, further: "Plan") -> "Plan":
        """This plan and the cuts of a further one, as exploratory; `OptionError` if that has other orders."""
        if further.orders and (further.orders, further.n_random) != (self.orders, self.n_random):
            planned, asked = (
                f"orders by {', '.join(plan.orders)} and {plan.n_random} random ones" if plan.orders else "no orders"
                for plan in (self, further)
            )
            raise OptionError(
                f"the study was planned with {planned} and is now asked for {asked}; "
                "orders are those of the first plan: name another study."
            )
        known = {cut.label: cut for cut in self.made}
        renamed = {cut.label: _under_free_label(cut, known) for cut in extra(further.controls, further.cuts)}
        cuts = (*self.cuts, *(cut for cut in further.cuts if known.get(cut.label) != cut))
        controls = dict(self.controls)
        for label, its in further.controls.items():
            both = (*controls.get(label, ()), *(renamed.get(control.label, control) for control in its))
            controls[label] = tuple(dict.fromkeys(both))
        whole = replace(self, cuts=cuts, controls=controls)
        return replace(whole, exploratory=(*self.exploratory, *(c.label for c in whole.made if c.label not in known)))

    def as_json(self) -> dict[str, Any]:
        """The plan as `plan.json` says it; `plan_from_json` reads it."""
        studied = {cut.label for cut in self.cuts}
        return {
            "cuts": [
                {
                    "label": cut.label,
                    "kind": "cut" if cut.label in studied else "control",
                    "exploratory": cut.label in self.exploratory,
                    **{name: getattr(cut, name) for name in _KNOWN},
                    "parts": cut.spec(),
                }
                for cut in self.made
            ],
            "controls": {label: [control.label for control in its] for label, its in self.controls.items()},
            "controlled": dict(self.controlled),
            "orders": list(self.orders),
            "n_random": self.n_random,
            "seed": self.seed,
            "notes": list(self.notes),
        }


def _under_free_label(cut: Cut, known: Mapping[str, Cut]) -> Cut:
    """The cut under its label, numbered where another cut has that label."""
    labels = chain([cut.label], (f"{cut.label} ({k})" for k in count(2)))
    return replace(cut, label=next(label for label in labels if known.get(label, cut).parts == cut.parts))


def plan_from_json(found: Mapping[str, Any]) -> Plan:
    """The plan that `Plan.as_json` wrote."""
    made = {entry["label"]: _cut_of(entry) for entry in found["cuts"]}
    return Plan(
        tuple(made[entry["label"]] for entry in found["cuts"] if entry["kind"] == "cut"),
        {label: tuple(made[name] for name in its) for label, its in found["controls"].items()},
        orders=tuple(found["orders"]),
        n_random=found["n_random"],
        seed=found["seed"],
        controlled=found["controlled"],
        exploratory=tuple(entry["label"] for entry in found["cuts"] if entry["exploratory"]),
        notes=tuple(found["notes"]),
    )


def _cut_of(entry: Mapping[str, Any]) -> Cut:
    made = cut_from_spec(entry["parts"], entry.get("label"))
    return replace(made, **{name: entry[name] for name in _KNOWN if name in entry})


def shape_of(run: Run) -> Shape:
    """The sizes of a run's model, which say what can be cut."""
    layout = run.manifest["layout"]
    return Shape(layout["n_layers"], layout["n_heads"], layout["n_thoughts"])


def plan_cuts(
    run: Run,
    *,
    heads: Words = None,
    kv_groups: Words = None,
    thoughts: Words = None,
    edges: Words = None,
    edits: Iterable[str | Edit] = ("zero",),
    at: Words = None,
    whole: bool = False,
    frozen: bool = False,
    cuts: Iterable[Cut] = (),
    file: Path | None = None,
    controls: int = 0,
    match: str = "layer",
    orders: Iterable[str] = (),
    random_orders: int = 10,
    seed: int = 0,
    reasoner: LatentReasoner | None = None,
    analysis: Callable[[], Analysis] | None = None,
) -> Plan:
    """Plan a study of cuts, in the order heads, groups, thoughts, edges, whole, cuts, file.

    Args:
        run: the run whose model and problems are cut.
        heads: `all`, `top:10` by attention, or names such as `L4H5,L0H1`.
        kv_groups: `all`, or names such as `L4G1,L0G0`: all query heads of a key-value head at once.
        thoughts: `all`, or names such as `z1,z4`.
        edges: `all` (thought to earlier thought), `readout` (eot and answer to each thought), or such as `z4:z1`.
        edits: `zero`, `mean`, `resample`, `noise`, `scale:0.5`, or edits. Edges are blocked whatever the edits are, and
            weakened by those that scale.
        at: positions at which heads are cut, such as `thoughts` or `eot,answer`; all from bot on if None.
        whole: also cut all thoughts at once: by each edit, shuffled, and stopped after each.
        frozen: keep later thoughts as they were when nothing was cut; they are computed anew if False.
        cuts: further cuts.
        file: a JSON file of further cuts: a list of objects with `label` and `parts`, or a study's `plan.json`.
        controls: how many matched controls each cut gets; a cut that has nothing like it gets none.
        match: what control heads share with their head: `layer`, or `mass`, the attention to thoughts.
        orders: `attention`, `value-weighted`, `cause`: cut the first 1, 2, … of the single heads in this ranking.
        random_orders: how many random orders are made for comparison.
        seed: of the edits that draw, of controls and of random orders.
        reasoner: the run's model, if it is loaded already; only key-value groups need it.
        analysis: gives an analysis of the run; called once, for `top:` or `mass`. Computed from the run if None.

    Returns:
        The plan. Its `notes` say where a ranking that was followed cannot be trusted.

    Raises:
        OptionError: something that was asked for is not there, or nothing was asked for.
        RunError: the run does not hold what is asked for.

    Example:
        Cut the ten heads that attend to thoughts most, and each thought, with five controls each.

            plan = plan_cuts(run, heads="top:10", thoughts="all", controls=5, orders=["cause"])
            effects = intervene(run, plan)
    """
    # A study sets cuts beside the attention of the problems that were cut: asked before hours of cuts.
    run.require_attention()
    orders, shape = tuple(dict.fromkeys(orders)), shape_of(run)
    _check_options(run, controls, match, orders, random_orders)
    seen = cache(analysis or (lambda: analyze(run)))
    known = [named_edit(edit, seed) if isinstance(edit, str) else edit for edit in dict.fromkeys(edits)]
    where = None if at is None else _positions(at, shape)
    made = [ablate_head(head, edit=edit, queries=where) for head in _heads(heads, shape, seen) for edit in known]
    if kv_groups is not None:
        n_groups = n_kv_heads(reasoner or reasoner_of(run.manifest))
        group = partial(ablate_kv_group, n_heads=shape.n_heads, n_groups=n_groups, queries=where)
        made += [group(*place, edit=edit) for place in _groups(kv_groups, shape, n_groups) for edit in known]
    made += [ablate_thought(thought, edit=edit) for thought in _thoughts(thoughts, shape) for edit in known]
    made += [cut for edge in _edges(edges, shape) for cut in _of_edge(edge, known)]
    if whole:
        made += _whole(shape, known, seed)
    if frozen:
        made = [freeze_thoughts(cut) if freezable(cut) else cut for cut in made]
    made += [*cuts, *([] if file is None else _cuts_in(file))]
    if not made:
        raise OptionError("nothing to cut was named; pass --heads all, --thoughts all, --edges all, or --plan FILE.")
    n_random = random_orders if orders else 0
    plan = Plan(tuple(made), orders=orders, n_random=n_random, seed=seed, notes=_notes(heads, seen))
    if orders and len(plan.single_heads) < 2:
        raise OptionError("an order needs two heads or more that are cut one by one; add --heads all.")
    return _with_controls(plan, controls, match, shape, seen) if controls else plan


def _check_options(run: Run, controls: int, match: str, orders: Iterable[str], random_orders: int) -> None:
    if match not in MATCHES:
        raise OptionError(f"--match is {match!r}, expected one of {', '.join(MATCHES)}; pass one of these.")
    if controls < 0 or random_orders < 0:
        raise OptionError("--controls and --random-orders are numbers from 0 on; pass such.")
    for by in orders:
        if by not in RANKINGS:
            raise OptionError(f"no ranking of heads by {by!r}, expected {', '.join(RANKINGS)}; pass another --order.")
        if by == VALUES and VALUE_WEIGHTED not in run.attention:
            raise OptionError(f"{run.path} holds no values to rank heads by; extract it with --record values.")


def _notes(heads: Words, seen: Callable[[], Analysis]) -> tuple[str, ...]:
    """A ranking that cannot be trusted is followed nevertheless, and the plan says so."""
    reason = unreliable(seen().ranking) if _is_top(heads) else None
    return () if reason is None else (f"{reason.rstrip('.')}; what is cut is no better than a draw.",)


def _with_controls(plan: Plan, n: int, match: str, shape: Shape, seen: Callable[[], Analysis]) -> Plan:
    mass = seen().heads["thought_mass"].sel(value="estimate", drop=True) if match == "mass" else None
    like = controllable(plan.cuts, shape)
    found = controls_for(like, n=n, seed=plan.seed, shape=shape, mass=mass) if like else {}
    return replace(plan, controls=found, controlled={"n": n, "match": match})


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


def _cuts_in(path: Path) -> list[Cut]:
    """The cuts of a JSON file: a list of objects with `parts` and perhaps `label`, or a study's `plan.json`."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        listed = found["cuts"] if isinstance(found, dict) else found
        return [_cut_of(entry) for entry in listed if entry.get("kind", "cut") == "cut"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OptionError(
            f"{path} can't be read as a plan ({type(error).__name__}: {error}), expected a JSON list of objects with "
            "label and parts; write one so."
        ) from error


def _listed(given: Words) -> list[str]:
    names = given.split(",") if isinstance(given, str) else given or ()
    return [name.strip() for name in names if name.strip()]


def _is_top(heads: Words) -> bool:
    return isinstance(heads, str) and heads.startswith(_TOP)


def _heads(given: Words, shape: Shape, seen: Callable[[], Analysis]) -> list[str]:
    if given == ALL:
        return [head_name(layer, head) for layer in range(shape.n_layers) for head in range(shape.n_heads)]
    if isinstance(given, str) and _is_top(given):
        n, n_heads = given.removeprefix(_TOP), shape.n_layers * shape.n_heads
        if not n.isdecimal() or not 1 <= int(n) <= n_heads:
            raise OptionError(f"--heads is {given!r}, expected top:1 to top:{n_heads}; write it so.")
        return [str(name) for name in seen().ranking["name"].values[: int(n)]]
    return _listed(given)


def _groups(given: Words, shape: Shape, n_groups: int) -> list[tuple[int, int]]:
    if given == ALL:
        return [(layer, group) for layer in range(shape.n_layers) for group in range(n_groups)]
    if odd := [name for name in _listed(given) if "G" not in name]:
        raise OptionError(f"--kv-groups names {odd[0]!r}, expected such as L4G1, or all; write it so.")
    return [head_place(name.replace("G", "H")) for name in _listed(given)]


def _thoughts(given: Words, shape: Shape) -> list[str]:
    known = thought_names(shape.n_thoughts)
    return known if given == ALL else _known(_listed(given), known, "--thoughts")


def _edges(given: Words, shape: Shape) -> list[tuple[str, str]]:
    groups = {
        ALL: edge_names(shape.n_thoughts),
        READOUT: [(query, key) for query in ("eot", "answer") for key in thought_names(shape.n_thoughts)],
    }
    edges = [edge for name in _listed(given) for edge in groups.get(name) or [_edge(name, shape)]]
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


def _positions(given: Words, shape: Shape) -> list[str]:
    known = [*query_names(shape.n_thoughts), TEXT]
    names = [name for part in _listed(given) for name in (known[1:-3] if part == THOUGHTS else [part])]
    return _known(names, known, "--at")


def _known(names: list[str], known: Sequence[Any], option: str) -> list[str]:
    if odd := [name for name in names if name not in known]:
        raise OptionError(f"{option} names {odd[0]!r}, expected some of {', '.join(known)}; pass others.")
    return names


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
    return tuple(
        Cut(step_label(name, k), tuple(part for cut in order[:k] for part in cut.parts), order=name, k=k)
        for name, order in (*rankings.items(), *drawn.items())
        for k in range(1, len(order) + 1)
    )


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
        donors(target.n_steps, part.edit.seed)
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
