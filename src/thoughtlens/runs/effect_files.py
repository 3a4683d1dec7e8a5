"""What cuts did to the problems of a batch becomes a file, so that a study that was broken off or grows goes on.

    RUN/analysis/effects/<study>/000003.jsonl         a row a cut: its spec, and an outcome for each problem of batch 3
    RUN/analysis/effects/<study>/material.safetensors what the model thinks when left alone, where edits need it

A study is a model, its problems and its number of thoughts; its folder is named by a digest of these. Rows are found by
what was cut, whatever it is called, so that a plan with more cuts keeps what is there.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save

from thoughtlens.files import Json, replacing_bytes, write_json_lines
from thoughtlens.runs.cutting import Outcome, failed
from thoughtlens.tracing.cuts import Cut
from thoughtlens.tracing.material import Material

MATERIAL: Final = "material.safetensors"
BASELINE_KEY: Final = "[]"

Kept = dict[str, list[Outcome]]
"""Outcomes of the problems of a batch, by the key of what was cut."""


def key_of(cut: Cut) -> str:
    """What a cut does, as one line of JSON."""
    return json.dumps(cut.spec(), ensure_ascii=False, sort_keys=True)


def study_folder(effects: Path, options: Mapping[str, Any]) -> Path:
    """Where a study keeps its outcomes.

    Args:
        effects: the folder of a run's studies.
        options: what decides the numbers, as JSON can say it.
    """
    digest = hashlib.sha256(json.dumps(options, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
    return effects / digest[:12]


def read_outcomes(folder: Path, batch: int, n_problems: int) -> Kept:
    """What is known of a batch; nothing from a file that is not whole."""
    path = _path(folder, batch)
    if not path.is_file():
        return {}
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        kept = {row["cut"]: [_outcome(values) for values in row["outcomes"]] for row in rows}
    except (ValueError, KeyError, TypeError):
        return {}
    return {key: outcomes for key, outcomes in kept.items() if len(outcomes) == n_problems}


def write_outcomes(folder: Path, batch: int, kept: Kept) -> None:
    """Write all that is known of a batch, in the place of what was there."""
    rows = [{"cut": key, "outcomes": [_plain(outcome) for outcome in its]} for key, its in kept.items()]
    write_json_lines(_path(folder, batch), rows)


def write_material(folder: Path, material: Material) -> None:
    """Write what edits need; ids and steps are the study's own and are not written."""
    tensors = {"thoughts": material.thoughts} | ({} if material.heads is None else {"heads": material.heads})
    with replacing_bytes(folder / MATERIAL) as file:
        file.write(save({name: tensor.contiguous() for name, tensor in tensors.items()}))


def read_material(folder: Path, problem_ids: Sequence[str], n_steps: Sequence[int]) -> Material | None:
    """What edits need, if it was written for these problems."""
    path = folder / MATERIAL
    if not path.is_file():
        return None
    tensors: dict[str, torch.Tensor] = load_file(path)
    return Material(tuple(problem_ids), tuple(n_steps), tensors["thoughts"], tensors.get("heads"))


def _path(folder: Path, batch: int) -> Path:
    return folder / f"{batch:06d}.jsonl"


def _plain(outcome: Outcome) -> Json:
    """JSON has no NaN: what a failure lacks is left out."""
    return {"failure": outcome.failure} if outcome.failure else outcome._asdict()


def _outcome(values: Json) -> Outcome:
    return failed(values["failure"]) if values.get("failure") else Outcome(**values)
