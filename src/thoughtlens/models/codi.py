"""The CODI family on any decoder of transformers (Shen et al. 2025, arXiv 2502.21074).

`Codi`: two markers around the thoughts, and a projection that feeds them back; inference as in `test.py` of
github.com/zhenyi4/codi. `projection`: that projection, with weights drawn at random.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from thoughtlens.models.reasoner import Reasoner


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
