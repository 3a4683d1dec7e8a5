"""What a run keeps, by name: all attention, or what an analysis adds up of it.

extract(model, problems, "runs/large", keep=MEAN)
"""

from typing import Final

from thoughtlens.analysis.kept import block_sums
from thoughtlens.errors import OptionError
from thoughtlens.runs.block_layout import Keep

MEAN: Final = Keep(block_sums)
"""Sums over at most 512 blocks of problems: disk for attention does not grow with the number of problems."""

KEEPS: Final = {"raw": None, "mean": MEAN}


def keep_named(name: str) -> Keep | None:
    """What `--keep` means; None for the attention of every problem.

    Raises:
        OptionError: the name is unknown.
    """
    if name not in KEEPS:
        raise OptionError(f"can't keep {name!r}, expected {' or '.join(KEEPS)}; pass another --keep.")
    return KEEPS[name]
