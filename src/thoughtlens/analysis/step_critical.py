"""Turn the head scores of the 2025 scripts into what their figures of critical heads drew, in the order of composites.

The scores are those of `published_heads`, step-indexed, for comparison with published figures alone.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from thoughtlens.analysis.names import text
from thoughtlens.analysis.panels import THIRDS
from thoughtlens.analysis.published import Published
from thoughtlens.analysis.published_heads import N_TOP, head_scores, ranked, top_counts

WORDS = {"hub_score": "hub score", "skip_score": "skip score"}


def critical_order(maps: xr.DataArray) -> pd.DataFrame:
    """Heads by composite, the highest first, with every score and `name`.

    Args:
        maps: of `step_indexed`, averaged over problems, dims (layer, head, row, column).
    """
    order = ranked(head_scores(maps), "composite_score")
    return order.assign(name=[f"L{layer}H{head}" for layer, head in zip(order["layer"], order["head"], strict=True)])


def as_ranking(order: pd.DataFrame) -> xr.Dataset:
    """The order as a ranking that heads are picked from: `layer`, `head`, `name` and `title` (rank)."""
    scores = ("composite_score", "flow_score", "hub_score", "skip_score")
    titles = [
        f"{name} {composite}: F{flow} H{hub} S{skip}"
        for name, composite, flow, hub, skip in zip(
            order["name"], *(order[score].map(_short) for score in scores), strict=True
        )
    ]
    columns = {name: ("rank", order[name].to_numpy()) for name in ("layer", "head")}
    return xr.Dataset(coords={**columns, "name": ("rank", text(order["name"])), "title": ("rank", text(titles))})


def metric_panels(order: pd.DataFrame, n: int) -> dict[str, tuple[str, xr.Dataset]]:
    """The four panels of script 7's distributions, each of the first 20 heads: figure function and data, by name."""
    top = order.head(N_TOP)
    bars = {name.removesuffix("_score"): ("head_ranking", _bars(top, name, words, n)) for name, words in WORDS.items()}
    layers = _counts(top, [(third, top[top["layer_type"] == third]) for third in THIRDS], n)
    types = _counts(top, [("all", top)], n)
    return bars | {"layers": ("head_counts", layers), "types": ("head_counts", types)}


def comparison_panels(models: Mapping[str, tuple[Published, int]]) -> xr.Dataset:
    """The panels of script 8's figure: hub scores, composites, types and layers of the top heads, mean scores.

    Args:
        models: each model's side and its number of problems, by the names that the figure has.

    Returns:
        `preference`, `composite`, `type_share`, `layer_share`, `mean_score` (model, …) and `n` (model); each says in
        its attributes what it is.
    """
    joined = xr.concat(
        [_model_panels(published) for published, _ in models.values()],
        xr.DataArray(text(list(models)), dims="model", name="model"),
        data_vars="all",
        join="outer",
        combine_attrs="override",
    )
    if len({published.summary["hub_analysis"]["uniform_baseline"] for published, _ in models.values()}) > 1:
        joined["preference"].attrs.update(null=np.nan, null_name="")
    shares = {name: joined[name].fillna(0.0) for name in ("type_share", "layer_share")}
    counted = joined.assign({**shares, "n": ("model", [n for _, n in models.values()])})
    return counted.assign_attrs(title="step-indexed")


def _model_panels(published: Published) -> xr.Dataset:
    hub = published.summary["hub_analysis"]
    order = ranked(published.heads, "composite_score").head(N_TOP)
    types, layers = (order[name].value_counts(normalize=True) for name in ("functional_type", "layer_type"))
    means = published.heads[list(WORDS)].mean()
    composites = _series("rank", order["composite_score"], "composite scores", "rank by composite")
    hubs = _series("thought", hub["all_hub_scores"], "hub scores", "column: step")
    of_top = f"share of the top heads by composite, {N_TOP} at most"
    return xr.Dataset(
        {
            "preference": hubs.assign_attrs(null=hub["uniform_baseline"], null_name="1/T"),
            "composite": composites.assign_coords(rank=composites["rank"] + 1),
            "type_share": _series("type", types, "functional types", of_top, list(types.index)),
            "layer_share": _series("third", layers.reindex(THIRDS), "thirds of the layers", of_top, THIRDS),
            "mean_score": _series("score", means, "mean scores", "mean over all heads", list(WORDS.values())),
        }
    )


def _series(dim: str, values: npt.ArrayLike, title: str, axis: str, names: Sequence[str] = ()) -> xr.DataArray:
    """Numbers of one model along a dim, named or counted."""
    numbers = np.asarray(values, dtype=np.float64)
    labels = text(names) if names else np.arange(len(numbers))
    return xr.DataArray(numbers, dims=dim, coords={dim: labels}, attrs={"title": title, "axis": axis})


def _bars(top: pd.DataFrame, name: str, words: str, n: int) -> xr.Dataset:
    values = {
        "score": ("rank", top[name].to_numpy(dtype=np.float64)),
        "name": ("rank", text(top["name"])),
        "type": ("rank", text(top["functional_type"])),
        "null": np.nan,
        "n": n,
    }
    return xr.Dataset(values, coords={"metric": words}, attrs={"title": _title(top)})


def _counts(top: pd.DataFrame, rows: list[tuple[str, pd.DataFrame]], n: int) -> xr.Dataset:
    kinds = list(top_counts(top, "functional_type"))
    count = [[int((heads["functional_type"] == kind).sum()) for kind in kinds] for _, heads in rows]
    return xr.Dataset(
        {"count": (("third", "type"), np.array(count, dtype=np.int64).reshape(len(rows), -1)), "n": n},
        coords={"third": text([name for name, _ in rows]), "type": text(kinds)},
        attrs={"title": _title(top)},
    )


def _title(top: pd.DataFrame) -> str:
    return f"step-indexed: top {len(top)} by composite"


def _short(score: float) -> str:
    return f"{score:.2f}".removeprefix("0").replace("1.00", "1")
