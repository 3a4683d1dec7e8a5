"""What was written is what is read: a file of a run or a study that somebody changed is refused by its name."""

import hashlib
import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

import thoughtlens as tl
from thoughtlens.cuts import ablate_head, intervene
from thoughtlens.errors import ThoughtLensError
from thoughtlens.evaluation import write_readings
from thoughtlens.models import load, planted_problems
from thoughtlens.reports import study
from thoughtlens.runs.reader import read_readings

CUTS = [ablate_head("L0H0"), ablate_head("L0H1")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of the planted model with readings, an analysis and a study of two cuts."""
    reasoner, folder = load("planted"), tmp_path_factory.mktemp("made") / "run"
    run = tl.extract(reasoner, planted_problems(6), folder, shard_size=3)
    write_readings(run, reasoner)
    tl.analyze(run, n_resamples=20, name="mine")
    intervene(run, CUTS, study="s", reasoner=reasoner, batch_size=3)
    return folder


@pytest.fixture(scope="module")
def readable(made, tmp_path_factory):
    """Reads what was made, unaltered: once for each way of reading."""
    return cache(lambda read: read(Path(shutil.copytree(made, tmp_path_factory.mktemp("unaltered") / "run"))))


def other_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def other_number(path: Path) -> None:
    digits = [place for place, sign in enumerate(path.read_text("utf-8")) if sign.isdigit()]
    text = path.read_text("utf-8")
    place = digits[len(digits) // 2]
    path.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :], "utf-8")


def other_order(path: Path) -> None:
    path.write_text("".join(reversed(path.read_text("utf-8").splitlines(keepends=True))), "utf-8")


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def swapped(path: Path) -> None:
    """With the file of the next batch."""
    other = path.with_name(path.name.replace("000000", "000001"))
    one, two = path.read_bytes(), other.read_bytes()
    path.write_bytes(two)
    other.write_bytes(one)


def open_run(folder: Path) -> object:
    return tl.open_run(folder)


def problems(folder: Path) -> object:
    return tl.open_run(folder).problems()


def readings(folder: Path) -> object:
    return read_readings(tl.open_run(folder))


def analyse(folder: Path) -> object:
    return tl.analyze(tl.open_run(folder), n_resamples=20, name="mine")


def open_study(folder: Path) -> object:
    return study(tl.open_run(folder), "s", n_resamples=20)


def go_on(folder: Path) -> object:
    return intervene(tl.open_run(folder), CUTS, study="s", reasoner=load("planted"), batch_size=3)


JSON = (other_number, half)
LINES = (other_number, other_order)
CASES: list[tuple[str, tuple[Callable[[Path], None], ...], Callable[[Path], object]]] = [
    ("manifest.json", JSON, open_run),
    ("results.jsonl", (*LINES, half), open_run),
    ("problems.jsonl", (*LINES, half), problems),
    ("shards/000000.json", (*JSON, swapped), open_run),
    ("shards/000000.jsonl", (*LINES, half, swapped), open_run),
    ("attention.zarr/zarr.json", (other_byte,), open_run),
    ("readings.json", JSON, readings),
    ("analysis/mine/analysis.npz", (other_byte,), analyse),
    ("studies/s/effects.zarr/zarr.json", (other_byte,), open_study),
    ("studies/s/manifest.json", JSON, go_on),
    ("studies/s/plan.json", JSON, go_on),
    ("studies/s/outcomes/000000.jsonl", (other_number, swapped), go_on),
    ("studies/s/outcomes/recorded_values.safetensors", (other_byte, half), go_on),
]


@pytest.mark.parametrize(
    ("name", "change", "read"),
    [
        pytest.param(name, change, read, id=f"{name}-{change.__name__}")
        for name, changes, read in CASES
        for change in changes
    ],
)
def test_a_file_that_was_changed_is_refused_by_name(made, readable, tmp_path, name, change, read):
    folder = Path(shutil.copytree(made, tmp_path / "run"))
    readable(read)
    change(folder / name)
    with pytest.raises(ThoughtLensError) as found:
        read(folder)
    # The swap of two files may be noticed in either; an array's folder is named as a whole.
    place = Path(name) if change is not swapped else Path(name).parent
    named = place.parent if read in (analyse, open_study) else place
    assert str(folder / named) in str(found.value)
    assert "\n" not in str(found.value)


SEALED: list[tuple[str, str, object, Callable[[Path], object]]] = [
    ("manifest.json", "layout.n_thoughts", 10**9, open_run),
    ("manifest.json", "layout.shard_size", 0, open_run),
    ("manifest.json", "layout.n_heads", "two", open_run),
    ("manifest.json", "layout.stored", [], open_run),
    ("manifest.json", "options.model", "planted", open_run),
    ("manifest.json", "options.problems.fingerprint", None, open_run),
    ("manifest.json", "seconds", float("nan"), open_run),
    ("manifest.json", "files", 1, open_run),
    ("readings.json", "problems", [1], readings),
    ("studies/s/manifest.json", "plans", 1, go_on),
    ("studies/s/manifest.json", "n", "many", go_on),
]


@pytest.mark.parametrize(("name", "field", "value", "read"), SEALED)
def test_a_wrong_value_under_a_seal_made_anew_is_refused_by_file_and_field(made, tmp_path, name, field, value, read):
    folder = Path(shutil.copytree(made, tmp_path / "run"))
    path = folder / name
    found = json.loads(path.read_text("utf-8"))
    *inside, last = field.split(".")
    of = found
    for part in inside:
        of = of[part]
    of[last] = value
    data = json.dumps(found).encode()
    path.write_bytes(data)
    path.with_name(f"{path.name}.sha256").write_text(f"{hashlib.sha256(data).hexdigest()}  {path.name}\n")
    with pytest.raises(ThoughtLensError) as refused:
        read(folder)
    said = str(refused.value)
    assert f"{path} has {field}" in said
    assert "\n" not in said


def test_each_seal_is_what_sha256sum_checks(made):
    for seal in made.rglob("*.json.sha256"):
        [(digest, name)] = [line.split("  ") for line in seal.read_text().splitlines()]
        assert len(digest) == 64
        assert json.loads((seal.parent / name).read_text())
