"""What a study will cost and what it could show, before it is made: passes, time, detectable effects, and a pilot.

in: a run and a plan; out: plain numbers, and nothing on the disk.

1. The time follows from a few cuts of one batch: at most a tenth of the study's passes, and seconds.
2. Without a pilot the spread of effects is not known. What accuracy could show is given for shares of problems that a
   cut would flip; Holm's correction over the plan is taken at its first step, which the smallest p must pass.
3. A pilot makes the plan's controls on a few problems of the half that chooses (`thoughtlens.schema.tested_half`), and
   takes the largest spread of these for that of the cuts. It may cost a fifth of the study.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil, isfinite, log2
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

from thoughtlens.analysis.effects import RANKED_BY, paired_differences
from thoughtlens.analysis.significance import LEAST_PROBLEMS, detectable_mean, detectable_proportion
from thoughtlens.cuts.cut_types import Cut
from thoughtlens.cuts.edit_tensors import unfit
from thoughtlens.cuts.edits import Drawn, Zero
from thoughtlens.cuts.passes import Cutting, copies_at_once
from thoughtlens.cuts.plan import Plan
from thoughtlens.cuts.study import effects_of, make_cuts, prepared
from thoughtlens.cuts.study_batches import Target
from thoughtlens.errors import OptionError
from thoughtlens.models.catalog import AUTO
from thoughtlens.models.reasoner import LatentReasoner
from thoughtlens.reasoning.captured_steps import fixed_steps
from thoughtlens.runs.batches import BatchSize
from thoughtlens.runs.reader import Run
from thoughtlens.schema import tested_half

DISCORDANT: Final = (0.05, 0.1, 0.2)
"""Shares of problems that a cut might flip, for which the bound of accuracy is given."""

ALPHA: Final = 0.05
HALF: Final = 0.5
"""The share that is tested, where the plan holds out none and a pilot must keep to the other side."""

SHARE_TRIED: Final = 10
SHARE_PILOT: Final = 5
"""One in so many passes of a study at most is made before it: tried for the time, and by a pilot."""

_PATIENCE: Final = 5.0
"""Seconds that a trial may be expected to take."""
_FIRST: Final = 4
"""Problems of the first trial, which says how large a second one may be."""
_FLIPS: Final = 10_000
"""Draws of the sign-flip test."""


def estimate_study(
    run: Run,
    plan: Plan | Sequence[Cut],
    *,
    n: int | None = None,
    seed: int | None = None,
    pilot: int | None = None,
    reasoner: LatentReasoner | None = None,
    batch_size: BatchSize = AUTO,
    say: Callable[[str], None] = lambda sentence: None,
) -> dict[str, Any]:
    """How many passes a plan takes, how long, and what it could show; nothing is written.

    Args:
        run: the run; this and the others as for `intervene`.
        plan: what is cut.
        n: how many problems.
        seed: of their draw.
        pilot: on how many problems of the choosing half the plan's controls are made first; none if None.
        reasoner: the run's model.
        batch_size: problems that pass together at most; `auto` is 32 here.
        say: told the cost of the pilot before it is made.

    Returns:
        `n_problems` (tested), `n_choosing`, `n_cuts`, `n_variants`, `n_restored`, `n_controls`, `n_orders` (steps of
        orders), `n_passes`, `seconds`; `bounds`: for each share of `discordant` problems, the smallest change of
        `accuracy` found with power 0.8 after Holm's correction over the cuts, None where no change could be; `pilot`:
        None, or its `n_problems`, `n_passes`, the largest `sd` (nats) and `discordant` share of the controls, and the
        change of log-probability (`nats`) and `accuracy` that these let be found; `warnings`, a sentence each.

    Raises:
        OptionError: a cut is not one of this model, or two have the same label; or the pilot has no control to make, or
            too few problems, or costs more than a fifth of the study.

    Example:
        How long would it take to cut every head?

            estimate_study(run, plan_cuts(run, heads="all"), n=100)["seconds"]
    """
    model, plan, target, _ = prepared(run, plan, n, seed, reasoner, batch_size)
    kinds = list(plan.kinds.values())
    n_tested = len(target.problems) - len(target.choosing)
    n_passes = plan.n_passes(n_tested, len(target.choosing))
    facts: dict[str, Any] = {
        "n_problems": n_tested,
        "n_choosing": len(target.choosing),
        "n_cuts": len(plan.cuts),
        **{f"n_{name}s": kinds.count(name) for name in ("variant", "control")},
        "n_restored": kinds.count("restored"),
        "n_orders": plan.n_steps,
        "n_passes": n_passes,
    }
    alpha = ALPHA / max(1, len(plan.cuts))
    facts["bounds"] = [{"discordant": share, "accuracy": _bound(share, n_tested, alpha)} for share in DISCORDANT]
    facts["warnings"] = warnings(plan, n_tested) + _slow(plan, target)
    if pilot is not None:
        _check_pilot(plan, target, pilot, n_passes)
    pace = _pace(model, target, plan, n_passes)
    n_read = n_tested + (len(target.choosing) if plan.chooses else 0)
    facts["seconds"] = pace.reading * n_read + pace.cutting * (n_passes - n_read)
    facts["pilot"] = None if pilot is None else _piloted(run, model, target, plan, pilot, pace, say)
    return facts


def warnings(plan: Plan, n_problems: int) -> tuple[str, ...]:
    """Which tests could not find anything with so few problems or controls, whatever the cuts do."""
    m = max(1, len(plan.cuts))
    said = []
    if m * 2.0 * 0.5**n_problems >= ALPHA:
        enough = ceil(log2(2 * m / ALPHA) + 1e-9)
        said.append(
            f"with {n_problems} problems no p of accuracy can pass Holm's correction over {m} cuts; "
            f"{enough} problems that all flip one way would do"
        )
    if n_problems < LEAST_PROBLEMS:
        said.append(f"below {LEAST_PROBLEMS} problems there is no p of log-probability; the plan has {n_problems}")
    if m > ALPHA * (_FLIPS + 1):
        said.append(f"over {m} cuts no p of {_FLIPS:,} sign flips can pass Holm's correction; cut fewer")
    if plan.controls:
        fewest = min(map(len, plan.controls.values()))
        if m / (1 + fewest) > ALPHA:
            said.append(
                f"with {fewest} controls the p of a cut among them is {1 / (1 + fewest):.2g} or more, which can't pass "
                f"Holm's correction over {m} cuts; {ceil(m / ALPHA) - 1} controls would do"
            )
    return tuple(said)


def _slow(plan: Plan, target: Target) -> tuple[str, ...]:
    """Which cuts a GPU can't be given once for all, if there are any."""
    shape = target.shape
    found = unfit(plan.made, shape.n_layers, shape.n_heads, shape.n_thoughts)
    what = f"{len(found)} cuts, {found[0]!r} among them, are" if len(found) > 1 else f"the cut {''.join(found)!r} is"
    return (f"{what} made copy by copy: on a GPU their steps are not captured and take longer",) if found else ()


def _bound(share: float, n: int, alpha: float) -> float | None:
    found = detectable_proportion(share, n, alpha=alpha)
    return found if isfinite(found) else None


class _Pace(NamedTuple):
    """Seconds of a problem whose question is read and which passes once, and of a problem under a further cut."""

    reading: float
    cutting: float


def _pace(reasoner: LatentReasoner, target: Target, plan: Plan, n_passes: int) -> _Pace:
    """From a small trial, and from one of a whole batch where that takes neither long nor many passes.

    Values of other passes are not measured for it: zeros stand in their place, which may make answers longer.
    """
    budget = max(2, n_passes // SHARE_TRIED)
    places = target.batches[len(target.batches) // 2]
    cuts = [
        tuple(replace(part, edit=Zero()) if isinstance(part.edit, Drawn) else part for part in cut.parts)
        for cut in plan.made
    ]
    few = places[: max(1, min(_FIRST, budget // 2))]
    pace = _tried(reasoner, target, few, cuts[:1])
    left = budget - 2 * len(few)
    lengths = [len(target.prompts[place]) for place in places]
    n_cuts = min(left // len(places) - 1, copies_at_once(reasoner, lengths, target.n_thoughts), len(cuts))
    if n_cuts >= 1 and len(places) * (pace.reading + n_cuts * pace.cutting) < _PATIENCE:
        pace = _tried(reasoner, target, places, cuts[:: max(1, len(cuts) // n_cuts)][:n_cuts])
    return pace


def _tried(reasoner: LatentReasoner, target: Target, places: Sequence[int], cuts: Sequence[Any]) -> _Pace:
    began = time.monotonic()
    cutting = Cutting(reasoner, target.batch(reasoner, places), target.n_thoughts, steps=fixed_steps(reasoner))
    read = time.monotonic()
    cutting.outcomes(cuts)
    made = time.monotonic()
    return _Pace((read - began) / len(places), (made - read) / (len(places) * len(cuts)))


def _controls(plan: Plan) -> tuple[Cut, ...]:
    return tuple({control.label: control for its in plan.controls.values() for control in its}.values())


def _choosing(plan: Plan, target: Target) -> list[int]:
    """Places of the problems that choose: those of the plan's own half, or of the half that `--holdout 0.5` keeps."""
    if plan.holdout is not None:
        return sorted(target.choosing)
    tested = tested_half(target.ids, HALF, plan.holdout_seed)
    return [place for place in range(len(target.ids)) if not tested[place]]


def _pilot_passes(plan: Plan, n: int) -> int:
    return n * (1 + sum(map(plan.copies, _controls(plan))))


def _check_pilot(plan: Plan, target: Target, n: int, n_passes: int) -> None:
    if not _controls(plan):
        raise OptionError("--pilot makes the controls of the plan, which has none; add --controls, or leave it out.")
    there = len(_choosing(plan, target))
    if not 2 <= n <= there:
        raise OptionError(f"--pilot is {n}, expected 2 to {there}, the problems of the choosing half; pass another.")
    if (cost := _pilot_passes(plan, n)) > n_passes // SHARE_PILOT:
        enough = n_passes // SHARE_PILOT // _pilot_passes(plan, 1)
        remedy = f"pass --pilot {enough}" if enough >= 2 else "study more problems, or leave it out"
        raise OptionError(
            f"a pilot of {n} problems takes {cost:,} passes, expected at most a fifth of the study's {n_passes:,}; "
            f"{remedy}."
        )


def _piloted(
    run: Run,
    reasoner: LatentReasoner,
    target: Target,
    plan: Plan,
    n: int,
    pace: _Pace,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Make the controls on some problems that choose, and what their spread lets the study find."""
    cost = _pilot_passes(plan, n)
    seconds = n * pace.reading + (cost - n) * pace.cutting
    controls = _controls(plan)
    say(f"the pilot makes {len(controls)} controls on {n} problems: {cost:,} passes, about {ceil(seconds)} s")
    ids = [target.ids[place] for place in _choosing(plan, target)[:n]]
    with TemporaryDirectory() as folder:
        its = Plan(controls, donors=plan.donors, seed=plan.seed)
        _, _, small, _ = prepared(run, its, None, None, reasoner, n, ids=ids)
        small = replace(small, folder=Path(folder))
        make_cuts(reasoner, small, its, controls, small.shards())
        found = paired_differences(effects_of(run, small, its, ()))
    spread = found[RANKED_BY].std("problem", ddof=1).max().item()
    flipped = abs(found["accuracy"]).mean("problem").max().item()
    n_tested = len(target.problems) - len(target.choosing)
    alpha = ALPHA / len(plan.cuts)
    return {
        "n_problems": n,
        "n_passes": cost,
        "sd": spread,
        "discordant": flipped,
        "nats": detectable_mean(spread, n_tested, alpha=alpha),
        "accuracy": _bound(flipped, n_tested, alpha),
    }
