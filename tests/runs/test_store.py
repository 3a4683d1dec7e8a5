"""A run folder is whole, or says in one sentence what it lacks."""

import json
import os
import re
import shutil
import time
import warnings
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from tests import apart
from tests.conftest import usually

from thoughtlens.errors import OptionError, ProblemSetError, RunError
from thoughtlens.files import write_json
from thoughtlens.runs import open_run
from thoughtlens.runs.extraction import RAW
from thoughtlens.runs.storage_layout import Layout
from thoughtlens.runs.writer import Store, _in_words, versions
from thoughtlens.schema import attention_dataset, check_attention

OPTIONS = {
    "model": {"name": "tiny", "sha256": "1"},
    "problems": {"name": "arithmetic", "fingerprint": "6a", "seed": 42},
    "n_thoughts": 3,
    "layers": (0, 1),
}
IDS = tuple(f"é/тест/{k:02d} 日本" for k in range(25))
SIZES = {"n_layers": 2, "n_heads": 3, "n_thoughts": 4, "shard_size": 10, "keep": RAW}
LAYOUT = Layout.of(IDS, **SIZES)
N_SHARDS = 3


def resized(**sizes: object) -> Layout:
    return Layout.of(IDS, **SIZES | sizes)


def seen(layout: Layout, ids: list[str], *, seed: int = 0) -> xr.Dataset:
    """Random causal attention of some problems, the last of which never answered."""
    rng = np.random.default_rng([seed, len(ids), layout.problem_ids.index(ids[0])])
    n_queries, n_keys = layout.n_thoughts + 3, layout.n_thoughts + 5
    visible = np.arange(n_keys) <= np.arange(n_queries)[:, None] + 2
    values = rng.random((len(ids), layout.n_layers, layout.n_heads, n_queries, n_keys)) * visible
    values /= values.sum(-1, keepdims=True)
    values[-1, ..., -1, :] = np.nan
    correct, n_tokens = rng.random(len(ids)) < 0.5, rng.integers(1, 50, len(ids))
    return attention_dataset(values.astype(np.float32), problem_ids=ids, correct=correct, n_question_tokens=n_tokens)


def rows_of(ids: list[str]) -> list[dict[str, object]]:
    return [{"id": name, "text": "The answer is: 7 — \u2028 \r\n", "parsed": None} for name in ids]


def write(store: Store, shard: int) -> None:
    ids = store.layout.ids_of(shard)
    store.write(shard, seen(store.layout, ids), rows_of(ids), seconds=0.5)


def complete(folder: Path, layout: Layout = LAYOUT) -> Store:
    store = Store.open(folder, layout, options=OPTIONS)
    for shard in store.missing():
        write(store, shard)
    store.finish()
    return store


def expected(layout: Layout = LAYOUT) -> xr.Dataset:
    shards = [seen(layout, layout.ids_of(shard)) for shard in range(layout.n_shards)]
    return xr.concat(shards, "problem")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return complete(tmp_path_factory.mktemp("made") / "run").path


@pytest.fixture
def run_folder(made: Path, folder: Path) -> Path:
    return Path(shutil.copytree(made, folder))


def shard_file(folder: Path, name: str, shard: int) -> Path:
    tail = "/0/0/0/0" if name == "attention" else ""
    return folder / f"attention.zarr/{name}/c/{shard}{tail}"


def flip(path: Path) -> None:
    found = bytearray(path.read_bytes())
    found[len(found) // 2] ^= 1
    path.write_bytes(found)


def test_what_was_written_is_read_back(folder: Path) -> None:
    layout = resized(dtype="float32")
    complete(folder, layout)
    xr.testing.assert_identical(open_run(folder).attention.load().drop_attrs(), expected(layout))


def test_half_precision_rounds_once_and_keeps_the_schema(run_folder: Path) -> None:
    found = check_attention(open_run(run_folder).attention.load())
    assert found["attention"].dtype == np.float32
    assert found.attrs["precision"] == "float16"
    np.testing.assert_array_equal(found["attention"], expected()["attention"].astype(np.float16))
    xr.testing.assert_identical(found.drop_attrs()[["correct"]], expected()[["correct"]])
    assert found["n_question_tokens"].dtype == np.int32


def test_users_open_a_run_without_warnings(run_folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = xr.open_zarr(run_folder / "attention.zarr", consolidated=False)
        picked = dataset["attention"].sel(problem=IDS[12], query="z2", key="z1").load()
    truth = expected()["attention"].sel(problem=IDS[12], query="z2", key="z1")
    np.testing.assert_allclose(picked, truth, rtol=0, atol=2**-12)


def test_the_naive_mean_of_2400_problems_is_right(folder: Path) -> None:
    sizes = {"n_layers": 1, "n_heads": 2, "n_thoughts": 2, "shard_size": 1200}
    layout = Layout.of(tuple(map(str, range(2400))), **SIZES | sizes)
    complete(folder, layout)
    found = xr.open_zarr(folder / "attention.zarr", consolidated=False)["attention"]
    mean = found.mean("problem")
    assert found.dtype == mean.dtype == np.float32
    exact = np.nanmean(found.values.astype(np.float64), axis=0)
    np.testing.assert_allclose(mean, exact, rtol=0, atol=2e-6)
    np.testing.assert_allclose(open_run(folder).mean_attention(), exact, rtol=0, atol=1e-12)


def test_results_are_in_the_order_of_the_problems_whatever_the_order_of_the_shards(folder: Path) -> None:
    store = Store.open(folder, LAYOUT, options=OPTIONS)
    for shard in (2, 0, 1):
        write(store, shard)
    store.finish()
    assert open_run(folder).results() == rows_of(list(IDS))
    xr.testing.assert_identical(open_run(folder).attention.load()["correct"], expected()["correct"])


@pytest.mark.parametrize("n_problems", [1, 7, 64])
def test_blocks_are_the_whole_in_pieces(run_folder: Path, n_problems: int) -> None:
    run = open_run(run_folder)
    blocks = list(run.blocks(n_problems))
    assert {str(block["attention"].dtype) for block in blocks} == {"float32"}
    whole = run.attention.load()
    xr.testing.assert_equal(xr.concat(blocks, "problem"), whole.assign(attention=whole["attention"].astype("f4")))


def test_manifest_says_what_was_run_by_which_versions(folder: Path) -> None:
    complete(folder).finish({"checks": ["rows sum to 1"]})
    manifest = open_run(folder).manifest
    assert manifest["complete"] and manifest["versions"] == versions()
    assert manifest["options"]["problems"] == OPTIONS["problems"]
    assert manifest["layout"]["n_problems"] == len(IDS)
    assert manifest["notes"] == {"checks": ["rows sum to 1"]}
    assert manifest["seconds"] == 0.5 * N_SHARDS


def test_a_shard_without_a_single_correct_problem_is_whole(folder: Path) -> None:
    layout = Layout.of(IDS[:3], **SIZES)
    store = Store.open(folder, layout, options=OPTIONS)
    ids = layout.ids_of(0)
    dataset = seen(layout, ids).assign(correct=("problem", np.zeros(3, dtype=bool)))
    store.write(0, dataset, rows_of(ids))
    store.finish()
    assert not open_run(folder).attention["correct"].any()


def test_a_kill_between_arrays_and_marker_costs_that_shard_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(folder, LAYOUT, options=OPTIONS)
    write(store, 0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("thoughtlens.runs.writer.promise", _interrupt)
        write(store, 1)
    assert Store.open(folder, LAYOUT, options=OPTIONS).missing() == [1, 2]
    complete(folder)
    xr.testing.assert_identical(open_run(folder).attention.load()["correct"], expected()["correct"])


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_kill_while_the_arrays_are_made_leaves_a_folder_that_can_go_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("thoughtlens.runs.writer.fingerprints", _interrupt)
        Store.open(folder, LAYOUT, options=OPTIONS)
    with pytest.raises(RunError, match=r"only just been begun, expected a complete run; run the same"):
        open_run(folder)
    complete(folder)
    assert open_run(folder).results() == rows_of(list(IDS))


def write_on(folder: Path, told: Connection) -> None:
    """Write the first shard, say so, and then the second one over and over."""
    store = Store.open(folder, LAYOUT, options=OPTIONS)
    write(store, 0)
    told.send("one shard is there")
    while True:
        write(store, 1)


@pytest.mark.parametrize("delay", usually(0.004, 0.03, of=[0.0, 0.004, 0.015, 0.03]))
def test_a_real_kill_costs_at_most_the_shard_in_progress(folder: Path, delay: float) -> None:
    listening, telling = Pipe(duplex=False)
    writer = apart.begin(write_on, folder, telling, log=folder.with_suffix(".log"))
    assert listening.poll(600), folder.with_suffix(".log").read_text()
    time.sleep(delay)
    writer.kill()
    writer.join()
    assert Store.open(folder, LAYOUT, options=OPTIONS).missing() in ([2], [1, 2])
    complete(folder)
    xr.testing.assert_identical(open_run(folder).attention.load()["correct"], expected()["correct"])
    assert open_run(folder).results() == rows_of(list(IDS))


def test_an_unfinished_run_says_how_to_go_on(folder: Path) -> None:
    store = Store.open(folder, LAYOUT, options=OPTIONS)
    write(store, 0)
    for attempt in (store.finish, lambda: open_run(folder)):
        with pytest.raises(RunError, match="has 1 of 3 shards, expected all; run the same extraction again to go on"):
            attempt()


DAMAGES = {"gone": Path.unlink, "flip": flip, "cut": lambda path: os.truncate(path, 20)}


# Each damage to the last shard of the large array, and the least of them to the first shard of every array.
@pytest.mark.parametrize(
    ("damage", "shard", "name"),
    [
        pytest.param(
            DAMAGES[damage], shard, name, id=f"{damage}-{shard}-{name}", marks=[] if usual else pytest.mark.nightly
        )
        for damage in DAMAGES
        for shard in (0, 2)
        for name in ("attention", "correct", "n_question_tokens")
        for usual in [(shard, name) == (2, "attention") or (damage, shard) == ("flip", 0)]
    ],
)
def test_a_damaged_array_is_named_and_only_its_shard_redone(run_folder: Path, name: str, shard: int, damage) -> None:
    path = shard_file(run_folder, name, shard)
    damage(path)
    with pytest.raises(RunError, match=f"{re.escape(str(path))} is missing or altered; run the same extraction again"):
        open_run(run_folder)
    assert Store.open(run_folder, LAYOUT, options=OPTIONS).missing() == [shard]
    complete(run_folder)
    xr.testing.assert_identical(open_run(run_folder).attention.load()["correct"], expected()["correct"])


@pytest.mark.parametrize("name", ["shards/000001.json", "shards/000001.jsonl"])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("")], ids=["gone", "empty"])
def test_a_damaged_marker_or_row_is_named(run_folder: Path, name: str, damage) -> None:
    damage(run_folder / name)
    with pytest.raises(RunError, match=f"{re.escape(name)} is missing or altered; run the same extraction again"):
        open_run(run_folder)
    complete(run_folder)
    assert open_run(run_folder).results() == rows_of(list(IDS))


def test_a_flipped_bit_in_a_marker_is_seen(run_folder: Path) -> None:
    flip(run_folder / "shards/000001.json")
    with pytest.raises(RunError, match="is missing or altered; run the same extraction again to redo its shard"):
        open_run(run_folder)


def test_the_shards_of_another_run_are_seen(run_folder: Path, tmp_path: Path) -> None:
    """The same problems, at other times."""
    other = Store.open(tmp_path / "other", LAYOUT, options=OPTIONS)
    for shard in other.missing():
        ids = LAYOUT.ids_of(shard)
        other.write(shard, seen(LAYOUT, ids), rows_of(ids), seconds=60.0)
    shutil.copytree(other.path / "shards", run_folder / "shards", dirs_exist_ok=True)
    with pytest.raises(RunError, match="shards holds markers of another run; put back what was written, or extract"):
        open_run(run_folder)


def test_a_damaged_result_is_put_together_again(run_folder: Path) -> None:
    flip(run_folder / "results.jsonl")
    with pytest.raises(RunError, match=r"results.jsonl is missing or altered; run the same extraction again"):
        open_run(run_folder)
    complete(run_folder)
    assert open_run(run_folder).results() == rows_of(list(IDS))


@pytest.mark.parametrize("name", ["zarr.json", "attention/zarr.json", "problem/c/0", "query/c/0"])
def test_damaged_labels_are_named(run_folder: Path, name: str) -> None:
    (run_folder / "attention.zarr" / name).unlink()
    for attempt in (open_run, lambda path: Store.open(path, LAYOUT, options=OPTIONS)):
        with pytest.raises(RunError, match=f"{name} is missing or altered; delete the run and extract it again"):
            attempt(run_folder)


def test_a_complete_run_is_not_done_again(run_folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run_folder.rglob("*.json*") if path.name[0] == "0"}
    complete(run_folder)
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize(
    ("layout", "options", "said"),
    [
        (LAYOUT, OPTIONS | {"model": {"name": "other", "sha256": "2"}}, "there: --model tiny; here: --model other"),
        (LAYOUT, {"model": OPTIONS["model"]}, "there: --problems arithmetic.*; here: --problems absent"),
        (resized(n_thoughts=6), OPTIONS, "there: layout.n_thoughts 4.*; here: layout.n_thoughts 6"),
        (Layout.of(IDS[::-1], **SIZES), OPTIONS, "there: layout.problem_ids .*; here: layout.problem_ids "),
    ],
    ids=["model", "absent", "thoughts", "order"],
)
def test_other_options_are_named(run_folder: Path, layout: Layout, options: dict[str, object], said: str) -> None:
    with pytest.raises(RunError, match=f"is another run: .*{said}.*; ask for the same, or name another folder"):
        Store.open(run_folder, layout, options=options)


def named(model: str, sha256: str, n_problems: int) -> dict[str, object]:
    """What a manifest says of a run that is asked for so."""
    problems = {"name": "arithmetic", "fingerprint": f"of {n_problems}"}
    return {
        "layout": {"n_problems": n_problems, "problem_ids": f"of {n_problems}", "shard_size": n_problems},
        "options": {"model": {"name": model, "sha256": sha256, "dtype": "float32"}, "problems": problems},
    }


def test_what_differs_is_said_as_a_user_asks_for_it() -> None:
    there, here = named("tiny-llama", "a", 60), named("tiny-gpt2", "b", 20)
    assert _in_words(there, here) == "there: --model tiny-llama, 60 problems; here: --model tiny-gpt2, 20 problems"


def test_the_same_model_in_another_place_goes_on(folder: Path) -> None:
    here, moved = (named(place, "same", 60)["options"] for place in ("model", "/elsewhere/model"))
    Store.open(folder, LAYOUT, options=here)
    assert Store.open(folder, LAYOUT, options=moved).path == folder
    with pytest.raises(RunError, match="there: --model model; here: --model other"):
        Store.open(folder, LAYOUT, options=named("other", "different", 60)["options"])


def test_versions_that_changed_half_way_are_kept(folder: Path) -> None:
    write(Store.open(folder, LAYOUT, options=OPTIONS), 0)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["versions"]["torch"] = "1.0"
    write_json(folder / "manifest.json", manifest, sealed=True)
    complete(folder)
    found = open_run(folder).manifest
    assert found["versions"]["torch"] == "1.0" and found["resumed"][0]["versions"] == versions()


def test_a_foreign_folder_is_left_alone(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")
    with pytest.raises(RunError, match=r"holds 'thesis.tex' but no manifest.json.*name another"):
        Store.open(folder, LAYOUT, options=OPTIONS)
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("text", ['{"name": "a browser extension"}', "[]", "{", ""])
def test_a_foreign_manifest_is_refused(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "manifest.json").write_text(text)
    for attempt in (open_run, lambda path: Store.open(path, LAYOUT, options=OPTIONS)):
        with pytest.raises(RunError, match=r"manifest.json (has format .*, expected 2|is not readable JSON)"):
            attempt(folder)


def test_a_file_in_the_place_of_the_run_is_refused(folder: Path) -> None:
    folder.write_text("")
    with pytest.raises(RunError, match="is a file, expected a run folder or a new name"):
        Store.open(folder, LAYOUT, options=OPTIONS)


@pytest.mark.parametrize("place", ["file/run", "x" * 300])
def test_a_place_that_cannot_be_written_is_said(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"can't write the run folder .* \(.+\); make room there, or name another"):
        Store.open(tmp_path / place, LAYOUT, options=OPTIONS)


def test_a_full_disk_leaves_the_shard_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(folder, LAYOUT, options=OPTIONS)
    with monkeypatch.context() as patch, pytest.raises(RunError, match=r"\(No space left on device\)"):
        patch.setattr("os.fsync", _full)
        write(store, 0)
    assert store.missing() == [0, 1, 2]
    assert not list(folder.rglob("*.partial"))


def _full(_: int) -> None:
    raise OSError(28, os.strerror(28))


def test_a_missing_run_says_how_to_make_one(folder: Path) -> None:
    with pytest.raises(RunError, match=r"has no manifest.json, expected a run folder; make one with"):
        open_run(folder)


def test_a_shard_of_other_problems_is_refused(folder: Path) -> None:
    store = Store.open(folder, LAYOUT, options=OPTIONS)
    others = LAYOUT.ids_of(1)
    with pytest.raises(RunError, match="shard 0 was given the problems"):
        store.write(0, seen(LAYOUT, others), rows_of(others))
    with pytest.raises(RunError, match="the rows of shard 0 are of"):
        store.write(0, seen(LAYOUT, LAYOUT.ids_of(0)), rows_of(others))
    assert 0 in store.missing()


def test_a_shard_of_another_model_is_refused(folder: Path) -> None:
    store = Store.open(folder, LAYOUT, options=OPTIONS)
    ids = LAYOUT.ids_of(0)
    with pytest.raises(RunError, match="shard 0 has sizes"):
        store.write(0, seen(resized(n_heads=1), ids), rows_of(ids))


def test_a_shard_whose_rows_do_not_sum_to_one_is_refused(folder: Path) -> None:
    store = Store.open(folder, LAYOUT, options=OPTIONS)
    ids = LAYOUT.ids_of(0)
    with pytest.raises(RunError, match="sums to 1"):
        store.write(0, seen(LAYOUT, ids) * 0.5, rows_of(ids))


def test_ids_are_unique_and_shards_hold_something() -> None:
    with pytest.raises(ProblemSetError, match="two problems have the id 'a'"):
        Layout.of(("a", "b", "a"), n_layers=1, n_heads=1, n_thoughts=1, keep=RAW)
    with pytest.raises(OptionError, match="the shard size is 0"):
        Layout.of(("a",), n_layers=1, n_heads=1, n_thoughts=1, shard_size=0, keep=RAW)


@pytest.mark.parametrize("shard_size", usually(1, 96, of=[1, 25, 100, 96]))
def test_any_shard_size_reads_back(folder: Path, shard_size: int) -> None:
    layout = resized(shard_size=shard_size)
    complete(folder, layout)
    xr.testing.assert_identical(open_run(folder).attention.load()["correct"], expected(layout)["correct"])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_manifest_says_the_largest_rounding_on_disk(folder: Path, dtype: str) -> None:
    complete(folder, resized(dtype=dtype))
    run = open_run(folder)
    difference = run.attention["attention"].values.astype(np.float32) - expected()["attention"].values
    assert run.manifest["rounding"] == pytest.approx(np.nanmax(np.abs(difference)))
    assert (run.manifest["rounding"] > 0) == (dtype == "float16")


def test_a_shard_without_what_the_run_records_is_refused(folder: Path) -> None:
    store = Store.open(folder, resized(record=("values",)), options=OPTIONS)
    ids = LAYOUT.ids_of(0)
    with pytest.raises(RunError, match="shard 0 lacks value_weighted, which the run records; extract with the run's"):
        store.write(0, seen(LAYOUT, ids), rows_of(ids))


def test_a_manifest_that_lacks_something_is_refused(run_folder: Path) -> None:
    manifest = json.loads((run_folder / "manifest.json").read_text())
    del manifest["layout"]
    (run_folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match=r"manifest\.json lacks 'layout'; delete the folder and extract the run again"):
        open_run(run_folder)
