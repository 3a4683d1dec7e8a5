"""Turn names into the one kind of text array that labels, Zarr and tables all take."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


def text(names: npt.ArrayLike | Iterable[str]) -> np.ndarray:
    """Names as variable-length strings: those of fixed length warn in Zarr 3."""
    return np.array(names, dtype=np.dtypes.StringDType())
