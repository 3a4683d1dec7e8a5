"""What cuts did to the problems of a batch becomes a file, so that a study that was broken off or grows goes on.

    RUN/analysis/effects/<study>/000003.jsonl         a row a cut: its spec, and an outcome for each problem of batch 3
    RUN/analysis/effects/<study>/material.safetensors what the model thinks when left alone, where edits need it

A study is a model, its problems and its number of thoughts; its folder is named by a digest of these. Rows are found by
what was cut, whatever it is called, so that a plan with more cuts keeps what is there.

Batches of problems and a plan of cuts become outcomes on disk, a batch at a time.

This is the work of a study of cuts (see `thoughtlens.runs.engines`): a batch is its unit, the model is loaded once a
worker, and the worker that cuts a batch writes its outcomes. Values that edits put in place are measured beforehand.

A plan of cuts becomes how many passes it is and how long they would take, from a few of them made.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import torch
from safetensors.torch import load_file, save

from thoughtlens.cuts.controls import Shape
from thoughtlens.cuts.edits import Drawn, Zero
from thoughtlens.cuts.interventions import Intervention
from thoughtlens.cuts.material import Material, bound, needs_material
from thoughtlens.cuts.named import Cut
from thoughtlens.cuts.passes import FAILURES, Cutter, Cutting, Outcome, Parts, batch_of, copies_at_once, failed
from thoughtlens.errors import RunError
from thoughtlens.files import Json, replacing_bytes, write_json_lines
from thoughtlens.models.reasoner import LatentReasoner, head_width
from thoughtlens.problems import Problem
from thoughtlens.runs.engines import Halving, Progress, Work
from thoughtlens.taps import HeadRecorder, Site, Tap, Taps

MATERIAL: Final = "material.safetensors"
BASELINE_KEY: Final = "[]"

Kept = dict[str, list[Outcome]]
"""Outcomes of the problems of a batch, by the key of what was cut."""


def key_of(cut: Cut) -> str:
    """What a cut does, as one line of JSON."""
    return json.dumps(cut.spec(), ensure_ascii=False, sort_keys=True)


def read_outcomes(folder: Path, batch: int, n_problems: int) -> Kept:
    """What is known of a batch; nothing from a file that is not whole."""
    path = _path(folder, batch)
    if not path.is_file():
        return {}
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        kept = {row["cut"]: [_outcome(values) for values in row["outcomes"]] for row in rows}
    except (ValueError, KeyError, TypeError):
        return {}
    return {key: outcomes for key, outcomes in kept.items() if len(outcomes) == n_problems}


def write_outcomes(folder: Path, batch: int, kept: Kept) -> None:
    """Write all that is known of a batch, in the place of what was there."""
    rows = [{"cut": key, "outcomes": [_plain_effect_files(outcome) for outcome in its]} for key, its in kept.items()]
    write_json_lines(_path(folder, batch), rows)


def write_material(folder: Path, material: Material) -> None:
    """Write what edits need; ids and steps are the study's own and are not written."""
    tensors = {"thoughts": material.thoughts} | ({} if material.heads is None else {"heads": material.heads})
    with replacing_bytes(folder / MATERIAL) as file:
        file.write(save({name: tensor.contiguous() for name, tensor in tensors.items()}))


def read_material(folder: Path, problem_ids: Sequence[str], n_steps: Sequence[int]) -> Material | None:
    """What edits need, if it was written for these problems."""
    path = folder / MATERIAL
    if not path.is_file():
        return None
    tensors: dict[str, torch.Tensor] = load_file(path)
    return Material(tuple(problem_ids), tuple(n_steps), tensors["thoughts"], tensors.get("heads"))


def _path(folder: Path, batch: int) -> Path:
    return folder / f"{batch:06d}.jsonl"


def _plain_effect_files(outcome: Outcome) -> Json:
    """JSON has no NaN: what a failure lacks is left out."""
    return {"failure": outcome.failure} if outcome.failure else outcome._asdict()


def _outcome(values: Json) -> Outcome:
    return failed(values["failure"]) if values.get("failure") else Outcome(**values)


log = logging.getLogger(__name__)

GROUP: Final = 64
"""Cuts between two writings: what a kill costs at most, in one batch."""


@dataclass(frozen=True)
class Target:
    """What is cut: problems in batches, and where what comes of them is kept.

    Attributes:
        folder: of the study (`thoughtlens.cuts.job`).
        problems: of the study, in order.
        batches: indices of the problems of each batch; every problem is in one.
        shape: the sizes of the model.
    """

    folder: Path
    problems: tuple[Problem, ...]
    batches: tuple[tuple[int, ...], ...]
    shape: Shape

    @property
    def n_thoughts(self) -> int:
        """T."""
        return self.shape.n_thoughts

    @property
    def ids(self) -> list[str]:
        """Of the problems."""
        return [problem.id for problem in self.problems]

    @property
    def n_steps(self) -> list[int]:
        """Worked steps of each problem; 0 where its set does not say."""
        return [len(problem.steps) for problem in self.problems]

    def of(self, batch: Sequence[int]) -> list[Problem]:
        """The problems at these places."""
        return [self.problems[place] for place in batch]


@dataclass(frozen=True)
class CutJob:
    """The work of a study, batch by batch.

    Attributes:
        load: gives the reasoner, once a worker.
        target: the problems.
        cuts: the plan, controls among it.
        allow_failed: whether a pair of problem and cut that can't be run is kept as failed, or stops the study.
    """

    load: Callable[[], LatentReasoner]
    target: Target
    cuts: tuple[Cut, ...]
    allow_failed: bool = False

    def n_problems(self, shard: int) -> int:
        """Passes of a batch: a problem under a cut, the baseline among the cuts."""
        return len(self.target.batches[shard]) * (1 + len(self.cuts))

    def missing(self, shard: int) -> list[Cut]:
        """Cuts whose outcomes in a batch are not known."""
        batch = self.target.batches[shard]
        kept = read_outcomes(self.target.folder, shard, len(batch))
        unknown = {key for key, its in kept.items() if not self.allow_failed and any(o.failure for o in its)}
        return [cut for cut in self.cuts if key_of(cut) not in kept.keys() - unknown]

    def start(self) -> Work:
        """Load the model and the values that edits put in place; what is returned does one batch."""
        reasoner, target = self.load(), self.target
        material = read_material(target.folder, target.ids, target.n_steps)

        def work(shard: int, progress: Progress) -> None:
            batch, todo = target.batches[shard], self.missing(shard)
            progress(len(batch) * (len(self.cuts) - len(todo)))
            cutter, passes = self._cutter(reasoner, material, batch, todo), Halving(len(batch))
            for start in range(0, len(todo), GROUP):
                those = range(start, min(start + GROUP, len(todo)))
                pieces = passes.work_off([range(len(batch))], partial(cutter, those=those))
                self._write(shard, [todo[place] for place in those], [rows for _, rows in pieces])
                progress(len(batch) * (len(those) + (not start)))

        return work

    def _cutter(
        self, reasoner: LatentReasoner, material: Material | None, batch: Sequence[int], cuts: Sequence[Cut]
    ) -> Cutter:
        problems = self.target.of(batch)
        lengths = [len(reasoner.prompt(problem.question)) for problem in problems]
        return Cutter(
            reasoner,
            problems,
            [cut.parts for cut in cuts],
            self.target.n_thoughts,
            bind=lambda parts, places: bind(parts, material, [batch[place] for place in places]),
            refuse=partial(self._refuse, [cut.label for cut in cuts]),
            # Planned for the whole batch, so that half a batch takes half the memory.
            n_copies=copies_at_once(reasoner, lengths, self.target.n_thoughts),
        )

    def _write(self, shard: int, group: Sequence[Cut], pieces: Sequence[Sequence[Sequence[Outcome]]]) -> None:
        """Write the outcomes of some cuts of a batch, which come in pieces of it, beside those that are there."""
        found = [[outcome for rows in pieces for outcome in rows[place]] for place in range(1 + len(group))]
        made = dict(zip((BASELINE_KEY, *map(key_of, group)), found, strict=True))
        n_problems = len(self.target.batches[shard])
        write_outcomes(self.target.folder, shard, read_outcomes(self.target.folder, shard, n_problems) | made)
        log.info("intervene: %d cuts of batch %d, %d problems", len(group), shard, n_problems)

    def _refuse(self, labels: Sequence[str], problem: Problem, cut: int | None, reason: str) -> None:
        if not self.allow_failed:
            under = "without a cut" if cut is None else f"under the cut {labels[cut]!r}"
            raise RunError(
                f"problem {problem.id} can't be run {under} ({reason}); leave one of them out, or pass --allow-failed "
                "to have such pairs counted and left out."
            )


def bind(cuts: Sequence[Parts], material: Material | None, places: Sequence[int]) -> list[Parts]:
    """Cuts with the values that their edits stand for, for the problems at these places of the study."""
    where = torch.tensor(places)
    # Many cuts of a plan share an edit, whose values are found once a batch.
    known: dict[tuple[Drawn, Site], Tap] = {}
    return [tuple(bound(part, material, where, known) for part in parts) for parts in cuts]


def measure_material(reasoner: LatentReasoner, target: Target, needing: Iterable[Intervention]) -> Material:
    """Let the model think about all problems, nothing cut, and keep what these interventions need.

    Values of a problem that can't be run are NaN.
    """
    with_heads = any(part.site is Site.HEAD for part in needing)
    thoughts: list[torch.Tensor] = [torch.empty(0)] * len(target.problems)
    heads: list[torch.Tensor] = [torch.empty(0)] * len(target.problems)
    for batch, (of_thoughts, of_heads) in Halving(len(target.problems)).work_off(
        target.batches, lambda places: _watched_alone(reasoner, target, places, with_heads)
    ):
        for row, place in enumerate(batch):
            thoughts[place] = of_thoughts[row]
            if of_heads is not None:
                heads[place] = of_heads[row]
    stacked = torch.stack(heads) if with_heads else None
    return Material(tuple(target.ids), tuple(target.n_steps), torch.stack(thoughts), stacked)


def _watched_alone(
    reasoner: LatentReasoner, target: Target, places: Sequence[int], with_heads: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """As `_watched`, whatever can't be run: it is found by halving, and NaN."""
    try:
        return _watched(reasoner, target, places, with_heads)
    except torch.OutOfMemoryError:
        raise
    except FAILURES:
        if len(places) == 1:
            return _unknown(reasoner, target, with_heads)
    middle = len(places) // 2
    first, second = (_watched_alone(reasoner, target, its, with_heads) for its in (places[:middle], places[middle:]))
    heads = None if first[1] is None or second[1] is None else torch.cat([first[1], second[1]])
    return torch.cat([first[0], second[0]]), heads


def _unknown(reasoner: LatentReasoner, target: Target, with_heads: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What `_watched` would give of one problem, all NaN."""
    thoughts = torch.full((1, target.n_thoughts, reasoner.lm.config.hidden_size), torch.nan)
    return thoughts, _recorder(reasoner, target, 1).heads if with_heads else None


def _watched(
    reasoner: LatentReasoner, target: Target, places: Sequence[int], with_heads: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Thoughts and heads' outputs of some problems, as `Material` has them."""
    recorder = _recorder(reasoner, target, len(places))
    batch = batch_of(reasoner, target.of(places), target.n_thoughts)
    passed = Cutting(reasoner, batch, target.n_thoughts, Taps([recorder] if with_heads else []))
    thoughts, heads = passed.thoughts.float().cpu().clone(), recorder.heads
    for row, outcome in enumerate(passed.baseline):
        if outcome.failure:
            thoughts[row], heads[row] = torch.nan, torch.nan
    return thoughts, heads if with_heads else None


def _recorder(reasoner: LatentReasoner, target: Target, n_problems: int) -> HeadRecorder:
    config = reasoner.lm.config
    return HeadRecorder(
        n_problems=n_problems,
        n_layers=config.num_hidden_layers,
        n_heads=config.num_attention_heads,
        n_thoughts=target.n_thoughts,
        n_channels=head_width(config),
    )


_TRIED: Final = 12
"""Cuts that are made to see how long one takes."""


class Estimate(NamedTuple):
    """What a plan would take.

    Attributes:
        n_passes: problems under a cut, the baseline being one.
        seconds: on this machine, as busy as it is now.
    """

    n_passes: int
    seconds: float


def estimate(reasoner: LatentReasoner, target: Target, cuts: Sequence[Cut]) -> Estimate:
    """Make a few cuts, evenly spaced over the plan, of the batch of middling length, and reckon the rest from it.

    Values of other passes are not measured for it: zeros stand in their place, which may make answers longer.
    """
    batch = target.of(target.batches[len(target.batches) // 2])
    tried = [_plain(cut) for cut in cuts[:: max(1, len(cuts) // _TRIED)]]
    began = time.monotonic()
    cutting = Cutting(reasoner, batch_of(reasoner, batch, target.n_thoughts), target.n_thoughts)
    read = time.monotonic()
    n_copies = copies_at_once(reasoner, [len(reasoner.prompt(p.question)) for p in batch], target.n_thoughts)
    for start in range(0, len(tried), n_copies):
        cutting.outcomes(tried[start : start + n_copies])
    made = time.monotonic()
    of_problem = (read - began) + (made - read) / len(tried) * len(cuts)
    seconds = of_problem / len(batch) * len(target.problems)
    return Estimate(len(target.problems) * (1 + len(cuts)), seconds)


def _plain(cut: Cut) -> Parts:
    return tuple(replace(part, edit=Zero()) if needs_material(part) else part for part in cut.parts)
