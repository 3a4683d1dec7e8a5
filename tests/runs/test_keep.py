"""A run that keeps means: what it holds is that of its problems' attention, and its disk does not grow with them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from tests.attention_made import unsaved
from tests.commands import call, sentence, undrawn, unrendered
from tests.conftest import QUESTIONS, random_reasoner, usually

from thoughtlens.analysis import analyze
from thoughtlens.analysis.resampled_sums import block_sums
from thoughtlens.errors import OptionError, RunError
from thoughtlens.models import load
from thoughtlens.problems import Problem, ProblemSet, sample
from thoughtlens.reports import summary, write_analysis, write_figures
from thoughtlens.runs import MEAN, Keep, extract, open_run, status
from thoughtlens.runs.storage_layout import SHARD_PROBLEMS, Layout, deal
from thoughtlens.runs.writer import Store

N = 24
EIGHT = Keep(block_sums, n_blocks=8)


@pytest.fixture(scope="module")
def model():
    return load("tiny-gpt2")


@pytest.fixture(scope="module")
def raw(model, tmp_path_factory):
    return extract(model, sample("arithmetic", n=N), tmp_path_factory.mktemp("raw") / "run", dtype="float32")


@pytest.fixture(scope="module")
def mean(model, tmp_path_factory):
    """24 problems in 8 blocks of 3, in shards of 4 blocks."""
    out = tmp_path_factory.mktemp("mean") / "run"
    return extract(model, sample("arithmetic", n=N), out, keep=EIGHT, shard_size=12)


@pytest.fixture(scope="module")
def analysed(mean, raw):
    """What is found of the run that keeps means, and of the one that keeps all."""
    with unsaved():
        return analyze(mean, n_resamples=20), analyze(raw, n_resamples=20)


def sizes(folder: Path) -> int:
    """Bytes of what is kept, without the ids of the problems and the block of each."""
    files = [path for path in (folder / "sums.zarr").rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files if not {"problem", "assigned"} & set(path.parts))


def estimates(analysis):
    for table in (analysis.model, analysis.layers, analysis.heads, analysis.evidence, analysis.composition):
        for name, values in table.data_vars.items():
            if "value" in values.dims:
                yield name, values.sel(value="estimate")


def test_halves_of_the_problems_need_sums_of_one_half_each(mean, model, tmp_path):
    with pytest.raises(
        RunError, match=r"2 of 2 sums that it keeps are of both halves .* --keep raw, or leave --holdout"
    ):
        analyze(mean, holdout=0.5)
    few = sample("arithmetic", n=5)
    apart = extract(model, few, tmp_path / "apart", keep=Keep(block_sums, n_blocks=5), shard_size=1)
    whole = extract(model, few, tmp_path / "whole", dtype="float32")
    with unsaved():
        found, expected = (analyze(run, holdout=0.5, holdout_seed=2, n_resamples=20) for run in (apart, whole))
    for (name, left), (_, right) in zip(estimates(found), estimates(expected), strict=True):
        np.testing.assert_allclose(left, right, atol=2e-6, rtol=1e-5, err_msg=name)
    assert found.hubs["strongest"].equals(expected.hubs["strongest"])
    assert found.model.attrs["n_choosing"] == expected.model.attrs["n_choosing"] == 5 - expected.model["n"]


def test_estimates_are_those_of_the_run_that_keeps_all(mean, analysed):
    found, expected = analysed
    for (name, left), (_, right) in zip(estimates(found), estimates(expected), strict=True):
        # Batches differ, and with them the rounding of float32.
        np.testing.assert_allclose(left, right, atol=2e-6, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(found.moments["sd"], expected.moments["sd"], atol=1e-6)
    assert found.hubs["hub"].equals(expected.hubs["hub"])
    assert found.accuracy.equals(expected.accuracy)
    assert summary(mean, found)["intervals_over"] == "8 blocks of problems"


def test_results_are_all_there_and_in_order(raw, mean):
    assert mean.results() == raw.results()
    assert (mean.path / "problems.jsonl").read_bytes() == (raw.path / "problems.jsonl").read_bytes()
    assert mean.correct().tolist() == raw.attention["correct"].values.tolist()
    assert status(mean.path)[:5] == (N, N, 2, 2, True)


def test_a_user_opens_the_sums_and_finds_every_problem_in_a_block(mean):
    dataset = xr.open_zarr(mean.path / "sums.zarr", consolidated=False)
    np.testing.assert_array_equal(dataset["n"], np.bincount(dataset["assigned"]))
    assert [str(name) for name in dataset["problem"].values] == [row["id"] for row in mean.results()]
    assert dataset["preference"].dims == ("block", "layer", "head", "thought")
    np.testing.assert_allclose(dataset["composition"].sum("part").sel(row="z1"), dataset["n"], rtol=1e-6)
    assert mean.manifest["layout"]["keep"] == "mean"
    # Half of the spacing of float32 below 32, the largest power of two above any sum of three problems' rows.
    assert 0 < mean.manifest["rounding"] <= 2**-20


def test_tables_and_figures_are_those_of_the_run_that_keeps_all(mean, raw, analysed):
    written = []
    for run, analysis in zip((mean, raw), analysed, strict=True):
        with undrawn(), unrendered("png", "svg", "pdf"):
            paths = [*write_analysis(run, analysis, summary(run, analysis)), *write_figures(run, analysis)]
        written.append({path.relative_to(run.path): path for path in paths})
    assert list(written[0]) == list(written[1])
    assert all(path.is_file() for paths in written for path in paths.values())
    for name in (name for name in written[0] if name.suffix == ".csv"):
        found, expected = (pd.read_csv(paths[name], keep_default_na=False, na_values=[""]) for paths in written)
        over_blocks = ["low", "high", "p", "q", "p_familywise", "p_type", "q_type", "reliability", "type"]
        same = [column for column in expected if not any(word in column for word in over_blocks)]
        pd.testing.assert_frame_equal(found[same], expected[same], rtol=1e-4, atol=1e-5, obj=str(name))
        assert list(found) == list(expected)


def test_tables_do_not_depend_on_the_order_in_which_labels_were_read(mean, analysed):
    analysis, _ = analysed
    tables = []
    for names in (("layer", "head", "query", "key"), ("key", "head", "layer", "query")):
        read = xr.Dataset(coords={name: analysis.moments[name] for name in names}).assign(analysis.moments)
        assert tuple(read.sizes) == names
        read = read[list(reversed(list(read.data_vars)))] if tables else read
        paths = write_analysis(mean, analysis._replace(moments=read), summary(mean, analysis))
        tables.append(next(path for path in paths if path.name == "moments.csv").read_bytes())
    assert tables[0] == tables[1]


@pytest.mark.parametrize(("n_problems", "n_blocks"), [(1, 1), (7, 7), (7, 3), (1000, 512), (7473, 512)])
def test_problems_are_dealt_out_evenly_and_at_random(n_problems, n_blocks):
    blocks = deal(n_problems, n_blocks)
    counts = np.bincount(blocks, minlength=n_blocks)
    assert counts.min() >= 1
    assert counts.max() - counts.min() <= 1
    if n_problems > 500:
        # Neighbours would share a block in a fifth of all cases or more if blocks were neighbours.
        assert (np.diff(blocks) == 0).mean() < 0.02
        assert abs(np.corrcoef(blocks, np.arange(n_problems))[0, 1]) < 0.1


@pytest.mark.parametrize("n_problems", [1, 100, 512, 7473, 385_000])
def test_shards_are_whole_blocks_and_not_too_large(n_problems):
    ids = tuple(map(str, range(n_problems)))
    layout = Layout.of(ids, n_layers=1, n_heads=1, n_thoughts=2, keep=MEAN)
    members = [layout.problems_of(shard) for shard in range(layout.n_shards)]
    assert sorted(place for places in members for place in places) == list(range(n_problems))
    assert max(map(len, members)) <= SHARD_PROBLEMS
    assert layout.n_shards <= 128
    assert list(layout.in_order(members)) == list(range(n_problems))


@pytest.mark.usefixtures("short_answers")
def test_disk_does_not_grow_with_problems(tokenizer, tmp_path):
    reasoner, found = random_reasoner("gpt2", tokenizer), []
    for n in (4, 16):
        keep = Keep(block_sums, n_blocks=4)
        run = extract(reasoner, sample("arithmetic", n=n), tmp_path / str(n), keep=keep, shard_size=n)
        found.append(sizes(run.path))
    assert max(found) < 1.05 * min(found)


SIX = {"keep": Keep(block_sums, n_blocks=6), "shard_size": 4, "batch_size": 3, "max_new_tokens": 4}
QUESTIONED = [Problem(f"p{row}", QUESTIONS[row % 4], "8") for row in range(12)]


@pytest.fixture(scope="module")
def uninterrupted(tokenizer, tmp_path_factory):
    """12 problems in 6 blocks, in three shards."""
    return extract(random_reasoner("gpt2", tokenizer), QUESTIONED, tmp_path_factory.mktemp("whole") / "run", **SIX)


# In the first shard, amid the second one, and in the last.
@pytest.mark.parametrize("n_done", usually(5, of=[1, 5, 10]))
def test_an_interrupted_run_goes_on_and_comes_out_the_same(tokenizer, uninterrupted, tmp_path, n_done):
    class Interrupted(Exception):
        pass

    done = []

    def interrupt(n_problems):
        done.append(n_problems)
        if sum(done) >= n_done:
            raise Interrupted

    reasoner = random_reasoner("gpt2", tokenizer)
    with pytest.raises(Interrupted):
        extract(reasoner, QUESTIONED, tmp_path / "broken", progress=interrupt, **SIX)
    with pytest.raises(RunError, match="of 3 shards"):
        open_run(tmp_path / "broken")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "broken/shards").glob("*.json")}
    resumed = extract(reasoner, QUESTIONED, tmp_path / "broken", **SIX)
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    for found, expected in zip(resumed.sums(), uninterrupted.sums(), strict=True):
        xr.testing.assert_identical(found, expected)
    assert resumed.results() == uninterrupted.results()


@pytest.mark.usefixtures("short_answers")
def test_a_damaged_sum_is_refused_and_done_again(tokenizer, tmp_path):
    reasoner = random_reasoner("gpt2", tokenizer)
    problems = [Problem(f"p{row}", QUESTIONS[row % 4], "8") for row in range(8)]
    run = extract(reasoner, problems, tmp_path / "run", keep=EIGHT)
    file = run.path / "sums.zarr/mass/c/0/0/0/0"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(RunError, match=r"mass.* is missing or altered; run the same extraction again"):
        open_run(run.path)
    again = extract(reasoner, problems, tmp_path / "run", keep=EIGHT)
    assert next(again.sums())["mass"].notnull().all()


NEEDS_ATTENTION = [
    ("export", "{run}"),
    ("analyze", "{run}", "--by", "correct"),
    ("analyze", "{run}", "--by", "n_steps"),
    ("analyze", "{run}", "--pattern", "value-weighted"),
    ("intervene", "{run}", "--heads", "all"),
    ("compare", "{run}", "{run}", "--out", "{out}", "--label", "a", "--label", "b"),
]


@pytest.mark.parametrize("command", NEEDS_ATTENTION, ids=lambda command: " ".join(command[:1] + command[2:4]))
def test_what_needs_single_problems_says_so_and_writes_nothing(mean, tmp_path, command):
    before = sorted(mean.path.rglob("*"))
    said = sentence(*(word.format(run=mean.path, out=tmp_path / "out") for word in command))
    assert "was made with --keep mean and holds no single problem's attention" in said
    assert said.endswith("extract it anew with --keep raw.")
    assert sorted(mean.path.rglob("*")) == before
    assert not list(tmp_path.iterdir())


def test_blocks_and_attention_of_a_run_of_means_are_refused_and_sums_of_any_other(mean, raw):
    with pytest.raises(RunError, match="--keep raw"):
        next(mean.blocks())
    with pytest.raises(RunError, match="--keep mean"):
        next(raw.sums())


def test_the_command_line_keeps_means(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("thoughtlens.reports.run_files.write_figures", lambda *of, **how: [])  # below, once
        said = call("run", "--model", "planted", "--n", 20, "--keep", "mean", "--out", tmp_path / "run").stdout
    assert "intervals over 20 blocks of problems" in " ".join(said.split())
    assert (tmp_path / "run/sums.zarr").is_dir()
    assert not (tmp_path / "run/attention.zarr").exists()
    assert call("plot", tmp_path / "run").exit_code == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--keep", "all"), "no --keep 'all', expected one of raw, mean; pass another."),
        (("--keep", "mean", "--record", "values"), "can't keep means and record 'values' beside attention"),
        (("--keep", "mean", "--shard-size", "0"), "--shard-size is 0, expected at least 1"),
        (("--keep", "mean", "--thoughts", "1"), "1 thought has no lag_preference to keep; pass --keep raw"),
    ],
)
def test_what_cannot_be_kept_is_refused(tmp_path, options, said):
    assert said in sentence("run", "--n", 3, "--out", tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("short_answers")
def test_a_run_goes_on_only_with_what_it_kept(tokenizer, tmp_path):
    reasoner, problems = random_reasoner("gpt2", tokenizer), [Problem("a", QUESTIONS[0], "8")]
    extract(reasoner, problems, tmp_path / "run")
    with pytest.raises(RunError, match="there: --keep raw; here: --keep mean;"):
        extract(reasoner, problems, tmp_path / "run", keep=MEAN)


def test_no_blocks_at_all_are_refused():
    with pytest.raises(OptionError, match="the number of blocks is 0"):
        Keep(block_sums, n_blocks=0)


def test_sums_of_another_model_are_refused(tmp_path):
    layout = Layout.of(("a", "b"), n_layers=2, n_heads=3, n_thoughts=2, keep=MEAN)
    store = Store.open(tmp_path / "run", layout, options={})
    other = Layout.of(("a", "b"), n_layers=2, n_heads=4, n_thoughts=2, keep=MEAN).template
    with pytest.raises(RunError, match="extract with the run's model"):
        store.write(0, other, [{"id": "a"}, {"id": "b"}])


def test_a_set_without_problems_has_no_shards():
    layout = Layout.of((), n_layers=1, n_heads=1, n_thoughts=2, keep=MEAN)
    assert layout.n_shards == 0
    assert ProblemSet((), "none", None, "given").problems == ()
