"""A told answer is read as a said one is: the same queries at the same positions, whatever the batch."""

import pytest
import torch
from tests.conftest import QUESTIONS, random_reasoner

from thoughtlens.notation import PAD_CODE
from thoughtlens.reasoning import BatchPass, decode, tell, think
from thoughtlens.taps import Site, Taps


class Watch:
    """Keeps the codes of the queries of one layer, by problem: padding left out."""

    def __init__(self):
        self.seen = {}

    def __call__(self, tensor, moment):
        if moment.site is Site.HEAD and moment.layer == 0:
            for row, code in zip(moment.rows.tolist(), moment.queries[:, 0].tolist(), strict=True):
                if code != PAD_CODE:
                    self.seen.setdefault(row, []).append(code)
        return tensor


class Says:
    """A reasoner that says these token ids, one list a problem, and then its end token."""

    def __init__(self, reasoner, scripts):
        self.reasoner, self.scripts, self.said = reasoner, scripts, 0

    def __getattr__(self, name):
        return getattr(self.reasoner, name)

    def next_token(self, hidden):
        assert len(hidden) == len(self.scripts)
        self.said += 1
        return torch.tensor([script[min(self.said, len(script)) - 1] for script in self.scripts])


class WithBlank(Says):
    """As LLaMA's tokenizer has it: the blank before the value is a token of its own."""

    def spoken(self, answer):
        ids = self.reasoner.tokenizer(f"The answer is:{answer}", add_special_tokens=False)["input_ids"]
        (blank,) = self.reasoner.tokenizer(" ")["input_ids"]
        return [*ids[:4], blank], [*ids[4:], self.reasoner.tokenizer.eos_token_id]


def positions(reasoner, read):
    watch = Watch()
    with torch.inference_mode():
        reading = BatchPass(reasoner, Taps([watch]), 2)
        reading.question([reasoner.question(question) for question in QUESTIONS[: len(reasoner.scripts)]])
        state = think(reading, reasoner.markers.bot, 2).state
        read(reading, state)
    names = {code: name for name, code in reading.slots.items()}
    return [[names[code] for code in watch.seen[row]][4:] for row in range(len(reasoner.scripts))]


@pytest.mark.parametrize("kind", [Says, WithBlank])
@pytest.mark.parametrize("answer", ["8", "1234", "-5.5"])
def test_a_told_answer_has_the_queries_of_the_same_answer_said(kind, answer, tokenizer):
    reasoner = kind(random_reasoner("gpt2", tokenizer), [[]])
    prefix, value = reasoner.spoken(answer)
    reasoner.scripts = [[*prefix, *value]]
    told = positions(reasoner, lambda reading, state: tell(reading, state, [(prefix, value)]))
    said = positions(reasoner, lambda reading, state: decode(reading, state, [40]))
    assert told == said
    assert told[0].count("answer") == 1 and told[0].index("answer") == len(prefix) - 1


def test_what_is_read_of_a_told_answer_does_not_depend_on_longer_ones_beside_it(tokenizer):
    reasoner = Says(random_reasoner("gpt2", tokenizer), [[], []])
    answers = [reasoner.spoken("8"), reasoner.spoken("123456")]
    together = positions(reasoner, lambda reading, state: tell(reading, state, answers))
    for row, answer in enumerate(answers):
        reasoner.scripts = [[]]
        alone = positions(reasoner, lambda reading, state, answer=answer: tell(reading, state, [answer]))
        assert len(alone[0]) == len(together[row])
        assert alone[0] == together[row]
