"""What control heads are matched by, attention mass and output norm, and how near they come to the heads that are cut.

in: a run and its model, or a plan's cuts with their controls; out: measures of heads, and a row a cut.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import xarray as xr

from thoughtlens.cuts.controls import Shape
from thoughtlens.cuts.cut_taps import Intervention
from thoughtlens.cuts.cut_types import Cut
from thoughtlens.cuts.replacements import Zero
from thoughtlens.cuts.study_batches import Target, measure_material
from thoughtlens.models.reasoner import LatentReasoner, norm_factors
from thoughtlens.runs import batches
from thoughtlens.runs.reader import Run
from thoughtlens.taps import Site

MEASURED: Final = 32
"""Problems on which the norm of each head's output is measured: heads differ by far more than problems do."""


def head_measures(run: Run, reasoner: LatentReasoner, mass: xr.DataArray, problems: Sequence[str]) -> xr.Dataset:
    """`mass` and `norm` of each head, dims (layer, head): its attention to thoughts, and how much it writes.

    norm = mean of ‖output · W_O‖ over the positions bot, z1 … zT, eot, answer of the first problems; 0 or more.

    Args:
        run: the run.
        reasoner: its model.
        mass: attention mass on thoughts, dims (layer, head) and perhaps value.
        problems: ids of those that may be used.
    """
    its = run.problems(problems[:MEASURED])
    prompts = tuple(reasoner.prompt(problem.question) for problem in its)
    grouped = tuple(map(tuple, batches.plan(list(map(len, prompts)), MEASURED)))
    layout = run.manifest["layout"]
    shape = Shape(layout["n_layers"], layout["n_heads"], layout["n_thoughts"])
    target = Target(Path(), its, grouped, shape, prompts)
    heads = measure_material(reasoner, target, [Intervention(Site.HEAD, Zero())]).heads
    assert heads is not None, "heads are measured for an edit of heads"
    norms = [
        (heads[:, layer, :, :-1] @ factor.float().cpu()).norm(dim=-1).nanmean((0, 2))
        for layer, factor in enumerate(norm_factors(reasoner.lm))
    ]
    mass = mass.sel(value="estimate", drop=True) if "value" in mass.dims else mass
    norm = mass.transpose("layer", "head").copy(data=torch.stack(norms).double().numpy())
    return xr.Dataset({"mass": mass, "norm": norm})


def balance_rows(
    cuts: Sequence[Cut], controls: Mapping[str, Sequence[Cut]], measures: xr.Dataset
) -> list[dict[str, Any]]:
    """A row for each cut of heads that has controls: each measure of what is cut, and the mean of its controls."""
    rows = []
    for cut in cuts:
        if cut.label in controls and (own := _total(cut, measures)):
            its = [_total(control, measures) for control in controls[cut.label]]
            rows.append({"cut": cut.label, "n_controls": len(its)})
            for name, value in own.items():
                rows[-1] |= {name: value, f"{name}_controls": float(np.mean([one[name] for one in its]))}
    return rows


def _total(cut: Cut, measures: xr.Dataset) -> dict[str, float]:
    """The sum of each measure over the heads of a cut; empty where it cuts none."""
    places = {
        (layer, head)
        for part in cut.parts
        if part.site is Site.HEAD and part.layers and part.heads
        for layer in part.layers
        for head in part.heads
    }
    return {
        str(name): float(sum(values.sel(layer=layer, head=head) for layer, head in places))
        for name, values in measures.items()
        if places
    }
