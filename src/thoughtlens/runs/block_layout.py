"""The sizes of a run that keeps sums over blocks of problems, in the place of their attention, become its arrays.

1. Problems are dealt out to blocks at random, all of a size (to within one): a block is like a sample of the problems,
   so that resampling blocks gives the intervals that resampling problems gives, if a little less surely.
2. A shard is some blocks in a row, whole: one worker adds up their problems and writes them.
3. Each variable has a row a block, or, where it is only wanted of the whole run, a row a shard.

What is added up is not known here: `Keep.add_up` does it, and what it gives for one problem says how large all is. Disk
depends on the numbers of blocks and shards, which have an upper limit, and not on the number of problems; but for the
problems themselves, their results, and the block of each.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr

from thoughtlens.errors import OptionError, RunError
from thoughtlens.files import Json
from thoughtlens.labels import key_names, query_names
from thoughtlens.runs.layout import (
    Layout,
    Line,
    files_under,
    ids_fingerprint,
    new_array,
    write_coordinates,
    write_rows,
)
from thoughtlens.schema import ATTENTION, attention_dataset

GROUP: Final = "sums.zarr"

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
        return [f"{GROUP}/{name}/c/{shard}" + "/0" * (n_dims - 1) for name, n_dims in dims.items()]

    def check_fits(self, shard: int, dataset: xr.Dataset) -> None:
        """Raise `RunError` unless the Dataset holds the blocks of the shard, in the sizes of the run."""
        expected = {name: self._shape(values, shard) for name, values in self._variables().items()}
        found = {str(name): values.shape for name, values in dataset.data_vars.items()}
        if found != expected:
            raise RunError(f"shard {shard} has {found}, expected {expected}; extract with the run's model and version.")

    def allocate(self, folder: Path) -> list[str]:
        """Make the empty Zarr group of a run, in place of one half made; return its files, relative to the folder."""
        attrs = {"format": "thoughtlens", "n_thoughts": self.n_thoughts}
        group = zarr.create_group(folder / GROUP, zarr_format=3, overwrite=True, attributes=attrs)
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
        return files_under(folder, GROUP)

    def write(self, folder: Path, shard: int, dataset: xr.Dataset) -> float:
        """Write a shard; return the largest difference between sums as they were and as they are on disk."""
        first = self.blocks_of(shard).start
        rows = {
            name: (first, dataset[name].values) if "block" in values.dims else (shard, dataset[name].values[None])
            for name, values in self._variables().items()
        }
        write_rows(folder / GROUP, rows)
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
