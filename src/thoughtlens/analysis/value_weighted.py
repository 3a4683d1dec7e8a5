"""Norms of weighted values become rows that sum to 1, so that every measure of attention can be taken of them.

A weight is not what is moved: a head can look hard at a key whose value is small (Kobayashi et al. 2020, arXiv
2004.10102). The share of a key is its norm over the norms of all that the row sees, so that a row counts the same
whether it moves much or little, as it does in attention.
"""

import numpy as np
import xarray as xr

from thoughtlens.schema import ATTENTION, VALUE_WEIGHTED


def value_shares(block: xr.Dataset) -> xr.Dataset:
    """A Dataset of value-weighted patterns, as one of attention.

    share[q, k] = n[q, k] / Σ_k n[q, k], n = ‖α[q, k] · v[k] · W_O‖.  Range 0-1, a row sums to 1.  No null of its own:
    the nulls of attention apply.  A row that moves nothing at all has no shares and is NaN, like one that is missing.

    Args:
        block: with `value_weighted`, dims (..., query, key); a run's, or some of its problems.

    Returns:
        The same Dataset with `attention`, float64, in the place of `value_weighted`.
    """
    norms = block[VALUE_WEIGHTED].astype(np.float64)
    total = norms.sum("key", skipna=False)
    return block.drop_vars(VALUE_WEIGHTED).assign({ATTENTION: norms / total.where(total > 0)})
