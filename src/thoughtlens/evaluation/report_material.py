"""What a report needs of a loaded model: its checks, what thoughts can be read as, and attention to single words.

In: a run and its model. Out: `RUN/readings.json` (see `thoughtlens.runs.folder`).
"""

from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
import xarray as xr

from thoughtlens.evaluation.diagnostics import doctor
from thoughtlens.evaluation.lens import decode_thoughts, question_attention
from thoughtlens.files import Json, write_json, writing
from thoughtlens.models.reasoner import LatentReasoner
from thoughtlens.runs.folder import READINGS, Run, chosen_problems, read_readings

STAGE: Final = "state_in"
"""What became the thought, which is what CODI's authors decode."""

N_TOP: Final = 5
DIGITS: Final = 4


def write_readings(run: Run, reasoner: LatentReasoner) -> Path:
    """Keep what a run's report shows of single problems and of the model; nothing is measured twice.

    Of at most 200 problems, at equal distances in the run's order: the five likeliest tokens of each thought, and each
    position's attention to each token of the question, mean over layers and heads. Of the model: `doctor`'s checks.

    Args:
        run: the run.
        reasoner: its model.

    Returns:
        The path of `readings.json`.

    Raises:
        RunError: the folder can't be written.

    Example:
        Complete a run that was made by `extract` alone, and write its report.

            write_readings(run, reasoner)
            write_report(run)
    """
    path = run.path / READINGS
    if read_readings(run):
        return path
    problems, n_thoughts = run.problems(), int(run.manifest["options"]["n_thoughts"])
    chosen = [problems[place] for place in chosen_problems(len(problems))]
    decoded = decode_thoughts(reasoner, chosen, n_top=N_TOP, n_thoughts=n_thoughts).sel(stage=STAGE)
    looked = question_attention(reasoner, chosen, n_thoughts=n_thoughts)
    with writing(run.path):
        write_json(path, {
            "results": run.manifest["results"],
            "stage": STAGE,
            "problems": {of.attrs["problem"]: _reading(of, decoded.isel(problem=row)) for row, of in enumerate(looked)},
            "checks": [asdict(check) for check in doctor(reasoner)],
        })  # fmt: skip
    return path


def _reading(looked: xr.Dataset, decoded: xr.Dataset) -> Json:
    rows = zip(looked["query"].values, looked["attention"].values, strict=True)
    tokens, shares = (decoded[name].transpose("thought", "rank").values for name in ("token", "probability"))
    return {
        "tokens": [str(token) for token in looked["text"].values],
        "attention": {str(query): _rounded(row) if np.isfinite(row).all() else None for query, row in rows},
        "decoded": [
            [[str(token), share] for token, share in zip(its, _rounded(of), strict=True)]
            for its, of in zip(tokens, shares, strict=True)
        ],
    }


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), DIGITS) for value in values]
