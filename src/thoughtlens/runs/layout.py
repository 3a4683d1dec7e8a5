"""The sizes of a run become an empty Zarr group: arrays preallocated, one shard a unit of work.

A shard holds all that was measured on `shard_size` problems in a row and is one file an array, so that one worker
owns it whole. What is not yet written is NaN in the patterns and -1 in `n_question_tokens`; bool has no such value,
so whether `correct` is written is said by the shard's marker alone. The layout knows nothing about markers.

The sizes of a run that keeps sums over blocks of problems, in the place of their attention, become its arrays.

1. Problems are dealt out to blocks at random, all of a size (to within one): a block is like a sample of the problems,
   so that resampling blocks gives the intervals that resampling problems gives, if a little less surely.
2. A shard is some blocks in a row, whole: one worker adds up their problems and writes them.
3. Each variable has a row a block, or, where it is only wanted of the whole run, a row a shard.

What is added up is not known here: `Keep.add_up` does it, and what it gives for one problem says how large all is. Disk
depends on the numbers of blocks and shards, which have an upper limit, and not on the number of problems; but for the
problems themselves, their results, and the block of each.
"""

import hashlib
import heapq
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from math import ceil
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr

from thoughtlens.errors import OptionError, ProblemSetError, RunError
from thoughtlens.files import Json
from thoughtlens.names import key_names, query_names
from thoughtlens.schema import ATTENTION, ATTENTION_DIMS, VALUE_WEIGHTED, attention_dataset, check_attention

ATTENTION_GROUP: Final = "attention.zarr"
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
        return [f"{ATTENTION_GROUP}/{name}/c/{shard}" + "/0" * (n_dims - 1) for name, n_dims in self.n_dims.items()]

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
        group = zarr.create_group(folder / ATTENTION_GROUP, zarr_format=3, overwrite=True, attributes=attrs)
        _allocate_variables(group, self)
        write_coordinates(group, _coordinates(self))
        return files_under(folder, ATTENTION_GROUP)

    def write(self, folder: Path, shard: int, dataset: xr.Dataset) -> float:
        """Write a shard; return the largest difference between attention as it was and as it is on disk."""
        start = self.problems_of(shard).start
        write_rows(folder / ATTENTION_GROUP, {name: (start, dataset[name].values) for name in self.n_dims})
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


SUMS_GROUP: Final = "sums.zarr"

SEED: Final = 0
"""Of the dealing: the same problems are in the same blocks in every run."""

BLOCKS: Final = 512
"""Blocks at most, where a bootstrap over blocks is as good as one over problems for any practical purpose."""

SHARD_BLOCKS: Final = 64
SHARD_PROBLEMS: Final = 4096
"""Blocks and problems of a shard at most: the work that a kill can cost."""

Seen = Iterable[tuple[xr.Dataset, np.ndarray]]
"""Attention Datasets of some problems each, with the number of each problem's block."""


@dataclass(frozen=True)
class Keep:
    """What is kept of the problems in the place of their attention.

    Attributes:
        add_up: turns problems and a number of blocks into sums, dims (block, …), and what is only wanted of all of them
            together, without `block`; picklable, and blind to how the problems are cut.
        n_blocks: the most blocks; no more than there are problems.
    """

    add_up: Callable[[Seen, int], xr.Dataset]
    n_blocks: int = BLOCKS

    def __post_init__(self) -> None:
        if self.n_blocks < 1:
            raise OptionError(f"the number of blocks is {self.n_blocks}, expected at least 1; pass a larger one.")


@dataclass(frozen=True, eq=False)
class BlockLayout:
    """The sizes of a run of which sums are kept.

    Attributes:
        problem_ids: one id a problem, unique, in order.
        n_layers: layers of the model.
        n_heads: query heads of a layer.
        n_thoughts: thoughts fed back.
        assigned: the block of each problem.
        n_blocks: to which the problems are dealt out.
        shard_size: blocks a shard.
        template: what is kept of one block; only its labels and sizes count.
    """

    problem_ids: tuple[str, ...]
    n_layers: int
    n_heads: int
    n_thoughts: int
    assigned: npt.NDArray[np.int64]
    n_blocks: int
    shard_size: int
    template: xr.Dataset

    @classmethod
    def of(cls, sizes: Layout, keep: Keep, *, shard_problems: int | None = None) -> "BlockLayout":
        """The blocks of a run whose attention would have the sizes given.

        Args:
            sizes: of the run.
            keep: what is kept of it.
            shard_problems: problems a shard, about; as many as are good if None.
        """
        n_problems = len(sizes.problem_ids)
        n_blocks = max(1, min(keep.n_blocks, n_problems))
        wanted = shard_problems or SHARD_PROBLEMS
        shard_size = max(1, min(SHARD_BLOCKS, wanted * n_blocks // max(1, n_problems)))
        template = keep.add_up([(_even_attention(sizes), np.zeros(1, dtype=np.int64))], 1)
        if empty := [name for name, values in template.data_vars.items() if not values.size]:
            raise OptionError(
                f"{sizes.n_thoughts} thought has no {empty[0]} to keep; pass --keep raw, or more thoughts."
            )
        model = (sizes.n_layers, sizes.n_heads, sizes.n_thoughts)
        return cls(sizes.problem_ids, *model, deal(n_problems, n_blocks), n_blocks, shard_size, template)

    @property
    def patterns(self) -> list[str]:
        """What is recorded of a problem before it is added up."""
        return [ATTENTION]

    @property
    def n_shards(self) -> int:
        """Shards of the run; the last may hold fewer blocks."""
        return ceil(self.n_blocks / self.shard_size) if self.problem_ids else 0

    def blocks_of(self, shard: int) -> range:
        """The blocks of a shard."""
        start = shard * self.shard_size
        return range(start, min(start + self.shard_size, self.n_blocks))

    def problems_of(self, shard: int) -> list[int]:
        """The places of a shard's problems among all problems, in order."""
        blocks = self.blocks_of(shard)
        inside = (self.assigned >= blocks.start) & (self.assigned < blocks.stop)
        return [int(place) for place in np.flatnonzero(inside)]

    def ids_of(self, shard: int) -> list[str]:
        """The problem ids of a shard."""
        return [self.problem_ids[place] for place in self.problems_of(shard)]

    def in_order(self, of_shards: Iterable[Iterable[Line]]) -> Iterator[Line]:
        """What each shard has of its problems, each in order, as one sequence in the order of all problems."""
        return heapq.merge(*of_shards)  # type: ignore[type-var]  # lines begin with their problem's place

    def array_files(self, shard: int) -> list[str]:
        """The files of a shard's arrays, relative to the run folder."""
        dims = {name: len(_dims(values)) for name, values in self._variables().items()}
        return [f"{SUMS_GROUP}/{name}/c/{shard}" + "/0" * (n_dims - 1) for name, n_dims in dims.items()]

    def check_fits(self, shard: int, dataset: xr.Dataset) -> None:
        """Raise `RunError` unless the Dataset holds the blocks of the shard, in the sizes of the run."""
        expected = {name: self._shape(values, shard) for name, values in self._variables().items()}
        found = {str(name): values.shape for name, values in dataset.data_vars.items()}
        if found != expected:
            raise RunError(f"shard {shard} has {found}, expected {expected}; extract with the run's model and version.")

    def allocate(self, folder: Path) -> list[str]:
        """Make the empty Zarr group of a run, in place of one half made; return its files, relative to the folder."""
        attrs = {"format": "thoughtlens", "n_thoughts": self.n_thoughts}
        group = zarr.create_group(folder / SUMS_GROUP, zarr_format=3, overwrite=True, attributes=attrs)
        for name, values in self._variables().items():
            n_rows, rows = (self.n_blocks, self.shard_size) if "block" in values.dims else (self.n_shards, 1)
            tail = values.shape[1:] if "block" in values.dims else values.shape
            fill = np.nan if values.dtype.kind == "f" else -1
            storage = {"chunks": (rows, *tail), "fill_value": fill}
            new_array(group, name, _dims(values), (n_rows, *tail), _stored(values.dtype), **storage)
        ids = np.array(self.problem_ids, dtype=np.dtypes.StringDType())
        labels = {str(name): values.values for name, values in self.template.coords.items() if name != "block"}
        problems = (len(ids),)
        new_array(group, "assigned", ("problem",), problems, "int64", chunks=problems, fill_value=-1)[:] = self.assigned
        write_coordinates(group, labels | {"problem": ids})
        return files_under(folder, SUMS_GROUP)

    def write(self, folder: Path, shard: int, dataset: xr.Dataset) -> float:
        """Write a shard; return the largest difference between sums as they were and as they are on disk."""
        first = self.blocks_of(shard).start
        rows = {
            name: (first, dataset[name].values) if "block" in values.dims else (shard, dataset[name].values[None])
            for name, values in self._variables().items()
        }
        write_rows(folder / SUMS_GROUP, rows)
        return max(float(np.abs(values - values.astype(_stored(values.dtype))).max()) for _, values in rows.values())

    def summary(self) -> Json:
        """The layout as JSON, with the ids as their number and fingerprint."""
        model = {name: getattr(self, name) for name in ("n_layers", "n_heads", "n_thoughts")}
        blocks = {"n_blocks": self.n_blocks, "shard_size": self.shard_size, "seed": SEED}
        ids = {"n_problems": len(self.problem_ids), "problem_ids": ids_fingerprint(list(self.problem_ids))}
        return ids | model | {"keep": "mean"} | blocks | {"kept": sorted(self._variables())}

    def _variables(self) -> dict[str, xr.DataArray]:
        return {str(name): values for name, values in self.template.data_vars.items()}

    def _shape(self, values: xr.DataArray, shard: int) -> tuple[int, ...]:
        return (len(self.blocks_of(shard)), *values.shape[1:]) if "block" in values.dims else values.shape


AnyLayout = Layout | BlockLayout


def deal(n_problems: int, n_blocks: int) -> npt.NDArray[np.int64]:
    """The block of each problem, dealt out at random, sizes differing by one at most; in order if each has its own."""
    if n_blocks == n_problems:
        return np.arange(n_problems)
    assigned = np.empty(n_problems, dtype=np.int64)
    assigned[np.random.default_rng(SEED).permutation(n_problems)] = np.arange(n_problems) * n_blocks // n_problems
    return assigned


def _stored(dtype: np.dtype) -> np.dtype:
    """Floats of any width are float32 on disk: 7 digits of a sum of a few hundred problems."""
    return np.dtype(np.float32) if dtype.kind == "f" else dtype


def _dims(values: xr.DataArray) -> tuple[str, ...]:
    dims = tuple(str(dim) for dim in values.dims)
    return dims if "block" in dims else ("shard", *dims)


def _even_attention(sizes: Layout) -> xr.Dataset:
    """One problem whose rows spread evenly over what they see."""
    n_queries, n_keys = len(query_names(sizes.n_thoughts)), len(key_names(sizes.n_thoughts))
    rows = np.tri(n_queries, n_keys, n_keys - n_queries)
    rows /= rows.sum(-1, keepdims=True)
    values = np.broadcast_to(rows, (1, sizes.n_layers, sizes.n_heads, n_queries, n_keys))
    return attention_dataset(values, problem_ids=[""], correct=np.zeros(1), n_question_tokens=np.full(1, 2))
