import pytest
from tests.training.conftest import STAGE, write_recipe

from thoughtlens.errors import RecipeError
from thoughtlens.problems import arithmetic_problem
from thoughtlens.training import Generated, ProblemSource, Shuffled, counted_out, read_training_problems


def ids(dataset):
    return [dataset[index].id for index in range(len(dataset))]


def test_every_epoch_has_every_problem_once_in_an_order_of_its_own(problems):
    drawn = ids(Shuffled(problems, seed=1, length=12))
    first, second = drawn[:5], drawn[5:10]
    assert sorted(first) == sorted(second) == sorted(problem.id for problem in problems)
    assert first != second
    assert len(drawn) == 12


def test_order_is_that_of_the_seed_and_of_no_earlier_reading(problems):
    dataset = Shuffled(problems, seed=1, length=15)
    backwards = [dataset[index].id for index in reversed(range(15))]
    assert backwards[::-1] == ids(Shuffled(problems, seed=1, length=15))
    assert ids(dataset) != ids(Shuffled(problems, seed=2, length=15))


def test_generated_problems_are_those_of_the_training_split(bases, tmp_path):
    (stage,) = write_recipe(tmp_path / "r.toml", bases["gpt2"]).stages
    dataset = Generated(stage, 7, 3)
    assert list(map(dataset.__getitem__, range(3))) == [arithmetic_problem(k, split="train", seed=7) for k in range(3)]


@pytest.mark.parametrize(("n_processes", "steps"), [(1, 49), (2, 25)])
def test_epochs_are_counted_in_steps_of_all_processes(n_processes, steps, bases, tmp_path):
    stages = (f'name = "a"\nepochs = 3\nbatch = 4\naccumulation = 2\nrate = 1e-3\n{STAGE}',)
    recipe = write_recipe(tmp_path / "r.toml", bases["gpt2"], tables='[problems]\nname = "gsm8k"', stages=stages)
    (stage,) = counted_out(recipe, 129, n_processes).stages
    assert stage.steps == steps  # 3 · 129 / 8 = 48.4, over two processes 24.2


def test_problems_of_a_file_are_read_with_their_steps(problem_file, tokenizer):
    first, *_ = read_training_problems(ProblemSource(str(problem_file)), tokenizer)
    assert first.steps == ("<<16-3-4=9>>", "<<9*2=18>>") and first.answer == "18"


def test_numbers_only_leaves_out_words_and_negative_numbers(problem_file, tokenizer):
    kept = read_training_problems(ProblemSource(str(problem_file), numbers_only=True), tokenizer)
    assert [problem.answer for problem in kept] == ["18", "3", "7"]


def test_problems_of_too_many_tokens_are_left_out(problem_file, tokenizer):
    source = ProblemSource(str(problem_file))
    lengths = {
        problem.id: len(tokenizer(problem.question + " ".join(problem.steps) + problem.answer)["input_ids"])
        for problem in read_training_problems(source, tokenizer)
    }
    most = sorted(lengths.values())[2]
    kept = read_training_problems(ProblemSource(str(problem_file), most_tokens=most), tokenizer)
    assert {problem.id for problem in kept} == {name for name, length in lengths.items() if length <= most}


def test_nothing_left_is_said(problem_file, tokenizer):
    with pytest.raises(RecipeError, match=r"none of the 5 problems of .*aug\.jsonl is wanted"):
        read_training_problems(ProblemSource(str(problem_file), most_tokens=1), tokenizer)
