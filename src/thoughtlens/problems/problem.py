"""A problem: what is asked, what the answer is, and how one gets there."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One question with its gold answer.

    Attributes:
        id: unique in its set; the key that joins everything about a problem.
        question: the text put to the model.
        answer: the gold answer as text: a number without commas, `true`/`false`, a letter A-E, or LaTeX.
        steps: the worked steps, where the set gives them; `<<12-5=7>>` in the arithmetic set.
    """

    id: str
    question: str
    answer: str
    steps: tuple[str, ...] = ()
