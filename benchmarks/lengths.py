"""GSM8K's training questions become token counts, so that synthetic prompts are as long as true ones.

The counts come from a byte-level BPE of 8,000 tokens that is trained on the same questions (their published file is
found beside the repository or in the folder named by THOUGHTLENS_DATA). GPT-2's own tokenizer, which is not bundled, is
a BPE of the same kind with a larger vocabulary.
"""

import json
import os
from functools import cache
from pathlib import Path

from tokenizers import ByteLevelBPETokenizer

VOCABULARY = 8000


@cache
def gsm8k_lengths() -> tuple[int, ...]:
    """Tokens of each of the 7,473 training questions, in order."""
    questions = [json.loads(line)["question"] for line in _file().read_text("utf-8").splitlines()]
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(questions, vocab_size=VOCABULARY, show_progress=False)
    return tuple(len(read.ids) for read in tokenizer.encode_batch(questions))


def _file() -> Path:
    beside_the_repository = Path(__file__).parents[2] / "shared" / "data"
    file = Path(os.environ.get("THOUGHTLENS_DATA", beside_the_repository)) / "gsm8k_train.jsonl"
    if not file.is_file():
        raise SystemExit(f"{file} is not there; name the folder of gsm8k_train.jsonl in THOUGHTLENS_DATA.")
    return file
