"""A training that is killed and started again ends with the weights of one that never was, bit for bit."""

import json
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file
from tests import apart
from tests.training import train_apart
from tests.training.conftest import STAGE, write_recipe

from thoughtlens.errors import RecipeError
from thoughtlens.training import last_checkpoint, prepare, read_recipe, train_stages, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.skipif(torch.accelerator.is_available(), reason="accelerators don't promise the same bits"),
]

# Random numbers are drawn at every step: the offset of the equations, LoRA's dropout, who gets whose thought.
EQUATIONS = 'name = "bare"\nsteps = 6\nbatch = 4\nrate = 1e-2\nwarmup = 2\nweights = { equations = 1.0 }'
CODI = f'name = "codi"\nsteps = 6\nbatch = 2\naccumulation = 2\nrate = 1e-2\nwarmup = 2\nscrambled = true\n{STAGE}'
LORA = "[lora]\nrank = 2\ndropout = 0.2"


@pytest.fixture(scope="module")
def recipe(bases, tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "r.toml"
    write_recipe(path, bases["gpt2"], tables=LORA, stages=(EQUATIONS, CODI))
    return path


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """The folder of a training that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole")
    finish(recipe, out)
    return out


class Killed(Exception):
    pass


def finish(recipe, out, steps_to_live=-1):
    done = 0

    def advance(n_steps):
        nonlocal done
        done += n_steps
        if done == steps_to_live:
            raise Killed

    return train_stages(prepare(read_recipe(recipe)), out, advance)


def same_weights(one, other):
    for stage in ("1-bare", "2-codi"):
        found, expected = (load_file(out / "training" / stage / "finished.safetensors") for out in (one, other))
        assert found.keys() == expected.keys()
        assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def interrupted(recipe, out, kills):
    for steps in kills:
        with pytest.raises(Killed):
            finish(recipe, out, steps)
        if steps == 5:
            with (out / "training" / "1-bare" / "log.jsonl").open("a") as file:
                file.write('{"step": 5, "lo')
    finish(recipe, out)
    return out


@pytest.fixture(scope="module")
def killed(recipe, tmp_path_factory):
    """Killed before the first checkpoint, after a checkpoint amid a line of the log, and at the end."""
    return interrupted(recipe, tmp_path_factory.mktemp("killed"), (1, 5, 12))


def test_killed_training_ends_as_if_nothing_had_happened(killed, whole):
    same_weights(killed, whole)


# The tests below kill in the next stage, and after a stage's last step, too.
@pytest.mark.nightly
def test_training_killed_at_a_stages_last_step_and_in_the_next_stage_ends_so_too(recipe, whole, tmp_path):
    same_weights(interrupted(recipe, tmp_path, (6, 7)), whole)


def test_process_killed_by_the_system_goes_on(recipe, whole, tmp_path):
    log = tmp_path.with_suffix(".log")
    process = apart.begin(train_apart.main, recipe, tmp_path, 10, log=log)
    process.join()
    assert process.exitcode == -signal.SIGKILL, log.read_text()
    assert last_checkpoint(tmp_path / "training" / "2-codi").name == "checkpoint-3"
    finish(recipe, tmp_path)
    same_weights(tmp_path, whole)


def test_training_killed_between_its_last_step_and_its_end_goes_on(recipe, whole, tmp_path, monkeypatch):
    def refuse(module, path):
        raise Killed

    monkeypatch.setattr(trainer, "save_weights", refuse)
    with pytest.raises(Killed):
        finish(recipe, tmp_path)
    monkeypatch.undo()
    assert last_checkpoint(tmp_path / "training" / "1-bare").name == "checkpoint-6"
    finish(recipe, tmp_path)
    same_weights(tmp_path, whole)


@pytest.mark.parametrize("file", ["trainer_state.json", "rng_state.pth"])
@pytest.mark.parametrize("left", [None, b"", b'{"half": '], ids=["missing", "empty", "half"])
def test_checkpoint_whose_writing_was_killed_is_passed_over(file, left, whole, tmp_path):
    folder = tmp_path / "stage"
    shutil.copytree(whole / "training" / "2-codi" / "checkpoint-6", folder / "checkpoint-6")
    shutil.copytree(folder / "checkpoint-6", folder / "checkpoint-12")
    assert last_checkpoint(folder).name == "checkpoint-12"
    (folder / "checkpoint-12" / file).unlink() if left is None else (folder / "checkpoint-12" / file).write_bytes(left)
    assert last_checkpoint(folder).name == "checkpoint-6"


def test_finished_training_is_not_trained_again(recipe, whole, monkeypatch):
    monkeypatch.setattr(trainer, "_train_stage", lambda *args, **options: pytest.fail("trained again"))
    counted = []
    made = train_stages(prepare(read_recipe(recipe)), whole, counted.append)
    assert sum(counted) == 12
    finished = load_file(whole / "training" / "2-codi" / "finished.safetensors")
    assert all(torch.equal(finished[name], value) for name, value in made.module.state_dict().items())


def test_log_holds_every_step_once_after_a_kill(killed, whole):
    def losses(out):
        lines = (out / "training" / "1-bare" / "log.jsonl").read_text().splitlines()
        entries = [entry for entry in map(json.loads, lines) if "learning_rate" in entry]
        seconds = [entry["seconds"] for entry in entries]
        assert seconds == sorted(seconds)
        return [(entry["step"], entry["loss"]) for entry in entries]

    assert losses(killed) == losses(whole)
    assert [step for step, _ in losses(whole)] == [1, 2, 3, 4, 5, 6]


def test_folder_begun_by_another_recipe_is_refused(recipe, whole, bases, tmp_path):
    changed = write_recipe(
        tmp_path / "r.toml", bases["gpt2"], tables=LORA, stages=(EQUATIONS.replace("1e-2", "2e-2"), CODI)
    )
    with pytest.raises(
        RecipeError, match=r"begun otherwise \(recipe\.stages\.1-bare\.rate is 0\.01 there and 0\.02 here\)"
    ):
        train_stages(prepare(changed), whole)


def test_words_of_a_recipe_may_change_afterwards(recipe, whole, bases, tmp_path):
    top = 'about = "mended"\ncaveats = ["one more"]'
    changed = write_recipe(tmp_path / "r.toml", bases["gpt2"], top=top, tables=LORA, stages=(EQUATIONS, CODI))
    train_stages(prepare(changed), whole)
