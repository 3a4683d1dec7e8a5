"""Files of every kind, damaged at random: whatever comes of it is a result or one sentence, never another error.

THOUGHTLENS_FUZZ says how many damaged files of each kind are tried, and THOUGHTLENS_SEED draws others.
"""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.commands import CliRunner, app, unrendered

import thoughtlens as tl
from thoughtlens.cuts import ablate_head, intervene, plan_cuts
from thoughtlens.errors import ThoughtLensError
from thoughtlens.models import bundled, load, planted_problems, read_weights
from thoughtlens.problems import load_set
from thoughtlens.reports import open_effects
from thoughtlens.training import read_recipe

N_FILES = int(os.environ.get("THOUGHTLENS_FUZZ", "4"))
SEED = int(os.environ.get("THOUGHTLENS_SEED", "0"))

ODD = ["", "null", "NaN", "-1", "1e999", "9" * 5000, "[" * 3000, '"\\ud800"', "\x00", "\u2028", "../../etc", "{}", "[]"]
"""Texts that stand for a value where another was expected."""


def damage(data: bytes, draw: random.Random) -> bytes:
    """Change, leave out, repeat or replace a part."""
    start = draw.randrange(max(1, len(data)))
    end = min(len(data), start + draw.choice([1, 1, 2, 5, 20, len(data) // 3]))
    part = data[start:end]
    new = draw.choice([
        b"",
        bytes(draw.randrange(256) for _ in part),
        part * draw.choice([2, 3, 50]),
        draw.choice(ODD).encode("utf-8", "surrogatepass"),
        bytes(byte ^ (1 << draw.randrange(8)) for byte in part),
    ])  # fmt: skip
    return data[:start] + new + data[end:]


def other_value(data: bytes, draw: random.Random) -> bytes:
    """JSON with a value of another kind in the place of one."""
    value = json.loads(data)
    places: list[tuple[object, object]] = []

    def walk(of: object) -> None:
        items = of.items() if isinstance(of, dict) else enumerate(of) if isinstance(of, list) else ()
        for name, its in items:
            places.append((of, name))
            walk(its)

    walk(value)
    of, name = draw.choice(places)
    of[name] = draw.choice([None, -1, 0, 10**9, 1.5, "x", "../x", [], {}, True, [[1]], {"a": 1}])  # type: ignore[index]
    return json.dumps(value).encode()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of the planted model, with a study of one cut."""
    reasoner, folder = load("planted"), tmp_path_factory.mktemp("made") / "run"
    run = tl.extract(reasoner, planted_problems(3), folder)
    intervene(run, [ablate_head("L0H0")], study="s", reasoner=reasoner)
    return folder


def in_run(name: str, read: Callable[[Path], object]) -> Callable[[Path, Path, Callable[[bytes], bytes]], object]:
    def tried(made: Path, folder: Path, change: Callable[[bytes], bytes]) -> object:
        shutil.copytree(made, folder)
        (folder / name).write_bytes(change((folder / name).read_bytes()))
        return read(folder)

    return tried


def in_model(name: str) -> Callable[[Path, Path, Callable[[bytes], bytes]], object]:
    def tried(made: Path, folder: Path, change: Callable[[bytes], bytes]) -> object:
        shutil.copytree(bundled()["tiny-gpt2"], folder)
        (folder / name).write_bytes(change((folder / name).read_bytes()))
        return load(str(folder))

    return tried


def torch_file(made: Path, folder: Path, change: Callable[[bytes], bytes]) -> object:
    torch.save({"a": torch.zeros(8), "b": torch.ones(3, 3)}, folder.with_suffix(".bin"))
    folder.with_suffix(".bin").write_bytes(change(folder.with_suffix(".bin").read_bytes()))
    return read_weights(folder.with_suffix(".bin"))


def problem_file(made: Path, folder: Path, change: Callable[[bytes], bytes]) -> object:
    path = folder.with_suffix(".jsonl")
    path.write_bytes(change((made / "problems.jsonl").read_bytes()))
    return load_set(str(path))


def plan_file(made: Path, folder: Path, change: Callable[[bytes], bytes]) -> object:
    path = folder.with_suffix(".json")
    path.write_bytes(change((made / "studies" / "s" / "plan.json").read_bytes()))
    return plan_cuts(tl.open_run(made), file=path)


def recipe_file(made: Path, folder: Path, change: Callable[[bytes], bytes]) -> object:
    path = folder.with_suffix(".toml")
    path.write_bytes(change((bundled()["tiny-gpt2"] / "recipe.toml").read_bytes()))
    return read_recipe(path)


def command_line(made: Path, folder: Path, change: Callable[[bytes], bytes]) -> object:
    words = (
        change(f"analyze {made} --by correct --seed 1 --top 3 --json".encode()).decode("utf-8", "replace").split(" ")
    )
    if words[0] not in ("analyze", "status", "plot"):
        words = ["status", *words]
    with unrendered("png", "svg", "pdf"):
        result = CliRunner().invoke(app, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in (0, 2), result.output
    return result


def go_on(folder: Path) -> object:
    return intervene(tl.open_run(folder), [ablate_head("L0H0")], study="s", reasoner=load("planted"))


KINDS = {
    "manifest": (in_run("manifest.json", tl.open_run), other_value),
    "results": (in_run("results.jsonl", lambda folder: tl.open_run(folder).results()), damage),
    "marker": (in_run("shards/000000.json", tl.open_run), other_value),
    "problems of a run": (in_run("problems.jsonl", lambda folder: tl.open_run(folder).problems()), damage),
    "outcomes": (in_run("studies/s/outcomes/000000.jsonl", go_on), damage),
    "manifest of a study": (in_run("studies/s/manifest.json", go_on), other_value),
    "effects": (in_run("studies/s/effects.zarr/zarr.json", lambda of: open_effects(tl.open_run(of), "s")), damage),
    "config": (in_model("config.json"), other_value),
    "settings": (in_model("thoughtlens.json"), other_value),
    "tokenizer": (in_model("tokenizer.json"), damage),
    "safetensors": (in_model("model.safetensors"), damage),
    "torch file": (torch_file, damage),
    "problem file": (problem_file, damage),
    "plan": (plan_file, damage),
    "recipe": (recipe_file, damage),
    "command line": (command_line, damage),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_ends_in_a_result_or_one_sentence(made, tmp_path, kind):
    tried, harm = KINDS[kind]
    for number in range(N_FILES):
        draw, folder = random.Random(f"{SEED} {kind} {number}"), tmp_path / str(number)
        try:
            tried(made, folder, lambda data, draw=draw: harm(data, draw))
        except ThoughtLensError as told:
            assert "\n" not in str(told), f"number {number}"
            assert len(str(told)) < 2000
        except Exception as error:
            raise AssertionError(f"{kind}, number {number} with THOUGHTLENS_SEED={SEED}: {error!r}") from error
        if folder.is_dir():
            shutil.rmtree(folder)
