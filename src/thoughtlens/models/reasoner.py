"""Latent reasoners: the interface that the thinking loop needs from a model, and what the families here have in common.

- `LatentReasoner`: the members that every family has; families differ in nothing else.
- `Reasoner`: a decoder of transformers with what feeds its thoughts back and the words around them; the base of `Codi`
  and `Coconut`.
- `Wording`: what differs between checkpoints of a family and is not in their weights.
- `output_projections` and `norm_factors`: the heads' slices of the output projections, whatever the base calls them.
- `fuse_gelu`: GPT-2's activation as one kernel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn
from transformers.activations import NewGELUActivation

from thoughtlens.errors import CheckpointError
from thoughtlens.models.checkpoint_settings import ANSWER_PREFIX
from thoughtlens.notation import ANSWER, BOT, EOT
from thoughtlens.problems import RULES, STRICT, AnswerRule

PAD: Final = "pad"

LATENT: Final = "latent"
MODES: Final = (LATENT, "direct", "verbal")
"""Ways in which one set of weights may answer: by thoughts, at once, or after words."""


class LatentReasoner(Protocol):
    """A model that thinks in continuous thoughts, loaded and ready.

    Attributes:
        lm: the causal language model of transformers, loaded with `thoughtlens.taps.ATTENTION`.
        tokenizer: its tokenizer.
        n_thoughts: how many thoughts it was trained to think; 0 in a mode without thoughts.
        opening: the token id read before the first thought; empty where the question's last token makes the first one.
        closing: token ids read after the last thought; the last one's output is the answer's first token.
        slots: which of `bot`, `eot` and `answer` the checkpoint has.
        padding: the token id that a batch is padded with.
        answer_prefix: the words before the answer's value; empty where the value is said at once.
        answer_rule: how an answer is read and compared.
        group_names: groups of prompt tokens that can be keys of their own, of `thoughtlens.notation.GRAPH_GROUPS`.
        provenance: what was loaded and from where, as JSON values; absent or None where it does not apply:

            name             as the user gave it; what the model is called everywhere
            sha256           digest of the weights
            lora_alpha       LoRA's alpha, merged into the weights
            architecture     `gpt2`, `llama` or another base
            family           `codi`, `coconut`, or that of another package
            wording          what was set of mode and words, where it is not the family's default
            settings         value and origin of what the weights do not say
            dtype, device    of the weights in memory
            revision         commit of a Hub checkpoint
            base_revision    commit of a Hub base
            weights          the file that the weights were read from
            source           what was asked for, such as `model`, `base` and `random_weights`: enough to load it again
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
    def opening(self) -> Sequence[int]: ...  # noqa: D102
    @property
    def closing(self) -> Sequence[int]: ...  # noqa: D102
    @property
    def slots(self) -> frozenset[str]: ...  # noqa: D102
    @property
    def padding(self) -> int: ...  # noqa: D102
    @property
    def answer_prefix(self) -> str: ...  # noqa: D102
    @property
    def answer_rule(self) -> AnswerRule: ...  # noqa: D102
    @property
    def provenance(self) -> Mapping[str, Any]: ...  # noqa: D102
    @property
    def group_names(self) -> tuple[str, ...]: ...  # noqa: D102

    def question(self, text: str) -> list[int]:
        """Token ids of a question, without the marker that opens the thoughts."""
        ...

    def prompt(self, text: str) -> list[int]:
        """Token ids of a question, ending in the marker that opens the thoughts if there is one."""
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

    def groups(self, prompt: Sequence[int]) -> dict[str, list[int]]:
        """The places in a prompt of each group of its tokens that has a name, of `group_names`."""
        ...


@dataclass(frozen=True)
class Wording:
    """What surrounds the thoughts of a checkpoint: fixed by its training, and not in its weights.

    Attributes:
        suffix: said after the question.
        before: token ids between the question and the token that opens the thoughts.
        after: token ids read after the token that closes them.
        prefix: the words before the answer's value; empty where the value is said at once.
    """

    suffix: str = ""
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    prefix: str = ANSWER_PREFIX


@dataclass(frozen=True)
class Markers:
    """The token ids that training adds after a vocabulary of V tokens.

    Attributes:
        vocabulary: V.
        names: what the ids V, V + 1, … stand for.

    Example:
        >>> markers = Markers(50257)
        >>> markers.pad, markers.bot, markers.eot
        (50257, 50258, 50259)
        >>> Markers(50257, ("bot", "eot")).eot
        50258
    """

    vocabulary: int
    names: tuple[str, ...] = (PAD, BOT, EOT)

    @property
    def pad(self) -> int:
        """Padding; always masked."""
        return self._id(PAD)

    @property
    def bot(self) -> int:
        """Begin of thought: its forward pass produces z1."""
        return self._id(BOT)

    @property
    def eot(self) -> int:
        """End of thought: its forward pass produces the answer's first token."""
        return self._id(EOT)

    @property
    def n_embeddings(self) -> int:
        """Rows of the embedding table."""
        return self.vocabulary + len(self.names)

    def _id(self, name: str) -> int:
        return self.vocabulary + self.names.index(name)


@dataclass(frozen=True, repr=False)
class Reasoner:
    """A decoder of transformers that thinks; a `LatentReasoner`, whose other attributes it has.

    Attributes:
        lm: the causal language model, LoRA merged into its weights.
        projection: from a last hidden state to the next thought.
        tokenizer: the base model's.
        markers: ids of padding, `bot` and `eot`, those of them that there are.
        wording: what is said around the thoughts.
        mode: `latent`, `direct` or `verbal`.
        rule: name of the answer rule.
    """

    lm: Any
    projection: nn.Module
    tokenizer: Any
    markers: Markers
    n_thoughts: int = 6
    wording: Wording = Wording()
    mode: str = LATENT
    rule: str = STRICT
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        config = self.lm.config
        return (
            f"<{type(self).__name__} {self.provenance.get('name', 'without a name')}: {config.model_type}, "
            f"{config.num_hidden_layers} layers × {config.num_attention_heads} heads, {self.n_thoughts} thoughts, "
            f"{str(self.lm.dtype).removeprefix('torch.')} on {self.lm.device}>"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        import thoughtlens  # the package's face, as from outside: reports are above this and slow to import

        return thoughtlens.reports.notebook_view(self)

    @property
    def answer_prefix(self) -> str:
        """The words before the answer's value."""
        return self.wording.prefix

    @property
    def answer_rule(self) -> AnswerRule:
        """How an answer is read and compared."""
        return RULES[self.rule]

    @property
    def opening(self) -> Sequence[int]:
        """The marker before the thoughts, or before words."""
        return (self.markers.bot,) if BOT in self.markers.names and self.mode != "direct" else ()

    @property
    def closing(self) -> Sequence[int]:
        """The marker after the thoughts, and what is read after it."""
        if self.mode == "verbal":
            return ()
        return (self.markers.eot, *self.wording.after) if EOT in self.markers.names else self.wording.after

    @property
    def slots(self) -> frozenset[str]:
        """Which slots there are: a value that is said at once is predicted at `eot`."""
        ends = {BOT: self.opening, EOT: self.closing if EOT in self.markers.names else ()}
        found = {name for name, ids in ends.items() if ids}
        return frozenset(found | {ANSWER} if self.answer_prefix or EOT not in found else found)

    @property
    def padding(self) -> int:
        """The marker for padding, or the end token."""
        return self.markers.pad if PAD in self.markers.names else int(self.tokenizer.eos_token_id)

    def question(self, text: str) -> list[int]:
        """Token ids of a question, the tokenizer's own BOS kept."""
        ids: list[int] = self.tokenizer(self.question_text(text) + self.wording.suffix)["input_ids"]
        return [*ids, *self.wording.before]

    def question_text(self, text: str) -> str:
        """The question as the family's inference tidies it."""
        return text

    def prompt(self, text: str) -> list[int]:
        """Token ids of a question, then `bot`."""
        return [*self.question(text), *self.opening]

    def feed_back(self, hidden: Tensor) -> Tensor:
        """The projection of the last hidden state."""
        thought: Tensor = self.projection(hidden)
        return thought

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of all tokens."""
        logits: Tensor = self.lm.get_output_embeddings()(hidden)
        return logits

    def spoken(self, answer: str) -> tuple[list[int], list[int]]:
        """Token ids of the answer prefix, with its blank if that is a token of its own, and of the value and end."""
        ids, value_at = answer_ids(self.tokenizer, answer, self.answer_prefix)
        return ids[:value_at], [*ids[value_at:], self.tokenizer.eos_token_id]

    def next_token(self, hidden: Tensor) -> Tensor:
        """Greedy choice."""
        return self.logits(hidden).argmax(-1)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids up to the end token; markers left out."""
        # A tokenizer looks for its end token each time that it is asked, and this is asked at every step of a text.
        vocabulary, end = self.markers.vocabulary, self.tokenizer.eos_token_id
        kept = [i for i in ids if i < vocabulary and i != end]
        text: str = self.tokenizer.decode(kept)
        return text

    def read_answer(self, text: str) -> str | None:
        """The answer in a generated text."""
        return self.answer_rule.read(text)

    @property
    def group_names(self) -> tuple[str, ...]:
        """Names of groups of prompt tokens that can be recorded and cut as keys, of `GRAPH_GROUPS`; here none."""
        return ()

    def groups(self, prompt: Sequence[int]) -> dict[str, list[int]]:
        """The places in a prompt, as `prompt` gives it, of each group of tokens that has a name."""
        return {}


def output_projections(lm: Any) -> list[Tensor]:
    """Each head's slice of the output projections: its output times its slice is what it adds, biases apart.

    Args:
        lm: the causal language model of transformers.

    Returns:
        For each layer the weights (head, channel, hidden).

    Raises:
        CheckpointError: the architecture is none whose output projections are known.

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
        CheckpointError: the architecture is none whose output projections are known.

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


def answer_text(answer: str, prefix: str = ANSWER_PREFIX) -> str:
    """The answer as the model is trained to say it."""
    return f"{prefix} {answer}" if prefix else answer


def answer_ids(tokenizer: Any, answer: str, prefix: str = ANSWER_PREFIX) -> tuple[list[int], int]:
    """Token ids of the answer as the model is trained to say it, and the index of the value's first token."""
    text = answer_text(answer, prefix)
    read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    # The blank before the value may be a token of its own (LLaMA) or not (GPT-2), so the value's offset decides.
    value_at = len(text) - len(answer)
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
    kind, base = lm.config.model_type, lm.base_model
    if kind == "gpt2":
        return [block.attn.c_proj.weight.detach() for block in base.h]
    if kind == "gpt_neox":
        return [block.attention.dense.weight.detach().mT for block in base.layers]
    if kind == "phi":
        return [block.self_attn.dense.weight.detach().mT for block in base.layers]
    if all(hasattr(getattr(block, "self_attn", None), "o_proj") for block in getattr(base, "layers", [None])):
        return [block.self_attn.o_proj.weight.detach().mT for block in base.layers]
    raise CheckpointError(f"no output projection is known for {kind!r}, expected gpt2 or llama; leave values out.")
