"""The ways of recording attention among thoughts that are compared, each a function of a batch of questions.

`method_2025`  as the 2025 scripts did: one problem at a time, LoRA not merged, eager attention with every pattern of
               every pass kept and returned, hidden states too, logits of every token; `bot` and all thoughts but the
               last are fed.
`transformers` what transformers offers with little code: merged weights, batches padded on the left with mask and
               positions, eager attention, every pattern kept, logits of every token; every thought is fed.
`uncaptured`   this package's own pass without taps: fused attention, nothing kept.
`ours`         the same pass with the recorder.
`products`     nothing but the linear layers of `ours`, the model's own, on as many rows: what no program that uses
               this library of matrix products can do without.
`question`     the part of `ours` that reads the questions.
`rows512`      products of 512 rows with one matrix of each shape, which stay in the cache: the best rate at hand.

None of them decodes an answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.shapes import as_loaded, linear_layers, with_lora
from thoughtlens.models import Codi
from thoughtlens.reasoning import BatchPass, reason, recorder_for
from thoughtlens.taps import Taps

Method = Callable[[Sequence[str]], Any]


class ThoughtsAlone(Codi):
    """A reasoner that closes its thoughts with nothing: with no new tokens the pass ends at the last thought."""

    @property
    def closing(self) -> Sequence[int]:
        return ()


def methods(reasoner: Codi, *, batch_size: int, n_thoughts: int) -> dict[str, Method]:
    """Every way of recording, by name."""
    parts = {name: getattr(reasoner, name) for name in reasoner.__dataclass_fields__}
    alone = ThoughtsAlone(**parts | {"lm": as_loaded(reasoner.lm)})

    def batched(work: Method) -> Method:
        return lambda questions: [
            work(questions[start : start + batch_size]) for start in range(0, len(questions), batch_size)
        ]

    adapted = replace(reasoner, lm=with_lora(reasoner.lm))
    return {
        "2025": lambda questions: [method_2025(adapted, question, n_thoughts) for question in questions],
        "transformers": batched(lambda questions: plain_transformers(reasoner, questions, n_thoughts)),
        "uncaptured": batched(lambda questions: think(alone, questions, n_thoughts)),
        "ours": batched(lambda questions: captured(alone, questions, n_thoughts)),
        "question": batched(lambda questions: read_questions(alone, questions)),
        "products": batched(Products(reasoner, n_thoughts)),
        "rows512": Rows512(reasoner),
    }


@torch.no_grad()
def method_2025(reasoner: Codi, question: str, n_thoughts: int) -> Tensor:
    """Step-indexed maps (layer, head, T, T) of one problem: row s is the pattern of step s, column j thought j + 1."""
    lm, options = reasoner.lm, {"use_cache": True, "output_hidden_states": True, "output_attentions": True}
    ids = torch.tensor([reasoner.question(question)], device=lm.device)
    out = lm(ids, **options)
    inputs = lm.get_input_embeddings()(torch.tensor([[reasoner.markers.bot]], device=lm.device))
    config = reasoner.lm.config
    maps = torch.zeros(config.num_hidden_layers, config.num_attention_heads, n_thoughts, n_thoughts)
    for step in range(n_thoughts):
        out = lm(inputs_embeds=inputs, past_key_values=out.past_key_values, **options)
        for layer, pattern in enumerate(out.attentions):
            maps[layer, :, step, :step] = pattern[0, :, 0, ids.shape[1] + 1 :]
        inputs = reasoner.feed_back(out.hidden_states[-1][:, -1:])
    return maps.half()


@torch.no_grad()
def plain_transformers(reasoner: Codi, questions: Sequence[str], n_thoughts: int) -> list[Tensor]:
    """Patterns (layer, head, T + 1, T + 1) of `bot` and the thoughts, for each problem."""
    lm, prompts = reasoner.lm, [reasoner.prompt(question) for question in questions]
    width = max(map(len, prompts))
    ids, mask = (torch.zeros(len(prompts), width, dtype=torch.long) for _ in range(2))
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    options = {"use_cache": True, "output_hidden_states": True, "output_attentions": True}
    out = lm(ids, attention_mask=mask, position_ids=positions, **options)
    kept = torch.zeros(
        len(prompts), lm.config.num_hidden_layers, lm.config.num_attention_heads, n_thoughts + 1, n_thoughts + 1
    )
    kept[..., 0, 0] = torch.stack([pattern[:, :, -1, -1] for pattern in out.attentions], dim=1)
    for step in range(1, n_thoughts + 1):
        inputs = reasoner.feed_back(out.hidden_states[-1][:, -1:])
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
        out = lm(
            inputs_embeds=inputs,
            attention_mask=mask,
            position_ids=mask.sum(1, keepdim=True) - 1,
            past_key_values=out.past_key_values,
            **options,
        )
        rows = torch.stack([pattern[:, :, 0, width - 1 :] for pattern in out.attentions], dim=1)
        kept[..., step, : step + 1] = rows
    return list(kept.half())


def think(reasoner: Codi, questions: Sequence[str], n_thoughts: int) -> Tensor:
    """The thoughts alone, nothing recorded."""
    return reason(reasoner, questions, n_thoughts=n_thoughts, max_new_tokens=0).thoughts


def captured(reasoner: Codi, questions: Sequence[str], n_thoughts: int) -> Tensor:
    """Attention (problem, layer, head, query, key)."""
    rows = recorder_for(reasoner, len(questions), n_thoughts)
    reason(reasoner, questions, taps=[rows], n_thoughts=n_thoughts, max_new_tokens=0)
    return rows.attention


@torch.inference_mode()
def read_questions(reasoner: Codi, questions: Sequence[str]) -> Tensor:
    """The questions alone."""
    return BatchPass(reasoner, Taps(), 0).question([reasoner.question(question) for question in questions])


class Products:
    """The linear layers of a batch: all its question tokens at once, then one row a problem and step.

    They are the model's own, one after the other, so that each pass reads all weights from memory, as thinking does. A
    few matrices used again and again would stay in the processor's cache and be much faster on few rows.
    """

    def __init__(self, reasoner: Codi, n_thoughts: int) -> None:
        self.n_thoughts = n_thoughts
        self.layers = linear_layers(reasoner.lm)

    @torch.no_grad()
    def __call__(self, questions: Sequence[str]) -> None:
        n_tokens = n_question_tokens(questions)
        for rows, times in ((n_tokens, 1), (len(questions), self.n_thoughts + 1)):
            inputs = {inner: torch.ones(rows, inner) for inner in {shape[0] for _, shape in self.layers}}
            for _ in range(times):
                for layer, (inner, _) in self.layers:
                    layer(inputs[inner])

    def operations(self, n_rows: int) -> int:
        """Floating-point operations of the products of so many rows, a multiplication and an addition being two."""
        return 2 * n_rows * sum(inner * columns for _, (inner, columns) in self.layers)


class Rows512:
    """Products of 512 rows with one matrix of each of the model's shapes, often enough to be timed."""

    REPEATS = 8

    def __init__(self, reasoner: Codi) -> None:
        self.shapes = sorted({shape for _, shape in linear_layers(reasoner.lm)})
        self.factors = [(torch.ones(512, inner), torch.ones(inner, columns)) for inner, columns in self.shapes]

    @property
    def operations(self) -> int:
        """Floating-point operations of a call."""
        return self.REPEATS * sum(2 * 512 * inner * columns for inner, columns in self.shapes)

    def __call__(self, questions: Sequence[str]) -> None:
        for rows, matrix in self.factors:
            for _ in range(self.REPEATS):
                rows @ matrix


def n_question_tokens(questions: Sequence[str]) -> int:
    """Tokens of questions that are token ids as text."""
    return sum(len(question.split()) for question in questions)


def check_agreement(found: dict[str, Any], n_thoughts: int) -> float:
    """The largest difference between the methods in what they recorded among the thoughts."""
    ours = torch.cat(found["ours"])
    worst = 0.0
    if "2025" in found:
        # Row s of the 2025 maps is the query of thought s and column j thought j + 1; `bot` is query 0 and key 2 here.
        rows = torch.stack(found["2025"])[..., 1:, :-1].float()
        worst = float((rows - ours[..., 1:n_thoughts, 3 : n_thoughts + 2]).abs().max())
    if "transformers" in found:
        patterns = torch.stack([kept for batch in found["transformers"] for kept in batch]).float()
        worst = max(worst, float((patterns - ours[..., : n_thoughts + 1, 2 : n_thoughts + 3]).abs().max()))
    return worst
