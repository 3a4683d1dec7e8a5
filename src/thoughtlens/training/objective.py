"""The CODI loss: a teacher that writes its steps, a student that thinks them, and the distance between the two.

1. The teacher reads question, steps and answer; cross-entropy on steps and answer.
2. The student reads the question, `bot`, T thoughts, `eot` and the answer; cross-entropy on the answer.
3. Distillation: smooth-L1 between the hidden states of both at the token before the answer's value, at every level from
   the embeddings to the final norm, each divided by the teacher's standard deviation there (CODI, arXiv 2502.21074,
   and its published code; the paper's equation 5 writes plain L1).
4. Step supervision (after SIM-CoT, arXiv 2509.20317, with the model's own output layer in the place of a decoder):
   cross-entropy of a step's result at the output of the thought that is to hold it; the caller anneals its weight to 0.

A Coconut is the student alone (step 2), without a projection: its thoughts are the hidden states themselves, and what
follows `eot` begins with the steps that no thought replaces yet (arXiv 2412.06769).

Bare equations may be practised as well. Every cross-entropy is averaged within a problem first, then over problems,
so that it does not matter how problems are divided among batches of equal size, or among processes; the standard
deviation of step 3 is taken over the problems of all processes. The question is read once: the student goes on from the
teacher's cache, cut back to the question.

A training started by torchrun or accelerate has several processes: `rank` and `n_processes` say which and how many, and
`gathered` and `averaged` combine their numbers. Without a launcher there is one process, and these change nothing.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from thoughtlens.models.codi_and_coconut import projection
from thoughtlens.reasoning.batch_pass import Context
from thoughtlens.training.data import IGNORED, Batch, Padded
from thoughtlens.training.recipe import TERMS


def n_processes() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process; process 0 alone writes files."""
    return int(os.environ.get("RANK", "0"))


def gathered(states: Tensor, dim: int) -> Tensor:
    """The states of every process side by side, as constants; all must have the same shape."""
    if not _together():
        return states
    others = [torch.empty_like(states) for _ in range(dist.get_world_size())]
    dist.all_gather(others, states.contiguous())
    return torch.cat(others, dim=dim)


def averaged(values: Tensor) -> Tensor:
    """The mean of each value over the processes."""
    if not _together():
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def _together() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class Spoken(NamedTuple):
    """Loss of teacher or student; hidden states (level, problem, hidden) and logits before the answer's value."""

    loss: Tensor
    states: Tensor
    value_logits: Tensor


class CodiModule(nn.Module):
    """Decoder and projection under the parameter names of an official checkpoint (`codi.*`, `prj.*`).

    Args:
        codi: the decoder with its output layer, under LoRA or not.
        hidden: width of its hidden states.
        inner: inner width of the projection; None for a Coconut, which has none.
        bot: id of the marker that opens the thoughts.
        n_thoughts: T.

    Attributes:
        weights: weight of each of `TERMS`; a term of weight 0 is not computed.
        supervised: for each step but the last, the number (from 1) of the thought that is to hold its result.
        scrambled: each problem is fed another problem's thoughts, or zeros, at random, so that its answer can't depend
            on its own.

    Reference: Shen et al. 2025, arXiv 2502.21074.
    """

    codi: Any

    def __init__(self, codi: nn.Module, *, hidden: int, inner: int | None, bot: int, n_thoughts: int) -> None:
        super().__init__()
        self.codi = codi
        self.prj = nn.Identity() if inner is None else projection(hidden, inner)
        self.bot = bot
        self.n_thoughts = n_thoughts
        self.weights: Mapping[str, float] = dict.fromkeys(TERMS, 0.0)
        self.supervised: Sequence[int] = ()
        self.scrambled = False

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted loss of a batch, and each term by name."""
        context = Context(self.causal_lm.base_model)
        terms: dict[str, Tensor] = {}
        if self.weights["equations"]:
            terms["equations"] = self._equations(batch)
        if self.weights["teacher"] or self.weights["student"]:
            asked = context.read(*batch.question).last_hidden_state[:, -1:]
        if self.weights["teacher"]:
            teacher = self._speak(context, asked, batch.explicit, batch.explicit_at)
            context.forget(batch.explicit.ids.shape[1])
            terms["teacher"] = teacher.loss
        if self.weights["student"]:
            terms["supervision"] = self._think(context, batch.results)
            student = self._speak(context, None, batch.answer, batch.answer_at)
            terms["student"] = student.loss
            terms["accuracy"] = _says_first_token(student, batch)
        if self.weights["distillation"]:
            terms["distillation"] = distillation(student.states, teacher.states)
        loss = torch.stack([self.weights[name] * terms[name] for name in TERMS if self.weights[name]]).sum()
        return {"loss": loss} | {name: term.detach() for name, term in terms.items()}

    @property
    def causal_lm(self) -> Any:
        """The causal language model itself, under LoRA or not."""
        lm: Any = self.codi
        return lm.get_base_model() if hasattr(lm, "peft_config") else lm

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.causal_lm.lm_head(hidden)
        return logits

    def _speak(self, context: Context, before: Tensor | None, said: Padded, at: Tensor) -> Spoken:
        """Read a text after the context; `before` is the state that predicts its first token, if that is learnt."""
        out = context.read(*said, output_hidden_states=True)
        hidden = out.last_hidden_state
        if before is None:
            predicting, targets = hidden[:, :-1], _targets(said)[:, 1:]
        else:
            predicting, targets = torch.cat([before, hidden[:, :-1]], dim=1), _targets(said)
        loss = per_problem_cross_entropy(self._logits, predicting, targets)
        rows = torch.arange(len(at), device=at.device)
        states = torch.stack([level[rows, at] for level in out.hidden_states])
        return Spoken(loss, states, self._logits(hidden[rows, at]).detach())

    def _think(self, context: Context, results: Tensor) -> Tensor:
        """Read `bot` and the thoughts; the step-supervision loss."""
        bot = torch.full((len(results), 1), self.bot, device=results.device)
        state = context.read(bot).last_hidden_state
        supervised, targets = [], []
        for number in range(1, self.n_thoughts + 1):
            thought = self.prj(state)
            if self.scrambled:
                thought = _scrambled(thought)
            state = context.read(thought).last_hidden_state
            if number in self.supervised and self.supervised.index(number) < results.shape[1]:
                supervised.append(state)
                targets.append(results[:, self.supervised.index(number)])
        if not self.weights["supervision"] or not supervised:
            return torch.zeros((), device=results.device)
        return per_problem_cross_entropy(self._logits, torch.cat(supervised, dim=1), torch.stack(targets, dim=1))

    def _equations(self, batch: Batch) -> Tensor:
        """Cross-entropy of the results of bare equations, read at a random distance from the start."""
        ids, real = batch.equations
        offset = torch.randint(0, 30, (len(ids), 1), device=ids.device)
        positions = offset + torch.arange(ids.shape[1], device=ids.device)
        hidden = self.causal_lm.base_model(ids, attention_mask=real.long(), position_ids=positions, use_cache=False)
        targets = torch.where(batch.equals[:, :-1], ids[:, 1:], IGNORED)
        return per_problem_cross_entropy(self._logits, hidden.last_hidden_state[:, :-1], targets)


def per_problem_cross_entropy(logits: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy averaged over each problem's targets, then over problems; 0 for a problem without targets.

    Args:
        logits: the output layer; applied only where there is a target.
        hidden: (problem, position, hidden).
        targets: token ids (problem, position), IGNORED where nothing is to be learnt.

    Returns:
        One number, 0 or more, in nats.

    Example:
        >>> even = torch.zeros(2, 3, 4)
        >>> targets = torch.tensor([[0, 1, 2], [3, IGNORED, IGNORED]])
        >>> per_problem_cross_entropy(lambda hidden: hidden, even, targets).exp().round().item()
        4.0
    """
    wanted = targets != IGNORED
    losses = F.cross_entropy(logits(hidden[wanted]).float(), targets[wanted], reduction="none")
    share = (wanted / wanted.sum(1, keepdim=True).clamp(min=1))[wanted]
    return (losses * share).sum() / len(targets)


def distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth-L1 from student to teacher, divided by the teacher's standard deviation, averaged over levels.

    Args:
        student: (level, problem, hidden); gradients flow through it.
        teacher: the same shape; a constant. Every process must have the same number of problems.

    Returns:
        One number, 0 or more.

    Example:
        >>> teacher = torch.tensor([[[0.0, 2.0], [0.0, 2.0]]])
        >>> distillation(teacher, teacher).item()
        0.0

    Reference: Shen et al. 2025, arXiv 2502.21074, equation 5, which writes plain L1.
    """
    teacher = teacher.detach()
    everywhere = gathered(teacher, dim=1)
    levels = [F.smooth_l1_loss(s, t) / e.std() for s, t, e in zip(student, teacher, everywhere, strict=True)]
    return torch.stack(levels).mean()


def _targets(said: Padded) -> Tensor:
    return said.ids.masked_fill(~said.real, IGNORED)


def _scrambled(thought: Tensor) -> Tensor:
    """Another problem's thought, or zeros, each for half of the problems at random."""
    dropped = torch.rand(len(thought), 1, 1, device=thought.device) < 0.5
    return torch.where(dropped, 0.0, thought.roll(1, 0))


def _says_first_token(student: Spoken, batch: Batch) -> Tensor:
    rows = torch.arange(len(batch.answer_at), device=batch.answer_at.device)
    value = batch.answer.ids[rows, batch.answer_at + 1]
    return (student.value_logits.argmax(-1) == value).float().mean()
