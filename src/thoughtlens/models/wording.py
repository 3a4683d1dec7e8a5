"""The fixed words of the CODI family, as the official code writes them."""

from typing import Any, Final

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
