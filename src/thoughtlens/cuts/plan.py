"""The plan of a study: its cuts and their variants, restorations, controls and orders.

in: a run, and what a user asks for; out: a `Plan`, which `intervene` makes.

1. Heads, thoughts and edges are cut one at a time, or together as one cut. Another problem's values take their place;
   edges have no donors and are blocked, and weakened where an edit scales. Cuts of the family `whole` concern all
   thoughts at once.
2. A variant does the same to the same in another way: a head by its mean, or with later thoughts frozen (the direct
   effect). It stands beside its cut and is no finding of its own.
3. A restoration puts one unit back into a run in which all thoughts are another problem's.
4. Matched controls are drawn for each cut that has something like it.
5. An order cuts the first 1, 2, … heads of a ranking. A ranking by cause follows from effects, so that the plan keeps
   its name alone.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain, count
from pathlib import Path
from typing import Any, Final

import xarray as xr

from thoughtlens.analysis import Analysis, analyze, open_analysis
from thoughtlens.analysis.heads import unreliable
from thoughtlens.analysis.streamed_attention import VALUES
from thoughtlens.cuts.controls import CALIPER, Shape, balance_rows, controllable, controls_for, extra
from thoughtlens.cuts.cut_types import (
    Cut,
    ablate_thought,
    cut_from_spec,
    freezable,
    freeze_thoughts,
    of_donor,
    resamples,
)
from thoughtlens.cuts.edits import Edit, Mean, Resample
from thoughtlens.cuts.passes import n_kv_heads
from thoughtlens.cuts.selection import (
    CAUSE,
    RANKINGS,
    Words,
    cumulative,
    cuts_named,
    cuts_of_all_thoughts,
    is_top,
    listed,
    named_edit,
    restorations,
)
from thoughtlens.cuts.study_batches import head_measures
from thoughtlens.errors import OptionError
from thoughtlens.models.loader import reasoner_of
from thoughtlens.models.reasoner import LatentReasoner
from thoughtlens.notation import EDGES, HEADS, KV_GROUPS, THOUGHTS
from thoughtlens.runs.reader import Run
from thoughtlens.schema import VALUE_WEIGHTED, tested_half
from thoughtlens.taps import Site

MEAN: Final = "mean"
DIRECT: Final = "direct"
PATHS: Final = ("total", DIRECT, "indirect")
RESTORED: Final = (HEADS, THOUGHTS, EDGES)

_KNOWN: Final = ("family", "unit", "dose")
"""What a cut says of itself beside its label and parts."""


@dataclass(frozen=True)
class Plan:
    """What a study cuts, with its controls and orders.

    Attributes:
        cuts: what is studied.
        controls: the controls of each cut, by its label.
        variants: by the label of a cut and the variant's name, `mean` or `direct`.
        restored: cuts in which all thoughts are another problem's but one unit is the problem's own.
        orders: rankings, of `RANKINGS`, by which single heads are cut one after the other.
        rankings: names of heads in order, of those `orders` that were known when the plan was made.
        n_random: how many random orders are made for comparison.
        seed: of controls, of random orders, and of edits that draw.
        donors: how many donors a problem has: log-probabilities are means over these.
        holdout: the share of problems that are tested; the others choose. None where all problems do both.
        holdout_seed: by which problems are divided (`thoughtlens.schema.tested_half`).
        controlled: how controls were drawn, as the study's manifest says it, and how near they are.
        exploratory: labels of cuts that were added after the study had begun.
        notes: what a reader of the plan should know, a sentence each.

    Example:
        >>> from thoughtlens.cuts import ablate_head
        >>> plan = Plan((ablate_head("L0H0"), ablate_head("L0H1")), orders=("cause",), n_random=2)
        >>> plan.n_steps, plan.n_passes(100)
        (6, 1000)
    """

    cuts: tuple[Cut, ...]
    controls: Mapping[str, tuple[Cut, ...]] = field(default_factory=dict)
    variants: Mapping[str, Mapping[str, Cut]] = field(default_factory=dict)
    restored: tuple[Cut, ...] = ()
    orders: tuple[str, ...] = ()
    rankings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    n_random: int = 0
    seed: int = 0
    donors: int = 1
    holdout: float | None = None
    holdout_seed: int = 0
    controlled: Mapping[str, Any] = field(default_factory=dict)
    exploratory: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def kinds(self) -> dict[str, str]:
        """By label, what each cut that is made is in the study: cut, variant, restored or control."""
        variants = [cut.label for its in self.variants.values() for cut in its.values()]
        ranked = {
            "control": [cut.label for cut in extra(self.controls, self.cuts)],
            "restored": [cut.label for cut in self.restored],
            "variant": variants,
            "cut": [cut.label for cut in self.cuts],
        }
        return {label: kind for kind, labels in ranked.items() for label in labels}

    @property
    def made(self) -> tuple[Cut, ...]:
        """Every cut, variant, restoration and control once, in the order in which they are made."""
        variants = [cut for its in self.variants.values() for cut in its.values()]
        # Two cuts of one label are left for `check_plan` to refuse.
        others = dict.fromkeys((*variants, *self.restored, *extra(self.controls, self.cuts)))
        return (*self.cuts, *(cut for cut in others if cut not in self.cuts))

    @property
    def single_heads(self) -> dict[str, Cut]:
        """The first cut of each head that was planned to be cut alone, by the head's name."""
        found: dict[str, Cut] = {}
        for cut in self.cuts:
            if cut.family == HEADS and cut.unit and cut.label not in self.exploratory:
                found.setdefault(cut.unit, cut)
        return found

    @property
    def n_steps(self) -> int:
        """Steps of all orders, random ones among them."""
        return len(self.single_heads) * (len(self.orders) + self.n_random) if self.orders else 0

    @property
    def chooses(self) -> bool:
        """Whether `--holdout` needs cuts of its own, for a ranking by cause."""
        return self.holdout is not None and CAUSE in self.orders

    def n_passes(self, n_problems: int, n_choosing: int = 0) -> int:
        """The passes that the plan takes: one for each problem under each cut, of every donor, and under none.

        Args:
            n_problems: problems that are tested.
            n_choosing: problems that choose alone.
        """
        single = [*self.single_heads.values()]
        steps = single[:1] * self.n_steps
        rounds = 1 + (CAUSE in self.orders and self.holdout is None)
        tested = n_problems * (rounds + sum(map(self.copies, (*self.made, *steps))))
        return tested + (n_choosing * (1 + sum(map(self.copies, single))) if self.chooses else 0)

    def copies(self, cut: Cut) -> int:
        """How often a cut is made: once a donor."""
        return self.donors if resamples(cut) else 1

    def of_donors(self, cut: Cut) -> tuple[Cut, ...]:
        """A cut with the values of each donor, where there are several; the cut itself where not."""
        n = self.copies(cut)
        return (cut,) if n == 1 else tuple(of_donor(cut, rank) for rank in range(n))

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
        cuts, restored = (
            (*mine, *(cut for cut in its if known.get(cut.label) != cut))
            for mine, its in ((self.cuts, further.cuts), (self.restored, further.restored))
        )
        controls = dict(self.controls)
        for label, its in further.controls.items():
            both = (*controls.get(label, ()), *(renamed.get(control.label, control) for control in its))
            controls[label] = tuple(dict.fromkeys(both))
        variants = {
            label: {**self.variants.get(label, {}), **further.variants.get(label, {})}
            for label in (*self.variants, *(name for name in further.variants if name not in self.variants))
        }
        whole = replace(self, cuts=cuts, controls=controls, variants=variants, restored=restored)
        return replace(whole, exploratory=(*self.exploratory, *(c.label for c in whole.made if c.label not in known)))

    def as_json(self) -> dict[str, Any]:
        """The plan as `plan.json` says it; `plan_from_json` reads it."""
        kinds = self.kinds
        return {
            "cuts": [
                {
                    "label": cut.label,
                    "kind": kinds[cut.label],
                    "exploratory": cut.label in self.exploratory,
                    **{name: getattr(cut, name) for name in _KNOWN},
                    "parts": cut.spec(),
                }
                for cut in self.made
            ],
            "controls": {label: [control.label for control in its] for label, its in self.controls.items()},
            "variants": {label: {name: cut.label for name, cut in its.items()} for label, its in self.variants.items()},
            "controlled": dict(self.controlled),
            "orders": list(self.orders),
            "rankings": {by: list(names) for by, names in self.rankings.items()},
            "n_random": self.n_random,
            "seed": self.seed,
            "donors": self.donors,
            "holdout": self.holdout,
            "holdout_seed": self.holdout_seed,
            "notes": list(self.notes),
        }


def _under_free_label(cut: Cut, known: Mapping[str, Cut]) -> Cut:
    """The cut under its label, numbered where another cut has that label."""
    labels = chain([cut.label], (f"{cut.label} ({k})" for k in count(2)))
    return replace(cut, label=next(label for label in labels if known.get(label, cut).parts == cut.parts))


def plan_from_json(found: Mapping[str, Any]) -> Plan:
    """The plan that `Plan.as_json` wrote."""
    made = {entry["label"]: _cut_of(entry) for entry in found["cuts"]}

    def of_kind(kind: str) -> tuple[Cut, ...]:
        return tuple(made[entry["label"]] for entry in found["cuts"] if entry["kind"] == kind)

    return Plan(
        of_kind("cut"),
        {label: tuple(made[name] for name in its) for label, its in found["controls"].items()},
        variants={label: {name: made[cut] for name, cut in its.items()} for label, its in found["variants"].items()},
        restored=of_kind("restored"),
        orders=tuple(found["orders"]),
        rankings={by: tuple(names) for by, names in found["rankings"].items()},
        exploratory=tuple(entry["label"] for entry in found["cuts"] if entry["exploratory"]),
        notes=tuple(found["notes"]),
        **{name: found[name] for name in ("n_random", "seed", "donors", "holdout", "holdout_seed", "controlled")},
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
    edits: Iterable[str | Edit] = (),
    at: Words = None,
    whole: bool = False,
    frozen: bool = False,
    together: bool = False,
    leave_out: Words = None,
    restore: str | None = None,
    paths: Words = None,
    cuts: Iterable[Cut] = (),
    file: Path | None = None,
    controls: int = 0,
    caliper: float = CALIPER,
    orders: Iterable[str] = (),
    random_orders: int = 10,
    donors: int = 1,
    holdout: float | None = None,
    holdout_seed: int = 0,
    seed: int = 0,
    reasoner: LatentReasoner | None = None,
    analysis: str | Callable[[], Analysis] | None = None,
    measures: Callable[[], xr.Dataset] | None = None,
) -> Plan:
    """Plan a study of cuts, in the order heads, groups, thoughts, edges, whole, cuts, file.

    Args:
        run: the run whose model and problems are cut.
        heads: `all`, `top:10` by attention, or names such as `L4H5,L0H1`.
        kv_groups: `all`, or names such as `L4G1,L0G0`: all query heads of a key-value head at once.
        thoughts: `all`, or names such as `z1,z4`.
        edges: `all` (thought to earlier thought), `readout` (eot and answer to each thought), or such as `z4:z1`;
            `z1:sep` where the model's family names groups of prompt tokens.
        edits: `zero`, `mean`, `resample`, `noise`, `scale:0.5`, or edits; `resample` if empty, with the mean as a
            variant of single heads. Where `resample` is among several, cuts of one unit by the others that do not scale
            are variants of it. Edges are blocked whatever the edits are, and weakened by those that scale.
        at: positions at which heads are cut, such as `thoughts` or `eot,answer`; all from bot on if None.
        whole: also cut all thoughts at once: by each edit, shuffled, and stopped after each.
        frozen: keep later thoughts as they were when nothing was cut; they are computed anew if False.
        together: make one cut of all that is named, instead of one at a time.
        leave_out: what is left out of the one family that is named, in the same words.
        restore: `heads`, `thoughts` or `edges`: put one of these back into a run with another problem's thoughts.
        paths: of `total`, `direct`, `indirect`; the latter two also make each cut with later thoughts frozen.
        cuts: further cuts.
        file: a JSON file of further cuts: a list of objects with `label` and `parts`, or a study's `plan.json`.
        controls: how many matched controls each cut gets; a cut that has nothing like it gets none.
        caliper: how far the attention mass and the output norm of a control head may be from those of its head, in
            standard deviations of their logarithms over heads.
        orders: `attention`, `value-weighted`, `cause`: cut the first 1, 2, … of the single heads in this ranking.
        random_orders: how many random orders are made for comparison.
        donors: over how many donors log-probabilities are averaged where another problem's values are put in place.
        holdout: the share of problems that are tested, such as 0.5; top heads, orders and means then come from the
            others. None where all problems do both.
        holdout_seed: by which problems are divided.
        seed: of the edits that draw, of controls and of random orders.
        reasoner: the run's model, if it is loaded already; key-value groups and controls of heads need it.
        analysis: the name of a saved analysis, whose ranking `top:` and orders by attention follow; or a function that
            gives an analysis, called once, for `top:` or controls. Computed from the run if None.
        measures: gives the attention mass and output norm of each head, `mass` and `norm` (layer, head), to match
            controls by; measured if None.

    Returns:
        The plan. Its `notes` say where a ranking that was followed cannot be trusted, and what has no control.

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
    _check_options(run, controls, orders, random_orders, donors, restore, paths)
    seen = _analysis(run, analysis, holdout, holdout_seed)
    ranked = cache(lambda: [str(name) for name in seen().ranking["name"].values])
    asked = [named_edit(edit, seed) if isinstance(edit, str) else edit for edit in dict.fromkeys(edits)]
    known = asked or [Resample(seed)]
    model = cache(lambda: reasoner or reasoner_of(run.manifest))
    words = {HEADS: heads, KV_GROUPS: kv_groups, THOUGHTS: thoughts, EDGES: edges}
    how: dict[str, Any] = {"ranked": ranked, "n_groups": lambda: n_kv_heads(model()), "leave_out": leave_out, "at": at}
    made, variants = cuts_named(words, shape, known, [] if asked else [Mean()], together=together, **how)
    if whole:
        made += cuts_of_all_thoughts(shape, known, seed)
    if frozen:
        still = {cut.label: freeze_thoughts(cut) if freezable(cut) else cut for cut in made}
        made = list(still.values())
        variants = {
            still[label].label: {name: freeze_thoughts(cut) for name, cut in its.items()}
            for label, its in variants.items()
        }
    if paths is not None and set(listed(paths)) != {"total"}:
        for cut in made:
            if freezable(cut):
                variants.setdefault(cut.label, {})[DIRECT] = freeze_thoughts(cut)
    restored = () if restore is None else restorations(restore, shape, seed)
    if restored:
        made += [cut for cut in [ablate_thought(None, edit=Resample(seed))] if cut not in made]
    made += [*cuts, *([] if file is None else _cuts_in(file))]
    if not made:
        raise OptionError("nothing to cut was named; pass --heads all, --thoughts all, --edges all, or --plan FILE.")
    plan = Plan(
        tuple(made),
        variants=variants,
        restored=restored,
        orders=orders,
        rankings={by: tuple(ranked()) for by in orders if by != CAUSE} if isinstance(analysis, str) else {},
        n_random=random_orders if orders else 0,
        seed=seed,
        donors=donors,
        holdout=holdout,
        holdout_seed=holdout_seed,
        notes=_notes(heads, seen, holdout),
    )
    if orders and len(plan.single_heads) < 2:
        raise OptionError("an order needs two heads or more that are cut one by one; add --heads all.")
    like = cache(measures or (lambda: head_measures(run, model(), seen().heads["thought_mass"], _choosing(run, plan))))
    return _with_controls(plan, controls, caliper, shape, like) if controls else plan


def _check_options(
    run: Run,
    controls: int,
    orders: Iterable[str],
    random_orders: int,
    donors: int,
    restore: str | None,
    paths: Words,
) -> None:
    if controls < 0 or random_orders < 0:
        raise OptionError("--controls and --random-orders are numbers from 0 on; pass such.")
    if donors < 1:
        raise OptionError(f"--donors is {donors}, expected 1 or more; pass another.")
    for by in orders:
        if by not in RANKINGS:
            raise OptionError(f"no ranking of heads by {by!r}, expected {', '.join(RANKINGS)}; pass another --order.")
        if by == VALUES and VALUE_WEIGHTED not in run.attention:
            raise OptionError(f"{run.path} holds no values to rank heads by; extract it with --record values.")
    if restore is not None and restore not in RESTORED:
        raise OptionError(f"--restore is {restore!r}, expected one of {', '.join(RESTORED)}; pass one of these.")
    if odd := [name for name in listed(paths) if name not in PATHS]:
        raise OptionError(f"--effects names {odd[0]!r}, expected some of {', '.join(PATHS)}; pass others.")


def _analysis(
    run: Run, given: str | Callable[[], Analysis] | None, holdout: float | None, holdout_seed: int
) -> Callable[[], Analysis]:
    """The analysis whose ranking is followed: of the problems that choose where there are such."""
    if isinstance(given, str):
        held = None if holdout is None else {"share": holdout, "seed": holdout_seed}
        found = open_analysis(run, given)
        if found.options.get("holdout") != held:
            raise OptionError(
                f"the analysis {given} was made with --holdout {found.options.get('holdout')}, expected {held}, since "
                "heads must not be chosen on problems that are tested; analyze with the same."
            )
        return cache(lambda: found)
    if given is not None or holdout is None:
        return cache(given or (lambda: analyze(run)))
    chosen = ~tested_half(_ids(run), holdout, holdout_seed)
    return cache(lambda: analyze(run.blocks(chosen=chosen), correct=run.correct()[chosen]))


def _ids(run: Run) -> list[str]:
    return [str(name) for name in run.attention["problem"].values]


def _choosing(run: Run, plan: Plan) -> list[str]:
    """The problems of the run that may choose: those that are not tested, or all."""
    ids = _ids(run)
    if plan.holdout is None:
        return ids
    return [
        name for name, tested in zip(ids, tested_half(ids, plan.holdout, plan.holdout_seed), strict=True) if not tested
    ]


def _notes(heads: Words, seen: Callable[[], Analysis], holdout: float | None) -> tuple[str, ...]:
    """A ranking that cannot be trusted, or was made on the same problems, is followed; the plan says so."""
    reason = unreliable(seen().ranking) if is_top(heads) else None
    poor = () if reason is None else (f"{reason.rstrip('.')}; what is cut is no better than a draw.",)
    same = f"the heads of --heads {heads} are selected on these problems; --holdout 0.5 tests them on others."
    return (*poor, same) if is_top(heads) and holdout is None else poor


def _with_controls(plan: Plan, n: int, caliper: float, shape: Shape, like: Callable[[], xr.Dataset]) -> Plan:
    """The plan with its controls, how near they are, and a note of what has none."""
    possible = controllable(plan.cuts, shape)
    of_heads = any(part.site is Site.HEAD for cut in possible for part in cut.parts)
    measures = like() if of_heads else None
    found = controls_for(possible, n=n, seed=plan.seed, shape=shape, like=measures, caliper=caliper) if possible else {}
    none = [label for label, its in found.items() if not its]
    found = {label: its for label, its in found.items() if its}
    near = "no control within the caliper (no head near enough in attention mass and output norm) for "
    said = (f"{near}{', '.join(none)}",) if none else ()
    rows = [] if measures is None else balance_rows(plan.cuts, found, measures)
    controlled = {"n": n, "caliper": caliper, "balance": rows}
    return replace(plan, controls=found, controlled=controlled, notes=(*plan.notes, *said))


def _cuts_in(path: Path) -> list[Cut]:
    """The cuts of a JSON file: a list of objects with `parts` and perhaps `label`, or a study's `plan.json`."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        listed = found["cuts"] if isinstance(found, dict) else found
        return [_cut_of(entry) for entry in listed if entry.get("kind", "cut") == "cut"]
    except OptionError as error:
        raise OptionError(f"{path} can't be read as a plan: {error}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise OptionError(
            f"{path} can't be read as a plan ({type(error).__name__}: {error}), expected a JSON list of objects with "
            "label and parts; write one so."
        ) from error
