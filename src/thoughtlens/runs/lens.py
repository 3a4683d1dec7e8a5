"""What a thought would say: the model's own output layer applied to it (the logit lens).

Three stages of each thought z_k can be read, and are kept apart:

- `state_in`: the last hidden state that became z_k, before the projection (at `bot` for z1);
- `thought`: z_k itself, after the projection, as it was fed back;
- `state_out`: the last hidden state at z_k's own position, which becomes z_(k+1).

Reading a token off a vector does not show that the model uses it. Source: nostalgebraist 2020, "interpreting GPT: the
logit lens"; CODI's own probing (arXiv 2502.21074, section 5) reads `state_in`.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from thoughtlens.errors import OptionError
from thoughtlens.labels import thought_names
from thoughtlens.models.base import LatentReasoner
from thoughtlens.problems import Problem
from thoughtlens.reasoning import Trace, reason

STAGES: Final = ("state_in", "thought", "state_out")
_DIMS: Final = ("problem", "stage", "thought", "rank")


@torch.inference_mode()
def decode_thoughts(
    reasoner: LatentReasoner, problems: Sequence[Problem], *, n_top: int = 5, batch_size: int = 100
) -> xr.Dataset:
    """The top tokens of the output layer at each thought, stage by stage.

    Args:
        reasoner: the model.
        problems: what it thinks about.
        n_top: how many tokens.
        batch_size: problems a pass.

    Returns:
        `token`, text without blanks around it, and `probability`, 0 to 1, both (problem, stage, thought, rank); rank
        counts from 1.

    Raises:
        OptionError: no token is asked for.
    """
    if n_top < 1:
        raise OptionError(f"the number of top tokens is {n_top}, expected at least 1; pass a larger one.")
    parts = [_decode(reasoner, batch, n_top) for batch in _batches(problems, batch_size)]
    return xr.concat(parts, "problem", data_vars="minimal", coords="minimal", compat="equals", join="exact")


def results_read(decoded: xr.Dataset, problems: Sequence[Problem]) -> xr.Dataset:
    """How often each step's result is among the decoded tokens, and how often another problem's is.

    Args:
        decoded: of these problems, from `decode_thoughts`.
        problems: with steps such as `<<12-5=7>>`.

    Returns:
        `own` and `other`, shares from 0 to 1, (stage, step, thought): the problem's own result, and that of the next
        problem that has such a step; `n` (step), the number of problems with that step. Steps count from 1. `other` is
        what chance and the set's common values give.
    """
    n_steps = max(len(problem.steps) for problem in problems)
    rows = [_of_step(decoded, problems, step) for step in range(n_steps)]
    return xr.concat(rows, xr.DataArray(np.arange(1, n_steps + 1), dims="step", name="step"))


def _batches(problems: Sequence[Problem], size: int) -> Sequence[Sequence[Problem]]:
    return [problems[start : start + size] for start in range(0, len(problems), size)]


def _decode(reasoner: LatentReasoner, problems: Sequence[Problem], n_top: int) -> xr.Dataset:
    trace = reason(reasoner, [problem.question for problem in problems], max_new_tokens=1)
    top = reasoner.lm.lm_head(_stages(trace)).float().softmax(-1).topk(n_top)
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


def _stages(trace: Trace) -> Tensor:
    return torch.stack([trace.states[:, :-1], trace.thoughts, trace.states[:, 1:]], dim=1)


def _of_step(decoded: xr.Dataset, problems: Sequence[Problem], step: int) -> xr.Dataset:
    rows = [row for row, problem in enumerate(problems) if len(problem.steps) > step]
    own = np.array([_result(problems[row].steps[step]) for row in rows], dtype=object)
    tokens = decoded["token"].isel(problem=rows)

    def share(results: np.ndarray) -> xr.DataArray:
        wanted = xr.DataArray(results, dims="problem", coords={"problem": tokens["problem"]})
        return (tokens == wanted).any("rank").mean("problem")

    return xr.Dataset({"own": share(own), "other": share(np.roll(own, -1)), "n": len(rows)})


def _result(step: str) -> str:
    return step.split("=")[-1].rstrip("> ")
