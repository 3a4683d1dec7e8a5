"""Turn attention into the step-indexed T×T map of the 2025 scripts, so that published numbers can be compared.

Those scripts fed `bot` as step 0 and wrote the pattern of step s into row s. So row s is the query of thought `z{s}`,
column j the key `z{j+1}`, and the cell [s, s − 1] is that thought's attention *to itself*. Row 0 is empty, the last
column is empty, and the last thought's own row was never recorded.
"""

import numpy as np
import xarray as xr

from thoughtlens.analysis.metrics import thought_map

CONVENTION = "step-indexed: row s is the query of thought z{s}, column j the key z{j+1}; [s, s-1] is self-attention"


def step_indexed(attention: xr.DataArray) -> xr.DataArray:
    """The map of the 2025 scripts.

    B[s, j] = A[query z{s}, key z{j+1}] for j < s, else 0.  Range 0-1.  Under even attention over what a thought sees
    its columns fall from left to right by the causal mask alone: no column sum of it shows a hub.

    Args:
        attention: dims (..., query, key) of one problem, many, or their mean; any float dtype, which is kept.

    Returns:
        dims (..., row, column), steps from 0; a row that does not exist is NaN where it would have values.
    """
    thoughts = thought_map(attention)
    cells = thoughts.transpose(..., "query", "key").values
    steps = np.arange(cells.shape[-1])
    shifted = np.zeros_like(cells)
    shifted[..., 1:, :-1] = np.where(steps[1:, None] > steps[None, :-1], cells[..., :-1, :-1], 0)
    leading = thoughts.drop_vars(["query", "key"]).isel(query=0, key=0)
    return xr.DataArray(
        shifted,
        dims=(*leading.dims, "row", "column"),
        coords={**leading.coords, "row": steps, "column": steps},
        name="attention",
        attrs={**attention.attrs, "convention": CONVENTION},
    )
