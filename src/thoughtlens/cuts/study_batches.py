"""The work of a study batch by batch, the files that it leaves, and the check of what it is asked to do.

in: a `Target` (problems in batches) and cuts, which `check_plan` refuses where they could not be made; out: files in
the folder of outcomes.

    000003.jsonl                 what cuts did to the problems of batch 3: a line a cut, its interventions and outcomes
    recorded_values.safetensors  what the model thinks when nothing is cut, where edits need it

1. `record_values` lets the model think about all problems without a cut and keeps the values that edits need.
2. `CutJob` does one batch at a time (see `thoughtlens.runs.engines`). It makes the cuts whose outcomes are not
   known, `GROUP` at once, and appends their outcomes, so that an interrupted study goes on where it stopped.
3. `read_outcomes` reads them. A line is found by what was cut and not by its label, so that a plan with more cuts keeps
   what is there. Of two lines for one cut the later one counts, and a line torn by a kill is made again.
"""

import json
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import xarray as xr
from safetensors.torch import load_file, save

from thoughtlens.cuts.controls import Shape
from thoughtlens.cuts.cut_types import Cut, thoughts_left
from thoughtlens.cuts.edits import Block, Donor, Mean, Received, Resample, Shuffle, Zero
from thoughtlens.cuts.interventions import EDGE_SITES, Intervention
from thoughtlens.cuts.passes import (
    Batch,
    Cutter,
    Cutting,
    Outcomes,
    batch_of,
    cannot_be_run,
    copies_at_once,
    joined,
    outcomes_of,
)
from thoughtlens.cuts.replacement_values import DonorPool, RecordedValues, bind, derangement
from thoughtlens.errors import OptionError, RunError
from thoughtlens.files import Json, check_seal, digest_of, write_sealed
from thoughtlens.models.reasoner import LatentReasoner, head_width, norm_factors
from thoughtlens.notation import QUESTION, TEXT, key_names, query_names, thought_names
from thoughtlens.problems import Problem
from thoughtlens.reasoning.captured_steps import Steps, fixed_steps
from thoughtlens.reasoning.loop import MAX_NEW_TOKENS
from thoughtlens.runs import batches
from thoughtlens.runs.batches import Halving, bisect
from thoughtlens.runs.engines import Progress, Work
from thoughtlens.runs.model_precision import arithmetic
from thoughtlens.runs.reader import Run
from thoughtlens.schema import BASELINE
from thoughtlens.taps import EdgeRecorder, HeadRecorder, Site, Taps

log = logging.getLogger(__name__)

RECORDED_VALUES: Final = "recorded_values.safetensors"
BASELINE_KEY: Final = "[]"
GROUP: Final = 64
"""Cuts that are made between two writes: a kill costs at most these, in one batch."""


def key_of(cut: Cut) -> str:
    """What a cut does, as one line of JSON."""
    return json.dumps(cut.spec(), ensure_ascii=False, sort_keys=True)


def read_outcomes(target: "Target", batch: int) -> tuple[dict[str, int], Outcomes]:
    """The outcomes of a batch that were written: the row of each cut by its key, and the rows."""
    lines: dict[str, Json] = {}
    path, n_problems = _path(target.folder, batch), len(target.batches[batch])
    for number, line in enumerate(path.read_bytes().split(b"\n") if path.is_file() else (), start=1):
        try:
            row = dict(json.loads(line))
        except (ValueError, TypeError, RecursionError):
            continue  # torn by a kill
        if row.pop("sha256", "") != digest_of([target.names(batch), row]):
            raise RunError(
                f"{path}, line {number} is not what was written of these problems; put it back, or delete the file "
                "and run the same command again."
            )
        lines[row["cut"]] = row
    known = outcomes_of(([row[name] for row in lines.values()] for name in Outcomes._fields), n_problems)
    return {key: place for place, key in enumerate(lines)}, known


def append_outcomes(target: "Target", batch: int, keys: Sequence[str], outcomes: Outcomes) -> None:
    """Write the outcomes of further cuts of a batch, a line each with its own SHA-256."""
    # JSON has no NaN.
    values = [np.where(np.equal(its, its), its.astype(object), np.array(None)).tolist() for its in outcomes]
    rows = (dict(zip(("cut", *Outcomes._fields), row, strict=True)) for row in zip(keys, *values, strict=True))
    names = target.names(batch)
    sealed = (row | {"sha256": digest_of([names, row])} for row in rows)
    lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in sealed)
    with _path(target.folder, batch).open("ab") as file:
        # A line that a kill has torn must not tear the next one.
        file.write(b"\n" * (file.tell() > 0) + lines.encode())
        file.flush()
        os.fsync(file.fileno())


def write_values(folder: Path, recorded: RecordedValues) -> None:
    """Write what edits need; ids and steps are the study's own and are not written."""
    tensors = {name: getattr(recorded, name) for name in ("thoughts", "heads", "edges")}
    write_sealed(
        folder / RECORDED_VALUES, save({name: its.contiguous() for name, its in tensors.items() if its is not None})
    )


def read_values(folder: Path, pool: DonorPool) -> RecordedValues | None:
    """What edits need, if it was written."""
    path = folder / RECORDED_VALUES
    if not path.is_file():
        return None
    check_seal(path, remedy="delete it, and run the same command again")
    return RecordedValues(pool, **load_file(path))


def lacks(recorded: RecordedValues | None, needing: Iterable[Intervention]) -> bool:
    """Whether what is known of other passes is not all that these interventions need."""
    return recorded is None or any(getattr(recorded, name) is None for name in _kept_for(needing))


def _kept_for(needing: Iterable[Intervention]) -> tuple[str, ...]:
    """What has to be kept beside thoughts: heads, edges."""
    parts = list(needing)
    edges = any(isinstance(part.edit, Received) for part in parts)
    heads = any(part.site is Site.HEAD and not isinstance(part.edit, Received) for part in parts)
    return ("heads",) * heads + ("edges",) * edges


def _path(folder: Path, batch: int) -> Path:
    return folder / f"{batch:06d}.jsonl"


@dataclass(frozen=True)
class Target:
    """What is cut: problems in batches, and the folder for their outcomes."""

    folder: Path
    problems: tuple[Problem, ...]
    batches: tuple[tuple[int, ...], ...]  # places of the problems of each batch; every problem is in one
    shape: Shape
    prompts: tuple[list[int], ...]  # the question of each problem as token ids
    choosing: frozenset[int] = frozenset()  # places of the problems that choose and are not tested
    max_new_tokens: int = MAX_NEW_TOKENS  # of an answer

    def names(self, batch: int) -> list[str]:
        """The ids of the problems of a batch."""
        return [self.problems[place].id for place in self.batches[batch]]

    @property
    def n_thoughts(self) -> int:
        """T."""
        return self.shape.n_thoughts

    @property
    def ids(self) -> list[str]:
        """Of the problems."""
        return [problem.id for problem in self.problems]

    @cached_property
    def pool(self) -> DonorPool:
        """The problems, as the values that edits put in place depend on them; all choose where none does so alone."""
        n_steps, lengths = (tuple(map(len, its)) for its in ((p.steps for p in self.problems), self.prompts))
        choosing = tuple(not self.choosing or place in self.choosing for place in range(len(self.problems)))
        return DonorPool(tuple(self.ids), n_steps, lengths, choosing)

    def shards(self, *, choosing: bool = False) -> list[int]:
        """The batches of the problems that are tested, or of those that choose; a batch is of one side."""
        return [shard for shard, places in enumerate(self.batches) if (places[0] in self.choosing) == choosing]

    def batch(self, reasoner: LatentReasoner, places: Sequence[int]) -> Batch:
        """The problems at these places as token ids; `OptionError` where one exceeds the model's positions."""
        problems, prompts = [self.problems[k] for k in places], [self.prompts[k] for k in places]
        return batch_of(reasoner, problems, self.n_thoughts, prompts, self.max_new_tokens)


@dataclass(frozen=True)
class CutJob:
    """The work of a study, batch by batch; a `thoughtlens.runs.Job`."""

    load: Callable[[], LatentReasoner]  # gives the reasoner, once a worker
    target: Target
    cuts: tuple[Cut, ...]
    allow_failed: bool = False  # keep a pair of problem and cut that can't be run as failed

    def n_problems(self, shard: int) -> int:
        """Passes of a batch: a problem under a cut, the baseline among the cuts."""
        return len(self.target.batches[shard]) * (1 + len(self.cuts))

    @cached_property
    def keys(self) -> list[str]:
        """What each cut does."""
        return [key_of(cut) for cut in self.cuts]

    @cached_property
    def firsts(self) -> dict[str, int]:
        """The place of the first cut that does what a key says."""
        return {key: place for place, key in reversed(list(enumerate(self.keys)))}

    def missing(self, shard: int) -> list[int]:
        """Places of the cuts whose outcomes in a batch are not known."""
        known, outcomes = read_outcomes(self.target, shard)
        refused = np.zeros(len(known), dtype=bool) if self.allow_failed else (outcomes.failure != "").any(1)
        # A cut that is asked for in two roles is made once.
        # Without its baseline nothing of a batch is known.
        return [
            cut
            for key, cut in self.firsts.items()
            if BASELINE_KEY not in known or key not in known or refused[known[key]]
        ]

    def start(self) -> Work:
        """Load the model and the values that edits put in place; what is returned does one batch."""
        reasoner, target = self.load(), self.target
        steps = fixed_steps(reasoner)
        recorded = read_values(target.folder, target.pool)

        def work(shard: int, progress: Progress) -> None:
            batch, todo = target.batches[shard], self.missing(shard)
            progress(len(batch) * (len(self.cuts) - len(todo)))
            cutter, passes = self._cutter(reasoner, steps, recorded, batch), Halving(len(batch))
            for start in range(0, len(todo), GROUP):
                those = todo[start : start + GROUP]
                with arithmetic(reasoner):
                    pieces = passes.work_off([batch], partial(cutter, those=those))
                    found = joined((outcomes for _, outcomes in pieces), 1)
                append_outcomes(target, shard, [BASELINE_KEY, *(self.keys[cut] for cut in those)], found)
                log.info("intervene: %d cuts of batch %d, %d problems", len(those), shard, len(batch))
                progress(len(batch) * (len(those) + (not start)))

        return work

    def _cutter(
        self, reasoner: LatentReasoner, steps: Steps | None, recorded: RecordedValues | None, batch: Sequence[int]
    ) -> Cutter:
        target, lengths = self.target, [len(self.target.prompts[place]) for place in batch]
        return Cutter(
            reasoner,
            target.problems,
            target.prompts,
            [cut.parts for cut in self.cuts],
            target.n_thoughts,
            bind=partial(bind, recorded),
            refuse=self._refuse,
            # Planned for the whole batch, so that half a batch takes half the memory.
            max_new_tokens=target.max_new_tokens,
            steps=steps,
            n_copies=copies_at_once(reasoner, lengths, target.n_thoughts),
        )

    def _refuse(self, problem: Problem, cut: int | None, reason: str) -> None:
        if not self.allow_failed:
            under = "without a cut" if cut is None else f"under the cut {self.cuts[cut].label!r}"
            raise RunError(
                f"problem {problem.id} can't be run {under} ({reason}); leave one of them out, or pass --allow-failed "
                "to have such pairs counted and left out."
            )


def record_values(reasoner: LatentReasoner, target: Target, needing: Iterable[Intervention]) -> RecordedValues:
    """Let the model think about all problems, nothing cut, and keep what these interventions need.

    Values of a problem that can't be run are NaN.
    """
    names = _kept_for(needing)
    width, steps = reasoner.lm.config.hidden_size, fixed_steps(reasoner)

    def watch(places: Sequence[int]) -> list[torch.Tensor]:
        recorders = [_recorder(name, reasoner, target, len(places)) for name in names]
        passed = Cutting(reasoner, target.batch(reasoner, places), target.n_thoughts, Taps(recorders), steps)
        kept = [passed.thoughts.float().cpu().clone(), *map(getattr, recorders, names)]
        for values in kept:
            values[torch.from_numpy(passed.baseline.failure[0] != "")] = torch.nan
        return kept

    def unknown(place: int, error: Exception) -> list[torch.Tensor]:
        thoughts = torch.full((1, target.n_thoughts, width), torch.nan)
        unseen = (getattr(_recorder(name, reasoner, target, 1), name) for name in names)
        return [thoughts, *(torch.full_like(values, torch.nan) for values in unseen)]

    def search(places: Sequence[int]) -> list[tuple[Sequence[int], list[torch.Tensor]]]:
        return list(bisect([places], watch, unknown, fails=cannot_be_run))

    batches = Halving(len(target.problems)).work_off(target.batches, search)
    with arithmetic(reasoner):
        pieces = [piece for _, its in batches for piece in its]
    order = torch.tensor([place for places, _ in pieces for place in places]).argsort()
    kept = (torch.cat(values)[order] for values in zip(*(its for _, its in pieces), strict=True))
    found = dict(zip(("thoughts", *names), kept, strict=True))
    return RecordedValues(target.pool, found["thoughts"], found.get("heads"), found.get("edges"))


def _recorder(name: str, reasoner: LatentReasoner, target: Target, n_problems: int) -> HeadRecorder | EdgeRecorder:
    config = reasoner.lm.config
    return (HeadRecorder if name == "heads" else EdgeRecorder)(
        n_problems=n_problems,
        n_layers=config.num_hidden_layers,
        n_heads=config.num_attention_heads,
        n_thoughts=target.n_thoughts,
        n_channels=head_width(config),
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
    keys = set(key_names(shape.n_thoughts)) | set(shape.groups)
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
    order |= dict.fromkeys(shape.groups, order[QUESTION])
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


MEASURED: Final = 32
"""Problems on which the norm of each head's output is measured: heads differ by far more than problems do."""


def head_measures(run: Run, reasoner: LatentReasoner, mass: xr.DataArray, problems: Sequence[str]) -> xr.Dataset:
    """`mass` and `norm` of each head, dims (layer, head): its attention to thoughts, and how much it writes.

    norm = mean of ‖output · W_O‖ over the positions bot, z1 … zT, eot, answer of the first problems; 0 or more.

    Args:
        run: the run.
        reasoner: its model.
        mass: attention mass on thoughts, dims (layer, head) and perhaps value.
        problems: ids of those that may be used.
    """
    its = run.problems(problems[:MEASURED])
    prompts = tuple(reasoner.prompt(problem.question) for problem in its)
    grouped = tuple(map(tuple, batches.plan(list(map(len, prompts)), MEASURED)))
    layout = run.manifest["layout"]
    shape = Shape(layout["n_layers"], layout["n_heads"], layout["n_thoughts"])
    target = Target(Path(), its, grouped, shape, prompts)
    heads = record_values(reasoner, target, [Intervention(Site.HEAD, Zero())]).heads
    assert heads is not None, "heads are measured for an edit of heads"
    norms = [
        (heads[:, layer, :, :-1] @ factor.float().cpu()).norm(dim=-1).nanmean((0, 2))
        for layer, factor in enumerate(norm_factors(reasoner.lm))
    ]
    mass = mass.sel(value="estimate", drop=True) if "value" in mass.dims else mass
    norm = mass.transpose("layer", "head").copy(data=torch.stack(norms).double().numpy())
    return xr.Dataset({"mass": mass, "norm": norm})
