"""How much memory and disk an extraction takes as the number of problems grows: each size in a process of its own.

    python -m benchmarks.memory                   tiny-gpt2 on 64, 256, 1,024 and 2,048 bundled problems
    python -m benchmarks.memory --n 64 4096 --rounds 3

Peak is the largest resident memory of the whole process, model and libraries included (ru_maxrss).
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.timing import machine, spread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[64, 256, 1024, 2048])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="tiny-gpt2")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(*extract_once(asked.model, asked.one))
        return
    print(machine())
    peaks: dict[int, list[int]] = {n: [] for n in asked.n}
    for _ in range(asked.rounds):
        for n in asked.n:
            peak, disk = in_own_process(asked.model, n)
            peaks[n].append(peak)
            print(f"  {n:6} problems: peak {peak / 2**20:.0f} MiB, {disk / 2**20:.1f} MiB on disk", flush=True)
    growth = [last / first - 1 for first, last in zip(peaks[asked.n[0]], peaks[asked.n[-1]], strict=True)]
    for n, found in peaks.items():
        print(f"{n:6} problems: median peak {median(found) / 2**20:.0f} MiB")
    print(f"growth from {asked.n[0]} to {asked.n[-1]} problems: {spread(growth)}")


def in_own_process(model: str, n: int) -> Sequence[int]:
    """Peak and disk bytes of one extraction."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.memory", "--model", model, "--one", str(n)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [int(word) for word in said.split()]


def extract_once(model: str, n: int) -> tuple[int, int]:
    """Extract n problems here; peak bytes of this process, and bytes of attention on disk."""
    from thoughtlens.models import load
    from thoughtlens.problems import sample
    from thoughtlens.runs import extract

    with tempfile.TemporaryDirectory() as folder:
        extract(load(model), sample("arithmetic", n=n), Path(folder) / "run")
        files = (Path(folder) / "run" / "attention.zarr" / "attention").rglob("*")
        disk = sum(path.stat().st_size for path in files if path.is_file())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, disk


if __name__ == "__main__":
    main()
