"""Trained models become what a card sets side by side: rivals by accuracy, seeds of a recipe by what they attend to."""

import json
import tempfile
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from thoughtlens.analysis import Analysis, analyze, headline
from thoughtlens.errors import CheckpointError
from thoughtlens.models.base import LatentReasoner
from thoughtlens.models.loading import load
from thoughtlens.problems import ProblemSet
from thoughtlens.runs.extract import extract

Json = dict[str, Any]


def rivals(folders: Sequence[Path]) -> list[Json]:
    """How well other models do, from the cards in their folders.

    Args:
        folders: of models trained by recipes of this package.

    Returns:
        For each its name, what it is, its training, and its accuracy with its own thoughts.

    Raises:
        CheckpointError: a folder has no card.
    """
    rows = []
    for folder in folders:
        path = folder / "card.json"
        if not path.is_file():
            raise CheckpointError(f"{folder} has no card.json; train that model first.")
        card = json.loads(path.read_text("utf-8"))
        rows.append(
            {name: card[name] for name in ("name", "about", "training")} | {"accuracy": card["accuracy"]["own"]}
        )
    return rows


def seeds(folders: Sequence[Path], problems: ProblemSet, progress: Callable[[int], None]) -> Json:
    """What stays and what changes when only the seed of a recipe does.

    Args:
        folders: models of one recipe, from different seeds.
        problems: what they are compared on.
        progress: called with 1 after each model.

    Returns:
        `models`, for each its seed, accuracy, hub, sequential and skip preference and top five heads; and
        `agreement`, Spearman's rank correlation of the heads' importance for each pair of models.
    """
    analyses, rows = [], []
    for folder in folders:
        analyses.append(_analyze(load(folder, dtype="float32"), problems))
        progress(1)
    for folder, analysis in zip(folders, analyses, strict=True):
        seed = json.loads((folder / "card.json").read_text("utf-8"))["training"]["seed"]
        found = headline(analysis, n_heads=5)
        found["top_heads"] = [head["name"] for head in found["top_heads"]]  # type: ignore[attr-defined]  # JSON
        rows.append({"seed": seed} | found)
    pairs = combinations(range(len(analyses)), 2)
    return {"models": rows, "agreement": [_agreement(analyses[one], analyses[other]) for one, other in pairs]}


def _analyze(reasoner: LatentReasoner, problems: ProblemSet) -> Analysis:
    with tempfile.TemporaryDirectory() as folder:
        run = extract(reasoner, problems, folder)
        return analyze(run.blocks(), correct=run.attention["correct"].values)


def _agreement(one: Analysis, other: Analysis) -> float:
    ranked = [np.nan_to_num(a.heads["importance"].sel(value="estimate").values.ravel()) for a in (one, other)]
    return round(float(spearmanr(ranked[0], ranked[1]).statistic), 3)
