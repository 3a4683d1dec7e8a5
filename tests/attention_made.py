"""Attention Datasets made up to the letter of the schema, random and planted."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from unittest.mock import patch

import numpy as np
import pytest
import xarray as xr

from thoughtlens.analysis import Analysis, analyze
from thoughtlens.notation import key_names, query_names
from thoughtlens.schema import attention_dataset, check_attention

Planter = Callable[[str, str], float]

_ANALYSES: dict[tuple[object, ...], Analysis] = {}


def numbers_of(dataset: xr.Dataset) -> tuple[object, ...]:
    """What tells a Dataset from others."""
    values = [dataset[name].values for name in ("attention", "correct", "n_question_tokens")]
    labels = [(name, tuple(index)) for name, index in dataset.indexes.items()]
    return (*((of.dtype.str, of.tobytes()) for of in values), *labels)


def unsaved() -> AbstractContextManager[object]:
    """Analyses of runs are made and not saved, which takes longer; what is saved is told by the tests of archives."""
    return patch("thoughtlens.analysis.archive.write_bundle")


def analysed(dataset: xr.Dataset, **options: int) -> Analysis:
    """`analyze` of a Dataset, made once for all tests of the same numbers and options: none may change what it gets."""
    key = (*numbers_of(dataset), *sorted(options.items()))
    if key not in _ANALYSES:
        _ANALYSES[key] = analyze(dataset, **options)
    return _ANALYSES[key]


def _visible(n_thoughts: int) -> np.ndarray:
    return np.arange(n_thoughts + 5)[None, :] <= np.arange(n_thoughts + 3)[:, None] + 2


def _dataset(values: np.ndarray, correct: np.ndarray | None = None) -> xr.Dataset:
    n = len(values)
    return check_attention(
        attention_dataset(
            values,
            problem_ids=[f"p{i}" for i in range(n)],
            correct=np.arange(n) % 2 == 0 if correct is None else correct,
            n_question_tokens=np.full(n, 7),
        )
    )


@pytest.fixture(scope="session")
def make_attention() -> Callable[..., xr.Dataset]:
    """Random rows that sum to 1 over what they see; some answer rows may be missing."""

    def make(
        n_problems: int = 5,
        n_layers: int = 2,
        n_heads: int = 3,
        n_thoughts: int = 6,
        *,
        seed: int = 0,
        dtype: str = "float32",
        missing: tuple[int, ...] = (),
    ) -> xr.Dataset:
        rng = np.random.default_rng(seed)
        shape = (n_problems, n_layers, n_heads, n_thoughts + 3, n_thoughts + 5)
        values = rng.exponential(size=shape) * _visible(n_thoughts)
        values /= values.sum(-1, keepdims=True)
        values[list(missing), :, :, -1, :] = np.nan
        return _dataset(values.astype(dtype))

    return make


@pytest.fixture(scope="session")
def plant_attention() -> Callable[..., xr.Dataset]:
    """Every problem and head alike: weight(query, key) of visible cells, rows scaled to sum to 1."""

    def plant(weight: Planter, *, n_thoughts: int = 6, n_problems: int = 3, n_layers: int = 2, n_heads: int = 2):
        cells = np.array([[weight(q, k) for k in key_names(n_thoughts)] for q in query_names(n_thoughts)])
        rows = cells * _visible(n_thoughts)
        rows = rows / rows.sum(-1, keepdims=True)
        return _dataset(np.broadcast_to(rows.astype(np.float32), (n_problems, n_layers, n_heads, *rows.shape)).copy())

    return plant
