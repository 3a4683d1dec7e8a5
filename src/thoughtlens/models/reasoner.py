"""What a latent reasoner is: all that the loop needs to know of a model that thinks in continuous thoughts.

Families differ in nothing else. A new family is one module with one class that has these members.

The fixed words of the CODI family, as the official code writes them.

The token ids that CODI adds after a vocabulary of V tokens: padding at V, `bot` at V + 1, `eot` at V + 2.

CODI's projection from a hidden state to the next thought, with the official parameter names.

CODI on any decoder of transformers: markers around the thoughts, a projection that feeds them back.

Source: Shen et al. 2025, arXiv 2502.21074, and github.com/zhenyi4/codi (`test.py` for inference).

A decoder becomes its heads' slices of the output projections, whatever the family calls and transposes them.

GPT-2's activation becomes one kernel in the place of eight: the same formula, rounded differently in the last bits.

transformers spells `gelu_new` out (power, products, tanh), each step a pass over the widest tensor of the model;
PyTorch has it whole. Models with other activations are left as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn
from transformers.activations import NewGELUActivation

from thoughtlens.errors import CheckpointError
from thoughtlens.problems import read_answer


class LatentReasoner(Protocol):
    """A model that thinks in continuous thoughts, loaded and ready.

    Attributes:
        lm: the causal language model of transformers, loaded with `thoughtlens.tracing.ATTENTION`.
        tokenizer: its tokenizer.
        n_thoughts: how many thoughts it was trained to think.
        closing: token ids read after the last thought; the last one's output is the answer's first token.
        answer_prefix: the words before the answer's value.
        provenance: what was loaded, from where, in which revision: JSON values.
    """

    @property
    def lm(self) -> Any: ...  # noqa: D102 (described above)
    @property
    def tokenizer(self) -> Any: ...  # noqa: D102
    @property
    def n_thoughts(self) -> int: ...  # noqa: D102
    @property
    def closing(self) -> Sequence[int]: ...  # noqa: D102
    @property
    def answer_prefix(self) -> str: ...  # noqa: D102
    @property
    def provenance(self) -> Mapping[str, Any]: ...  # noqa: D102

    def question(self, text: str) -> list[int]:
        """Token ids of a question, without the marker that opens the thoughts."""
        ...

    def prompt(self, text: str) -> list[int]:
        """Token ids of a question, ending in the marker that opens the thoughts."""
        ...

    def feed_back(self, hidden: Tensor) -> Tensor:
        """Turn the last hidden state (problem, hidden) into the next thought (problem, hidden)."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores (problem, token) of the tokens that may be said after these hidden states (problem, hidden)."""
        ...

    def spoken(self, answer: str) -> tuple[list[int], list[int]]:
        """Token ids of the answer prefix, and of a value with the end token, as the model is trained to say them."""
        ...

    def next_token(self, hidden: Tensor) -> Tensor:
        """The token ids (problem,) that greedy decoding says after these hidden states (problem, hidden)."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated token ids, markers left out."""
        ...

    def read_answer(self, text: str) -> str | None:
        """The answer in a generated text; None if there is none."""
        ...


ANSWER_PREFIX: Final = "The answer is:"


def answer_text(answer: str) -> str:
    """The answer as the model is trained to say it."""
    return f"{ANSWER_PREFIX} {answer}"


def question_text(question: str) -> str:
    """The question as the official inference tidies it (github.com/zhenyi4/codi, `test.py`)."""
    return question.strip().replace("  ", " ")


def answer_ids(tokenizer: Any, answer: str) -> tuple[list[int], int]:
    """Token ids of the answer as the model says it, and the index of the value's first token."""
    read = tokenizer(answer_text(answer), add_special_tokens=False, return_offsets_mapping=True)
    # A blank before the value may be a token of its own (LLaMA) or not (GPT-2); the value's own place decides.
    value_at = len(ANSWER_PREFIX) + 1
    first = next(i for i, (_, end) in enumerate(read["offset_mapping"]) if end > value_at)
    return read["input_ids"], first


N_MARKERS = 3


@dataclass(frozen=True)
class Markers:
    """Ids of the added tokens.

    Attributes:
        vocabulary: V, the number of tokens before them.
    """

    vocabulary: int

    @property
    def pad(self) -> int:
        """Padding; always masked."""
        return self.vocabulary

    @property
    def bot(self) -> int:
        """Begin of thought: its forward pass produces z1."""
        return self.vocabulary + 1

    @property
    def eot(self) -> int:
        """End of thought: its forward pass produces the answer's first token."""
        return self.vocabulary + 2

    @property
    def n_embeddings(self) -> int:
        """Rows of the embedding table."""
        return self.vocabulary + N_MARKERS


def projection(hidden: int, inner: int) -> nn.Sequential:
    """Dropout, linear, exact GELU, linear, LayerNorm: `prj.1`, `prj.3` and `prj.ln` of an official checkpoint.

    Source: github.com/zhenyi4/codi, `src/model.py`; dropout is 0 there and here.
    """
    layers = nn.Sequential(nn.Dropout(0.0), nn.Linear(hidden, inner), nn.GELU(), nn.Linear(inner, hidden))
    layers.add_module("ln", nn.LayerNorm(hidden))
    return layers


@dataclass(frozen=True)
class Codi:
    """A CODI model, merged and ready; a `LatentReasoner`.

    Attributes:
        lm: the causal language model, LoRA merged into its weights.
        projection: from a last hidden state to the next thought.
        tokenizer: the base model's.
        markers: ids of padding, `bot` and `eot`.
        n_thoughts: how many thoughts it was trained to think.
        provenance: what was loaded, from where, in which revision.
    """

    lm: Any
    projection: nn.Module
    tokenizer: Any
    markers: Markers
    n_thoughts: int = 6
    answer_prefix: str = ANSWER_PREFIX
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def closing(self) -> Sequence[int]:
        """The marker after the thoughts."""
        return (self.markers.eot,)

    def question(self, text: str) -> list[int]:
        """Token ids of a question, the tokenizer's own BOS kept."""
        ids: list[int] = self.tokenizer(question_text(text))["input_ids"]
        return ids

    def prompt(self, text: str) -> list[int]:
        """Token ids of a question, then `bot`."""
        return [*self.question(text), self.markers.bot]

    def feed_back(self, hidden: Tensor) -> Tensor:
        """The projection of the last hidden state."""
        thought: Tensor = self.projection(hidden)
        return thought

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of all tokens but the last id, `eot`, as in the official inference."""
        logits: Tensor = self.lm.lm_head(hidden)
        return logits[:, : self.markers.eot]

    def spoken(self, answer: str) -> tuple[list[int], list[int]]:
        """Token ids of the answer prefix, with its blank if that is a token of its own, and of the value and end."""
        ids, value_at = answer_ids(self.tokenizer, answer)
        return ids[:value_at], [*ids[value_at:], self.tokenizer.eos_token_id]

    def next_token(self, hidden: Tensor) -> Tensor:
        """Greedy choice."""
        return self.logits(hidden).argmax(-1)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids up to the end token; markers left out."""
        kept = [i for i in ids if i < self.markers.vocabulary and i != self.tokenizer.eos_token_id]
        text: str = self.tokenizer.decode(kept)
        return text

    def read_answer(self, text: str) -> str | None:
        """The answer in a generated text."""
        return read_answer(text)


def output_projections(lm: Any) -> list[Tensor]:
    """What turns each head's output into its part of the attention layer's output, biases apart.

    Args:
        lm: the causal language model of transformers.

    Returns:
        (head, channel, hidden) of each layer; the head's part is its output (…, channel) times its slice.

    Raises:
        CheckpointError: the architecture is not known.
    """
    n_heads = lm.config.num_attention_heads
    return [weight.reshape(n_heads, -1, weight.shape[-1]) for weight in _weights(lm)]


def head_width(config: Any) -> int:
    """Channels of one head, as the configuration of a model of transformers has it."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def norm_factors(lm: Any) -> list[Tensor]:
    """Small matrices that give the norm of a projected value without projecting it.

    ‖v F‖ = ‖v W‖ for every v: F Fᵀ = W Wᵀ, the Gram matrix of the head's slice W.  Computed in float32 at least, by QR
    decomposition of Wᵀ, which unlike the Gram matrix does not square W's condition.

    Args:
        lm: the causal language model of transformers.

    Returns:
        F (head, channel, rank) of each layer, on the model's device.

    Raises:
        CheckpointError: the architecture is not known.
    """
    return [_factor(output) for output in output_projections(lm)]


def _factor(output: Tensor) -> Tensor:
    wide = output.to(torch.promote_types(output.dtype, torch.float32))
    triangle: Tensor = torch.linalg.qr(wide.mT, mode="r").R
    return triangle.mT


def _weights(lm: Any) -> list[Tensor]:
    """(head · channel, hidden) of each layer: GPT-2's Conv1D is (in, out), a linear layer (out, in)."""
    kind = lm.config.model_type
    if kind == "gpt2":
        return [block.attn.c_proj.weight.detach() for block in lm.base_model.h]
    if kind == "llama":
        return [block.self_attn.o_proj.weight.detach().mT for block in lm.base_model.layers]
    raise CheckpointError(f"no output projection is known for {kind!r}, expected gpt2 or llama; leave values out.")


def fuse_gelu(lm: Any) -> Any:
    """Replace every spelled-out tanh GELU of a model in place, and return the model.

    gelu(x) = x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³))).  Source: Hendrycks and Gimpel 2016, arXiv 1606.08415.
    """
    for module in list(lm.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))
    return lm
