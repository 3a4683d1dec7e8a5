"""A run folder that is being written becomes how far it is, from its markers alone: nothing is read that is large.

Whoever writes it, on whichever machine, a finished shard leaves a marker; their times give the pace.
"""

from math import ceil
from pathlib import Path
from typing import NamedTuple

from thoughtlens.runs.manifest import read_manifest
from thoughtlens.runs.shards import marker_name, read_marker


class Status(NamedTuple):
    """How far a run is.

    Attributes:
        n_done: problems in finished shards.
        n_problems: problems of the run.
        shards_done: finished shards.
        n_shards: shards of the run.
        complete: whether the run has been put together.
        seconds_left: estimated from the pace of the markers; None with fewer than two of them, 0 when complete.
    """

    n_done: int
    n_problems: int
    shards_done: int
    n_shards: int
    complete: bool
    seconds_left: float | None


def status(folder: str | Path) -> Status:
    """How far a run is, as its markers say; they are not compared with the files, as `open_run` does.

    Args:
        folder: the run folder.

    Raises:
        RunError: the folder holds no run.
    """
    path = Path(folder)
    manifest = read_manifest(path)
    layout = manifest["layout"]
    n_problems = int(layout["n_problems"])
    # A shard is so many problems, or so many blocks of them where sums are kept.
    n_shards = ceil(int(layout.get("n_blocks", n_problems)) / int(layout["shard_size"]))
    written = [shard for shard in range(n_shards) if (path / marker_name(shard)).is_file()]
    rows = {shard: int(read_marker(path, shard).get("rows", 0)) for shard in written}
    complete = bool(manifest["complete"])
    left = 0.0 if complete else _seconds_left(path, rows, n_problems)
    return Status(sum(rows.values()), n_problems, len(written), n_shards, complete, left)


def _seconds_left(path: Path, rows: dict[int, int], n_problems: int) -> float | None:
    """Problems left over problems a second, between the first marker and the last; a pause makes it pessimistic."""
    times = sorted(((path / marker_name(shard)).stat().st_mtime, n) for shard, n in rows.items())
    if len(times) < 2 or times[-1][0] <= times[0][0]:
        return None
    # What the first marker stands for was done before the clock of the markers began.
    pace = sum(n for _, n in times[1:]) / (times[-1][0] - times[0][0])
    return (n_problems - sum(rows.values())) / pace
