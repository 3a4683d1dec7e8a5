"""Latent reasoners: the interface that the thinking loop needs from a model, and its implementation for CODI.

- `LatentReasoner`: the members that every family has; families differ in nothing else.
- `Codi`: CODI on any decoder of transformers: two markers around the thoughts, and a projection that feeds them back
  (Shen et al. 2025, arXiv 2502.21074; inference as in `test.py` of github.com/zhenyi4/codi).
- `Markers`, `projection` and the words of the answer: the parts of CODI that its training shares with it.
- `output_projections` and `norm_factors`: the heads' slices of the output projections, whatever the family calls them.
- `fuse_gelu`: GPT-2's activation as one kernel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn
from transformers.activations import NewGELUActivation

from thoughtlens.errors import CheckpointError
from thoughtlens.problems import read_answer

ANSWER_PREFIX: Final = "The answer is:"
"""The words that CODI's official training puts before an answer."""

N_MARKERS: Final = 3


class LatentReasoner(Protocol):
    """A model that thinks in continuous thoughts, loaded and ready.

    Attributes:
        lm: the causal language model of transformers, loaded with `thoughtlens.taps.ATTENTION`.
        tokenizer: its tokenizer.
        n_thoughts: how many thoughts it was trained to think.
        closing: token ids read after the last thought; the last one's output is the answer's first token.
        answer_prefix: the words before the answer's value.
        provenance: what was loaded and from where, as JSON values; absent or None where it does not apply:

            name             as the user gave it; what the model is called everywhere
            sha256           digest of the weights
            lora_alpha       LoRA's alpha, merged into the weights
            architecture     `gpt2` or `llama`
            dtype, device    of the weights in memory
            revision         commit of a Hub checkpoint
            base_revision    commit of a Hub base
            weights          the file that the weights were read from
            source           `model`, `base` and `random_weights` as they were asked for: enough to load it again
            random_weights   seed of weights that were drawn anew
            strengths        of the heads of a planted model
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


@dataclass(frozen=True)
class Markers:
    """The token ids that CODI adds after a vocabulary of V tokens.

    Attributes:
        vocabulary: V.

    Example:
        >>> markers = Markers(50257)
        >>> markers.pad, markers.bot, markers.eot
        (50257, 50258, 50259)
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


@dataclass(frozen=True)
class Codi:
    """A CODI model, ready to think; a `LatentReasoner`, whose other attributes it has.

    Attributes:
        lm: the causal language model, LoRA merged into its weights.
        projection: from a last hidden state to the next thought.
        tokenizer: the base model's.
        markers: ids of padding, `bot` and `eot`.
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


def projection(hidden: int, inner: int) -> nn.Sequential:
    """Make CODI's projection from a hidden state to the next thought, with weights drawn at random.

    Dropout (0, as in the official code), linear, exact GELU, linear, LayerNorm: `prj.1`, `prj.3` and `prj.ln` of an
    official checkpoint.

    Args:
        hidden: width of the hidden states.
        inner: width between the two linear layers.

    Returns:
        The module, from (…, hidden) to (…, hidden).

    Example:
        >>> sorted(projection(8, 16).state_dict())
        ['1.bias', '1.weight', '3.bias', '3.weight', 'ln.bias', 'ln.weight']

    Reference: github.com/zhenyi4/codi, `src/model.py`.
    """
    layers = nn.Sequential(nn.Dropout(0.0), nn.Linear(hidden, inner), nn.GELU(), nn.Linear(inner, hidden))
    layers.add_module("ln", nn.LayerNorm(hidden))
    return layers


def output_projections(lm: Any) -> list[Tensor]:
    """Each head's slice of the output projections: its output times its slice is what it adds, biases apart.

    Args:
        lm: the causal language model of transformers.

    Returns:
        For each layer the weights (head, channel, hidden).

    Raises:
        CheckpointError: the architecture is neither GPT-2 nor LLaMA.

    Example:
        >>> from thoughtlens.models import load
        >>> slices = output_projections(load("tiny-gpt2").lm)
        >>> len(slices), tuple(slices[0].shape)
        (4, (4, 16, 64))
    """
    n_heads = lm.config.num_attention_heads
    return [weight.reshape(n_heads, -1, weight.shape[-1]) for weight in _weights(lm)]


def norm_factors(lm: Any) -> list[Tensor]:
    """Small matrices that give the norm of a projected value without projecting it.

    ‖v F‖ = ‖v W‖ for every v: F Fᵀ = W Wᵀ, the Gram matrix of the head's slice W.  Computed in float32 at least, by QR
    decomposition of Wᵀ, which unlike the Gram matrix does not square W's condition number.

    Args:
        lm: the causal language model of transformers.

    Returns:
        For each layer the factors F (head, channel, rank), on the model's device.

    Raises:
        CheckpointError: the architecture is neither GPT-2 nor LLaMA.

    Example:
        >>> from thoughtlens.models import load
        >>> tuple(norm_factors(load("tiny-gpt2").lm)[0].shape)
        (4, 16, 16)
    """
    return [_factor(output) for output in output_projections(lm)]


def fuse_gelu(lm: Any) -> Any:
    """Replace every tanh GELU that transformers computes step by step by PyTorch's single kernel.

    gelu(x) = x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³))).  transformers' `gelu_new` computes it in eight steps, each a
    pass over the widest tensor of the model; results differ in the last bits. Other activations are left as they are.

    Args:
        lm: a model; it is changed in place.

    Returns:
        The same model.

    Example:
        >>> fuse_gelu(nn.Sequential(NewGELUActivation()))
        Sequential(
          (0): GELU(approximate='tanh')
        )

    Reference: Hendrycks and Gimpel 2016, arXiv 1606.08415.
    """
    for module in list(lm.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))
    return lm


def answer_text(answer: str) -> str:
    """The answer as the model is trained to say it."""
    return f"{ANSWER_PREFIX} {answer}"


def question_text(question: str) -> str:
    """The question as the official inference tidies it (github.com/zhenyi4/codi, `test.py`)."""
    return question.strip().replace("  ", " ")


def answer_ids(tokenizer: Any, answer: str) -> tuple[list[int], int]:
    """Token ids of the answer as the model is trained to say it, and the index of the value's first token."""
    read = tokenizer(answer_text(answer), add_special_tokens=False, return_offsets_mapping=True)
    # The blank before the value may be a token of its own (LLaMA) or not (GPT-2), so the value's offset decides.
    value_at = len(ANSWER_PREFIX) + 1
    first = next(i for i, (_, end) in enumerate(read["offset_mapping"]) if end > value_at)
    return read["input_ids"], first


def head_width(config: Any) -> int:
    """Channels of one head, as the configuration of a model of transformers has it."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


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
