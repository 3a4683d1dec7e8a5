"""A run as the files and figures of the 2025 scripts: the same names, shapes, dtypes, JSON keys and CSV columns.

    attention_patterns_raw.npy, attention_patterns_avg.npy      step-indexed maps, float16, and README.txt about them
    attention_metadata.json, attention_stats.json, attention_summary.json
    heads_ranked_by_flow.csv, …_hub.csv, …_skip.csv, ranked_heads.csv, critical_heads_findings.txt
    attention_dataset_{n}_{split}.json                          the problems
    model_comparison.json, model_comparison.png, .svg, .pdf     of several runs, beside their folders

In: runs. Out: these files, each whole or not there at all. One pass over a run writes the raw array and gathers mean
and standard deviation, from which `step_indexed_scores` takes all numbers. That they are step-indexed is said by JSON
in one more key, `convention` (beside `made_by`), by text in its first line, and of CSV and arrays, which the readers of
the scripts open as they are, by `README.txt`, which also explains each column.

`step_figures` draws the scripts' figures from step-indexed maps, to be compared with the published ones alone: row s of
a map is the query of thought `z{s}` and column j the key `z{j+1}`, so that the cell [s, s − 1] is self-attention; every
title says step-indexed. `thoughtlens.plots` has the figures to conclude from.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from thoughtlens.analysis import moments
from thoughtlens.analysis.run_analysis import Analysis
from thoughtlens.files import (
    Json,
    call_of,
    file_name,
    replacing,
    replacing_bytes,
    unique,
    write_json,
    write_table,
    writing,
)
from thoughtlens.notation import head_name, text
from thoughtlens.plots.attention_maps import check_layers, draw_tiles, pick_heads
from thoughtlens.plots.comparison import Words, draw_models
from thoughtlens.plots.heads import Choice, draw_counts, draw_head_map, draw_ranking
from thoughtlens.plots.primitives import scale_of
from thoughtlens.plots.profiles import draw_depth, draw_profile
from thoughtlens.plots.style import Names, caption_of, short
from thoughtlens.problems import Problem
from thoughtlens.published.step_indexed_scores import N_TOP as N_COUNTED
from thoughtlens.published.step_indexed_scores import (
    Published,
    attention_stats,
    attention_summary,
    findings,
    head_scores,
    model_comparison,
    ranked,
    ranked_tables,
    skip_cells,
    step_indexed,
)
from thoughtlens.runs.reader import Run
from thoughtlens.runs.writer import made_by

EXPORT: Final = "export"
COMPARISON: Final = "model_comparison.json"

STEP_INDEXED_NOTE: Final = (
    "Step-indexed, as in the 2025 scripts: row s is the query of thought z{s} and column j the key z{j+1}, so that "
    "[s, s-1] is a thought's attention to itself; row 0 and the last column are empty; flow is 1 for every head with "
    "any mass, and where all have some, composite scores end at 0.6."
)

_ABOUT: Final = """\

This holds for every file of this folder but attention_dataset_*.json, the problems.

attention_patterns_raw.npy: float16, (problem, layer, head, row, column); problems as in attention_metadata.json.
attention_patterns_avg.npy: float16, (layer, head, row, column); its mean over problems.

Columns of heads_ranked_by_flow.csv, heads_ranked_by_hub.csv, heads_ranked_by_skip.csv and ranked_heads.csv, a row a
head, the highest score first:

layer, head       from 0
layer_type        early, middle, late: the third of the model's layers
flow_score        0 to 1: mass below the diagonal over mass on and below it
hub_score         0 or more: variance over columns of the column sums
hub_position      0 to T - 1: the column with the largest sum
skip_score        0 to 1: mean attention of the last row to the first half of the columns
composite_score   0 to 1: 0.4 flow + 0.4 hub + 0.2 skip, each scaled over all heads
functional_type   Forward Flow, Hub Aggregator, Skip Connection or Multi-Purpose: the largest of the scaled scores
max_attention     0 to 1: the largest cell
"""


Exported = tuple[list[Path], Published, int]
"""The paths of a run's files, what the comparison of models needs, and the number of problems."""


def export_npy(run: Run, out: Path | None = None) -> list[Path]:
    """Write a run as the files of the 2025 scripts, step-indexed, each whole or not at all.

    Args:
        run: the run.
        out: folder; `RUN/export` if None.

    Returns:
        The paths of all files but the comparison's: first `attention_patterns_raw.npy` (problem, layer, head, T, T) and
        `attention_patterns_avg.npy` (layer, head, T, T), both float16, last `README.txt`.

    Raises:
        RunError: the folder can't be written, the run's problems are not those that it measured, or it kept means.

    Example:
        `np.load(export_npy(tl.open_run("runs/a"))[0]).shape`
    """
    run.require_attention()
    paths, _, _ = _export(run, out or run.path / EXPORT, _model_name(run))
    return paths


def export_runs(runs: Sequence[Run], out: Path) -> list[Path]:
    """Write each run to a folder of its model's name in `out`, and a comparison of all beside these.

    Args:
        runs: at least one; the comparison has them in this order. Names that repeat are numbered.
        out: folder, made if it is not there.

    Returns:
        The paths of `export_npy` for each run, then `model_comparison.json`, `.png`, `.svg` and `.pdf`.

    Raises:
        RunError: as `export_npy`.
    """
    # Drawn with matplotlib, which is slow to import and needed nowhere else here.
    from thoughtlens.plots.style import save_figure
    from thoughtlens.published.step_indexed_files import compared_models

    for run in runs:
        run.require_attention()
    names = unique([_model_name(run) for run in runs])
    exported = {name: _export(run, out / name, name) for name, run in zip(names, runs, strict=True)}
    with writing(out):
        facts = model_comparison({name: of for name, (_, of, _) in exported.items()})
        _write_json(out / COMPARISON, facts, *(run.manifest for run in runs))
        drawn = compared_models({name: (of, n) for name, (_, of, n) in exported.items()})
        about = json.dumps(made_by(call_of("export_runs"), *(run.manifest for run in runs)), ensure_ascii=False)
        figures = save_figure(drawn, out / Path(COMPARISON).stem, about=about)
    return [*(path for paths, _, _ in exported.values() for path in paths), out / COMPARISON, *figures]


def _export(run: Run, out: Path, name: str) -> Exported:
    problems = run.problems()
    with writing(out) as folder:
        paths, maps = _write_arrays(run, folder)
        summary, heads = attention_summary(maps["mean"], model=name), head_scores(maps["mean"])
        dataset = _write_problems(run, problems, folder)
        facts = {
            "attention_metadata": _metadata(run, problems, dataset.name),
            "attention_stats": attention_stats(maps["mean"], maps["sd"], model=name, n_problems=len(problems)),
            "attention_summary": summary,
        }
        paths += [_write_json(folder / f"{stem}.json", value, run.manifest) for stem, value in facts.items()]
        paths += [*_write_heads(heads, folder, name), dataset, _write_text(folder / "README.txt", _ABOUT)]
        # A run does not count its model's parameters: the architecture stands for the size.
        size = run.manifest["options"]["model"]["architecture"]
        return paths, Published(size, summary, heads), len(problems)


def _write_arrays(run: Run, folder: Path) -> tuple[list[Path], xr.Dataset]:
    """Write both arrays in one pass over the run; return them with mean and sd, dims (layer, head, row, column)."""
    raw, average = folder / "attention_patterns_raw.npy", folder / "attention_patterns_avg.npy"
    sizes, n_thoughts = run.attention["attention"].sizes, run.manifest["options"]["n_thoughts"]
    shape = (sizes["layer"], sizes["head"], n_thoughts, n_thoughts)
    with _array(raw, (sizes["problem"], *shape)) as file:
        measured = moments(_written(run.blocks(), file))
    maps = xr.Dataset({name: step_indexed(measured[name]) for name in ("mean", "sd")})
    with _array(average, shape) as file:
        _append(file, maps["mean"])
    return [raw, average], maps


def _written(blocks: Iterable[xr.Dataset], file: BinaryIO) -> Iterator[xr.DataArray]:
    """Attention block by block; the step-indexed maps of each block are written to the file as it is read."""
    for block in blocks:
        _append(file, step_indexed(block["attention"]))
        yield block["attention"]


@contextmanager
def _array(path: Path, shape: tuple[int, ...]) -> Iterator[BinaryIO]:
    """A float16 `.npy` file to be filled from front to back."""
    # Not a memory map: a full disk would end the process instead of raising.
    with replacing_bytes(path) as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
        yield file


def _append(file: BinaryIO, maps: xr.DataArray) -> None:
    file.write(maps.values.astype("<f2").tobytes())


def _write_problems(run: Run, problems: Sequence[Problem], folder: Path) -> Path:
    """Write the problems as a plain list; it needs no note, since problems are not indexed by step."""
    split = file_name(run.manifest["options"]["problems"]["split"] or "all")
    path = folder / f"attention_dataset_{len(problems)}_{split}.json"
    with replacing(path) as file:
        file.write(json.dumps([_record(problem) for problem in problems], indent=2, ensure_ascii=False) + "\n")
    return path


def _record(problem: Problem) -> Json:
    return {
        "gsm8k_id": problem.id,
        "question": problem.question,
        "answer": problem.answer,
        # GSM8K's own form; the words between the worked steps are not kept in a run.
        "full_solution": "\n".join([*problem.steps, f"#### {problem.answer}"]),
    }


def _metadata(run: Run, problems: Sequence[Problem], dataset: str) -> Json:
    sizes = run.attention["attention"].sizes
    return {
        "model_name": _model_name(run),
        "model_path": run.manifest["options"]["model"]["name"],
        "n_problems": len(problems),
        "n_layers": sizes["layer"],
        "n_heads": sizes["head"],
        "continuous_thought_positions": list(range(run.manifest["options"]["n_thoughts"])),
        "dataset_path": dataset,
        "problems": [
            {"index": index, "gsm8k_id": problem.id, "question_length": len(problem.question), "success": True}
            for index, problem in enumerate(problems)
        ],
    }


def _write_heads(heads: pd.DataFrame, folder: Path, name: str) -> list[Path]:
    tables = ranked_tables(heads)
    for stem, table in tables.items():
        write_table(folder / f"{stem}.csv", table)
    text = _write_text(folder / "critical_heads_findings.txt", findings(heads, model=name))
    return [*(folder / f"{stem}.csv" for stem in tables), text]


def _write_json(path: Path, value: Json, *manifests: Json) -> Path:
    write_json(path, value | {"convention": STEP_INDEXED_NOTE, "made_by": made_by(call_of("export_npy"), *manifests)})
    return path


def _write_text(path: Path, text: str) -> Path:
    with replacing(path) as file:
        file.write(f"{STEP_INDEXED_NOTE}\n{text}")
    return path


def _model_name(run: Run) -> str:
    """The model's name as that of a folder: the last part of an id or a path."""
    name = run.manifest["options"]["model"]["name"]
    return file_name(Path(str(name or run.path)).name)


N_CRITICAL, N_FIRST = 10, 3
"""Heads that the two figures of critical heads had."""
THIRDS = ("early", "middle", "late")


def step_figures(analysis: Analysis, choice: Choice | None = None) -> dict[str, Figure]:
    """Draw each figure of the 2025 scripts, step-indexed.

    Args:
        analysis: of a run.
        choice: layers, and heads, which are otherwise the first by their largest cell or by composite.

    Returns:
        By the name that the scripts gave the file; a file of several panels is one figure a panel, named after both.

    Raises:
        OptionError: the run has no such layer or head.

    Example:
        `step_figures(tl.analyze(run))["1_top_heads_attention"]`
    """
    choice = choice or Choice()
    of = caption_of(analysis.model.attrs, int(analysis.model["n"]), "mean over problems")
    maps = step_indexed(analysis.moments["mean"])
    check_layers(maps["layer"].values, choice.layers)
    order = critical_order(maps)
    drawn = (*_tiles(maps, order, analysis.ranking, choice, of), *_profiles(maps, of), *_layers(maps, of))
    return dict([*drawn, *_distributions(order, of)])


def critical_order(maps: xr.DataArray) -> pd.DataFrame:
    """Heads of mean step-indexed maps by composite, the highest first, with every score, `name` and `title`."""
    order = ranked(head_scores(maps), "composite_score")
    names = list(map(head_name, order["layer"], order["head"]))
    scores = ("composite_score", "flow_score", "hub_score", "skip_score")
    titles = [
        f"{name} {composite}: F{flow} H{hub} S{skip}"
        for name, composite, flow, hub, skip in zip(names, *(order[it].map(short) for it in scores), strict=True)
    ]
    return order.assign(name=names, title=titles)


def _tiles(
    maps: xr.DataArray, order: pd.DataFrame, ranking: xr.Dataset, choice: Choice, of: str
) -> Iterator[tuple[str, Figure]]:
    """Maps of the heads with the largest cells, of layers, and of the first heads by composite."""
    largest = maps.max(("row", "column")).sel(layer=ranking["layer"], head=ranking["head"])
    by_cell = ranking.isel(rank=np.argsort(-largest.values, kind="stable"))
    top = pick_heads(by_cell, choice.heads, choice.top or N_COUNTED)
    yield "1_top_heads_attention", _draw_heads(maps, top, top["name"].values, "heads by their largest cell", of)
    layers = maps["layer"].values if choice.layers is None else np.array(choice.layers)
    names = [f"layer {layer}" for layer in layers]
    means = maps.sel(layer=layers).mean("head")
    yield "2_attention_by_layer", _draw_tiles(means, names, "all heads of a layer", of)
    columns = {name: ("rank", text(order[name])) for name in ("name", "title")}
    places = {name: ("rank", order[name].to_numpy()) for name in ("layer", "head")}
    picked = pick_heads(xr.Dataset(coords=places | columns), choice.heads, choice.top or N_CRITICAL)
    titles, what = picked["title"].values, "heads by composite (flow, hub, skip)"
    yield "4_critical_heads_attention", _draw_heads(maps, picked, titles, what, of)
    first = picked.isel(rank=slice(N_FIRST))
    yield "5_top3_critical_heads", _draw_heads(maps, first, titles[:N_FIRST], what, of)
    # Heads of one number in different layers have nothing in common; the scripts drew them all the same.
    number = int(picked["head"].values[0])
    names = [head_name(layer, number) for layer in layers]
    evolution = maps.sel(layer=layers, head=number)
    yield f"layer_evolution_H{number}", _draw_tiles(evolution, names, f"H{number} by layer", of)


def _draw_heads(maps: xr.DataArray, picked: xr.Dataset, names: Names, title: str, of: str) -> Figure:
    return _draw_tiles(maps.sel(layer=picked["layer"], head=picked["head"]), names, title, of)


def _draw_tiles(maps: xr.DataArray, names: Names, title: str, of: str) -> Figure:
    """Cells below the diagonal, the only ones that were recorded; the rest is left blank."""
    order = np.arange(maps.sizes["row"])
    recorded = xr.DataArray(order[:, None] > order[None, :], dims=("row", "column"))
    shown = maps.where(recorded).rename(row="query", column="key")
    title = f"Step-indexed: {title}"
    return draw_tiles(shown, names, title=title, caption=of, x="column: step", y="row: step", ax=None)


def _profiles(maps: xr.DataArray, of: str) -> Iterator[tuple[str, Figure]]:
    """The three panels of script 5, each against the scripts' threshold."""
    mean = maps.mean(("layer", "head"))
    n_steps = mean.sizes["row"]
    # Against 1/T, the share of one row; the mask alone gives column sums that fall from left to right.
    columns = mean.sum("row")
    largest = int(columns["column"].values[int(np.argmax(columns.values))])
    words = {"x": "column: step (dark: largest)", "y": "column sum of attention", "null_name": "1/T"}
    title = "Step-indexed hub scores"
    null = 1.0 / n_steps
    yield (
        "3_hub_analysis_hubs",
        draw_profile(columns, title=title, caption=of, null=null, dark=largest, ax=None, **words),
    )
    steps = xr.DataArray(np.arange(1, n_steps), dims="step", coords={"step": np.arange(1, n_steps)})
    cells = mean.sel(row=steps, column=steps - 1)
    words = {"x": "row: step s", "y": "cell [s, s − 1]: self-attention", "null_name": "0.3"}
    title = "Step-indexed sequential flow"
    yield "3_hub_analysis_sequential", draw_profile(cells, title=title, caption=of, null=0.3, ax=None, **words)
    words = {"x": "column: step", "y": f"cell [{n_steps - 1}, column]", "null_name": "0.1"}
    skips, title = skip_cells(mean), "Step-indexed skip"
    yield "3_hub_analysis_skips", draw_profile(skips, title=title, caption=of, null=0.1, ax=None, **words)


def _layers(maps: xr.DataArray, of: str) -> Iterator[tuple[str, Figure]]:
    """The three figures of the visualizer by layer."""
    mean, row, column = maps.mean("head"), maps["row"], maps["column"]
    first = mean.sel(column=0, drop=True).where(row > 0)
    # Σ [s, j], j < s − 1: not what script 5 calls skip.
    far = mean.where(column < row - 1, 0.0).sum("column").where(row > 1)
    scores = {
        "hub_attention_by_layer": ("attention to column 0", first),
        "skip_connections_by_layer": ("attention to columns before s − 1", far),
    }
    for name, (what, score) in scores.items():
        title = f"Step-indexed: {what}"
        yield (
            name,
            draw_head_map(
                score, title=title, caption=of, label="share of a row", scale=scale_of(score), x="row: step s", ax=None
            ),
        )
    # Over all T × T cells of each layer's mean map, the empty ones among them.
    drawn = {
        "mean of all cells": (mean.mean(("row", "column")), np.nan),
        "variance of all cells": (mean.var(("row", "column")), np.nan),
    }
    yield "attention_statistics", draw_depth(drawn, title="Step-indexed: cells by layer", caption=of, y="", ax=None)


def _distributions(order: pd.DataFrame, of: str) -> Iterator[tuple[str, Figure]]:
    """The four panels of script 7, each of the first 20 heads by composite."""
    top = order.head(N_COUNTED)
    title, kinds = f"Step-indexed: top {len(top)} by composite", top["functional_type"]
    names = [f"{name}, {kind}" for name, kind in zip(top["name"], kinds, strict=True)]
    for name in ("hub", "skip"):
        score = xr.DataArray(top[f"{name}_score"].to_numpy(dtype=np.float64), dims="rank")
        drawn = draw_ranking(score, names, title=title, caption=of, x=f"{name} score", ax=None)
        yield f"6_metric_distributions_{name}", drawn
    thirds = {third: kinds[top["layer_type"] == third].to_numpy() for third in THIRDS}
    yield "6_metric_distributions_layers", draw_counts(thirds, title=title, caption=of, y="layers", ax=None)
    yield (
        "6_metric_distributions_types",
        draw_counts({"all": kinds.to_numpy()}, title=title, caption=of, y="layers", ax=None),
    )


def compared_models(models: Mapping[str, tuple[Published, int]]) -> Figure:
    """Draw script 8's figure: hub scores, composites, types and layers of the top heads, mean scores.

    `models` has each model's side and its number of problems, by the names that the figure has.
    """
    joined = xr.concat(
        [_model_scores(published) for published, _ in models.values()],
        xr.DataArray(text(list(models)), dims="model", name="model"),
        data_vars="all",
        join="outer",
        combine_attrs="override",
    )
    joined = joined.assign(n=("model", [n for _, n in models.values()]))
    joined = joined.assign({name: joined[name].fillna(0.0) for name in ("type_share", "layer_share")})
    even = {published.summary["hub_analysis"]["uniform_baseline"] for published, _ in models.values()}
    null, null_name = (even.pop(), "1/T") if len(even) == 1 else (np.nan, "")
    of_top = f"share of the top heads by composite, {N_COUNTED} at most"
    words = {
        "hub": Words("thought", "Hub scores", "column: step", null=null, null_name=null_name),
        "composite": Words("rank", "Composite scores", "rank by composite"),
        "type_share": Words("type", "Functional types", of_top, in_rows=True),
        "layer_share": Words("third", "Thirds of the layers", of_top, in_rows=True),
        "mean_score": Words("score", "Mean scores", "mean over all heads", in_rows=True),
    }
    return draw_models(joined, title="Step-indexed: models side by side", words=words)


def _model_scores(published: Published) -> xr.Dataset:
    order = ranked(published.heads, "composite_score").head(N_COUNTED)
    types, layers = (order[name].value_counts(normalize=True) for name in ("functional_type", "layer_type"))
    hubs, composites = published.summary["hub_analysis"]["all_hub_scores"], order["composite_score"]
    means = published.heads[["hub_score", "skip_score"]].mean()
    return xr.Dataset(
        {
            "hub": _numbers("thought", hubs, np.arange(len(hubs))),
            "composite": _numbers("rank", composites, np.arange(1, 1 + len(composites))),
            "type_share": _numbers("type", types, text(list(types.index))),
            "layer_share": _numbers("third", layers.reindex(THIRDS), text(THIRDS)),
            "mean_score": _numbers("score", means, text(["hub score", "skip score"])),
        }
    )


def _numbers(dim: str, values: npt.ArrayLike, labels: np.ndarray) -> xr.DataArray:
    return xr.DataArray(np.asarray(values, dtype=np.float64), dims=dim, coords={dim: labels})
