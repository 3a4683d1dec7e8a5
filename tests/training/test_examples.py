import pytest
import torch
from tests.training.conftest import words

from thoughtlens.problems import Problem
from thoughtlens.training import IGNORED, Collator

SUMS = [
    Problem("a", "Tom has 16 eggs.  He eats 3. How many?", "13", ("<<16-3=13>>",)),
    Problem("b", "How many?", "18", ("<<16-3-4=9>>", "<<9*2=18>>")),
    Problem("c", "And then how many, if there are no steps at all?", "7", ()),
]
EOT, PAD = 602, 600


def rows(padded):
    return [ids[real].tolist() for ids, real in zip(padded.ids, padded.real, strict=True)]


@pytest.fixture(params=["gpt2", "llama", "bundled"])
def collator(request, tokenizer):
    if request.param == "bundled":
        return Collator(tokenizer, EOT, PAD)
    return Collator(words(request.param), EOT, PAD, after_steps="")


def test_teacher_reads_all_steps_but_the_last_then_the_answer(collator):
    texts = [collator.tokenizer.decode(ids[:-1]) for ids in rows(collator.batch(SUMS).explicit)]
    gap = collator.after_steps
    assert texts == ["The answer is: 13", f"<<16-3-4=9>>{gap}The answer is: 18", "The answer is: 7"]


def test_student_reads_eot_and_the_answer_to_its_end(collator):
    for ids, problem in zip(rows(collator.batch(SUMS).answer), SUMS, strict=True):
        assert ids[0] == EOT and ids[-1] == collator.tokenizer.eos_token_id
        assert collator.tokenizer.decode(ids[1:-1]) == f"The answer is: {problem.answer}"


@pytest.mark.parametrize("text", ["explicit", "answer"])
def test_position_before_the_value_is_the_last_token_that_holds_nothing_of_it(text, collator):
    batch = collator.batch(SUMS)
    for row, at, problem in zip(rows(getattr(batch, text)), getattr(batch, f"{text}_at").tolist(), SUMS, strict=True):
        start = 1 if text == "answer" else 0
        assert collator.tokenizer.decode(row[start : at + 1]).rstrip().endswith("The answer is:")
        assert collator.tokenizer.decode(row[at + 1 : -1]).strip() == problem.answer


def test_blank_before_the_value_is_passed_over_where_it_is_a_token():
    """CODI distils at `:` for GPT-2, and one further, at the blank, for LLaMA."""
    at = {}
    for kind in ("gpt2", "llama"):
        tokenizer = words(kind)
        batch = Collator(tokenizer, EOT, PAD, after_steps="").batch(SUMS)
        at[kind] = tokenizer.decode([rows(batch.answer)[1][int(batch.answer_at[1])]])
    assert at == {"gpt2": ":", "llama": " "}


def test_answer_tokens_are_the_same_for_both(collator):
    batch = collator.batch(SUMS)
    for explicit, answer, e, a in zip(
        rows(batch.explicit), rows(batch.answer), batch.explicit_at, batch.answer_at, strict=True
    ):
        assert explicit[int(e) :] == answer[int(a) :]


def test_question_keeps_the_tokenizers_own_opening_and_loses_double_blanks(collator):
    ids = rows(collator.batch(SUMS).question)[0]
    opening = collator.tokenizer("")["input_ids"]
    assert ids[: len(opening)] == opening
    assert collator.tokenizer.decode(ids[len(opening) :]) == "Tom has 16 eggs. He eats 3. How many?"


def test_questions_are_padded_on_the_left_and_the_rest_on_the_right(collator):
    batch = collator.batch(SUMS)
    assert batch.question.real[:, -1].all() and not batch.question.real[:, 0].all()
    for padded in (batch.explicit, batch.answer, batch.equations):
        assert padded.real[:, 0].all()
        assert (padded.real.long().diff(dim=1) <= 0).all()
    for padded in (batch.question, batch.explicit, batch.answer):
        assert (padded.ids[~padded.real] == PAD).all()


def test_long_texts_keep_their_beginnings(collator):
    long = Problem("l", "word " * 50, "4", ("<<1+1=2>>",) * 20)
    short = Collator(collator.tokenizer, EOT, PAD, collator.after_steps, longest=9)
    full, cut = collator.batch([long]), short.batch([long])
    assert rows(cut.question)[0] == rows(full.question)[0][:9]
    n_answer = len(rows(full.answer)[0]) - 1
    assert rows(cut.explicit)[0] == rows(full.explicit)[0][:9] + rows(full.explicit)[0][-n_answer:]
    assert int(full.explicit_at[0]) - int(cut.explicit_at[0]) == len(rows(full.explicit)[0]) - len(
        rows(cut.explicit)[0]
    )


def test_results_are_first_tokens_of_the_results_but_the_last(collator):
    results = collator.batch(SUMS).results
    nine = collator.tokenizer("9", add_special_tokens=False)["input_ids"][0]
    assert results.tolist() == [[IGNORED, IGNORED], [nine, IGNORED], [IGNORED, IGNORED]]


def test_step_without_a_result_is_not_taught(collator):
    assert collator.batch([Problem("x", "Q?", "1", ("<<3=>>", "<<1=1>>"))]).results.tolist() == [[IGNORED, IGNORED]]


def test_equations_are_marked_before_each_result(collator):
    batch = collator.batch(SUMS)
    (ids,) = rows(batch.equations)
    assert collator.tokenizer.decode(ids) == "<<16-3=13>> <<16-3-4=9>> <<9*2=18>>"
    marked = batch.equations.ids[batch.equals].tolist()
    assert [collator.tokenizer.decode([token]) for token in marked] == ["="] * 3


def test_problems_without_equations_leave_an_empty_row(collator):
    batch = collator.batch([SUMS[2]])
    assert batch.equations.real.shape == (1, 1) and not batch.equals.any()


def test_the_trainer_gets_a_dict(collator):
    assert torch.equal(collator(SUMS)["batch"].question.ids, collator.batch(SUMS).question.ids)
