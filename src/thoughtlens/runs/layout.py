"""The sizes of a run become an empty Zarr group: arrays preallocated, one shard a unit of work.

A shard holds all that was measured on `shard_size` problems in a row and is one file an array, so that one worker
owns it whole. What is not yet written is NaN in the patterns and -1 in `n_question_tokens`; bool has no such value,
so whether `correct` is written is said by the shard's marker alone. The layout knows nothing about markers.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from math import ceil
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import numpy as np
import xarray as xr
import zarr

from thoughtlens.errors import OptionError, ProblemSetError, RunError
from thoughtlens.files import Json
from thoughtlens.labels import key_names, query_names
from thoughtlens.schema import ATTENTION, ATTENTION_DIMS, VALUE_WEIGHTED, check_attention

GROUP: Final = "attention.zarr"
RECORDS: Final = {"values": VALUE_WEIGHTED}
"""The variable of each thing that is recorded on request."""

BLOCK: Final = 64
"""Problems that are read together at most: the inner chunk of a shard."""

SHARD_BYTES: Final = 64 * 10**6
"""Attention of a shard, about: a file to copy in a moment, and little work for a kill to undo."""

MOST_PROBLEMS: Final = 1024
"""Problems of a shard at most, where the model is so small that `SHARD_BYTES` would hold a whole study."""

_STRING: Final = np.dtypes.StringDType()

Line = TypeVar("Line")


@dataclass(frozen=True)
class Layout:
    """The sizes of a run.

    Attributes:
        problem_ids: one id a problem, unique, in order.
        n_layers: layers of the model.
        n_heads: query heads of a layer.
        n_thoughts: thoughts fed back.
        shard_size: problems a shard, the unit of work that a kill can cost; see `problems_for`.
        dtype: of attention on disk, and of what is recorded beside it.
        record: what is recorded beside attention, of `RECORDS`.
    """

    problem_ids: tuple[str, ...]
    n_layers: int
    n_heads: int
    n_thoughts: int
    shard_size: int = 512
    dtype: Literal["float16", "float32"] = "float16"
    record: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise OptionError(f"the shard size is {self.shard_size}, expected at least 1; pass a larger one.")
        if len(set(self.problem_ids)) != len(self.problem_ids):
            twice = next(name for k, name in enumerate(self.problem_ids) if name in self.problem_ids[:k])
            raise ProblemSetError(f"two problems have the id {twice!r}, expected each id once; rename one of them.")
        if unknown := [name for name in self.record if name not in RECORDS]:
            raise OptionError(f"can't record {unknown[0]!r}, expected one of {', '.join(RECORDS)}; leave it out.")

    @property
    def n_shards(self) -> int:
        """Shards of the run; the last may hold fewer problems."""
        return ceil(len(self.problem_ids) / self.shard_size)

    def problems_of(self, shard: int) -> range:
        """The places of a shard's problems among all problems."""
        start = shard * self.shard_size
        return range(start, min(start + self.shard_size, len(self.problem_ids)))

    def ids_of(self, shard: int) -> list[str]:
        """The problem ids of a shard."""
        return [self.problem_ids[place] for place in self.problems_of(shard)]

    def in_order(self, of_shards: Iterable[Iterable[Line]]) -> Iterator[Line]:
        """What each shard has of its problems, as one sequence in the order of all problems."""
        return chain.from_iterable(of_shards)

    def sizes_of(self, shard: int) -> dict[str, int]:
        """The dims of a shard's Dataset."""
        n_problems = len(self.ids_of(shard))
        return dict(zip(ATTENTION_DIMS, (n_problems, *self.row_shape), strict=True))

    @property
    def patterns(self) -> list[str]:
        """Names of the variables with a row a query."""
        return [ATTENTION, *(RECORDS[name] for name in self.record)]

    @property
    def n_dims(self) -> dict[str, int]:
        """Dims of each variable that is written shard by shard."""
        return dict.fromkeys(self.patterns, len(ATTENTION_DIMS)) | {"correct": 1, "n_question_tokens": 1}

    @property
    def row_shape(self) -> tuple[int, int, int, int]:
        """Shape of one problem's attention: layer, head, query, key."""
        return self.n_layers, self.n_heads, len(query_names(self.n_thoughts)), len(key_names(self.n_thoughts))

    def array_files(self, shard: int) -> list[str]:
        """The files of a shard's arrays, relative to the run folder."""
        return [f"{GROUP}/{name}/c/{shard}" + "/0" * (n_dims - 1) for name, n_dims in self.n_dims.items()]

    def check_fits(self, shard: int, dataset: xr.Dataset) -> None:
        """Raise `RunError` unless the Dataset holds the problems of the shard, in the run's sizes, and is sound."""
        found, expected = [str(name) for name in dataset["problem"].values], self.ids_of(shard)
        if found != expected:
            raise RunError(
                f"shard {shard} was given the problems {found[:3]}…, expected {expected[:3]}…; "
                "write each shard its own problems."
            )
        sizes = {str(dim): size for dim, size in dataset["attention"].sizes.items()}
        if sizes != self.sizes_of(shard):
            raise RunError(
                f"shard {shard} has sizes {sizes}, expected {self.sizes_of(shard)}; extract with the run's model."
            )
        _check_recorded(self, shard, dataset)
        for block in _blocks(dataset):
            check_attention(block)

    def allocate(self, folder: Path) -> list[str]:
        """Make the empty Zarr group of a run, in place of one half made; return its files, relative to the folder."""
        attrs = {"format": "thoughtlens", "n_thoughts": self.n_thoughts}
        group = zarr.create_group(folder / GROUP, zarr_format=3, overwrite=True, attributes=attrs)
        _allocate_variables(group, self)
        write_coordinates(group, _coordinates(self))
        return files_under(folder, GROUP)

    def write(self, folder: Path, shard: int, dataset: xr.Dataset) -> float:
        """Write a shard; return the largest difference between attention as it was and as it is on disk."""
        start = self.problems_of(shard).start
        write_rows(folder / GROUP, {name: (start, dataset[name].values) for name in self.n_dims})
        return max(_rounding(block["attention"].values, self.dtype) for block in _blocks(dataset))

    def summary(self) -> Json:
        """The layout as JSON, with the ids as their number and fingerprint."""
        sizes = asdict(self) | {"problem_ids": ids_fingerprint(list(self.problem_ids))}
        # Left out where empty, so that runs from before there was a choice go on.
        recorded = {"record": list(self.record)} if self.record else {}
        del sizes["record"]
        return {"n_problems": len(self.problem_ids)} | sizes | recorded


def problems_for(n_layers: int, n_heads: int, n_thoughts: int, dtype: str, n_beside: int = 0) -> int:
    """How many problems make a shard of `SHARD_BYTES`: one at least, whole blocks where there are several.

    Beside attention there may be other patterns of its size.
    """
    cells = (1 + n_beside) * n_layers * n_heads * len(query_names(n_thoughts)) * len(key_names(n_thoughts))
    count = min(MOST_PROBLEMS, SHARD_BYTES // (cells * np.dtype(dtype).itemsize))
    return count // BLOCK * BLOCK if count >= BLOCK else max(1, count)


def ids_fingerprint(ids: list[str]) -> str:
    """SHA-256 of the ids in order."""
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()


def write_coordinates(group: zarr.Group, coordinates: dict[str, np.ndarray]) -> None:
    """Write the labels of a group's dims."""
    for name, labels in coordinates.items():
        fill = "" if labels.dtype == _STRING else 0
        new_array(group, name, (name,), labels.shape, labels.dtype, chunks=labels.shape, fill_value=fill)[:] = labels


def files_under(folder: Path, name: str) -> list[str]:
    """The files of a group, relative to the run folder."""
    return sorted(path.relative_to(folder).as_posix() for path in (folder / name).rglob("*") if path.is_file())


def write_rows(path: Path, rows: Mapping[str, tuple[int, np.ndarray]]) -> None:
    """Write rows of a group's arrays, each variable's from the place given."""
    # A shard of which no problem is correct is all fill value, which Zarr would leave out.
    with zarr.config.set({"array.write_empty_chunks": True}):
        group = zarr.open_group(path, mode="r+", use_consolidated=False)
        for name, (start, values) in rows.items():
            array = group[name]
            array[start : start + len(values)] = values.astype(array.dtype)


def _check_recorded(layout: Layout, shard: int, dataset: xr.Dataset) -> None:
    if lacking := [name for name in layout.patterns if name not in dataset]:
        raise RunError(f"shard {shard} lacks {lacking[0]}, which the run records; extract with the run's options.")
    largest = float(max(dataset[name].max() for name in layout.patterns))
    if largest > float(np.finfo(layout.dtype).max):
        raise RunError(f"shard {shard} reaches {largest:.3g}, beyond {layout.dtype}; extract with dtype='float32'.")


def _blocks(dataset: xr.Dataset) -> Iterator[xr.Dataset]:
    # What is worked out on the way is as large as what it is worked out from: not the whole shard at once.
    for start in range(0, dataset.sizes["problem"], BLOCK):
        yield dataset.isel(problem=slice(start, start + BLOCK))


def _rounding(values: np.ndarray, dtype: str) -> float:
    """The largest absolute difference that the dtype on disk makes; rows that do not exist make none."""
    return float(np.nan_to_num(np.abs(values - values.astype(dtype))).max(initial=0.0))


def _allocate_variables(group: zarr.Group, layout: Layout) -> None:
    n_problems, size = len(layout.problem_ids), layout.shard_size
    # Zarr wants inner chunks that divide the shard.
    inner = max(n for n in range(1, min(BLOCK, size) + 1) if size % n == 0)
    row = layout.row_shape
    shape, chunks, shards = (n_problems, *row), (inner, *row), (size, *row)
    for name in layout.patterns:
        new_array(group, name, ATTENTION_DIMS, shape, layout.dtype, chunks=chunks, shards=shards, fill_value=np.nan)
    new_array(group, "correct", ("problem",), (n_problems,), "bool", chunks=(size,), fill_value=False)
    new_array(group, "n_question_tokens", ("problem",), (n_problems,), "int32", chunks=(size,), fill_value=-1)


def _coordinates(layout: Layout) -> dict[str, np.ndarray]:
    return {
        "problem": np.array(layout.problem_ids, dtype=_STRING),
        "layer": np.arange(layout.n_layers),
        "head": np.arange(layout.n_heads),
        "query": np.array(query_names(layout.n_thoughts), dtype=_STRING),
        "key": np.array(key_names(layout.n_thoughts), dtype=_STRING),
    }


def new_array(
    group: zarr.Group, name: str, dims: tuple[str, ...], shape: tuple[int, ...], dtype: Any, **storage: Any
) -> zarr.Array:
    """An empty array whose chunks carry checksums."""
    # Zstd as it comes lets a flipped bit through.
    compressor = zarr.codecs.ZstdCodec(level=3, checksum=True)
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        dimension_names=dims,
        compressors=[compressor],
        config={"write_empty_chunks": True},
        **storage,
    )
