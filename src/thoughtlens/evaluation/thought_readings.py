"""What thoughts decode to (the logit lens), and which tokens of the question they attend to.

in: a reasoner and problems; out: labelled Datasets.

`decode_thoughts` applies the model's own output layer to three stages of each thought z_k, which are kept apart:

- `state_in`: the last hidden state that became z_k, before the projection (at `bot` for z1);
- `thought`: z_k itself, after the projection, as it was fed back;
- `state_out`: the last hidden state at z_k's own position, which becomes z_(k+1).

`question_attention` keeps the tokens of the question apart, which a run pools into one slot, and `group_attention` the
groups of them that a family names. `write_readings` keeps the first two, of some problems of a run, with the checks of
its model, for the report, which loads no model.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from thoughtlens.errors import OptionError
from thoughtlens.evaluation.checks import doctor
from thoughtlens.files import Json, call_of, only_writer, write_json
from thoughtlens.models.loader import reasoner_of
from thoughtlens.models.reasoner import LatentReasoner, norm_factors
from thoughtlens.notation import ANSWER, BOT, FIRST, OPTIONAL, group_code, key_names, query_names, text, thought_names
from thoughtlens.problems import Problem
from thoughtlens.reasoning.batch_pass import BatchPass
from thoughtlens.reasoning.loop import prompts_without, reason, think
from thoughtlens.runs.reader import READINGS, Run, chosen_problems, read_readings
from thoughtlens.runs.writer import made_by
from thoughtlens.taps import Moment, QuestionRecorder, Site, Taps, ValueRecorder

STAGES: Final = ("state_in", "thought", "state_out")
STAGE: Final = "state_in"
"""The stage that is kept: what became the thought, which is what CODI's authors decode."""

N_TOP: Final = 5
DIGITS: Final = 4
_DIMS: Final = ("problem", "stage", "thought", "rank")


@torch.inference_mode()
def decode_thoughts(
    reasoner: LatentReasoner,
    problems: Sequence[Problem],
    *,
    n_top: int = 5,
    n_thoughts: int | None = None,
    batch_size: int = 100,
) -> xr.Dataset:
    """Decode the thoughts through the output layer: the top tokens at each of their three stages.

    That a token can be decoded from a vector does not show that the model uses it.

    Args:
        reasoner: the model.
        problems: what it thinks about.
        n_top: how many tokens.
        n_thoughts: T; the number the model was trained with if None.
        batch_size: problems a pass.

    Returns:
        `token`, text without blanks around it, and `probability`, 0 to 1, both (problem, stage, thought, rank); rank
        counts from 1.

    Raises:
        OptionError: n_top is below 1.

    Example:
        >>> from thoughtlens.models import load
        >>> from thoughtlens.problems import sample
        >>> problem = sample("arithmetic", n=1)[0]
        >>> decoded = decode_thoughts(load("tiny-gpt2"), [problem], n_top=1)
        >>> problem.steps[0], decoded["token"].sel(stage="state_out", thought="z1", rank=1).item()
        ('<<6*3=18>>', '18')

    Reference: nostalgebraist 2020, "interpreting GPT: the logit lens"; CODI (Shen et al. 2025, arXiv 2502.21074,
    section 5) decodes `state_in`.
    """
    if n_top < 1:
        raise OptionError(f"the number of top tokens is {n_top}, expected at least 1; pass a larger one.")
    parts = [_decode(reasoner, batch, n_top, n_thoughts) for batch in _batches(problems, batch_size)]
    return xr.concat(parts, "problem", data_vars="minimal", coords="minimal", compat="equals", join="exact")


def results_read(decoded: xr.Dataset, problems: Sequence[Problem]) -> xr.Dataset:
    """How often each step's result is among the decoded tokens, and how often another problem's is.

    Args:
        decoded: of these problems, from `decode_thoughts`.
        problems: with steps such as `<<12-5=7>>`, or edges of a graph such as `7 15`, whose result is their end.

    Returns:
        `own` and `other`, shares from 0 to 1, (stage, step, thought): the problem's own result, and that of the next
        problem that has such a step; `n` (step), the number of problems with that step. Steps count from 1. `other` is
        what chance and common values give.

    Example:
        >>> from thoughtlens.models import load
        >>> from thoughtlens.problems import sample
        >>> problems = sample("arithmetic", n=8)
        >>> read = results_read(decode_thoughts(load("tiny-gpt2"), problems), problems)
        >>> read.sel(step=1, stage="state_out", thought="z1")["own"].item()
        1.0
    """
    n_steps = max(len(problem.steps) for problem in problems)
    rows = [_of_step(decoded, problems, step) for step in range(n_steps)]
    return xr.concat(rows, xr.DataArray(np.arange(1, n_steps + 1), dims="step", name="step"))


def _batches(problems: Sequence[Problem], size: int) -> Sequence[Sequence[Problem]]:
    return [problems[start : start + size] for start in range(0, len(problems), size)]


def _decode(reasoner: LatentReasoner, problems: Sequence[Problem], n_top: int, n_thoughts: int | None) -> xr.Dataset:
    questions = [problem.question for problem in problems]
    trace = reason(reasoner, questions, n_thoughts=n_thoughts, max_new_tokens=1)
    stages = torch.stack([trace.states[:, :-1], trace.thoughts, trace.states[:, 1:]], dim=1)
    top = reasoner.lm.lm_head(stages).float().softmax(-1).topk(n_top)
    names = {int(i): reasoner.decode([int(i)]).strip() for i in top.indices.unique()}
    tokens = np.vectorize(names.__getitem__, otypes=[object])(top.indices.cpu().numpy())
    return xr.Dataset(
        {"token": (_DIMS, tokens), "probability": (_DIMS, top.values.cpu().numpy())},
        coords={
            "problem": [problem.id for problem in problems],
            "stage": list(STAGES),
            "thought": thought_names(trace.thoughts.shape[1]),
            "rank": np.arange(1, n_top + 1),
        },
    )


def _result(step: str) -> str:
    """What a step comes to: what follows the last `=`, or the end of an edge."""
    words = step.split("=")[-1].rstrip("> ").split()
    return words[-1] if words else ""


def _of_step(decoded: xr.Dataset, problems: Sequence[Problem], step: int) -> xr.Dataset:
    rows = [row for row, problem in enumerate(problems) if len(problem.steps) > step]
    own = np.array([_result(problems[row].steps[step]) for row in rows], dtype=object)
    tokens = decoded["token"].isel(problem=rows)

    def share(results: np.ndarray) -> xr.DataArray:
        wanted = xr.DataArray(results, dims="problem", coords={"problem": tokens["problem"]})
        return (tokens == wanted).any("rank").mean("problem")

    return xr.Dataset({"own": share(own), "other": share(np.roll(own, -1)), "n": len(rows)})


def choose_problems(run: Run, ids: Sequence[str] = (), *, n: int = 5) -> list[Problem]:
    """The problems of a run with these ids, in this order; its first n if no id is given."""
    return list(run.problems(ids))[: None if ids else n]


def question_attention(
    reasoner: LatentReasoner, problems: Sequence[Problem], *, n_thoughts: int | None = None, batch_size: int = 32
) -> list[xr.Dataset]:
    """Measure how each position attends to each token of its question.

    mean over layers and heads of A[q, token].  Range 0-1; a row sums to what the query gives `first` and `question`.
    No null: an even row would give each token 1 over the number of positions seen.  Attention does not say what a
    thought takes from a token: the first token is counted like any other, though models park attention on it.

    Args:
        reasoner: the model.
        problems: what it thinks about.
        n_thoughts: T; the number the model was trained with if None.
        batch_size: problems a pass; no number depends on it beyond rounding.

    Returns:
        One Dataset a problem: `attention` (query, token), float32 or wider, NaN in the row of an answer that does not
        exist; `text` (token), each token as text; attributes `problem`, its id, and `question`.

    Example:
        >>> from thoughtlens.models import planted_problems, planted_reasoner
        >>> [found] = question_attention(planted_reasoner(), planted_problems(1))
        >>> row = found["attention"].sel(query="bot")
        >>> row.dims, found["text"].values[row.values.argmax()].strip()
        (('token',), '97')

    Reference: what figure 6 of CODI shows (Shen et al. 2025, arXiv 2502.21074), whose code is not published.
    """
    count = reasoner.n_thoughts if n_thoughts is None else n_thoughts
    return [found for batch in _batches(problems, batch_size) for found in _attend(reasoner, batch, count)]


def _attend(reasoner: LatentReasoner, problems: Sequence[Problem], n_thoughts: int) -> list[xr.Dataset]:
    ids = [reasoner.question(problem.question) for problem in problems]
    recorder = QuestionRecorder(
        n_problems=len(problems),
        n_layers=reasoner.lm.config.num_hidden_layers,
        n_thoughts=n_thoughts,
        n_tokens=max(map(len, ids)),
        dtype=reasoner.lm.dtype,
    )
    reason(reasoner, [problem.question for problem in problems], taps=[recorder], n_thoughts=n_thoughts)
    means = recorder.attention.mean(1).numpy()
    # Questions are padded on the left.
    own = [mean[:, -len(tokens) :] for mean, tokens in zip(means, ids, strict=True)]
    return [_labelled(reasoner, *given) for given in zip(problems, ids, own, strict=True)]


def _labelled(reasoner: LatentReasoner, problem: Problem, ids: Sequence[int], attention: np.ndarray) -> xr.Dataset:
    return xr.Dataset(
        {"attention": (("query", "token"), attention)},
        coords={
            "query": text(query_names(len(attention) - 3)),
            "token": np.arange(len(ids)),
            "text": ("token", text([reasoner.tokenizer.decode([token]) for token in ids])),
        },
        attrs={"problem": problem.id, "question": problem.question},
    )


@torch.inference_mode()
def group_attention(reasoner: LatentReasoner, problems: Sequence[Problem], *, batch_size: int = 32) -> xr.Dataset:
    """Measure how each thought and marker attends to named groups of prompt tokens, and what they give it.

    A[q, group] = Σ A[q, token] over the tokens of the group, and likewise of ‖A · v · W_O‖; range 0-1, and 0 or more.
    Null of the first: the tokens of the group over all that the query sees (`n_tokens`).

    Args:
        reasoner: a model whose family names groups (`group_names`).
        problems: what it thinks about.
        batch_size: problems a pass; no number depends on it beyond rounding.

    Returns:
        `attention` and `value_weighted` (problem, layer, head, query, key), 0 where a key comes after the query, and
        `n_tokens` (problem, key); keys are `first`, the groups, what of the question is in none, and all later slots.

    Raises:
        OptionError: the family names no groups.

    Example:
        >>> from thoughtlens.models import load
        >>> from thoughtlens.problems import sample
        >>> found = group_attention(load("compiled"), sample("graphs", n=1))
        >>> found["attention"].sel(layer=1, head=1, query="z1", key="sep").round(3).values.tolist()
        [1.0]

    Reference: Kobayashi et al. 2020, arXiv 2004.10102, for what a token gives.
    """
    if not reasoner.group_names:
        raise OptionError(
            f"{reasoner.provenance.get('name')} names no groups of prompt tokens, expected a model of graphs such as "
            "compiled; use question_attention for single tokens."
        )
    return xr.concat([_attend_to_groups(reasoner, batch) for batch in _batches(problems, batch_size)], "problem")


def _grouped_keys(n_thoughts: int, groups: Sequence[str]) -> list[str]:
    """The key axis with `question` divided into groups, and what is in none of them."""
    return [FIRST, *groups, *key_names(n_thoughts)[1:]]


class _GroupRecorder:
    """Keeps the pattern of every named query, its keys pooled by slot and group, of a batch that was marked.

    Attributes:
        attention: (problem, layer, head, query, key) float32 or wider, keys as `_grouped_keys` has them; NaN in the row
            of a query that did not occur.
    """

    def __init__(self, batch: BatchPass, n_thoughts: int) -> None:
        config, groups = batch.reasoner.lm.config, batch.reasoner.group_names
        keys = _grouped_keys(n_thoughts, groups)
        codes = [group_code(name) if name in groups else batch.slots[name] for name in keys]
        self._codes = torch.tensor(codes, device=batch.device)
        shape = (len(batch.keys), config.num_hidden_layers, config.num_attention_heads, n_thoughts + 3, len(keys))
        dtype = torch.promote_types(batch.reasoner.lm.dtype, torch.float32)
        self.attention = torch.full(shape, torch.nan, dtype=dtype)

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """Keep the pattern's row; every problem of a step has the same query."""
        row = int(moment.queries[0, 0]) - moment.slots[BOT]
        if moment.site is Site.PATTERN and 0 <= row < self.attention.shape[3]:
            in_group = (moment.keys[:, :, None] == self._codes).to(tensor.dtype)
            self.attention[moment.rows.cpu(), moment.layer, :, row] = (tensor[:, :, 0] @ in_group).cpu()
        return tensor

    def n_tokens(self, batch: BatchPass) -> Tensor:
        """How many positions of each key there are: (problem, key)."""
        return (batch.keys[:, :, None] == self._codes).sum(1).cpu()


def _attend_to_groups(reasoner: LatentReasoner, problems: Sequence[Problem]) -> xr.Dataset:
    prompts, n_thoughts = [reasoner.prompt(problem.question) for problem in problems], reasoner.n_thoughts
    batch = BatchPass(reasoner, Taps(), n_thoughts)
    batch.question(prompts_without(reasoner, prompts))
    batch.mark_groups(prompts)
    weights, given = _GroupRecorder(batch, n_thoughts), _GroupRecorder(batch, n_thoughts)
    norms = ValueRecorder(given, norm_factors(reasoner.lm))  # type: ignore[arg-type]  # which keeps rows as its own does
    batch.taps = Taps([weights, norms])
    think(batch, next(iter(reasoner.opening), None), n_thoughts)
    keys, dims = _grouped_keys(n_thoughts, reasoner.group_names), ("problem", "layer", "head", "query", "key")
    found = xr.Dataset(
        {
            "attention": (dims, weights.attention.numpy()),
            "value_weighted": (dims, given.attention.numpy()),
            "n_tokens": (("problem", "key"), weights.n_tokens(batch).numpy()),
        },
        coords={
            "problem": text([problem.id for problem in problems]),
            "query": text(query_names(n_thoughts)),
            "key": text(keys),
        },
    )
    met = [name for name in found["query"].values if name not in OPTIONAL or name in reasoner.slots - {ANSWER}]
    return found.sel(query=met, key=[name for name in keys if name not in OPTIONAL or name in met])


def write_readings(run: Run, reasoner: LatentReasoner) -> Path:
    """Keep what a run's report shows of single problems and of the model; nothing is measured twice.

    Of at most 200 problems, at equal distances in the run's order: the five likeliest tokens of each thought, and each
    position's attention to each token of the question, mean over layers and heads. Of the model: `doctor`'s checks.

    Args:
        run: the run.
        reasoner: its model; loaded again if that is in another precision than the run.

    Returns:
        The path of `readings.json`.

    Raises:
        RunError: the folder can't be written.

    Example:
        Complete a run that was made by `extract` alone, and write its report.

            write_readings(run, reasoner)
            write_report(run)
    """
    path = run.path / READINGS
    if read_readings(run):
        return path
    if run.manifest["options"]["model"].get("dtype") != reasoner.provenance.get("dtype"):
        # Half precision moved numbers too far, or a run that goes on has another.
        reasoner = reasoner_of(run.manifest, device=reasoner.provenance.get("device"))
    problems, n_thoughts = run.problems(), int(run.manifest["options"]["n_thoughts"])
    chosen = [problems[place] for place in chosen_problems(len(problems))]
    decoded = decode_thoughts(reasoner, chosen, n_top=N_TOP, n_thoughts=n_thoughts).sel(stage=STAGE)
    looked = question_attention(reasoner, chosen, n_thoughts=n_thoughts)
    with only_writer(run.path):
        write_json(path, {
            "results": run.manifest["results"],
            "stage": STAGE,
            "problems": {of.attrs["problem"]: _reading(of, decoded.isel(problem=row)) for row, of in enumerate(looked)},
            "checks": [asdict(check) for check in doctor(reasoner, run.manifest.get("precision"))],
            "made_by": made_by(call_of("write_readings"), run.manifest),
        }, sealed=True)  # fmt: skip
    return path


def _reading(looked: xr.Dataset, decoded: xr.Dataset) -> Json:
    rows = zip(looked["query"].values, looked["attention"].values, strict=True)
    tokens, shares = (decoded[name].transpose("thought", "rank").values for name in ("token", "probability"))
    return {
        "tokens": [str(token) for token in looked["text"].values],
        "attention": {str(query): _rounded(row) if np.isfinite(row).all() else None for query, row in rows},
        "decoded": [
            [[str(token), share] for token, share in zip(its, _rounded(of), strict=True)]
            for its, of in zip(tokens, shares, strict=True)
        ],
    }


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), DIGITS) for value in values]
