"""Each term of the loss against whole sequences, one problem at a time, without cache or padding, and plain loops."""

import math
from functools import partial

import pytest
import torch
from tests.training.conftest import FAMILIES, HIDDEN, tiny_lm
from torch.nn.functional import cross_entropy

from thoughtlens.models import Markers
from thoughtlens.training import (
    IGNORED,
    TERMS,
    CodiModule,
    Collator,
    distillation,
    objective,
    per_problem_cross_entropy,
)
from thoughtlens.training.objective import _scrambled

THOUGHTS = 4
SUPERVISED = (1, 3)
ALL = {"teacher": 0.7, "student": 1.1, "distillation": 1.3, "supervision": 0.6}


@pytest.fixture(params=FAMILIES)
def module(request, tokenizer):
    torch.manual_seed(0)
    markers = Markers(len(tokenizer))
    lm = tiny_lm(request.param, markers.n_embeddings)
    made = CodiModule(lm, hidden=HIDDEN, inner=24, bot=markers.bot, n_thoughts=THOUGHTS).double()
    made.supervised = SUPERVISED
    return made


@pytest.fixture
def collator(tokenizer):
    markers = Markers(len(tokenizer))
    return Collator(tokenizer, markers.eot, markers.pad)


def close(found, expected):
    # The model is in float64, but cross-entropies are taken in float32.
    torch.testing.assert_close(found.detach().double(), expected.detach().double(), rtol=2e-6, atol=2e-6)


def weighing(module, **weights):
    module.weights = dict.fromkeys(TERMS, 0.0) | weights
    return module


def real_ids(padded, row):
    return padded.ids[row][padded.real[row]]


class Naive:
    """One problem's losses and its states before the answer's value."""

    def __init__(self, module, batch, row):
        lm, embed = module.codi, module.codi.get_input_embeddings()
        question, explicit, answer = (real_ids(p, row) for p in (batch.question, batch.explicit, batch.answer))
        out = lm(torch.cat([question, explicit])[None], output_hidden_states=True, use_cache=False)
        self.teacher = cross_entropy(out.logits[0, len(question) - 1 : -1], explicit)
        at = len(question) + int(batch.explicit_at[row])
        self.teacher_states = torch.stack([level[0, at] for level in out.hidden_states])

        sequence = embed(torch.cat([question, torch.tensor([module.bot])]))[None]
        supervised = []
        for number in range(1, THOUGHTS + 1):
            state = lm.base_model(inputs_embeds=sequence, use_cache=False).last_hidden_state[:, -1:]
            sequence = torch.cat([sequence, module.prj(state)], dim=1)
            target = batch.results[row, SUPERVISED.index(number)] if number in SUPERVISED else torch.tensor(IGNORED)
            if target != IGNORED:
                output = lm.base_model(inputs_embeds=sequence, use_cache=False).last_hidden_state[0, -1]
                supervised.append(cross_entropy(lm.lm_head(output), target))
        self.supervision = sum(supervised) / len(supervised)

        n_before = sequence.shape[1]
        whole = torch.cat([sequence, embed(answer)[None]], dim=1)
        out = lm(inputs_embeds=whole, output_hidden_states=True, use_cache=False)
        self.student = cross_entropy(out.logits[0, n_before:-1], answer[1:])
        self.student_states = torch.stack(
            [level[0, n_before + int(batch.answer_at[row])] for level in out.hidden_states]
        )


def naive_distillation(rows):
    levels = []
    for level in range(len(rows[0].teacher_states)):
        teacher = torch.stack([row.teacher_states[level] for row in rows]).detach()
        student = torch.stack([row.student_states[level] for row in rows])
        values = teacher.flatten().tolist()
        mean = sum(values) / len(values)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
        distance = (student - teacher).flatten()
        smooth = [0.5 * d * d if abs(d) < 1 else abs(d) - 0.5 for d in distance]
        levels.append(sum(smooth) / len(smooth) / deviation)
    return sum(levels) / len(levels)


def test_terms_and_gradients_are_those_of_whole_sequences(module, collator, problems):
    batch = collator.batch(problems)
    out = weighing(module, **ALL)(batch)
    found = torch.autograd.grad(out["loss"], list(module.parameters()))

    rows = [Naive(module, batch, row) for row in range(len(problems))]
    expected = {
        name: sum(getattr(row, name) for row in rows) / len(rows) for name in ("teacher", "student", "supervision")
    }
    expected["distillation"] = naive_distillation(rows)
    for name, value in expected.items():
        close(out[name], value)
    total = sum(ALL[name] * value for name, value in expected.items())
    close(out["loss"], total)
    for one, other in zip(found, torch.autograd.grad(total, list(module.parameters())), strict=True):
        close(one, other)


@pytest.mark.parametrize("term", ["teacher", "student", "equations"])
def test_a_term_alone_is_what_it_is_beside_the_others(term, module, collator, problems):
    batch = collator.batch(problems)
    torch.manual_seed(5)  # the equations are read at a random offset, which is drawn first
    together = weighing(module, **(ALL | {"equations": 1.0}))(batch)
    torch.manual_seed(5)
    alone = weighing(module, **{term: 1.0})(batch)
    assert set(alone) <= {"loss", term, "supervision", "accuracy"}
    close(alone["loss"], together[term])


def test_equations_teach_the_results_alone_at_any_offset(module, collator, problems):
    batch = collator.batch(problems)
    ids, real = batch.equations
    torch.manual_seed(7)
    found = weighing(module, equations=1.0)(batch)["equations"]
    torch.manual_seed(7)
    offsets = torch.randint(0, 30, (len(ids), 1))
    rows = []
    for row, offset in enumerate(offsets.flatten().tolist()):
        text = ids[row][real[row]]
        logits = module.codi(text[None], position_ids=torch.arange(offset, offset + len(text))[None]).logits[0]
        equals = collator.tokenizer.convert_tokens_to_ids("=")
        places = [place for place, token in enumerate(text.tolist()) if token == equals]
        rows.append(torch.stack([cross_entropy(logits[place], text[place + 1]) for place in places]).mean())
    close(found, torch.stack(rows).mean())


def test_a_problem_counts_the_same_whatever_it_is_batched_with(module, collator, problems):
    weighing(module, teacher=1.0, student=1.0, supervision=1.0)
    together = module(collator.batch(problems))["loss"]
    apart = [module(collator.batch([problem]))["loss"] for problem in problems]
    close(together, sum(apart) / len(apart))


def test_cross_entropy_is_averaged_within_a_problem_first():
    logits = torch.randn(3, 4, 6, dtype=torch.float64)
    targets = torch.tensor([[1, 2, 3, 4], [5, IGNORED, IGNORED, IGNORED], [IGNORED] * 4])
    first = sum(cross_entropy(logits[0, place], targets[0, place]) for place in range(4)) / 4
    expected = (first + cross_entropy(logits[1, 0], targets[1, 0]) + 0.0) / 3
    close(per_problem_cross_entropy(lambda hidden: hidden, logits, targets), expected)


def test_distillation_moves_the_student_towards_a_teacher_that_stays():
    student, teacher = (torch.randn(3, 4, 5, requires_grad=True) for _ in range(2))
    distillation(student, teacher).backward()
    assert teacher.grad is None
    assert torch.equal(student.grad.sign(), (student - teacher).sign())


def test_supervised_thoughts_are_taught_the_results_of_the_steps_but_the_last(module, collator, problems, tokenizer):
    results = collator.batch(problems).results
    for row, problem in enumerate(problems):
        values = [step.rpartition("=")[2].removesuffix(">>") for step in problem.steps[:-1]]
        taught = [tokenizer.decode([token]).strip() for token in results[row].tolist() if token != IGNORED]
        assert taught == values


def test_supervision_of_weight_nothing_is_not_computed(module, collator, problems):
    assert weighing(module, student=1.0)(collator.batch(problems))["supervision"] == 0


def test_scrambled_thought_is_zero_or_a_neighbours():
    torch.manual_seed(0)
    thought = torch.randn(64, 1, 8)
    mixed = _scrambled(thought)
    zero = (mixed == 0).all(-1).flatten()
    assert torch.equal(mixed[~zero], thought.roll(1, 0)[~zero])
    assert 16 < int(zero.sum()) < 48


def own_gradients(module, batch, monkeypatch):
    """Gradient of each problem's answer loss with respect to its own first thought."""
    seen, original = {}, objective.per_problem_cross_entropy
    handle = module.prj.register_forward_hook(lambda prj, inputs, output: seen.update(thought=output))
    for row in range(len(batch.answer_at)):
        of_row = slice(row, row + 1)
        alone = partial(lambda of_row, logits, h, targets: original(logits, h[of_row], targets[of_row]), of_row)
        monkeypatch.setattr(objective, "per_problem_cross_entropy", alone)
        torch.manual_seed(row)
        (gradient,) = torch.autograd.grad(module(batch)["loss"], seen["thought"])
        yield gradient[row]
    handle.remove()


@pytest.mark.parametrize("scrambled", [True, False])
def test_scrambled_answer_alone_does_not_depend_on_its_own_thought(scrambled, module, collator, problems, monkeypatch):
    module.scrambled, module.n_thoughts = scrambled, 1
    weighing(module, student=1.0)
    for gradient in own_gradients(module, collator.batch(problems), monkeypatch):
        assert bool(gradient.any()) is not scrambled
