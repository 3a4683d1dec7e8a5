"""Many cuts of many problems at once are each cut of each problem alone, the question read again for each."""

import random

import pytest
import torch
from tests.conftest import SHORT, random_reasoner, usually
from tests.cut_oracle import PROBLEMS, kl, late, rows, without_heads

from thoughtlens.cuts import (
    Add,
    Cut,
    Intervention,
    Mean,
    Noise,
    Resample,
    Scale,
    Shape,
    Zero,
    ablate_head,
    ablate_thought,
    cut,
    freeze_thoughts,
    knock_out,
    patch_thought,
    shuffle_thoughts,
    stop_after,
    weaken_edge,
)
from thoughtlens.cuts.edits import Own
from thoughtlens.cuts.passes import Cutter, Cutting, batch_of
from thoughtlens.cuts.replacement_values import bind
from thoughtlens.cuts.study_batches import Target, record_values
from thoughtlens.models import load
from thoughtlens.problems import same_answer, sample
from thoughtlens.reasoning import decode, reason
from thoughtlens.taps import Site

pytestmark = pytest.mark.usefixtures("short_texts")

# Each test has one family in the usual suite, and each family some of the tests.
GPT2, LLAMA = usually("gpt2"), usually("llama")

CUTS = [
    ablate_head("L0H1", edit=Zero()),
    stop_after(2, n_thoughts=6),
    ablate_head("L1H2", edit=Mean()),
    ablate_thought(["z2", "z5"], edit=Resample(3)),
    stop_after(0, n_thoughts=6),
    ablate_head("L2H0", edit=Noise(1), queries=["eot", "answer"]),
    patch_thought("z3", "eva"),
    knock_out("z4", ["z1", "question"]),
    freeze_thoughts(ablate_head("L1H0", edit=Zero())),
    weaken_edge(["answer", "text"], "z6", 0.5),
    shuffle_thoughts(2),
    stop_after(5, n_thoughts=6),
    cut(Intervention(Site.HEAD, Scale(1.5), layers=frozenset({0})), label="louder"),
]


def bound(reasoner, cuts, problems, tmp_path, n_thoughts=6):
    prompts = tuple(reasoner.prompt(problem.question) for problem in problems)
    target = Target(tmp_path, tuple(problems), (tuple(range(len(problems))),), Shape(3, 8, n_thoughts), prompts)
    needing = [part for one in cuts for part in one.parts]
    recorded = record_values(reasoner, target, needing)
    return lambda parts, places: bind(recorded, parts, places)


def cutting_of(reasoner, problems=PROBLEMS, n_thoughts=6):
    return Cutting(reasoner, batch_of(reasoner, problems, n_thoughts), n_thoughts)


def assert_alike(found, expected, tolerance=3e-5):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.correct, one.answer, one.failure) == (other.correct, other.answer, other.failure)
        assert one.said_prefix == other.said_prefix
        for name in ("prefix_logprob", "gold_logprob", "joint_logprob"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=2 * tolerance, nan_ok=True), name
        assert one.kl == pytest.approx(other.kl, abs=tolerance / 10)


@pytest.mark.parametrize("reasoner", LLAMA, indirect=True)
def test_many_cuts_at_once_are_each_cut_alone(reasoner, tmp_path):
    """Alone: one problem, one cut, one reading of the question at a time; two problems a cut, each in its turn."""
    made = bound(reasoner, CUTS, PROBLEMS, tmp_path)
    cutting = cutting_of(reasoner)
    together = rows(cutting.outcomes(made([one.parts for one in CUTS], range(4))))
    for turn, (found, one) in enumerate(zip(together, CUTS, strict=True)):
        for place in (turn % 4, (turn + 1) % 4):
            alone = cutting_of(reasoner, [PROBLEMS[place]]).outcomes(made([one.parts], [place]))
            assert_alike([found[place]], rows(alone)[0])
    before = cutting.baseline.gold_logprob[0]
    for row in together:  # every cut does something
        assert max(abs(outcome.gold_logprob - own) for outcome, own in zip(row, before, strict=True)) > 3e-3


@pytest.mark.parametrize("reasoner", GPT2, indirect=True)
def test_order_of_problems_and_of_cuts_and_chunks_change_nothing(reasoner, tmp_path):
    made = bound(reasoner, CUTS, PROBLEMS, tmp_path)
    expected = rows(cutting_of(reasoner).outcomes(made([one.parts for one in CUTS], range(4))))
    prompts = [reasoner.prompt(problem.question) for problem in PROBLEMS]
    rng = random.Random(0)
    for n_copies in (1, 3, len(CUTS)):
        places = rng.sample(range(4), 4)
        order = rng.sample(range(len(CUTS)), len(CUTS))
        cuts = [CUTS[place].parts for place in order]
        cutter = Cutter(reasoner, PROBLEMS, prompts, cuts, 6, made, refuse=never, n_copies=n_copies)
        found = rows(cutter(places, range(len(cuts))))[1:]
        for row, place in zip(found, order, strict=True):
            assert_alike(row, [expected[place][problem] for problem in places])


def never(problem, cut_place, reason_):
    raise AssertionError(f"{problem.id} failed: {reason_}")


@pytest.mark.parametrize("reasoner", GPT2, indirect=True)
def test_the_baseline_is_what_the_model_says_when_it_is_left_alone(reasoner):
    cutting = cutting_of(reasoner)
    trace = reason(reasoner, [problem.question for problem in PROBLEMS], max_new_tokens=SHORT)
    for problem, outcome, text in zip(PROBLEMS, *rows(cutting.baseline), trace.texts, strict=True):
        assert outcome.answer == (reasoner.read_answer(text) or "")
        assert outcome.correct == same_answer(reasoner.read_answer(text), problem.answer)
        naive = late(reasoner, reasoner.lm, problem)
        assert outcome.gold_logprob == pytest.approx(naive.logprob, abs=3e-5)
        assert outcome.prefix_logprob == pytest.approx(naive.prefix, abs=3e-5)
        assert outcome.joint_logprob == pytest.approx(naive.prefix + naive.logprob, abs=6e-5)
        assert outcome.said_prefix == text.strip().startswith("The answer is:")
    assert cutting.baseline.kl.tolist() == [[0.0] * 4]
    torch.testing.assert_close(cutting.thoughts, trace.thoughts, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layer_head", usually((1, 3), of=[(0, 0), (1, 3)]))
@pytest.mark.parametrize("reasoner", LLAMA, indirect=True)
def test_kl_is_that_of_the_values_first_token_from_the_baseline_to_the_cut(layer_head, reasoner):
    after = without_heads(reasoner, [layer_head])
    (found,) = rows(cutting_of(reasoner).outcomes([ablate_head(layer_head, edit=Zero()).parts]))
    for problem, outcome in zip(PROBLEMS, found, strict=True):
        before, cut_ = late(reasoner, reasoner.lm, problem), late(reasoner, after, problem)
        assert outcome.kl == pytest.approx(kl(before.first, cut_.first), abs=1e-6)
        assert outcome.kl >= 0
    backwards = [kl(late(reasoner, after, p).first, late(reasoner, reasoner.lm, p).first) for p in PROBLEMS]
    assert any(abs(one.kl - other) > 3e-6 for one, other in zip(found, backwards, strict=True))


@pytest.mark.parametrize(
    "part",
    [
        Intervention(Site.HEAD, Own()),
        Intervention(Site.THOUGHT, Own()),
        pytest.param(Intervention(Site.HEAD, Scale(1.0)), marks=pytest.mark.nightly),
        Intervention(Site.PATTERN, Scale(1.0)),
        pytest.param(Intervention(Site.THOUGHT, Add((0.0,) * 32)), marks=pytest.mark.nightly),
    ],
    ids=["own heads", "own thoughts", "heads times one", "pattern times one", "nothing added"],
)
@pytest.mark.parametrize("reasoner", GPT2, indirect=True)
def test_a_problem_patched_with_itself_says_and_is_told_the_same(part, reasoner, tmp_path):
    made = bound(reasoner, [cut(part)], PROBLEMS, tmp_path)
    cutting = cutting_of(reasoner)
    (found,) = rows(cutting.outcomes(made([(part,)], range(4))))
    assert_alike(found, *rows(cutting.baseline), 1e-5)
    trace = reason(reasoner, [p.question for p in PROBLEMS], taps=made([(part,)], range(4))[0], max_new_tokens=SHORT)
    assert trace.texts == reason(reasoner, [p.question for p in PROBLEMS], max_new_tokens=SHORT).texts


@pytest.mark.parametrize("k", usually(0, 5, of=[0, 1, 5]))
@pytest.mark.parametrize("reasoner", LLAMA, indirect=True)
def test_stopping_after_k_thoughts_is_thinking_k(k, reasoner, monkeypatch):
    """Untrained models babble to the last position: a longer thinking would leave them less room."""
    monkeypatch.setattr("thoughtlens.cuts.passes.decode", decode)
    reasoner.lm.config.max_position_embeddings = 64
    problems = PROBLEMS[:2]
    (found,) = rows(cutting_of(reasoner, problems).outcomes([stop_after(k, n_thoughts=6).parts]))
    texts = reason(reasoner, [problem.question for problem in problems], n_thoughts=k).texts
    assert [outcome.answer for outcome in found] == [reasoner.read_answer(text) or "" for text in texts]
    for problem, outcome in zip(problems, found, strict=True):
        naive, before = (late(reasoner, reasoner.lm, problem, n_thoughts=n) for n in (k, 6))
        assert outcome.gold_logprob == pytest.approx(naive.logprob, abs=3e-5)
        assert outcome.kl == pytest.approx(kl(before.first, naive.first), abs=3e-6)


@pytest.mark.parametrize("name", usually("tiny-gpt2", of=["tiny-gpt2", "tiny-gpt2-control"]))
def test_texts_that_are_not_decoded_again_are_what_would_be_decoded(name, tmp_path, monkeypatch):
    """On a model that is right of some problems and wrong of others: `Told.greedy` saves decoding, and nothing else."""
    monkeypatch.setattr("thoughtlens.cuts.passes.decode", decode)
    model = load(name)
    problems = sample("arithmetic", n=24, seed=3)
    cuts = [
        ablate_thought("z2", edit=Zero()),
        ablate_head("L0H1", edit=Zero()),
        knock_out("z4", "z2"),
        Cut("idle", (weaken(1.0),)),
    ]
    cuts += [
        ablate_head("L1H1", edit=Resample(), queries=["answer"]),
        ablate_head("L2H0", queries=["text"], edit=Zero()),
    ]
    made = bound(model, cuts, problems, tmp_path)
    parts = made([one.parts for one in cuts], range(24))
    found = rows(cutting_of(model, problems).outcomes(parts))
    questions = [problem.question for problem in problems]
    for row, its in zip(found, parts, strict=True):
        texts = reason(model, questions, taps=its).texts
        assert [outcome.answer for outcome in row] == [model.read_answer(text) or "" for text in texts]
    rights = [sum(outcome.correct for outcome in row) for row in found]
    assert min(rights) < 24 and any(0 < right < 24 for right in rights)


def weaken(factor):
    return Intervention(Site.PATTERN, Scale(factor))


def test_answers_that_end_early_leave_and_others_keep_their_own_values(tokenizer, tmp_path):
    """Rows of very different lengths: problems that are done leave the batch, edits must follow those that stay."""
    reasoner = random_reasoner("llama", tokenizer, torch.float64)
    lengths = [1, 11, 2, 7]
    sizes = []

    def watch(tensor, moment):
        sizes.append(len(moment.rows))
        return tensor

    cuts = [ablate_head("L1H2", edit=Resample(1)), ablate_head("L0H3", edit=Noise(4)), ablate_head("L2H1", edit=Own())]
    made = bound(reasoner, cuts, PROBLEMS, tmp_path)
    for one in cuts:
        taps = made([one.parts], range(4))[0]
        together = Rushed(reasoner, lengths)
        trace = reason(together, [problem.question for problem in PROBLEMS], taps=[*taps, watch], max_new_tokens=12)
        for place, problem in enumerate(PROBLEMS):
            alone = Rushed(reasoner, lengths[place : place + 1])
            its = made([one.parts], [place])[0]
            expected = reason(alone, [problem.question], taps=its, max_new_tokens=12)
            assert trace.tokens[place] == expected.tokens[0] and len(expected.tokens[0]) == lengths[place]
    assert {4, 2, 1} <= set(sizes)


class Rushed:
    """A reasoner that says its end token after a given number of its own tokens."""

    def __init__(self, reasoner, lengths):
        self.reasoner, self.lengths, self.n_said = reasoner, list(lengths), 0

    def __getattr__(self, name):
        return getattr(self.reasoner, name)

    def next_token(self, hidden):
        if len(hidden) < len(self.lengths):  # who had said all has left the batch
            self.lengths = [length for length in self.lengths if length >= self.n_said]
        end = self.reasoner.tokenizer.eos_token_id
        logits = self.reasoner.logits(hidden)
        logits[:, end] = -torch.inf
        done = torch.tensor([length <= self.n_said for length in self.lengths])
        self.n_said += 1
        return torch.where(done, end, logits.argmax(-1))
