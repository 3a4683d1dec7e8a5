"""Analyses saved in the folder of a run, and opened again as long as the run and the options are the same.

    RUN/analysis/analysis.npz          with the default options
    RUN/analysis/NAME/analysis.npz     with others; NAME is given, or a short digest of the options

In: a *bundle*, which is a NamedTuple of Datasets, arrays, texts, numbers, None, further bundles, and mappings of these
by name. Out: one file of NumPy's arrays, which is read back the same. Each variable of a Dataset is an array, such as
`heads/preference`; the array `bundle` is a text, the JSON of what the bundle is made of and how its Datasets are
labelled. An analysis has some 170 small arrays: as one file they are written much faster than by Zarr.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from shutil import rmtree
from typing import Any, Final

import numpy as np
import xarray as xr

from thoughtlens.analysis.streamed_attention import StoredRun
from thoughtlens.errors import OptionError, RunError, first_line
from thoughtlens.files import (
    LOCK,
    SEAL,
    Json,
    check_not_written,
    check_seal,
    digest_of,
    file_name,
    only_writer,
    write_sealed,
)

FOLDER: Final = "analysis"
"""The folder of a run for what is made from it."""

SAVED: Final = "analysis.npz"

FORMAT: Final = 4
"""Of a saved analysis; another one is computed anew."""

_ARRAY: Final = "array"


def check_name(name: str | None) -> None:
    """Raise `OptionError` where an analysis can't have this name."""
    if name is not None and (file_name(name) != name or "." in name):
        raise OptionError(f"can't call an analysis {name!r}; take a name of letters, digits, - and _.")


def open_saved(run: StoredRun, name: str | None, *classes: type) -> Any:
    """The analysis of this name (None: with the default options) in a run's folder; `RunError` if there is none."""
    folder = run.path / FOLDER / (name or "")
    about = read_about(folder / SAVED)
    if about is None:
        there = sorted(path.parent.name for path in (run.path / FOLDER).glob(f"*/{SAVED}"))
        raise RunError(
            f"{run.path} has no analysis {name or 'with the default options'}, expected one of "
            f"{', '.join(there) or 'those that `thoughtlens analyze` makes'}; run `thoughtlens analyze {run.path}"
            f"{f' --name {name}' if name else ''}`."
        )
    if about["format"] != FORMAT or about["run"] != digest_of(run.manifest):
        raise RunError(f"{folder / SAVED} is of the run as it was before; analyse {run.path} again.")
    return read_bundle(folder / SAVED, *classes)


def open_same(folder: Path, about: Json, *classes: type) -> Any:
    """The bundle saved in a folder with the same facts `about` it; None if there is none."""
    return read_bundle(folder / SAVED, *classes) if read_about(folder / SAVED) == about else None


def saved_part(run: StoredRun, part: str, options: Json) -> xr.Dataset | None:
    """A Dataset of the analysis in `RUN/analysis`, if that is whole, of the run as it is, and has these options."""
    path = run.path / FOLDER / SAVED
    try:
        about = read_about(path)
    except RunError:
        return None
    if about is None or about["format"] != FORMAT or about["run"] != digest_of(run.manifest):
        return None
    if any(about["options"].get(name) != value for name, value in options.items()):
        return None
    with np.load(path) as file:
        return _dataset(json.loads(str(file["bundle"]))["labels"][f"/{part}"], f"/{part}", file)


def check_replaceable(folder: Path, about: Json, *, force: bool) -> None:
    """Raise `RunError` where a folder holds a bundle of other options, unless that may be replaced by `force`."""
    if (apart := _apart(folder, about)) and not force:
        raise RunError(f"{folder} holds an analysis with {'; '.join(apart)}; pass another --name, or --force.")
    check_not_written(folder)


def save(folder: Path, bundle: Any, about: Json) -> None:
    """Save a bundle in a folder; where one of other options was there, remove what was written of it."""
    with only_writer(folder):
        apart = _apart(folder, about)
        write_bundle(folder / SAVED, bundle, about)
        for left in (path for path in folder.iterdir() if apart and path.name not in (SAVED, SAVED + SEAL, LOCK)):
            rmtree(left) if left.is_dir() else left.unlink()


def _apart(folder: Path, about: Json) -> list[str]:
    """In which options the saved bundle is another one."""
    saved, options = read_about(folder / SAVED), about["options"]
    before = options if saved is None else saved["options"]
    return [f"{of} {before.get(of)} and not {options[of]}" for of in options if before.get(of) != options[of]]


def write_bundle(path: Path, bundle: Any, about: Json) -> None:
    """Save a bundle in the place of what was at `path`, whole or not at all; `about` is kept with it, as JSON."""
    datasets: dict[str, xr.Dataset] = {}
    made_of = _taken_apart(bundle, "", datasets)
    labels = {place: dataset.to_dict(data=False) for place, dataset in datasets.items()}
    arrays: dict[str, Any] = {
        f"{place}/{name}".lstrip("/"): _stored(variable.values)
        for place, dataset in datasets.items()
        for name, variable in dataset.variables.items()
    }
    told = json.dumps({"about": about, "made_of": made_of, "labels": labels}, ensure_ascii=False)
    file = io.BytesIO()
    np.savez_compressed(file, bundle=np.array(told), **arrays)
    write_sealed(path, file.getvalue())


def _stored(values: np.ndarray) -> np.ndarray:
    # NumPy writes its newer kind of texts by pickle alone, which is never read.
    return np.array(values.tolist(), np.str_).reshape(values.shape) if values.dtype.kind == "T" else values


def read_about(path: Path) -> Json | None:
    """What was kept with a bundle; None if there is none at `path`, `RunError` if it was altered."""
    if not path.is_file():
        return None
    remedy = "delete it, and analyse the run again"
    check_seal(path, remedy=remedy)
    try:
        with np.load(path) as file:
            about = json.loads(str(file["bundle"]))["about"]
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise RunError(f"{path} is no saved analysis ({first_line(error)}); {remedy}.") from error
    return about if isinstance(about, dict) else None


def read_bundle(path: Path, *classes: type) -> Any:
    """The bundle at `path`, in memory; `classes` are the NamedTuples that it may be made of."""
    with np.load(path) as file:
        told = json.loads(str(file["bundle"]))
        datasets = {place: _dataset(labels, place, file) for place, labels in told["labels"].items()}
    return _put_together(told["made_of"], "", datasets, {known.__name__: known for known in classes})


def _dataset(labels: Json, place: str, arrays: Mapping[str, np.ndarray]) -> xr.Dataset:
    for name, of in [*labels["coords"].items(), *labels["data_vars"].items()]:
        values = arrays[f"{place}/{name}".lstrip("/")]
        of["data"] = values.astype(np.dtypes.StringDType()) if values.dtype.kind == "U" else values
    return xr.Dataset.from_dict(labels)


def _taken_apart(value: Any, place: str, datasets: dict[str, xr.Dataset]) -> Json:
    if isinstance(value, xr.Dataset | xr.DataArray):
        datasets[place] = value if isinstance(value, xr.Dataset) else value.to_dataset(name=_ARRAY)
        return {"kind": type(value).__name__, "name": None if isinstance(value, xr.Dataset) else value.name}
    named = value._asdict() if hasattr(value, "_asdict") else value
    if not isinstance(named, Mapping):
        return {"kind": "texts" if isinstance(value, tuple) else "value", "value": value}
    kind = "mapping" if named is value else type(value).__name__
    return {"kind": kind, "of": {name: _taken_apart(part, f"{place}/{name}", datasets) for name, part in named.items()}}


def _put_together(made_of: Json, place: str, datasets: Mapping[str, xr.Dataset], classes: Mapping[str, type]) -> Any:
    match made_of["kind"]:
        case "Dataset":
            return datasets[place]
        case "DataArray":
            return datasets[place][_ARRAY].rename(made_of["name"])
        case "value":
            return made_of["value"]
        case "texts":
            return tuple(made_of["value"])
        case kind:
            parts = {
                name: _put_together(of, f"{place}/{name}", datasets, classes) for name, of in made_of["of"].items()
            }
            return parts if kind == "mapping" else classes[kind](**parts)
