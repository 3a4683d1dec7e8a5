"""A small byte-level tokenizer, made from the generator's own problems, that can encode any text.

Every number below 100, every common word and the marks `<<` and `>>` become one token; anything else falls back to
pieces of words and at last to bytes. Words carry the spaces on both sides, so that a number is the same token wherever
it stands and decoding gives back exactly the text that was encoded.
"""

from collections.abc import Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from thoughtlens.models.wording import ANSWER_PREFIX, answer_text
from thoughtlens.problems.arithmetic import LIMIT, arithmetic_problem

END = "<|endoftext|>"
_PIECES = r"<<|>> ?|\d{1,2}| ?[A-Za-z]+ ?|[^A-Za-z\d\s] ?|\s"
_N_PROBLEMS = 20_000


def build_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Train the tokenizer; the same arguments always give the same one.

    Args:
        vocabulary: the most tokens it may have, at least 256 bytes, 100 numbers and the end token.

    Returns:
        The tokenizer, whose end token is the last of its vocabulary but for nothing: the markers come after it.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, clean_up_tokenization_spaces=False)


def _corpus() -> Iterator[str]:
    n_steps = dict.fromkeys(range(2, 7), 1.0)
    for index in range(_N_PROBLEMS):
        problem = arithmetic_problem(index, split="train", seed=-1, n_steps=n_steps)
        yield problem.question
        yield " ".join(problem.steps) + " " + answer_text(problem.answer)
    # Seen often enough that each becomes one token, whether or not problems hold it.
    yield from (f"{ANSWER_PREFIX} {number}" for number in range(100) for _ in range(LIMIT))
