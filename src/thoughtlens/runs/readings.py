"""The readings of a run: what is kept of some of its problems, and of its model, for the report, which loads no model.

In: a run. Out: the JSON of `RUN/readings.json`, made by `evaluation.write_readings` while the model is loaded:

    results   SHA-256 of the results that it belongs to
    stage     the stage of a thought that was read (`evaluation.decode_thoughts`)
    problems  by id: `tokens` of the question, `attention` to each by query (None where the row does not exist), and
              `decoded`, of each thought its likeliest tokens with their probabilities
    checks    what `evaluation.doctor` found of the model: `name`, `passed`, `measured`
"""

import json
from typing import Final

from thoughtlens.files import Json
from thoughtlens.runs.folder import Run

READINGS: Final = "readings.json"

MOST_PROBLEMS: Final = 200
"""Problems that the report shows one by one."""


def chosen_problems(n_problems: int, most: int = MOST_PROBLEMS) -> list[int]:
    """The places of at most so many problems, at equal distances in the order of the run: a set may be sorted."""
    n_chosen = min(n_problems, most)
    return [place * n_problems // n_chosen for place in range(n_chosen)]


def read_readings(run: Run) -> Json:
    """The readings of a run; empty where there are none, or where they are of other results."""
    path = run.path / READINGS
    found: Json = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return found if found.get("results") == run.manifest["results"] else {}
