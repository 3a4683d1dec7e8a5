"""Survey files: what they say, where runs lie, and a sentence for what is wrong, before anything is loaded."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.commands import sentence

from thoughtlens.errors import CheckpointError, OptionError
from thoughtlens.surveys import read_survey

EXAMPLES = Path(__file__).parents[2] / "docs" / "surveys"
SMALL = 'models = ["tiny-gpt2", "tiny-llama"]\nproblems = ["arithmetic"]\n'


def read(folder: Path, words: str):
    path = folder / "survey.toml"
    path.write_text(words)
    return read_survey(path)


def test_every_pair_and_draw_is_a_run_with_a_folder_of_its_own(tmp_path):
    plan = read(tmp_path, SMALL + "seeds = [1, 2]")
    assert [run[:3] for run in plan.runs] == [
        ("tiny-gpt2", "arithmetic", 1),
        ("tiny-gpt2", "arithmetic", 2),
        ("tiny-llama", "arithmetic", 1),
        ("tiny-llama", "arithmetic", 2),
    ]
    folders = [run.folder for run in plan.runs]
    assert len(set(folders)) == 4
    assert all(folder.startswith(f"{run.model}-") for folder, run in zip(folders, plan.runs, strict=True))


def test_a_folder_is_that_of_all_that_decides_the_numbers_and_of_nothing_else(tmp_path):
    def folder(more: str) -> str:
        return read(tmp_path, SMALL + more).runs[0].folder

    usual = folder("")
    same = ["[run]\nbatch-size = 4", '[run]\nengine = "ray"', '[run]\ndevice = "cpu"', '[intervene]\nthoughts = "z1"']
    assert all(folder(more) == usual for more in same)
    others = [
        "[run]\nn = 4",
        "[run]\nn-steps = 2",
        '[run]\ndtype = "float64"',
        "[run]\nmax-new-tokens = 5",
        "[run]\nrandom-weights = 3",
    ]
    assert len({usual, *map(folder, others)}) == 6


def test_an_entry_goes_before_the_table_of_all(tmp_path):
    plan = read(
        tmp_path,
        'models = ["tiny-gpt2", {model = "tiny-gpt2", name = "drawn", random-weights = 0, thoughts = 4}]\n'
        'problems = [{problems = "arithmetic", n = 7}, {problems = "data/mine.jsonl", field = ["question=prompt"]}]\n'
        "[run]\nn = 9\nthoughts = 5\n",
    )
    assert [plan.model_options(name).thoughts for name in ("tiny-gpt2", "drawn")] == [5, 4]
    assert [plan.model_options(name).random_weights for name in ("tiny-gpt2", "drawn")] == [None, 0]
    assert [plan.problem_options(name).n for name in ("arithmetic", "mine")] == [7, 9]
    assert plan.source("drawn") == "tiny-gpt2"
    assert plan.source("mine") == "data/mine.jsonl"


@pytest.mark.parametrize("name", ["bundled", "published"])
def test_examples_are_read(name):
    plan = read_survey(EXAMPLES / f"{name}.toml")
    assert len(plan.runs) == len(plan.models) * len(plan.problems) * len(plan.seeds)
    assert plan.study is not None


WRONG = {
    "[run]\nnn = 5": "[run], sets 'nn', expected some of n, n-steps, split, ",
    '[run]\nn = "5"': "[run], sets n to '5', expected a whole number; correct it.",
    "[run]\nn = 0": "[run], sets n to 0, expected greater than or equal to 1; correct it.",
    '[run]\nrecord = ["keys"]': "sets record to 'keys', expected 'values'; correct it.",
    '[run]\nkeep = "mean"': "sets 'keep', expected some of",
    "[analyze]\nholdout = 1.5": "[analyze], sets holdout to 1.5, expected less than 1",
    "[intervene]\nwhole = 1": "[intervene], sets whole to 1, expected true or false; correct it.",
    "runs = 5": "sets 'runs', expected some of models, problems, seeds, groups, run, analyze, intervene.",
    "run = 5": "sets run to 5, expected a table; correct it.",
    "seeds = []": "sets seeds to ",
    "seeds = [1, 1]": "lists '1' twice in seeds, expected each once",
    '[groups]\na = ["tiny-gpt2", "other"]': "has 'other' in the group 'a', expected names of its models",
    '[groups]\na = ["tiny-gpt2"]': "has 1 models in the group 'a', expected two or more.",
    '[groups]\na = ["tiny-gpt2", "tiny-gpt2"]': "has 'tiny-gpt2' in two groups or twice in one",
    '[groups]\ntiny-gpt2 = ["tiny-gpt2", "tiny-llama"]': "which is the name of a model",
    '[run]\nprotocol = "official-padding-v5"\n[intervene]\nthoughts = "all"': "cuts are exact; drop one.",
    "[run]\nworkers = 2": "which belong to the engine ray",
    '[run]\nfield = ["question"]': "has the field 'question', expected for instance question=NAME",
    "[run": "is not readable as TOML",
}


@pytest.mark.parametrize("words", WRONG)
def test_what_is_wrong_is_said_in_one_sentence(tmp_path, words):
    with pytest.raises(OptionError) as told:
        read(tmp_path, SMALL + words)
    assert WRONG[words] in str(told.value)
    assert str(tmp_path / "survey.toml") in str(told.value)
    assert "\n" not in str(told.value) or words == "[run"


def test_models_are_looked_at_first(tmp_path):
    with pytest.raises(OptionError, match="lacks 'problems'"):
        read(tmp_path, 'models = ["tiny-gpt2"]')
    with pytest.raises(OptionError, match="entry 1 of models, sets 'mode'"):
        read(tmp_path, 'models = [{model = "tiny-gpt2", mode = "direct"}]\nproblems = ["arithmetic"]')
    with pytest.raises(OptionError, match="lists 'tiny-gpt2' twice in models"):
        read(tmp_path, 'models = ["tiny-gpt2", "tiny-gpt2"]\nproblems = ["arithmetic"]')
    for lacking in ("models", "problems"):
        words = {"models": '["tiny-gpt2"]', "problems": '["arithmetic"]', lacking: "[]"}
        with pytest.raises(OptionError, match=f"lists no {lacking}, expected one or more; name them"):
            read(tmp_path, "\n".join(f"{key} = {of}" for key, of in words.items()))
    with pytest.raises(CheckpointError, match="did you mean tiny-gpt2"):
        read(tmp_path, 'models = ["./tiny-gpt3"]\nproblems = ["arithmetic"]')


def test_a_wrong_file_ends_the_command(tmp_path):
    assert "can't be read" in sentence("survey", tmp_path / "none.toml", "--out", tmp_path / "out")
    (tmp_path / "survey.toml").write_text(SMALL + "[run]\nnn = 1")
    assert "sets 'nn'" in sentence("survey", tmp_path / "survey.toml", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_reading_a_file_needs_no_torch():
    code = "import sys; from thoughtlens.surveys import read_survey, survey; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
