"""Analyses of a run: read once, saved, opened again the same, and never mistaken for another."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from thoughtlens.analysis import Analysis, analyze, compare, open_analysis
from thoughtlens.errors import OptionError, RunError
from thoughtlens.files import Json, write_sealed

FEW = {"n_resamples": 10}


@dataclass
class StoredDataset:
    """A run whose attention is a Dataset; it counts which problems were read."""

    path: Path
    dataset: xr.Dataset
    weights: str = "these"
    steps: tuple[int, ...] = (1, 2, 1, 2, 1, 2)
    read: list[str] = field(default_factory=list)
    keeps_means = False

    @property
    def manifest(self):
        sizes = {f"n_{dim}s": self.dataset.sizes[dim] for dim in ("layer", "head", "problem")}
        model = {"name": self.weights, "sha256": self.weights, "architecture": "made"}
        options = {"model": model, "problems": {"fingerprint": "0" * 64}}
        return {"layout": {**sizes, "n_thoughts": self.dataset.sizes["query"] - 3}, "options": options}

    def blocks(self, *, pattern):
        assert pattern == "attention"
        for start in range(0, self.dataset.sizes["problem"], 2):
            block = self.dataset.isel(problem=slice(start, start + 2))
            self.read += [str(name) for name in block["problem"].values]
            yield block

    def correct(self):
        return self.dataset["correct"].values

    def problems(self):
        return [SimpleNamespace(id=f"p{i}", question="", steps=("",) * n) for i, n in enumerate(self.steps)]

    def require_attention(self):
        pass

    def sums(self):
        raise AssertionError("it keeps attention")

    kept_blocks = sums


@pytest.fixture
def run(make_attention, tmp_path):
    return StoredDataset(tmp_path / "run", make_attention(n_problems=6, missing=(2,)))


@pytest.fixture(scope="module")
def by_seed(make_attention):
    """Analyses of the attention of a run, by their seeds, of one variable a table: all are kept in the same way."""
    found = {seed: analyze(make_attention(n_problems=6, missing=(2,)), seed=seed, **FEW) for seed in (0, 1)}
    return {
        seed: of._replace(**{name: slim(part) for name, part in of._asdict().items()}) for seed, of in found.items()
    }


def slim(part):
    return part[list(part.data_vars)[:1]] if isinstance(part, xr.Dataset) else part


@pytest.fixture
def at_hand(by_seed, monkeypatch):
    """Analyses of the seed asked for are taken from those at hand: how they are kept has nothing to do with numbers."""

    def ready(blocks, null, correct, groups, options: Json, **rest) -> Analysis:
        return by_seed[options["seed"]]._replace(options={**options, "name": None})

    monkeypatch.setattr("thoughtlens.analysis.run_analysis._analyze", ready)


@pytest.fixture(scope="module")
def grouped(make_attention, tmp_path_factory):
    """A run, a null run, and what was found of both by two groupings, called `all`; one of its groups is too small."""
    folder = tmp_path_factory.mktemp("grouped")
    dataset = make_attention(n_problems=6, missing=(2,))
    run = StoredDataset(folder / "run", dataset.assign(correct=("problem", [True] * 5 + [False])))
    null = StoredDataset(folder / "null", make_attention(n_problems=6, seed=1), weights="others")
    return run, null, analyze(run, by=("correct", "n_steps"), null=[null], name="all", **FEW)


def assert_identical(one, other):
    if hasattr(one, "_asdict"):
        assert type(one) is type(other)
        one, other = one._asdict(), other._asdict()
    if isinstance(one, dict):
        assert list(one) == list(other)
        for name in one:
            assert_identical(one[name], other[name])
    elif isinstance(one, xr.Dataset | xr.DataArray):
        xr.testing.assert_identical(one, other)
    else:
        assert one == other


def test_a_run_is_read_once_and_what_was_saved_is_opened_again_the_same(grouped, monkeypatch):
    run, null, found = grouped
    every = [str(name) for name in run.dataset["problem"].values]
    assert run.read == every
    assert null.read == every
    run.read.clear()
    opened = open_analysis(run, "all")
    assert_identical(opened, found)
    # Asked for once more, it is opened in the same way.
    saved = run.path / "analysis" / "all" / "analysis.npz"
    monkeypatch.setattr("thoughtlens.analysis.archive.read_bundle", lambda path, *classes: {saved: opened}[path])
    assert analyze(run, by=("correct", "n_steps"), null=[null], name="all", **FEW) is opened
    assert run.read == []
    assert found.options["name"] == "all"
    assert found.model.attrs["model"] == "these"


def test_numbers_of_groups_are_those_of_their_problems_alone(grouped):
    run, _, analysis = grouped
    found = analysis.parts["n_steps"]
    for place, (name, chosen) in enumerate({"1": [0, 2, 4], "2": [1, 3, 5]}.items()):
        alone = analyze(run.dataset.isel(problem=chosen), seed=place, **FEW)
        for level in ("model", "heads", "evidence", "rollout", "last_thought"):
            xr.testing.assert_allclose(getattr(found[name], level), getattr(alone, level), rtol=1e-9)


@pytest.mark.usefixtures("at_hand")
def test_the_default_analysis_stands_in_the_folder_and_others_beside_it(run):
    default, other = analyze(run), analyze(run, seed=1)
    assert default.options["name"] is None
    assert (run.path / "analysis" / "analysis.npz").is_file()
    assert (run.path / "analysis" / other.options["name"] / "analysis.npz").is_file()
    assert_identical(open_analysis(run), default)
    assert_identical(open_analysis(run, other.options["name"]), other)
    assert default.model.attrs["seed"] == 0 and other.model.attrs["seed"] == 1


@pytest.mark.usefixtures("at_hand")
def test_other_options_under_a_name_are_refused_unless_forced(run):
    first = analyze(run, name="mine", **FEW)
    (run.path / "analysis" / "mine" / "heads.csv").write_text("of the first")
    with pytest.raises(RunError, match=r"holds an analysis with seed 0 and not 1; pass another --name, or --force"):
        analyze(run, name="mine", seed=1, **FEW)
    assert_identical(open_analysis(run, "mine"), first)
    forced = analyze(run, name="mine", seed=1, force=True, **FEW)
    assert_identical(open_analysis(run, "mine"), forced)
    assert not (run.path / "analysis" / "mine" / "heads.csv").exists()


def test_a_run_that_has_changed_is_analysed_anew(run, make_attention):
    before = analyze(run, name="mine", **FEW)
    run.dataset, run.weights = make_attention(n_problems=6, seed=5), "trained on"
    with pytest.raises(RunError, match="is of the run as it was before"):
        open_analysis(run, "mine")
    assert not analyze(run, name="mine", **FEW).model.identical(before.model)


def test_another_file_in_the_place_of_an_analysis_is_said(run):
    path = run.path / "analysis" / "mine" / "analysis.npz"
    path.parent.mkdir(parents=True)
    write_sealed(path, b"of another program")
    with pytest.raises(RunError, match=r"is no saved analysis \(.*\); delete it, and analyse the run again"):
        open_analysis(run, "mine")


@pytest.mark.usefixtures("at_hand")
def test_an_analysis_that_is_not_there_is_said_with_those_that_are(run):
    with pytest.raises(RunError, match=r"has no analysis with the default options.*run `thoughtlens analyze"):
        open_analysis(run)
    analyze(run, name="mine", **FEW)
    with pytest.raises(RunError, match=r"has no analysis yours, expected one of mine; run .*--name yours"):
        open_analysis(run, "yours")


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", "summary.json", ""])
def test_a_name_that_can_be_no_folder_is_refused(run, name):
    with pytest.raises(OptionError, match="can't call an analysis"):
        analyze(run, name=name, **FEW)
    assert not run.path.exists()


@pytest.mark.usefixtures("at_hand")
def test_an_interrupted_save_leaves_the_analysis_before(run, monkeypatch):
    before = analyze(run, name="mine", **FEW)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(RunError, match="can't write"):
        patch.setattr(Path, "replace", full)
        analyze(run, name="mine", seed=1, force=True, **FEW)
    assert_identical(open_analysis(run, "mine"), before)


def test_datasets_have_no_steps_no_name_and_blocks_no_answers(run):
    with pytest.raises(OptionError, match="which knows no steps"):
        analyze(run.dataset, by="n_steps")
    with pytest.raises(OptionError, match="which is not saved"):
        analyze(run.dataset, name="mine")
    with pytest.raises(OptionError, match="without `correct`"):
        analyze(iter([run.dataset]))
    assert np.array_equal(analyze(run.dataset, by="correct", **FEW).groups["correct"].measures["n"], [3, 3])


class ComparableDataset(StoredDataset):
    @property
    def attention(self):
        return self.dataset

    def blocks(self, *, pattern="attention", chosen=None):
        self.read += [str(name) for name in self.dataset["problem"].values]
        yield self.dataset if chosen is None else self.dataset.isel(problem=np.flatnonzero(chosen))


def test_a_comparison_takes_the_types_of_heads_from_the_saved_analysis_of_the_same_problems(make_attention, tmp_path):
    runs = {
        name: ComparableDataset(tmp_path / name, make_attention(n_problems=6, seed=seed), weights=name)
        for seed, name in enumerate("ab")
    }

    def compared(**options):
        for run in runs.values():
            run.read.clear()
        return compare(runs, **FEW, **options), [len(run.read) for run in runs.values()]

    anew, read_anew = compared()
    for run in runs.values():
        analyze(run)
    saved, read_saved = compared()
    assert (read_anew, read_saved) == ([12, 12], [6, 6])
    for name, types in anew.head_types.items():
        xr.testing.assert_identical(saved.head_types[name], types)
    xr.testing.assert_identical(saved.type_counts, anew.type_counts)
    # Not from one of other draws, of a run that has changed, or that was altered.
    assert compared(seed=1)[1] == [12, 12]
    runs["a"].weights = "others"
    (tmp_path / "b" / "analysis" / "analysis.npz").write_bytes(b"")
    assert compared()[1] == [12, 12]
