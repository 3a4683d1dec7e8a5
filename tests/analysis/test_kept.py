"""Sums over blocks of problems say what the attention of these problems says."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import xarray as xr
from tests.attention_made import unsaved
from tests.conftest import usually

from thoughtlens.analysis import analyze, open_analysis, row_entropy
from thoughtlens.analysis import streamed_attention as blocks
from thoughtlens.analysis.resampled_sums import block_sums
from thoughtlens.schema import n_thoughts_of

OPTIONS = {"n_resamples": 40, "seed": 3}
UNTESTED = {"p", "q", "p_familywise", "p_type", "q_type", "reliability", "top_overlap", "top_overlap_by_chance", "type"}
"""What is over blocks, not over problems: resamples, flips and halves."""


def questions_differ(dataset):
    """Questions of different lengths, on which the nulls depend."""
    lengths = np.arange(dataset.sizes["problem"], dtype=np.int32) * 3 + 4
    return dataset.assign(n_question_tokens=("problem", lengths))


def kept(dataset, assigned, *, batch=5, n_shards=1):
    """The sums of all blocks, in shards of whole blocks, each added up batch by batch."""
    assigned, n_blocks = np.asarray(assigned), int(np.max(assigned)) + 1
    for shard in np.array_split(np.arange(n_blocks), n_shards):
        places = np.flatnonzero(np.isin(assigned, shard))
        batches = [places[start : start + batch] for start in range(0, len(places), batch)]
        seen = ((dataset.isel(problem=some), assigned[some] - shard[0]) for some in batches)
        yield block_sums(seen, len(shard))


def analyzed(dataset, assigned, *, options=OPTIONS, **how):
    with unsaved():  # saved below, once
        return analyze(KeptRun(Path(mkdtemp()), dataset, assigned, how), **options)


@dataclass
class KeptRun:
    """A run that kept sums over blocks of a Dataset's problems."""

    path: Path
    dataset: xr.Dataset
    assigned: np.ndarray
    how: dict
    keeps_means = True

    @property
    def manifest(self):
        return {"layout": {"n_blocks": int(np.max(self.assigned)) + 1, "n_thoughts": n_thoughts_of(self.dataset)}}

    def sums(self):
        return kept(self.dataset, self.assigned, **self.how)

    def correct(self):
        return self.dataset["correct"].values

    def kept_blocks(self):
        return self.assigned

    def blocks(self, *, pattern):
        raise AssertionError("it has none")

    require_attention = problems = blocks


def numbers(analysis, *, estimates_only=False):
    """Every number of an analysis by its name."""
    for name, table in analysis._asdict().items():
        for variable, values in table.data_vars.items() if isinstance(table, xr.Dataset) else ():
            if estimates_only and (variable in UNTESTED or values.dtype.kind == "T"):
                continue
            chosen = values.sel(value="estimate") if estimates_only and "value" in values.dims else values
            yield f"{name}.{variable}", chosen


def assert_same(found, expected, **how):
    pairs = list(zip(numbers(found, **how), numbers(expected, **how), strict=True))
    assert len(pairs) > 20
    for (name, left), (other, right) in pairs:
        assert name == other
        if left.dtype.kind == "f":
            np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-12, err_msg=name)
        else:
            np.testing.assert_array_equal(left, right, err_msg=name)


@pytest.fixture(scope="module")
def dataset(make_attention):
    return questions_differ(make_attention(n_problems=23, missing=(0, 7, 8)))


@pytest.fixture(scope="module")
def whole(dataset):
    return analyze(dataset, correct=dataset["correct"], **OPTIONS)


@pytest.fixture(scope="module")
def in_blocks(dataset):
    """The analysis of its problems in blocks of so many, stored in so many shards."""
    return cache(lambda size, n_shards=1: analyzed(dataset, np.arange(23) // size, n_shards=n_shards))


@pytest.fixture(scope="module")
def twenty(make_attention):
    """Twenty problems, three of them without an answer, and what their attention says."""
    dataset = questions_differ(make_attention(n_problems=20, missing=(0, 1, 2)))
    return dataset, analyze(dataset, correct=dataset["correct"], **OPTIONS)


@pytest.mark.parametrize("n_shards", usually(4, of=[1, 4]))
def test_blocks_of_one_problem_give_all_numbers_of_attention(in_blocks, whole, n_shards):
    found = in_blocks(1, n_shards)
    assert_same(found, whole)
    assert found.model["n"] == 23


def test_an_analysis_is_saved_however_its_sums_were_stored(dataset, in_blocks, tmp_path):
    """Sums that are read from a store remember its shards, which have a dim more than what is made of them."""

    class StoredRun(KeptRun):
        def sums(self):
            for sums in super().sums():
                for values in sums.variables.values():
                    values.encoding = {"shards": values.shape, "chunks": values.shape}
                yield sums

    run = StoredRun(tmp_path, dataset, np.arange(23) // 5, {})
    analyze(run, name="stored", **OPTIONS)
    found, expected = open_analysis(run, "stored"), in_blocks(5)
    xr.testing.assert_allclose(found.moments, expected.moments)
    xr.testing.assert_allclose(found.composition, expected.composition)


BLOCKED = {
    "equal": np.arange(20) % 4,
    "unequal": np.array([0] * 11 + [1] + [2] * 3 + [3] * 5),
    "one": np.zeros(20, dtype=int),
    "an answerless block": np.array([0] * 3 + [1] * 17),
}


@pytest.mark.parametrize("way", usually("unequal", "an answerless block", of=BLOCKED))
def test_estimates_do_not_depend_on_the_blocks(twenty, way):
    (dataset, expected), assigned = twenty, BLOCKED[way]
    found = analyzed(dataset, assigned)
    # Heads in order of importance, which is an estimate: the order is the same.
    assert_same(found, expected, estimates_only=True)
    assert found.composition["n"].sel(query="answer") == 17
    assert found.accuracy["n"] == 20
    assert found.model.attrs["n_blocks"] == int(assigned.max()) + 1


@pytest.mark.parametrize("n_thoughts", usually(12, of=[2, 3, 12]))
def test_any_number_of_thoughts_can_be_kept(make_attention, n_thoughts):
    dataset = make_attention(n_problems=9, n_thoughts=n_thoughts, missing=(4,))
    expected = analyze(dataset, correct=dataset["correct"], **OPTIONS)
    assert_same(analyzed(dataset, np.arange(9) // 2), expected, estimates_only=True)


def test_small_pieces_and_batches_change_nothing(dataset, monkeypatch):
    dataset, assigned = dataset.isel(problem=slice(9)), np.arange(9) // 2
    whole = analyzed(dataset, assigned, batch=9)
    monkeypatch.setattr(blocks, "PIECE_CELLS", 1)
    assert_same(analyzed(dataset, assigned, batch=1, n_shards=2), whole)


def test_entropy_is_the_mean_of_entropies_and_not_that_of_the_mean(plant_attention):
    """Each problem looks at one thought alone, but not at the same one: entropy 0, though the mean row is even."""
    alone = [plant_attention(lambda q, k, z=z: float(k == z or q != "z3"), n_problems=1) for z in ("z1", "z2")]
    dataset = xr.concat(alone, "problem").assign_coords(problem=["a", "b"])
    found = analyzed(dataset, [0, 0]).model["entropy"].sel(query="z3", value="estimate")
    of_mean = row_entropy(dataset["attention"].mean("problem")).sel(query="z3").mean()
    assert found == pytest.approx(0.0, abs=1e-9)
    assert of_mean == pytest.approx(1.0)


def test_rows_without_thought_mass_have_no_say_in_the_entropy(plant_attention):
    """One problem splits evenly, the other gives thoughts nothing: the mean is of the first alone, 1."""
    even, nothing = plant_attention(lambda q, k: 1.0, n_problems=1), plant_attention(lambda q, k: float(k == "first"))
    dataset = xr.concat([even, nothing.isel(problem=[0])], "problem").assign_coords(problem=["a", "b"])
    found = analyzed(dataset, [0, 0]).model["entropy"].sel(query="z5", value="estimate")
    assert found == pytest.approx(1.0)


def test_intervals_over_blocks_are_as_wide_as_those_over_problems(make_attention):
    """Of problems that are alike, dealt out to 100 blocks of 4, on average over many numbers."""
    dataset = make_attention(n_problems=400, n_layers=2, n_heads=4)
    assigned = np.random.default_rng(0).permutation(400) % 100
    options = {**OPTIONS, "n_resamples": 400}
    over_problems = analyze(dataset, correct=dataset["correct"], **options).heads
    over_blocks = analyzed(dataset, assigned, options=options, batch=100).heads
    for name in ("preference", "lag_preference", "sequential", "skip", "thought_mass", "entropy"):
        widths = [(t[name].sel(value="high") - t[name].sel(value="low")).mean() for t in (over_blocks, over_problems)]
        # A width from 100 blocks is off by 1/sqrt(200) = 7 %; these are means over at least 8 heads.
        assert float(widths[0] / widths[1]) == pytest.approx(1.0, abs=0.1), name


# Those that other tests look at, too.
@pytest.mark.parametrize(
    ("size", "n_shards"),
    [pytest.param(1, 1, marks=pytest.mark.nightly), (1, 4), (5, 1), pytest.param(5, 4, marks=pytest.mark.nightly)],
)
def test_rollouts_and_last_thoughts_are_those_of_the_problems(in_blocks, whole, size, n_shards):
    found = in_blocks(size, n_shards)
    rolled, shares, expected, given = found.rollout, found.last_thought, whole.rollout, whole.last_thought
    values = ["estimate", "low", "high"] if size == 1 else ["estimate"]
    np.testing.assert_allclose(
        rolled["rollout"].sel(value=values).transpose("query", "key", "value"),
        expected["rollout"].sel(value=values).transpose("query", "key", "value"),
        rtol=1e-9,
        atol=1e-12,
    )
    np.testing.assert_allclose(shares["share"].sel(value=values), given["share"].sel(value=values), rtol=1e-9)
    np.testing.assert_array_equal(rolled["n"], expected["n"])
    assert shares["n"] == given["n"] == 23
