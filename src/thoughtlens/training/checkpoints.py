"""What a broken-off training left in its folder becomes the place to go on from, if it is whole and of this recipe."""

import json
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from thoughtlens.errors import RecipeError
from thoughtlens.files import write_json
from thoughtlens.runs.manifest import differences
from thoughtlens.training.ranks import n_processes, rank
from thoughtlens.training.recipe import Recipe

_DESCRIBES = ("name", "about", "caveats", "held_out", "text")  # settings that change no weight


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a stage that was written to its end; None if there is none."""
    found = [path for path in folder.glob("checkpoint-*") if _number(path).isdigit() and _is_whole(path)]
    return max(found, key=lambda path: int(_number(path)), default=None)


def _number(checkpoint: Path) -> str:
    return checkpoint.name.rpartition("-")[2]


def _is_whole(checkpoint: Path) -> bool:
    # Each process writes the state of its random numbers, and process 0 the Trainer's state after everything else.
    alone = n_processes() == 1
    names = ["rng_state.pth"] if alone else [f"rng_state_{number}.pth" for number in range(n_processes())]
    try:
        json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return all(zipfile.is_zipfile(checkpoint / name) for name in names)


def claim(recipe: Recipe, folder: Path) -> None:
    """Note down by what a training is done; refuse to go on with one that was begun otherwise.

    Raises:
        RecipeError: another recipe or another number of processes began it.
    """
    path = folder / "begun.json"
    asked = _facts(recipe)
    if path.is_file():
        odd = differences(json.loads(path.read_text("utf-8")), asked)
        if odd:
            raise RecipeError(
                f"{folder} holds a training begun otherwise ({odd[0]}); delete it or choose another --out."
            )
    elif rank() == 0:
        _begin(path, asked)


def _begin(path: Path, facts: dict[str, Any]) -> None:
    out = path.parent.parent
    try:
        # Another process of the same training may already have made its own folder.
        if out.exists() and any(entry.name != path.parent.name for entry in out.iterdir()):
            raise RecipeError(
                f"{out} holds files but no training of this tool; choose another --out, or an empty folder."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, facts)
    except OSError as error:
        raise RecipeError(f"can't write the model folder {out} ({error.strerror}); choose another --out.") from error


def _facts(recipe: Recipe) -> dict[str, Any]:
    facts = {name: value for name, value in asdict(recipe).items() if name not in _DESCRIBES}
    facts["stages"] = {f"{number}-{stage['name']}": stage for number, stage in enumerate(facts["stages"], start=1)}
    read_back: dict[str, Any] = json.loads(json.dumps({"processes": n_processes(), "recipe": facts}))
    return read_back
