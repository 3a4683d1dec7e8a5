"""The protocols of padding, which `--protocol` names: how the padding of a batch is read.

In: a name. Out: a `Protocol`.

Under `exact`, the default, every pass is masked and has positions, and nothing depends on the batch beyond rounding.
The official evaluation of CODI (`test.py` of github.com/zhenyi4/codi) pads a batch on the left, gives the mask in the
question's pass alone, gives no positions, and lets thoughts and answers attend to the padding. What they find there is
what attention gave the *padded rows* of the question's pass, and that depends on the version of transformers and on
the device:

    official-padding-v4-cpu    the mean of the values of all keys, the question after it included
    official-padding-v4-cuda   attention over all keys, without a mask (as transformers 4 unmasks such rows on CUDA)
    official-padding-v5        zero

They reproduce published numbers. A problem's numbers then depend on its batch, so that batches are of the official size
and in the order of the problems; how much the rows give padding is recorded. `official-padding-v4-cuda` is written from
transformers' code, and has not been compared with the original on CUDA.
"""

from dataclasses import dataclass
from typing import Final

from thoughtlens.errors import OptionError


@dataclass(frozen=True)
class Protocol:
    """How padding is read.

    Attributes:
        name: what the user types.
        padded_rows: what attention gives padded rows of the question's pass, a name of `taps.PADDED_ROWS`; None where
            padding is masked in every pass.
    """

    name: str
    padded_rows: str | None

    @property
    def official(self) -> bool:
        """Whether thoughts attend to padding."""
        return self.padded_rows is not None


EXACT: Final = Protocol("exact", None)
"""Masked and positioned throughout."""

_OFFICIAL: Final = {"v4-cuda": "all", "v4-cpu": "mean", "v5": "zero"}

PROTOCOLS: Final = {EXACT.name: EXACT} | {
    name: Protocol(name, rows) for name, rows in ((f"official-padding-{key}", rows) for key, rows in _OFFICIAL.items())
}
"""The protocols by name."""

OFFICIAL_BATCH: Final = 128
"""Problems of a batch in the official evaluation."""


def protocol_named(name: str) -> Protocol:
    """Find a protocol.

    Args:
        name: `exact`, `official-padding-v4-cuda`, `official-padding-v4-cpu` or `official-padding-v5`.

    Returns:
        The protocol.

    Raises:
        OptionError: there is none of this name.

    Example:
        >>> protocol_named("official-padding-v5").padded_rows
        'zero'
    """
    if name not in PROTOCOLS:
        raise OptionError(f"no protocol {name!r}, expected one of {', '.join(PROTOCOLS)}; pass another --protocol.")
    return PROTOCOLS[name]
