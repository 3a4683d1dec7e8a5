"""CODI (Shen et al. 2025) and Coconut (Hao et al. 2024), the two families of models, on any decoder of transformers.

`Codi`: two markers around the thoughts, and a projection that feeds them back; inference as in `test.py` of
github.com/zhenyi4/codi (arXiv 2502.21074). `projection`: that projection, with weights drawn at random.

`Coconut`: thoughts are last hidden states fed back as they are, between two markers or none; inference as in
`coconut.py` of github.com/facebookresearch/coconut (arXiv 2412.06769). Its controls differ in what is fed back
(`Pause`) or think nothing (plain language models). `symbol_tokenizer`: the 40 symbols of the graph problems of arXiv
2505.12514.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from thoughtlens.models.reasoner import Reasoner
from thoughtlens.notation import GRAPH_GROUPS
from thoughtlens.problems import AFTER_HASH, OFFICIAL, AnswerRule

_NAMED_SYMBOLS: Final = {33: "<|latent|>", 34: "|", 35: "[Q]", 36: "[R]", 37: "[A]", 38: "<eos>"}
_N_SYMBOLS: Final = 40


@dataclass(frozen=True, repr=False)
class Codi(Reasoner):
    """A CODI model, ready to think; a `LatentReasoner`, whose other attributes it has.

    Attributes:
        lm: the causal language model, LoRA merged into its weights.
        projection: from a last hidden state to the next thought.
        tokenizer: the base model's.
        markers: ids of padding, `bot` and `eot`.
    """

    def question_text(self, text: str) -> str:
        """The question without blanks around it and with single ones in it, as the official inference has it."""
        return question_text(text)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of all tokens but the last id, `eot`, as in the official inference; after words it may be said."""
        logits = super().logits(hidden)
        return logits[:, : self.markers.eot + (self.mode == "verbal")]


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


def question_text(question: str) -> str:
    """The question as the official inference tidies it (github.com/zhenyi4/codi, `test.py`)."""
    return question.strip().replace("  ", " ")


@dataclass(frozen=True, repr=False)
class Coconut(Reasoner):
    """A Coconut model, ready to think; a `LatentReasoner`, whose other attributes it has.

    Attributes:
        projection: `torch.nn.Identity()`, or the `Pause` of a control.
        markers: ids of `bot` (start-latent), `eot` (end-latent) and latent, those of them that there are.
    """

    @property
    def answer_rule(self) -> AnswerRule:
        """How an answer is read and compared; officially what follows the last `#`."""
        return AFTER_HASH if self.rule == OFFICIAL else super().answer_rule

    @property
    def group_names(self) -> tuple[str, ...]:
        """The groups of a graph's tokens, where the model reads graphs."""
        return GRAPH_GROUPS if "[Q]" in self.tokenizer.get_vocab() else ()

    def groups(self, prompt: Sequence[int]) -> dict[str, list[int]]:
        """Places in a graph's prompt: `|` and `[Q]`, both ends of the edges, candidates, `[R]` and root."""
        if not self.group_names:
            return {}
        known = self.tokenizer.get_vocab()
        end = list(prompt).index(known["[Q]"])
        edges = {"src": range(1, end, 3), "tgt": range(2, end, 3), "sep": range(3, end + 1, 3)}
        asked = {"cand": range(end + 1, end + 3), "R": range(end + 3, end + 4), "root": range(end + 4, end + 5)}
        return {name: list(places) for name, places in (edges | asked).items()}


class Pause(nn.Module):
    """What is fed back where every thought is one learned vector (hidden,), whatever the model has thought."""

    def __init__(self, vector: Tensor) -> None:
        super().__init__()
        self.vector = nn.Parameter(vector.detach().clone().flatten())

    def forward(self, hidden: Tensor) -> Tensor:
        """The vector, once a problem."""
        return self.vector.to(hidden).expand_as(hidden)


def symbol_tokenizer() -> Any:
    """The tokenizer of graph problems: nodes 0 to 30, and the signs between them, parted by blanks.

    Returns:
        A tokenizer of 40 symbols.

    Example:
        >>> symbol_tokenizer()("<eos> 3 7 | [Q] 7 2 [R] 3")["input_ids"]
        [38, 3, 7, 34, 35, 7, 2, 36, 3]

    Reference: github.com/Ber666/reasoning-by-superposition.
    """
    names = [_NAMED_SYMBOLS.get(i, str(i) if i <= 30 else f"<unused{i}>") for i in range(_N_SYMBOLS)]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unused39>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<unused39>")


def pause_vector(state: dict[str, Tensor], width: int) -> Tensor | None:
    """The learned pause vector among a checkpoint's own tensors; None if there is none."""
    found = [name for name, tensor in state.items() if "pause" in name.lower() and tensor.numel() == width]
    return state[found[0]].to(torch.float32) if found else None
