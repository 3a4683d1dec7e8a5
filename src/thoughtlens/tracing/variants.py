"""Several sets of interventions become one tap of a batch that was forked: each copy meets its own.

Copy v of a batch of n problems has the rows v·n … (v+1)·n − 1. Problems that are done leave the batch, so that copies
get smaller, but rows keep their order: a copy is always one stretch of them.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from thoughtlens.tracing.interventions import Intervention
from thoughtlens.tracing.taps import Moment, Site


class Variants:
    """A tap that gives each copy of a forked batch its own interventions.

    Args:
        copies: the interventions of each copy, in order; none for a copy that is left alone.
        n_problems: problems of one copy.
    """

    def __init__(self, copies: Sequence[Sequence[Intervention]], n_problems: int) -> None:
        self._copies, self._n_problems = copies, n_problems
        self._known: dict[tuple[Site, int | None], dict[int, list[Intervention]]] = {}
        self._rows = torch.empty(0)
        self._stretches: list[slice] = []

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """Edit each stretch of the batch by what is meant for it."""
        met = self._meeting(moment.site, moment.layer)
        if not met:
            return tensor
        self._follow(moment.rows)
        edited = tensor.clone()
        for copy, parts in met.items():
            stretch = self._stretches[copy]
            if stretch.start == stretch.stop:
                continue
            here = moment._replace(
                queries=moment.queries[stretch],
                keys=moment.keys[stretch],
                rows=moment.rows[stretch] - copy * self._n_problems,
            )
            piece = tensor[stretch]
            for part in parts:
                piece = part(piece, here)
            edited[stretch] = piece
        return edited

    def _meeting(self, site: Site, layer: int | None) -> dict[int, list[Intervention]]:
        """What can be at a site of a layer, by copy; looked up in every step, so found once."""
        if (site, layer) not in self._known:
            met = {copy: [part for part in parts if part.meets(site, layer)] for copy, parts in enumerate(self._copies)}
            self._known[site, layer] = {copy: parts for copy, parts in met.items() if parts}
        return self._known[site, layer]

    def _follow(self, rows: Tensor) -> None:
        """Where each copy is, worked out again only when problems have left."""
        if rows is not self._rows:
            borders = torch.arange(len(self._copies) + 1, device=rows.device) * self._n_problems
            ends = torch.searchsorted(rows, borders).tolist()
            self._stretches = [slice(start, end) for start, end in pairwise(ends)]
            self._rows = rows
