"""Bundles of labelled Datasets, such as an analysis, saved as one Zarr group and read back the same.

A bundle is a NamedTuple of Datasets, arrays, texts, numbers, None, further bundles, and mappings of these by name. Each
Dataset has a group of its own, named like its field; what the bundle is made of stands in the attributes of the root.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import xarray as xr
import zarr

from thoughtlens.files import Json, replacing_folder

_ARRAY: Final = "array"


def write_bundle(path: Path, bundle: Any, about: Json) -> None:
    """Save a bundle in the place of what was at `path`, whole or not at all; `about` is kept with it, as JSON."""
    with replacing_folder(path) as folder:
        datasets: dict[str, xr.Dataset] = {}
        made_of = _taken_apart(bundle, "", datasets)
        for name, dataset in datasets.items():
            # Of a store that it was read from, a Dataset remembers chunks that need not fit.
            dataset.drop_encoding().to_zarr(folder, group=name, mode="w", consolidated=False)
        zarr.open_group(folder, mode="a").attrs.update({"about": about, "made_of": made_of})


def read_about(path: Path) -> Json | None:
    """What was kept with a bundle; None if there is none at `path`."""
    if not (path / "zarr.json").is_file():
        return None
    about = zarr.open_group(path, mode="r", use_consolidated=False).attrs.get("about")
    return about if isinstance(about, dict) else None


def read_bundle(path: Path, *classes: type) -> Any:
    """The bundle at `path`, in memory; `classes` are the NamedTuples that it may be made of."""
    made_of: Any = zarr.open_group(path, mode="r", use_consolidated=False).attrs["made_of"]
    return _put_together(made_of, "", path, {known.__name__: known for known in classes})


def _taken_apart(value: Any, place: str, datasets: dict[str, xr.Dataset]) -> Json:
    if isinstance(value, xr.Dataset | xr.DataArray):
        datasets[place] = value if isinstance(value, xr.Dataset) else value.to_dataset(name=_ARRAY)
        return {"kind": type(value).__name__, "name": None if isinstance(value, xr.Dataset) else value.name}
    named = value._asdict() if hasattr(value, "_asdict") else value
    if not isinstance(named, Mapping):
        return {"kind": "texts" if isinstance(value, tuple) else "value", "value": value}
    kind = "mapping" if named is value else type(value).__name__
    return {"kind": kind, "of": {name: _taken_apart(part, f"{place}/{name}", datasets) for name, part in named.items()}}


def _put_together(made_of: Json, place: str, path: Path, classes: Mapping[str, type]) -> Any:
    match made_of["kind"]:
        case "Dataset":
            return _read(path, place)
        case "DataArray":
            return _read(path, place)[_ARRAY].rename(made_of["name"])
        case "value":
            return made_of["value"]
        case "texts":
            return tuple(made_of["value"])
        case kind:
            parts = {name: _put_together(of, f"{place}/{name}", path, classes) for name, of in made_of["of"].items()}
            return parts if kind == "mapping" else classes[kind](**parts)


def _read(path: Path, place: str) -> xr.Dataset:
    dataset: xr.Dataset = xr.open_zarr(path, group=place, consolidated=False, chunks=None)
    return dataset.load()
