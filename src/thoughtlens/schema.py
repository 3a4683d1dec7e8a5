"""The attention Dataset: what every producer writes and every analysis may rely on.

    attention  (problem, layer, head, query, key)  float16 on disk, float32 in memory
    correct    (problem)  bool: the parsed answer equals the gold answer
    n_question_tokens  (problem)  int32: prompt tokens before `bot`

Each row of `attention` is a partition of what its query sees, so it sums to 1; cells that the causal mask forbids
are 0; a row that does not exist (the output never reached the answer prefix) is NaN in all its cells.
"""

import numpy as np
import xarray as xr

from thoughtlens.errors import RunError
from thoughtlens.labels import key_names, query_names

ATTENTION_DIMS = ("problem", "layer", "head", "query", "key")
ROW_SUM_TOLERANCE = {"float16": 2e-3, "float32": 1e-5, "float64": 1e-9}


def attention_dataset(
    attention: np.ndarray,
    *,
    problem_ids: list[str],
    correct: np.ndarray,
    n_question_tokens: np.ndarray,
    attrs: dict[str, object] | None = None,
) -> xr.Dataset:
    """Label raw arrays as an attention Dataset.

    Args:
        attention: shape (problem, layer, head, query, key); T thoughts make T + 3 queries and T + 5 keys.
        problem_ids: one id a problem, unique.
        correct: bool, one a problem.
        n_question_tokens: int, one a problem.
        attrs: provenance, kept on the Dataset.

    Returns:
        The Dataset of this module's docstring.
    """
    n_thoughts = attention.shape[3] - 3
    return xr.Dataset(
        {
            "attention": (ATTENTION_DIMS, attention),
            "correct": ("problem", np.asarray(correct, dtype=bool)),
            "n_question_tokens": ("problem", np.asarray(n_question_tokens, dtype=np.int32)),
        },
        coords={
            "problem": np.array(problem_ids, dtype=np.dtypes.StringDType()),
            "layer": np.arange(attention.shape[1]),
            "head": np.arange(attention.shape[2]),
            "query": np.array(query_names(n_thoughts), dtype=np.dtypes.StringDType()),
            "key": np.array(key_names(n_thoughts), dtype=np.dtypes.StringDType()),
        },
        attrs=attrs or {},
    )


def n_thoughts_of(attention: xr.DataArray | xr.Dataset) -> int:
    """The number T of thoughts, from the query axis."""
    return attention.sizes["query"] - 3


def check_attention(dataset: xr.Dataset) -> xr.Dataset:
    """Raise `RunError` unless the Dataset keeps the promises of this module; return it unchanged."""
    attention = dataset["attention"]
    if attention.dims != ATTENTION_DIMS:
        raise RunError(f"attention has dims {attention.dims}, expected {ATTENTION_DIMS}; extract the run again.")
    n_thoughts = n_thoughts_of(attention)
    for axis, expected in (("query", query_names(n_thoughts)), ("key", key_names(n_thoughts))):
        found = [str(name) for name in attention[axis].values]
        if found != expected:
            raise RunError(f"the {axis} axis is {found}, expected {expected}; extract the run again.")
    values = attention.values.astype(np.promote_types(attention.dtype, np.float32))
    _check_rows(values, ROW_SUM_TOLERANCE[str(attention.dtype)])
    _check_causal(values)
    return dataset


def _check_rows(values: np.ndarray, tolerance: float) -> None:
    sums = values.sum(-1)
    exists = ~np.isnan(values).all(-1)
    if not exists[..., :-1].all():
        place = query_names(values.shape[-2] - 3)[int(np.argwhere(~exists[..., :-1])[0][-1])]
        raise RunError(f"row {place} of attention is NaN, and only answer rows may be missing; is the model sound?")
    worst = float(np.abs(np.where(exists, sums, 1.0) - 1.0).max(initial=0.0))
    # A partly NaN row has a NaN sum, and NaN must not pass as a small difference.
    if not worst <= tolerance:
        raise RunError(
            f"a row of attention sums to 1 ± {worst:.2g}, expected within {tolerance:g}; extract the run again."
        )


def _check_causal(values: np.ndarray) -> None:
    n_queries, n_keys = values.shape[-2:]
    # Query i sits at key index i + 2 (`first` and `question` come before `bot`).
    later = np.arange(n_keys)[None, :] > np.arange(n_queries)[:, None] + 2
    if np.nan_to_num(values[..., later]).any():
        raise RunError("attention puts mass on positions after the query; extract the run again.")
