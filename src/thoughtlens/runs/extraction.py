"""The extraction of a run: what is kept of each problem, the work of a shard, and `extract`.

in: a model, problems, and what is to be kept of them; out: a run folder (see `thoughtlens.runs.writer`).

1. Every question is tokenized once. One that does not fit the model is refused before anything is written.
2. The shards that are missing go to an engine (see `thoughtlens.runs.engines`). Each worker loads the model once.
3. The problems of a shard pass through the model (`reason`) in batches of like length, with recorders as taps. Each
   batch is labelled and given to `Keep.add_up`, whose result is written by the worker that measured it.
4. The results are put together, and the run is complete.

`random_weight_runs` extracts null models: the model of a run with its weights drawn anew, on its problems or a hundred
of them, as runs in `RUN/nulls/0`, `RUN/nulls/1`, … that keep sums of attention.
"""

import logging
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import xarray as xr

from thoughtlens.analysis.resampled_sums import block_sums
from thoughtlens.errors import OptionError
from thoughtlens.files import call_of
from thoughtlens.models.catalog import AUTO
from thoughtlens.models.loader import identity, randomize, reasoner_of
from thoughtlens.models.reasoner import LatentReasoner, norm_factors
from thoughtlens.notation import MAX_THOUGHTS, query_names, text
from thoughtlens.problems import Problem, ProblemSet, write_problems
from thoughtlens.problems.sets import as_set
from thoughtlens.progress import told
from thoughtlens.reasoning.captured_steps import Steps, fixed_steps
from thoughtlens.reasoning.loop import MAX_NEW_TOKENS, reason, recorder_for
from thoughtlens.reasoning.protocols import EXACT, Protocol, protocol_named
from thoughtlens.runs.batches import TOKENS, USUAL, BatchSize, Halving, Sized, fitting, padding, plan
from thoughtlens.runs.engines import Engine, Local, Part, Progress, Work, alone
from thoughtlens.runs.model_precision import arithmetic, settled
from thoughtlens.runs.reader import PROBLEMS, Run, open_run, status
from thoughtlens.runs.storage_layout import Keep, Layout, Seen
from thoughtlens.runs.writer import MANIFEST, Store, begun, writing_run
from thoughtlens.schema import (
    ATTENTION,
    ATTENTION_DIMS,
    PADDING_MASS,
    VALUE_WEIGHTED,
    attention_dataset,
    check_attention,
)
from thoughtlens.taps import PaddingRecorder, Tap, ValueRecorder

log = logging.getLogger(__name__)


def each_apart(seen: Seen, n_rows: int) -> xr.Dataset:
    """The problems as they were seen, each in its own row: an attention Dataset in the order of the rows."""
    whole: dict[Any, tuple[Any, np.ndarray]] = {}
    labels = xr.Dataset()
    for dataset, rows in seen:
        labels = dataset.drop_dims("problem")
        for name, values in dataset.variables.items():
            if "problem" in values.dims:
                # Whole from the start: pieces put together at the end would be held twice.
                empty = np.empty((n_rows, *values.shape[1:]), values.dtype)
                whole.setdefault(name, (values.dims, empty))[1][rows] = values.values
    return labels.assign(whole)


RAW: Final = Keep(each_apart, None)
"""The attention of every problem, and whether it was solved."""


MEAN: Final = Keep(block_sums)
"""Sums over at most 512 blocks of problems: disk for attention does not grow with the number of problems."""

SHARDS_A_PART: Final = 4
"""Shards at least of each of several processes that share a run, so that they end at about the same time."""

KEEPS: Final = {"raw": RAW, "mean": MEAN}
"""What `--keep` means."""


@dataclass(frozen=True)
class ExtractionJob:
    """The work of an extraction, shard by shard; a `thoughtlens.runs.Job`."""

    load: Callable[[], LatentReasoner]
    problems: Sequence[Problem]
    prompts: Sequence[Sequence[int]]
    store: Store
    batch_size: int
    keep: Keep
    protocol: Protocol = EXACT
    max_new_tokens: int = MAX_NEW_TOKENS
    tokens: int = TOKENS
    steps: Steps | None = None  # those of a worker

    def n_problems(self, shard: int) -> int:
        """Problems of a shard."""
        return len(self.store.layout.problems_of(shard))

    def start(self) -> Work:
        """Load the model; what is returned does one shard."""
        self.store.check_reachable()
        reasoner = self.load()
        job = replace(self, steps=fixed_steps(reasoner))
        return partial(job.measure, reasoner, Halving(self.batch_size))

    def measure(self, reasoner: LatentReasoner, passes: Halving, shard: int, progress: Progress) -> None:
        """Let the model think about the problems of a shard, batch by batch, and write what is kept of them."""
        began, failed, layout = time.monotonic(), passes.failures, self.store.layout
        places, rows = layout.problems_of(shard), layout.rows_of(shard)
        lengths = [len(self.prompts[place]) for place in places]
        batches = batches_of(lengths, self.batch_size, self.protocol, self.tokens)
        of_run = [[places[index] for index in batch] for batch in batches]
        results: dict[int, Mapping[str, Any]] = {}

        def seen() -> Iterator[tuple[xr.Dataset, np.ndarray]]:
            for batch, (dataset, answers) in passes.work_off(of_run, partial(self._think, reasoner)):
                results.update(zip(batch, answers, strict=True))
                yield dataset, layout.rows[list(batch)] - rows.start
                progress(len(batch))

        with arithmetic(reasoner):
            kept = self.keep.add_up(seen(), len(rows))
        seconds = time.monotonic() - began
        facts = {"out_of_memory": passes.failures - failed, "batch_size": passes.batch_size}
        self.store.write(shard, kept, [results[place] for place in places], seconds=seconds, facts=facts)
        log.info("extract %d/%d: %d problems, %.0f s", shard + 1, layout.n_shards, len(places), seconds)

    def _think(self, reasoner: LatentReasoner, batch: Sequence[int]) -> tuple[xr.Dataset, list[Mapping[str, Any]]]:
        """One pass over some problems of the run: their attention Dataset and result rows."""
        layout, problems = self.store.layout, [self.problems[place] for place in batch]
        recorders = {name: recorder_for(reasoner, len(batch), layout.n_thoughts) for name in layout.patterns}
        factors = norm_factors(reasoner.lm) if VALUE_WEIGHTED in recorders else []
        taps: list[Tap] = [
            ValueRecorder(rows, factors) if name == VALUE_WEIGHTED else rows for name, rows in recorders.items()
        ]
        padding = _padding_recorder(reasoner, len(batch), layout.n_thoughts)
        taps += [padding] if self.protocol.official else []
        prompts = [self.prompts[place] for place in batch]
        how: dict[str, Any] = {"n_thoughts": layout.n_thoughts, "max_new_tokens": self.max_new_tokens}
        trace = reason(reasoner, prompts, taps=taps, protocol=self.protocol, steps=self.steps, **how)
        results = [_result(reasoner, *one) for one in zip(problems, trace.texts, trace.tokens, strict=True)]
        patterns = {name: rows.attention.numpy() for name, rows in recorders.items()}
        dataset = attention_dataset(
            patterns.pop(ATTENTION),
            problem_ids=[problem.id for problem in problems],
            correct=np.array([result["correct"] for result in results]),
            n_question_tokens=np.array(trace.n_question_tokens),
            slots=reasoner.slots,
            beside=patterns,
        )
        if self.protocol.official:
            names = query_names(layout.n_thoughts)
            mass = xr.DataArray(padding.mass.numpy(), {"query": text(names)}, ATTENTION_DIMS[:-1])
            dataset = dataset.assign({PADDING_MASS: mass.sel(query=dataset["query"])})
        # Attention that is stored is checked by the store.
        return dataset if self.keep == RAW else check_attention(dataset), results


def batches_of(lengths: Sequence[int], batch_size: int, protocol: Protocol, tokens: int = TOKENS) -> list[list[int]]:
    """Batches of like length; under an official protocol, whose numbers depend on the batch, in order."""
    if not protocol.official:
        return plan(lengths, batch_size, tokens)
    return [list(range(start, min(start + batch_size, len(lengths)))) for start in range(0, len(lengths), batch_size)]


def _padding_recorder(reasoner: LatentReasoner, n_problems: int, n_thoughts: int) -> PaddingRecorder:
    config = reasoner.lm.config
    return PaddingRecorder(
        n_problems=n_problems,
        n_layers=config.num_hidden_layers,
        n_heads=config.num_attention_heads,
        n_thoughts=n_thoughts,
    )


def _result(reasoner: LatentReasoner, problem: Problem, text: str, tokens: Sequence[int]) -> Mapping[str, Any]:
    answer = reasoner.read_answer(text)
    return {
        "id": problem.id,
        "question": problem.question,
        "gold": problem.answer,
        "text": text,
        "answer": answer,
        "correct": reasoner.answer_rule.same(answer, problem.answer),
        "n_tokens": len(tokens),
    }


def extract_part(
    part: Part | None,
    reasoner: LatentReasoner,
    problems: ProblemSet | Sequence[Problem],
    out: str | Path,
    *,
    n_thoughts: int | None = None,
    batch_size: BatchSize = AUTO,
    shard_size: int | None = None,
    dtype: Literal["float16", "float32"] = "float16",
    record: Sequence[str] = (),
    keep: Keep = RAW,
    max_new_tokens: int = MAX_NEW_TOKENS,
    engine: Engine | None = None,
    protocol: str = EXACT.name,
    progress: Progress | None = None,
) -> Run | None:
    """Record the attention of every problem in a run folder; go on where an earlier call stopped.

    `extract_part` is the same as one of several processes that each do a part of the shards. The first to come begins
    the run, of at least four shards a process, and the last to finish closes it; to the others None is returned.

    Args:
        part: which of these processes this is (an argument of `extract_part` alone, where None is the only one).
        reasoner: the model.
        problems: a problem set, or problems alone.
        out: the run folder, made if it is not there.
        n_thoughts: T, 1 to 32; the number the model was trained with if None.
        batch_size: problems of a pass at most; no number depends on it beyond rounding. `auto` is what fits into the
            memory of a GPU, and 32 elsewhere and under an official protocol.
        shard_size: problems of a shard, the most that a kill can cost; what makes 64 MB of attention if None.
        dtype: of attention on disk; sums are float32.
        record: what to record beside attention: "values", for value-weighted patterns (`value_weighted`).
        keep: what is kept of the problems: all attention, or with `MEAN` sums over blocks of them, so that disk does
            not grow with their number.
        max_new_tokens: the longest answer; 1 where only the thoughts matter.
        engine: where the shards are worked on; in this process if None.
        protocol: how padding is read; the official ones reproduce published numbers, which depend on `batch_size` (the
            official one is 128) and on the order of the problems.
        progress: called with the number of problems done, also for those found done; a bar is shown if None.

    Returns:
        The complete run: `Run.attention` (problem, layer, head, query, key), or with `MEAN` `Run.sums()`.

    Raises:
        OptionError: T or the batch size is out of range, or a question is too long for the model.
        RunError: the folder can't be written, is foreign, or holds a run of other options.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from thoughtlens.models import load, planted_problems
        >>> folder = TemporaryDirectory()
        >>> run = extract(load("planted"), planted_problems(2), f"{folder.name}/run")
        >>> dict(run.attention["attention"].sizes)
        {'problem': 2, 'layer': 2, 'head': 4, 'query': 9, 'key': 11}
        >>> [row["correct"] for row in run.results()]
        [True, True]
        >>> folder.cleanup()
    """
    chosen = as_set(problems)
    count = reasoner.n_thoughts if n_thoughts is None else n_thoughts
    if not 1 <= count <= MAX_THOUGHTS and count != reasoner.n_thoughts:
        raise OptionError(f"the number of thoughts is {count}, expected 1 to {MAX_THOUGHTS}; pass another --thoughts.")
    if batch_size != AUTO and batch_size < 1:
        raise OptionError(f"the batch size is {batch_size}, expected at least 1; pass another --batch-size.")
    if keep != RAW and record:
        raise OptionError(f"can't keep means and record {record[0]!r} beside attention; leave --record out, or --keep.")
    given: dict[str, Any] = {"out": str(out), "n_thoughts": n_thoughts, "record": record}
    given |= {"batch_size": None if batch_size == AUTO else batch_size}
    read = protocol_named(protocol)
    if read.official and keep != RAW:
        raise OptionError(f"can't keep means under {protocol}, whose rows give to padding too; leave --keep out.")
    if read.official:
        batch_size = USUAL if batch_size == AUTO else batch_size
        # A shard holds whole batches, or the problems at its end would be batched otherwise.
        shard_size = batch_size * max(1, (shard_size or batch_size) // batch_size)
    prompts = _checked_prompts(reasoner, chosen.problems, count)
    layout = _layout(
        reasoner, chosen, count, dtype=dtype, record=sorted(set(record)), keep=keep, padding=read.official,
        shard_size=shard_size, there={} if shard_size else begun(Path(out)), part=part,
    )  # fmt: skip
    names = ("name", "split", "revision", "fingerprint")
    of_problems = {name: getattr(chosen, name) for name in names}
    options: dict[str, Any] = {"problems": of_problems, "n_thoughts": count}
    options |= {"answer_rule": reasoner.answer_rule.name, "protocol": read.name}
    if read.official:
        options["batch_size"] = batch_size
    if max_new_tokens != MAX_NEW_TOKENS:
        options["max_new_tokens"] = max_new_tokens
    call = call_of("extract", model=reasoner.provenance.get("name"), problems=chosen.name, **given, protocol=read.name)
    with writing_run(Path(out).absolute(), part) as alone:
        with alone():
            # Before the manifest is written, which says it of all who go on with the run.
            found = begun(Path(out))
            reasoner, precise = settled(reasoner, prompts, count, found)
            options = {"model": identity(reasoner), **options}
            sized = _sized(reasoner, batch_size, prompts, count, max_new_tokens, found)
            asked_by = {"call": call, "seed": chosen.seed, "batching": sized._asdict()}
            asked_by |= {"precision": precise} if precise else {}
            store = Store.open(out, layout, options=options, asked_by=asked_by)
            write_problems(Path(out) / PROBLEMS, chosen.problems)
        shards = range(layout.n_shards) if part is None else part.of(range(layout.n_shards))
        missing = store.missing(shards)
        where = engine or Local()
        load = loader_for(where, reasoner)
        job = ExtractionJob(
            load, chosen.problems, prompts, store, sized.batch_size, keep, read, max_new_tokens, sized.tokens
        )
        with told(progress, "extract", sum(map(job.n_problems, shards))) as advance:
            advance(sum(job.n_problems(shard) for shard in shards if shard not in missing))
            where.run(job, missing, advance)
        with alone():
            if part is not None and (left := store.unmarked()):
                log.info("%s: shards %s are not done yet", out, part.others(left))
                return None
            # What was done before has its notes already.
            done = not missing and begun(store.path)["complete"]
            notes = {} if done else _notes(store, chosen, reasoner, prompts, sized, read) | {"engine": where.name}
            return Run(Path(out), store.finish(notes))


extract = alone(extract_part)


def _layout(
    reasoner: LatentReasoner,
    chosen: ProblemSet,
    n_thoughts: int,
    *,
    shard_size: int | None,
    there: Mapping[str, Any],
    part: Part | None,
    **how: Any,
) -> Layout:
    """Sizes and arrays of the run; without a size of shards those of the run that is there, or several a process."""
    config = reasoner.lm.config
    sizes = {"n_layers": config.num_hidden_layers, "n_heads": config.num_attention_heads, "n_thoughts": n_thoughts}
    ids = tuple(problem.id for problem in chosen.problems)
    layout = Layout.of(ids, **sizes, shard_size=shard_size, slots=reasoner.slots, **how)
    if shard_size is not None:
        return layout
    even = layout.shard_size if part is None else max(1, layout.n_rows // (SHARDS_A_PART * part.count))
    return replace(layout, shard_size=there.get("layout", {}).get("shard_size") or min(layout.shard_size, even))


def _checked_prompts(reasoner: LatentReasoner, problems: Sequence[Problem], n_thoughts: int) -> Sequence[Sequence[int]]:
    """Token ids of each prompt; what would break off the run in its middle is refused before the first pass."""
    positions = int(reasoner.lm.config.max_position_embeddings)
    # Arrays, since lists of numbers would take five times the memory of hundreds of thousands of questions.
    prompts = [array("i", reasoner.prompt(problem.question)) for problem in problems]
    for problem, prompt in zip(problems, prompts, strict=True):
        needed = len(prompt) + n_thoughts + len(reasoner.closing) + 1
        if needed > positions:
            raise OptionError(
                f"problem {problem.id} needs {needed} positions, but the model has {positions}; leave it out or use a "
                "model with more positions."
            )
    return prompts


def _sized(
    reasoner: LatentReasoner,
    batch_size: BatchSize,
    prompts: Sequence[Sequence[int]],
    n_thoughts: int,
    max_new_tokens: int,
    found: Mapping[str, Any],
) -> Sized:
    """How large batches are: as asked for, else as in the run that has been begun, else as memory allows."""
    if batch_size != AUTO:
        return Sized(batch_size, TOKENS, "asked for")
    if "batching" in found:
        return Sized(**found["batching"])
    return fitting(reasoner, max(map(len, prompts), default=1), n_thoughts, max_new_tokens)


def _notes(
    store: Store,
    chosen: ProblemSet,
    reasoner: LatentReasoner,
    prompts: Sequence[Sequence[int]],
    sized: Sized,
    protocol: Protocol,
) -> dict[str, Any]:
    """What does not decide the numbers: where the run, its problems and model were, and how they were batched."""
    return {
        "device": str(reasoner.provenance.get("device")),
        "batch_size": sized.batch_size,
        "source": chosen.source,
        "model_source": reasoner.provenance.get("source"),
        "model_settings": reasoner.provenance.get("settings"),
        **_batching(store, [len(prompt) for prompt in prompts], sized, protocol),
    }


def _batching(store: Store, lengths: Sequence[int], sized: Sized, protocol: Protocol) -> dict[str, Any]:
    """How the problems were batched, as the manifest says it."""
    batch_size, tokens = sized.batch_size, sized.tokens
    of_shards = map(store.layout.problems_of, range(store.layout.n_shards))
    shards = [[lengths[place] for place in places] for places in of_shards]
    padded = sum(
        sum(of_shard) * padding(of_shard, batches_of(of_shard, batch_size, protocol, tokens)) for of_shard in shards
    )
    order = {"order": "longest first in each shard", "batch_size": batch_size, "tokens": tokens}
    if protocol.official:
        order = {"order": "that of the problems", "batch_size": batch_size}
    notes: dict[str, Any] = {"plan": order | {"padding": round(padded / sum(lengths), 4)}}
    markers = store.markers()
    if times := sum(marker["out_of_memory"] for marker in markers):
        notes["out_of_memory"] = {"times": times, "batch_size": min(marker["batch_size"] for marker in markers)}
    return notes


def loader_for(engine: Engine, reasoner: LatentReasoner) -> Callable[[], LatentReasoner]:
    """Gives the reasoner to a worker, who must load it again where the engine works elsewhere."""
    if not engine.elsewhere:
        return lambda: reasoner
    options = {"model": identity(reasoner), "answer_rule": reasoner.answer_rule.name}
    found = {"options": options, "notes": {"model_source": reasoner.provenance.get("source")}}
    return partial(reasoner_of, found)


NULLS: Final = "nulls"

MOST_PROBLEMS: Final = 100
"""Problems of a null model: its heads differ from model to model far more than from problem to problem."""


def random_weight_runs(
    run: Run, n: int = 20, *, pattern: str = "attention", progress: Progress | None = None
) -> list[Run]:
    """Runs of the model of a run with its weights drawn anew, made in its folder where they are not there yet.

    Args:
        run: the run; its model is loaded again if a null model is missing.
        n: how many models, of the random weights 0, 1, …; those of the run itself are left out.
        pattern: what will be analysed; sums are kept of `attention` alone.
        progress: called with the number of models done; a bar is shown if None.

    Returns:
        The runs, on 100 of the run's problems at most, drawn by seed 0. Nothing is generated after the thoughts.

    Raises:
        OptionError: n is below 1, or the pattern is another one.
        CheckpointError: the model of the run can't be found.

    Example:
        `tl.analyze(run, null=random_weight_runs(run))`
    """
    if n < 1 or pattern != "attention":
        raise OptionError(
            f"found {n} null models and the pattern {pattern!r}, expected one or more of attention; name runs of "
            "random weights with --null instead, for other patterns those of `thoughtlens extract --record values`."
        )
    own = (run.manifest["notes"].get("model_source") or {}).get("random_weights")
    reasoner: Any = None
    found = []
    with told(progress, "null models", n) as advance:
        for seed in islice((seed for seed in count() if seed != own), n):
            folder = run.path / NULLS / str(seed)
            if not ((folder / MANIFEST).is_file() and status(folder).complete):
                reasoner = reasoner or reasoner_of(run.manifest)
                problems = run.problems()
                some = run.problems(n=min(MOST_PROBLEMS, len(problems)))
                how: dict[str, Any] = {"n_thoughts": run.manifest["options"]["n_thoughts"], "max_new_tokens": 1}
                how["progress"] = lambda n_problems: None  # models are counted
                extract(randomize(reasoner, seed=seed), some, folder, keep=MEAN, **how)
            found.append(open_run(folder))
            advance(1)
    return found
