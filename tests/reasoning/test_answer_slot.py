"""The `answer` query of free decoding and of a told answer is one position, for every value on both tokenizers."""

import pytest
import torch
from tests.conftest import random_reasoner
from tests.cuts.test_answer_positions import positions
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from thoughtlens.models import bundled
from thoughtlens.reasoning import BatchPass, decode, tell, think
from thoughtlens.taps import Taps

VALUES = ["18", "B", "true", "-3", "$5", ".5"]


class Says:
    """A reasoner that says these token ids, one after the other, and then its end token."""

    def __init__(self, reasoner, script):
        self.reasoner, self.scripts, self.said = reasoner, [script], 0

    def __getattr__(self, name):
        return getattr(self.reasoner, name)

    def next_token(self, hidden):
        self.said += 1
        script = self.scripts[0]
        return torch.tensor([script[min(self.said, len(script)) - 1]])


def llama_like():
    """As LLaMA cuts text: a blank is a token of its own before a digit, and part of the token before anything else."""
    words = [
        "<end>",
        " ",
        "The",
        " answer",
        " is",
        ":",
        *"0123456789",
        "B",
        " B",
        "true",
        " true",
        " -",
        "-",
        " $",
        " .",
        ".",
    ]
    words += ["$", "How", " many", "?"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="?"))
    cut = r"\d| ?[A-Za-z]+| ?[^\sA-Za-z0-9]|\s"
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(cut), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="?")


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def either(request):
    if request.param == "gpt2":
        return AutoTokenizer.from_pretrained(bundled()["tiny-gpt2"])
    return llama_like()


@pytest.mark.parametrize("value", VALUES)
def test_said_and_told_the_query_is_before_the_first_token_of_the_value(value, either):
    reasoner = random_reasoner("gpt2", either)
    prefix, rest = reasoner.spoken(value)
    assert reasoner.decode([*prefix, *rest]) == f"The answer is: {value}"
    assert reasoner.decode(rest).strip() == value
    told = positions(Says(reasoner, []), lambda reading, state: tell(reading, state, [(prefix, rest)]))[0]
    said = positions(Says(reasoner, [*prefix, *rest]), lambda reading, state: decode(reading, state, [40]))[0]
    assert told.index("answer") == len(prefix) - 1 and told.count("answer") == 1
    assert said.count("answer") == 1
    # A step that was read as text may be read once more as the query.
    again = len(said) - len(told)
    assert said[: len(prefix) - 1] + said[len(prefix) - 1 + again :] == told


def test_a_waiting_prefix_that_is_edited_says_what_follows_the_edit():
    """An edit at the `answer` query changes the value, where the step is read a second time."""
    reasoner = random_reasoner("gpt2", llama_like())
    prefix, rest = reasoner.spoken("B")
    (other,) = reasoner.tokenizer(" true")["input_ids"]

    class Edited(Says):
        def next_token(self, hidden):
            token = super().next_token(hidden)
            if self.said > len(prefix) + 1 and not self.edited:
                self.edited = True
                return token * 0 + other
            return token

    says = Edited(reasoner, [*prefix, *rest])
    says.edited = False

    def edit(tensor, moment):
        at = moment.queries[:, -1] == moment.slots["answer"]
        return tensor + 9.0 * at[:, None, None, None] if moment.site == "head" else tensor

    with torch.inference_mode():
        batch = BatchPass(says, Taps([edit]), 1)
        batch.question([reasoner.question("How many?")])
        state = think(batch, reasoner.markers.bot, 1).state
        assert decode(batch, state, [9])[0][: len(prefix) + 1] == [*prefix, other]
