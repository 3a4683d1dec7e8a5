"""What a latent reasoner is: all that the loop needs to know of a model that thinks in continuous thoughts.

Families differ in nothing else. A new family is one module with one class that has these members.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor


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
