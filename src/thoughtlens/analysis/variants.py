"""Cuts done in other ways, beside them, and what putting one unit back recovers.

In: an effects Dataset.  Out: tables with a row a cut or a unit.

1. A variant does the same to the same by another edit (a head by its mean), or with later thoughts frozen. The latter
   is the direct effect; the indirect one is what is left of the total, problem by problem.
2. A restoration puts one unit back into a run in which all thoughts are another problem's. Recovered is
   Σ(restored − corrupted) / Σ(uncut − corrupted) over problems, of the log-probability that ranks cuts.
"""

import json
from typing import Any, Final

import numpy as np
import xarray as xr

from thoughtlens.analysis.effects import MARGIN, RANKED_BY, paired_differences
from thoughtlens.analysis.statistics import bootstrap_mean, bootstrap_ratio
from thoughtlens.notation import text
from thoughtlens.schema import effects_dataset

DIRECT: Final = "direct"
INDIRECT: Final = "indirect"


def variant_effects(effects: xr.Dataset, *, n_resamples: int = 1000, seed: int = 0) -> xr.DataArray | None:
    """The effect of each variant on the log-probability that ranks cuts, beside that of its cut.

    total − direct is the indirect effect, problem by problem: what goes by way of later thoughts, and what of the
    cut's effect beside them depends on these.

    Args:
        effects: an effects Dataset.
        n_resamples: bootstrap resamples of the problems.
        seed: of these.

    Returns:
        dims (intervention, variant, value), nats: `intervention` the cuts that have variants; `variant` total, mean,
        direct, indirect, …, those that there are; NaN where a cut has none. None without variants.

    Example:
        >>> from thoughtlens.schema import example_effects
        >>> print(variant_effects(example_effects()))
        None
    """
    variants: dict[str, dict[str, str]] = json.loads(effects.attrs.get("variants", "{}"))
    if not variants:
        return None
    lost = paired_differences(effects)[RANKED_BY].reset_coords(drop=True)
    names = list(dict.fromkeys(name for its in variants.values() for name in its))
    names = [*names, *([INDIRECT] if DIRECT in names else [])]
    unknown = xr.full_like(lost.isel(intervention=0, drop=True), np.nan)
    rows = []
    for label, its in variants.items():
        total = lost.sel(intervention=label, drop=True)
        found = {name: lost.sel(intervention=variant, drop=True) for name, variant in its.items()}
        if DIRECT in found:
            found[INDIRECT] = total - found[DIRECT]
        rows.append(xr.concat([total, *(found.get(name, unknown) for name in names)], "variant"))
    table = xr.concat(rows, "intervention").assign_coords(intervention=text(variants), variant=text(["total", *names]))
    return bootstrap_mean(table.transpose("problem", ...), n_resamples=n_resamples, seed=seed)


def recovered(
    effects: xr.Dataset, *, margin: float = MARGIN, n_resamples: int = 1000, seed: int = 0
) -> xr.Dataset | None:
    """What share of what a run loses with another problem's thoughts comes back with one unit of its own.

    share = Σ_p(restored − corrupted) / Σ_p(uncut − corrupted).  1 where all comes back, 0 where nothing does; it may be
    below 0, or above 1.

    Args:
        effects: an effects Dataset with restorations, and the cut of all thoughts that they are made in.
        margin: nats; without a mean loss beyond this no share is given.
        n_resamples: bootstrap resamples of the problems.
        seed: of these.

    Returns:
        dims (intervention): `share` (…, value), NaN where the loss is within the margin, with the coordinates `family`
        and `unit`; `loss`, the mean of uncut − corrupted in nats; `n`. None without restorations.

    Raises:
        RunError: no problem was run both with and without a cut.

    Example:
        >>> found = recovered(example_restoration(), n_resamples=50)
        >>> found["share"].sel(value="estimate").values.tolist(), found["loss"].item()
        ([0.75], 2.0)
    """
    restored = effects["kind"].values == "restored"
    if not restored.any():
        return None
    lost = paired_differences(effects)[RANKED_BY]
    labels = effects["intervention"].values[restored]
    specs = {
        str(spec): str(label)
        for label, spec in zip(effects["intervention"].values, effects["spec"].values, strict=True)
    }
    first = json.loads(str(effects["spec"].values[restored][0]))[0]
    corrupted = lost.sel(intervention=specs[json.dumps([first], ensure_ascii=False)]).reset_coords(drop=True)
    both = lost.sel(intervention=labels).transpose("problem", "intervention")
    known = (both.notnull().all("intervention") & corrupted.notnull()).values
    both, corrupted = both.isel(problem=known), corrupted.isel(problem=known)
    loss = -float(corrupted.mean())
    gained = (both - corrupted).reset_coords(drop=True)
    whole = (-corrupted).broadcast_like(gained).transpose("problem", "intervention")
    share = bootstrap_ratio(gained, whole, n_resamples=n_resamples, seed=seed)
    coords = {name: both[name] for name in ("family", "unit")}
    return xr.Dataset({"share": share.where(abs(loss) > margin), "loss": loss, "n": int(known.sum())}).assign_coords(
        coords
    )


def example_restoration() -> xr.Dataset:
    """Effects for examples: with another problem's thoughts two nats are lost, of which z1 brings 1.5 back."""
    corrupted: list[Any] = [{"site": "thought", "edit": "resample", "queries": None}]
    whole, part = (json.dumps(spec) for spec in (corrupted, [*corrupted, {"site": "thought", "edit": "own"}]))
    values = np.repeat([[-1.0], [-3.0], [-1.5]], 4, axis=1)
    nothing = np.zeros_like(values)
    return effects_dataset(
        {"gold_logprob": values, "correct": nothing, "kl": nothing, "answer": nothing.astype(str), "failed": nothing},
        labels=["none", "thoughts resample", "z1 restored"],
        kinds=["baseline", "cut", "restored"],
        specs=["[]", whole, part],
        problem_ids=["p0", "p1", "p2", "p3"],
        addresses=[{}, {"family": "whole"}, {"family": "thoughts", "unit": "z1"}],
    )
