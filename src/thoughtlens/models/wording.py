"""The fixed words of the CODI family, as the official code writes them."""

from typing import Final

ANSWER_PREFIX: Final = "The answer is:"


def answer_text(answer: str) -> str:
    """The answer as the model is trained to say it."""
    return f"{ANSWER_PREFIX} {answer}"


def question_text(question: str) -> str:
    """The question as the official inference tidies it (github.com/zhenyi4/codi, `test.py`)."""
    return question.strip().replace("  ", " ")
