"""CODI on any decoder of transformers: markers around the thoughts, a projection that feeds them back.

Source: Shen et al. 2025, arXiv 2502.21074, and github.com/zhenyi4/codi (`test.py` for inference).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from thoughtlens.models.markers import Markers
from thoughtlens.models.wording import ANSWER_PREFIX, answer_ids, question_text
from thoughtlens.problems import read_answer


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
