"""The heads of a run become an order: by attention, by what attention moves, or by what cutting them costs.

An order is only names; what it is worth, `studies` says. By cause it is made from effects on the same problems that it
is later tested on, so that chance in them favours it.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import xarray as xr

from thoughtlens import schema
from thoughtlens.analysis.addresses import families
from thoughtlens.analysis.blocks import Blocks
from thoughtlens.analysis.effects import DAMAGE_SIGN, paired_differences
from thoughtlens.analysis.importance import HEADS, look
from thoughtlens.errors import OptionError
from thoughtlens.outputs import VALUES, WEIGHTS, pattern_blocks
from thoughtlens.runs.reading import Run

CAUSE: Final = "cause"
RANKINGS: Final = (WEIGHTS, VALUES, CAUSE)
_OUTCOME: Final = "gold_logprob"


def other_attention(run: Run) -> dict[str, Blocks]:
    """Kinds of attention that a run holds beside the weights, by name, block by block."""
    return {VALUES: pattern_blocks(run, VALUES)} if schema.VALUE_WEIGHTED in run.attention else {}


def check_ranking(run: Run, by: str) -> None:
    """Raise `OptionError` unless heads can be ranked so."""
    if by not in RANKINGS:
        raise OptionError(f"no ranking of heads by {by!r}, expected {', '.join(RANKINGS)}; pass another --order.")
    if by == VALUES and schema.VALUE_WEIGHTED not in run.attention:
        raise OptionError(f"{run.path} holds no values to rank heads by; extract it with --record values.")


def heads_by_attention(run: Run, by: str, problems: Sequence[str]) -> list[str]:
    """Names of all heads, those first that give thoughts most (`analysis.importance.head_importance`).

    Args:
        run: the run.
        by: `attention` or `value-weighted`.
        problems: ids of the problems that count.
    """
    looked = look(pattern_blocks(run, by), problems, how=by).importances[HEADS][by].mean("problem")
    return _sorted(dict(zip(map(str, looked["unit"].values), looked.values.tolist(), strict=True)))


def heads_by_cause(effects: xr.Dataset) -> list[str]:
    """Names of the heads that were cut one by one, those first whose cut costs the gold answer most log-probability.

    Raises:
        OptionError: no head was cut alone.
    """
    cuts = next((its for name, its in families(effects).items() if name.split(",")[0] == HEADS), None)
    if cuts is None:
        raise OptionError("heads are ranked by cause from cuts of single heads, found none; add --heads all.")
    damage = DAMAGE_SIGN[_OUTCOME] * paired_differences(effects)[_OUTCOME].mean("problem")
    return _sorted({name: float(damage.sel(intervention=label)) for name, label in cuts.items()})


def _sorted(scores: Mapping[str, float]) -> list[str]:
    # Stable: heads that are alike keep the order of layers and heads.
    return sorted(scores, key=lambda name: -scores[name])
