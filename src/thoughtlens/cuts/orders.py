"""Orders in which heads are cut one after the other: rankings by attention or by cause, and random ones.

in: a run, or the effects of cutting single heads; out: names of heads in order, and the cuts of the first 1, 2, … .
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import xarray as xr

from thoughtlens.analysis.effects import RANKED_BY, paired_differences
from thoughtlens.analysis.weighted_attention import VALUES, look, patterned
from thoughtlens.cuts.experiments import Cut
from thoughtlens.errors import OptionError
from thoughtlens.notation import HEADS, RANDOM, step_label
from thoughtlens.runs.folder import Run

ATTENTION: Final = "attention"
CAUSE: Final = "cause"
RANKINGS: Final = (ATTENTION, VALUES, CAUSE)


def heads_by_attention(run: Run, by: str, problems: Sequence[str]) -> list[str]:
    """Names of all heads, those that give thoughts most attention first, on these problems (`head_importance`).

    `by` is `attention` or `value-weighted`. Heads that are alike keep the order of layers and heads.
    """
    importances, _ = look(patterned(run, by), problems, how=by)
    looked = importances[HEADS][by].mean("problem")
    return [str(name) for name in looked["unit"].values[np.argsort(-looked.values, kind="stable")]]


def heads_by_cause(effects: xr.Dataset, single: Mapping[str, Cut]) -> list[str]:
    """Names of heads that were cut alone, those whose cut costs prefix and answer most log-probability first.

    The ranking and its order are measured on the same problems, so chance in the effects favours this order.
    """
    gained = paired_differences(effects)[RANKED_BY].mean("problem")
    of_heads = gained.sel(intervention=[cut.label for cut in single.values()]).values
    return [list(single)[place] for place in np.argsort(of_heads, kind="stable")]


def cumulative(rankings: Mapping[str, Sequence[Cut]], *, n_random: int = 10, seed: int = 0) -> tuple[Cut, ...]:
    """Cuts of the first 1, 2, … of each ranking, and of random orders of the same cuts, with `order` and `k`.

    Orders differ only in what comes first: the last step of each is the same cut of everything.
    """
    members = {name: sorted(cut.label for cut in ranking) for name, ranking in rankings.items()}
    if not members or not all(its and its == next(iter(members.values())) for its in members.values()):
        raise OptionError(f"found {len(members)} rankings, expected one or more of the same cuts; rank the same ones.")
    if odd := [name for name in rankings if name.startswith(RANDOM)]:
        raise OptionError(f"a ranking is called {odd[0]!r}, which names random orders; call it otherwise.")
    # By label, so that the random orders are the same whatever the rankings are.
    first = sorted(next(iter(rankings.values())), key=lambda cut: cut.label)
    rng = np.random.default_rng(seed)
    drawn = {f"{RANDOM} {k}": [first[place] for place in rng.permutation(len(first))] for k in range(1, n_random + 1)}
    # The parts by label, so that two orders with the same first k make the same cut.
    return tuple(
        Cut(
            step_label(name, k),
            tuple(part for cut in sorted(order[:k], key=lambda cut: cut.label) for part in cut.parts),
            order=name,
            k=k,
        )
        for name, order in (*rankings.items(), *drawn.items())
        for k in range(1, len(order) + 1)
    )
