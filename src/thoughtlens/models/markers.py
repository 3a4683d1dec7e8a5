"""The token ids that CODI adds after a vocabulary of V tokens: padding at V, `bot` at V + 1, `eot` at V + 2."""

from dataclasses import dataclass

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
