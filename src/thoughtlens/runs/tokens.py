"""Chosen problems become the attention of each thought to each token of their questions, and its top tokens by name.

A run pools the question's tokens into one slot; here each is apart, averaged over layers and heads. It is what figure 6
of CODI shows (Shen et al. 2025, arXiv 2502.21074), whose code is not published. Where a thought looks does not say what
it takes from there: the first token is counted like any other, though models park attention on it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from thoughtlens.errors import OptionError
from thoughtlens.labels import query_names
from thoughtlens.models.base import LatentReasoner
from thoughtlens.problems import Problem
from thoughtlens.reasoning import reason
from thoughtlens.runs.reading import Run
from thoughtlens.tracing import QuestionRecorder


def choose_problems(run: Run, ids: Sequence[str] = (), *, n: int = 5) -> list[Problem]:
    """Problems of a run: those named, in the order given, or its first n.

    Raises:
        OptionError: a problem is not in the run, or n is not positive.
    """
    asked = {row["id"]: Problem(row["id"], row["question"], row["gold"]) for row in run.results()}
    if unknown := [name for name in ids if name not in asked]:
        raise OptionError(
            f"no problem {unknown[0]!r} in {run.path}, expected one such as {next(iter(asked))!r}; pass another."
        )
    if n < 1:
        raise OptionError(f"the number of problems is {n}, expected at least 1; pass another --n.")
    return [asked[name] for name in ids] or list(asked.values())[:n]


def question_attention(
    reasoner: LatentReasoner, problems: Sequence[Problem], *, n_thoughts: int | None = None, batch_size: int = 32
) -> list[xr.Dataset]:
    """How each position attends to each token of its question.

    mean over layers and heads of A[q, token].  Range 0-1; a row sums to what the query gives `first` and `question`.
    No null: an even row would give each token 1 over the number of positions seen.

    Args:
        reasoner: the model.
        problems: what it thinks about.
        n_thoughts: T; the number the model was trained with if None.
        batch_size: problems a pass; no number depends on it beyond rounding.

    Returns:
        One Dataset a problem: `attention` (query, token), float32 or wider, NaN in the row of an answer that does not
        exist; `text` (token), each token as text; attributes `problem`, its id, and `question`.
    """
    count = reasoner.n_thoughts if n_thoughts is None else n_thoughts
    batches = [problems[start : start + batch_size] for start in range(0, len(problems), batch_size)]
    return [found for batch in batches for found in _attend(reasoner, batch, count)]


def top_tokens(found: xr.Dataset, *, n: int = 5) -> dict[str, list[dict[str, Any]]]:
    """The tokens of the question that each position attends to most, ready for JSON.

    Args:
        found: one problem's, from `question_attention`.
        n: how many tokens.

    Returns:
        By query, the largest first: `token` (index from 0), `text`, `attention`; empty where the row does not exist.
    """
    texts = [str(text) for text in found["text"].values]
    tops = {}
    for query, row in zip(found["query"].values, found["attention"].values, strict=True):
        order = np.argsort(-row, kind="stable")[:n].tolist() if np.isfinite(row).all() else []
        tops[str(query)] = [{"token": place, "text": texts[place], "attention": float(row[place])} for place in order]
    return tops


def as_json(found: Sequence[xr.Dataset], *, n_top: int = 5) -> Mapping[str, Any]:
    """Attention to the tokens of questions as JSON has it, problem by problem; null where there is no row."""
    return {
        "measure": "mean over layers and heads of the attention of each position to each token of the question",
        "problems": [_problem_json(of_problem, n_top) for of_problem in found],
    }


def _attend(reasoner: LatentReasoner, problems: Sequence[Problem], n_thoughts: int) -> list[xr.Dataset]:
    ids = [reasoner.prompt(problem.question)[:-1] for problem in problems]
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
    texts = [reasoner.tokenizer.decode([token]) for token in ids]
    string = np.dtypes.StringDType()
    return xr.Dataset(
        {"attention": (("query", "token"), attention)},
        coords={
            "query": np.array(query_names(len(attention) - 3), dtype=string),
            "token": np.arange(len(ids)),
            "text": ("token", np.array(texts, dtype=string)),
        },
        attrs={"problem": problem.id, "question": problem.question},
    )


def _problem_json(found: xr.Dataset, n_top: int) -> dict[str, Any]:
    rows = zip(found["query"].values, found["attention"].values, strict=True)
    return {
        "id": found.attrs["problem"],
        "question": found.attrs["question"],
        "tokens": [str(text) for text in found["text"].values],
        "attention": {str(query): _numbers(row) for query, row in rows},
        "top": top_tokens(found, n=n_top),
    }


def _numbers(row: np.ndarray) -> list[float] | None:
    return [float(value) for value in row] if np.isfinite(row).all() else None
