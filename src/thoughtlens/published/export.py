"""A run as the files of the 2025 scripts: the same names, shapes, dtypes, JSON keys and CSV columns.

    attention_patterns_raw.npy, attention_patterns_avg.npy      step-indexed maps, float16, and README.txt about them
    attention_metadata.json, attention_stats.json, attention_summary.json
    heads_ranked_by_flow.csv, …_hub.csv, …_skip.csv, ranked_heads.csv, critical_heads_findings.txt
    attention_dataset_{n}_{split}.json                          the problems
    model_comparison.json, model_comparison.png, .svg, .pdf     of several runs, beside their folders

In: runs. Out: these files, each whole or not there at all. One pass over a run writes the raw array and gathers mean
and standard deviation, from which `scores` and `ranks` take all numbers. That they are step-indexed is said by JSON in
one more key, `convention` (beside `made_by`), by text in its first line, and of CSV and arrays, which the readers of
the scripts open as they are, by `README.txt`, which also explains each column.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import pandas as pd
import xarray as xr

from thoughtlens.analysis import moments
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
from thoughtlens.problems import Problem
from thoughtlens.published.step_indexed_scores import (
    Published,
    attention_stats,
    attention_summary,
    findings,
    head_scores,
    model_comparison,
    ranked_tables,
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
    from thoughtlens.published.panels import compared_models

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
