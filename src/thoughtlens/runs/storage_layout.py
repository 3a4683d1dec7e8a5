"""The layout of a run's arrays: which problems are in which row of which Zarr array, and which rows are in a shard.

in: the ids of the problems, the sizes of the model, and what is kept of each problem (`Keep`); out: an empty Zarr group
with an array for each variable, and the place in it of everything that a shard holds.

1. A row belongs to some problems. In a run that keeps all attention each problem has a row of its own. In a run that
   keeps sums, the problems are distributed at random over rows of equal size (to within one), the blocks. A block is
   then like a sample of the problems, and resampling blocks gives about the intervals that resampling problems gives.
2. A shard is a range of rows and the unit of work: one worker measures its problems and writes it. It is one file an
   array, so that no other worker writes to that file.
3. A variable has a value for each row, or one for each shard where it is only wanted of the whole run.
4. Half precision is a matter of rounding: numbers are rounded to float16 and stored as float32, since sums of float16
   are wrong and whoever opens an array takes its mean. The bytes that rounding leaves empty take next to no room.

`Keep.add_up` of a single problem gives the template from which all names, dims and sizes are read. What has not been
written yet is NaN, -1 or False; a shard's marker (see `thoughtlens.runs.writer`) says whether it was written.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import ceil
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr

from thoughtlens.errors import OptionError, ProblemSetError, RunError
from thoughtlens.files import Json
from thoughtlens.notation import ANSWER, EOT, OPTIONAL, key_names, query_names
from thoughtlens.schema import ATTENTION, PADDING_MASS, VALUE_WEIGHTED, attention_dataset, check_attention

ATTENTION_GROUP: Final = "attention.zarr"
SUMS_GROUP: Final = "sums.zarr"

RECORDS: Final = {"values": VALUE_WEIGHTED}
"""The variable of each thing that can be recorded on request."""

PIECE: Final = 64
"""Rows that are read together at most: the inner chunk of a shard."""

SHARD_BYTES: Final = 64 * 10**6
"""About how much attention a shard holds, before compression and in the precision that is kept: a file that is quickly
copied, and little work lost by a kill."""

BLOCK_BYTES: Final = 2**20
"""Bytes that are compressed together: more would cost time, and with fewer, rounded numbers take a tenth more room."""

MOST_PROBLEMS: Final = 1024
"""Problems of a shard at most, where the model is so small that `SHARD_BYTES` would hold a whole study."""

BLOCKS: Final = 512
"""Blocks at most: with these a bootstrap over blocks is, for practical purposes, as good as one over problems."""

SHARD_BLOCKS: Final = 64
SHARD_PROBLEMS: Final = 4096
"""Blocks and problems of a shard at most where sums are kept: the most work that a kill can cost."""

SEED: Final = 0
"""Seed by which problems are distributed over blocks: the same problems are in the same blocks in every run."""

Seen = Iterable[tuple[xr.Dataset, np.ndarray]]
"""Attention Datasets of some problems each, with the number of each problem's row."""

Line = TypeVar("Line")


@dataclass(frozen=True)
class Keep:
    """What is kept of the problems of a run; `runs.MEAN` is the one to choose beside the default, all attention.

    Attributes:
        add_up: turns problems and a number of rows into one Dataset. Variables with a value for each row have the dim
            `problem` or `block` first, and those that are only wanted of all rows together have neither. It must be
            picklable, and its result must not depend on how the problems are divided into Datasets.
        n_blocks: how many rows there are at most; each problem has its own if None.

    Raises:
        OptionError: `n_blocks` is below 1.

    Example:
        >>> from thoughtlens.analysis.resampled_sums import block_sums
        >>> Keep(block_sums, n_blocks=100).n_blocks
        100
    """

    add_up: Callable[[Seen, int], xr.Dataset]
    n_blocks: int | None = BLOCKS

    def __post_init__(self) -> None:
        if self.n_blocks is not None and self.n_blocks < 1:
            raise OptionError(f"the number of blocks is {self.n_blocks}, expected at least 1; pass a larger one.")


@dataclass(frozen=True, eq=False)
class Layout:
    """The sizes of a run and the place of each problem in it; made by `Layout.of`, or read from a run folder."""

    problem_ids: tuple[str, ...]
    n_layers: int
    n_heads: int
    n_thoughts: int
    rows: npt.NDArray[np.int64]  # (problem,): the row of each problem
    shard_size: int  # rows of a shard
    template: xr.Dataset  # what is stored of one row: names, labels, sizes, and the precision of each as its dtype

    @classmethod
    def of(
        cls,
        problem_ids: tuple[str, ...],
        *,
        n_layers: int,
        n_heads: int,
        n_thoughts: int,
        shard_size: int | None = None,
        dtype: Literal["float16", "float32"] = "float16",
        record: Sequence[str] = (),
        keep: Keep,
        slots: Collection[str] = OPTIONAL,
        padding: bool = False,
    ) -> "Layout":
        """The layout of a run that has not been begun; the arguments are those of `extract`, which checks them here.

        Without a shard size, a shard holds about 64 MB of attention, or up to 4096 problems where sums are kept.
        """
        if shard_size is not None and shard_size < 1:
            raise OptionError(f"the shard size is {shard_size}, expected at least 1; pass a larger one.")
        if len(set(problem_ids)) != len(problem_ids):
            twice = next(name for k, name in enumerate(problem_ids) if name in problem_ids[:k])
            raise ProblemSetError(f"two problems have the id {twice!r}, expected each id once; rename one of them.")
        if unknown := [name for name in record if name not in RECORDS]:
            raise OptionError(f"can't record {unknown[0]!r}, expected one of {', '.join(RECORDS)}; leave it out.")
        model, n_problems = (n_layers, n_heads, n_thoughts), len(problem_ids)
        precision = dtype if keep.n_blocks is None else "float32"
        beside = tuple(RECORDS[name] for name in record)
        template = _template(keep.add_up, model, precision, beside, frozenset(slots), padding)
        if empty := [name for name, values in template.data_vars.items() if not values.size]:
            raise OptionError(f"{n_thoughts} thought has no {empty[0]} to keep; pass --keep raw, or more thoughts.")
        if keep.n_blocks is None:
            n_rows, size = n_problems, shard_size or problems_for(*model, dtype, len(record))
        else:
            n_rows = min(keep.n_blocks, n_problems)
            wanted = (shard_size or SHARD_PROBLEMS) * n_rows // max(1, n_problems)
            size = max(1, min(SHARD_BLOCKS, wanted))
        return cls(problem_ids, *model, deal(n_problems, n_rows), size, template)

    @property
    def row_dim(self) -> str:
        """What a row is: `problem` or `block`."""
        return "block" if "block" in self.template.dims else "problem"

    @property
    def group(self) -> str:
        """The Zarr group of a run, relative to its folder."""
        return SUMS_GROUP if self.row_dim == "block" else ATTENTION_GROUP

    @property
    def patterns(self) -> list[str]:
        """What is recorded of each problem: attention, and what is stored beside it."""
        return [ATTENTION, *(name for name in RECORDS.values() if name in self.template)]

    @property
    def n_rows(self) -> int:
        """Rows of the run: problems, or blocks of them."""
        return int(self.rows.max(initial=-1)) + 1

    @property
    def n_shards(self) -> int:
        """Shards of the run; the last may hold fewer rows."""
        return ceil(self.n_rows / self.shard_size)

    def rows_of(self, shard: int) -> range:
        """The rows of a shard."""
        start = shard * self.shard_size
        return range(start, min(start + self.shard_size, self.n_rows))

    def problems_of(self, shard: int) -> list[int]:
        """The places of a shard's problems among all problems, in order."""
        return self._places[shard]

    def ids_of(self, shard: int) -> list[str]:
        """The problem ids of a shard."""
        return [self.problem_ids[place] for place in self.problems_of(shard)]

    def in_order(self, of_shards: Iterable[Iterable[Line]]) -> Iterator[Line]:
        """What each shard has of its problems, in their order, as one sequence in the order of all problems."""
        lines, last = [iter(of_shard) for of_shard in of_shards], {places[-1] for places in self._places}
        for place, shard in enumerate(self.rows // self.shard_size):
            yield next(lines[shard])
            if place in last:
                next(lines[shard], None)  # the file that it comes from is closed here

    def array_files(self, shard: int) -> list[str]:
        """The files of a shard's arrays, relative to the run folder."""
        stored = self.template.data_vars.items()
        return [f"{self.group}/{name}/c/{shard}" + "/0" * (values.ndim - 1) for name, values in stored]

    def check_fits(self, shard: int, dataset: xr.Dataset) -> None:
        """Raise `RunError` unless the Dataset holds the rows of the shard, in the run's sizes, and is sound."""
        asked = self.ids_of(shard)
        if "problem" in dataset.dims and (ids := [str(name) for name in dataset["problem"].values]) != asked:
            raise RunError(
                f"shard {shard} was given the problems {ids[:3]}…, expected {asked[:3]}…; "
                "write each shard its own problems."
            )
        given = _with_first_dim(dataset)
        for name, stored in self.template.data_vars.items():
            if name not in given:
                raise RunError(f"shard {shard} lacks {name}, which the run records; extract with the run's options.")
            found, expected = given[name].shape, (len(self._rows_for(stored, shard)), *stored.shape[1:])
            if found != expected:
                raise RunError(
                    f"shard {shard} has sizes {found} of {name}, expected {expected}; extract with the run's model and "
                    "version."
                )
            if stored.dtype.kind == "f":
                # Unlike the maximum, `fmax` leaves out NaN without a copy.
                largest = float(np.fmax.reduce(given[name].values, axis=None))
                if largest > float(np.finfo(stored.dtype).max):
                    raise RunError(
                        f"shard {shard} reaches {largest:.3g}, beyond {stored.dtype}; extract with dtype='float32'."
                    )
        if ATTENTION in self.template:
            for piece in _pieces(dataset):
                check_attention(piece)

    def allocate(self, folder: Path) -> list[str]:
        """Make the empty Zarr group of a run, in place of one half made; return its files, relative to the folder."""
        path, checked = folder / self.group, {"compressors": [zarr.codecs.ZstdCodec(level=3, checksum=True)]}
        # Bytes of equal place together, or those that rounding leaves empty would take room.
        shuffled = zarr.codecs.BloscCodec(cname="zstd", clevel=3, shuffle="shuffle", blocksize=BLOCK_BYTES)
        compressors = [shuffled, zarr.codecs.Crc32cCodec()]
        ids = np.array(self.problem_ids, dtype=np.dtypes.StringDType())
        attrs: dict[str, Any] = {"format": "thoughtlens", "n_thoughts": self.n_thoughts}
        if ATTENTION in self.template:
            attrs["precision"] = str(self.template[ATTENTION].dtype)
        if "query" in self.template.coords and ANSWER not in self.template["query"].values:
            attrs["answer_query"] = EOT
        labels = xr.Dataset(coords={**self.template.drop_dims(self.row_dim).coords, "problem": ids}, attrs=attrs)
        if self.row_dim == "block":
            labels["assigned"] = "problem", self.rows
        encoding = {name: {"chunks": values.shape, **checked} for name, values in labels.variables.items()}
        labels.to_zarr(path, mode="w", zarr_format=3, consolidated=False, encoding=encoding)
        group = zarr.open_group(path, mode="r+", use_consolidated=False)
        for name, stored in self.template.data_vars.items():
            n_rows, size = (self.n_shards, 1) if stored.dims[0] == "shard" else (self.n_rows, self.shard_size)
            tail, fill = stored.shape[1:], {"f": np.nan, "b": False}.get(stored.dtype.kind, -1)
            # Zarr wants inner chunks that divide the shard.
            inner = max(n for n in range(1, min(PIECE, size) + 1) if size % n == 0)
            storage = {
                "chunks": (inner, *tail),
                "shards": (size, *tail),
                "fill_value": fill,
                "compressors": compressors,
            }
            sizes = {"shape": (n_rows, *tail), "dtype": _on_disk(stored.dtype), "dimension_names": stored.dims}
            group.create_array(str(name), **sizes, **storage)
        return sorted(file.relative_to(folder).as_posix() for file in path.rglob("*") if file.is_file())

    def write(self, folder: Path, shard: int, dataset: xr.Dataset) -> float:
        """Write a shard; return the largest difference between attention (or sums) in memory and on disk."""
        given = _with_first_dim(dataset)
        # A shard of which no problem is correct is all fill value, which Zarr would leave out.
        with zarr.config.set({"array.write_empty_chunks": True}):
            group = zarr.open_group(folder / self.group, mode="r+", use_consolidated=False)
            for name, stored in self.template.data_vars.items():
                rows = self._rows_for(stored, shard)
                rounded = given[name].values.astype(stored.dtype)
                if name not in group:
                    raise FileNotFoundError(f"{folder / self.group / str(name)} is gone")
                group[name][rows.start : rows.stop] = rounded.astype(_on_disk(stored.dtype), copy=False)
        measured = [ATTENTION] if ATTENTION in self.template else list(self.template.data_vars)
        pairs = ((piece[name].values, self.template[name].dtype) for piece in _pieces(given) for name in measured)
        # Rows that do not exist are not rounded.
        return max(float(np.nan_to_num(np.abs(values - values.astype(dtype))).max()) for values, dtype in pairs)

    def summary(self) -> Json:
        """The layout as JSON, with the ids as their number and fingerprint."""
        ids = {"n_problems": len(self.problem_ids), "problem_ids": ids_fingerprint(self.problem_ids)}
        model = {name: getattr(self, name) for name in ("n_layers", "n_heads", "n_thoughts", "shard_size")}
        blocks = {"keep": "mean", "n_blocks": self.n_rows, "seed": SEED} if self.row_dim == "block" else {}
        recorded = [name for name, variable in RECORDS.items() if variable in self.template]
        stored = {str(name): str(values.dtype) for name, values in self.template.data_vars.items()}
        return ids | model | blocks | ({"record": recorded} if recorded else {}) | {"stored": stored}

    @cached_property
    def _places(self) -> list[list[int]]:
        """The places of each shard's problems."""
        shards = self.rows // self.shard_size
        starts = np.searchsorted(np.sort(shards), np.arange(1, self.n_shards))
        return [places.tolist() for places in np.split(np.argsort(shards, kind="stable"), starts)][: self.n_shards]

    def _rows_for(self, stored: xr.DataArray, shard: int) -> range:
        return range(shard, shard + 1) if stored.dims[0] == "shard" else self.rows_of(shard)


def layout_on_disk(folder: Path, summary: Mapping[str, Any]) -> Layout:
    """The layout of a run that has been begun, from its arrays and from what its manifest says of it."""
    group = SUMS_GROUP if summary.get("keep") == "mean" else ATTENTION_GROUP
    dataset: xr.Dataset = xr.open_zarr(folder / group, consolidated=False)
    ids = tuple(str(name) for name in dataset["problem"].values)
    rows = dataset["assigned"].values if "assigned" in dataset else np.arange(len(ids))
    one = dict.fromkeys(("problem", "block", "shard"), slice(1))
    template = dataset.drop_vars("assigned", errors="ignore").isel(one, missing_dims="ignore")
    # Without reading a value: a damaged file is named by whoever compares the files.
    nothing = {name: np.zeros((), dtype=summary["stored"][name]) for name in map(str, template.data_vars)}
    template = template.map(lambda of: of.copy(data=np.broadcast_to(nothing[str(of.name)], of.shape)))
    sizes = {name: int(summary[name]) for name in ("n_layers", "n_heads", "n_thoughts", "shard_size")}
    return Layout(ids, rows=rows, template=template, **sizes)


def problems_for(n_layers: int, n_heads: int, n_thoughts: int, dtype: str, n_beside: int = 0) -> int:
    """How many problems make a shard of `SHARD_BYTES`, with `n_beside` more patterns: if possible, whole pieces."""
    cells = (1 + n_beside) * n_layers * n_heads * len(query_names(n_thoughts)) * len(key_names(n_thoughts))
    count = min(MOST_PROBLEMS, SHARD_BYTES // (cells * np.dtype(dtype).itemsize))
    return count // PIECE * PIECE if count >= PIECE else max(1, count)


def deal(n_problems: int, n_blocks: int) -> npt.NDArray[np.int64]:
    """The block of each problem, at random, sizes differing by one at most; in order if each problem has its own."""
    if n_blocks == n_problems:
        return np.arange(n_problems)
    assigned = np.empty(n_problems, dtype=np.int64)
    assigned[np.random.default_rng(SEED).permutation(n_problems)] = np.arange(n_problems) * n_blocks // n_problems
    return assigned


def _on_disk(precision: np.dtype[Any]) -> np.dtype[Any]:
    """The type of an array whose numbers are rounded to this precision."""
    return np.dtype(np.float32) if precision == np.float16 else precision


def ids_fingerprint(ids: Sequence[str]) -> str:
    """SHA-256 of the ids in order."""
    return hashlib.sha256(json.dumps(list(ids)).encode()).hexdigest()


def _with_first_dim(dataset: xr.Dataset) -> xr.Dataset:
    """Every variable is stored along its first dim; those of all rows of a shard together get the dim `shard`."""
    of_all = {
        name: (("shard", *of.dims), of.values[np.newaxis], of.attrs)
        for name, of in dataset.data_vars.items()
        if not {"problem", "block", "shard"} & set(of.dims)
    }
    return dataset.assign(of_all)


def _pieces(dataset: xr.Dataset) -> Iterator[xr.Dataset]:
    # Intermediate results are as large as the attention itself, so never of the whole shard at once.
    for start in range(0, dataset.sizes.get("problem", 1), PIECE):
        yield dataset.isel(problem=slice(start, start + PIECE), missing_dims="ignore")


@lru_cache(maxsize=8)
def _template(
    add_up: Callable[[Seen, int], xr.Dataset],
    model: tuple[int, int, int],
    precision: str,
    beside: tuple[str, ...],
    slots: frozenset[str],
    padding: bool,
) -> xr.Dataset:
    """What is kept of one problem; a process may extract many runs of the same sizes, such as null models."""
    even = _even_attention(*model, beside, slots)
    if padding:
        even = even.assign({PADDING_MASS: even[ATTENTION].sum("key") * 0.0})
    kept = _with_first_dim(add_up([(even, np.zeros(1, dtype=np.int64))], 1))
    return kept.map(lambda values: values.astype(precision) if values.dtype.kind == "f" else values)


def _even_attention(
    n_layers: int, n_heads: int, n_thoughts: int, beside: Sequence[str], slots: Collection[str]
) -> xr.Dataset:
    """One problem whose rows spread evenly over what they see."""
    keys = key_names(n_thoughts)
    n_queries, n_keys = len(query_names(n_thoughts)), len(keys)
    there = [key not in OPTIONAL or key in slots for key in keys]
    even = np.tri(n_queries, n_keys, n_keys - n_queries) * there
    even /= even.sum(-1, keepdims=True)
    values = np.broadcast_to(even, (1, n_layers, n_heads, n_queries, n_keys))
    return attention_dataset(
        values,
        problem_ids=[""],
        correct=np.zeros(1),
        n_question_tokens=np.full(1, 2),
        slots=slots,
        beside=dict.fromkeys(beside, values),
    )
