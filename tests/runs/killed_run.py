"""`thoughtlens`, each shard and the time noted in a file before it is worked on."""

import os
import sys
import time
from pathlib import Path

from thoughtlens.cli import main
from thoughtlens.runs.extraction import ExtractionJob


def noted(file: Path) -> None:
    """Let every shard be noted whose work begins, whatever becomes of it."""
    begin = ExtractionJob.measure

    def beginning(self: ExtractionJob, reasoner: object, passes: object, shard: int, progress: object) -> None:
        with file.open("a") as notes:
            notes.write(f"{self.store.layout.ids_of(shard)[0]} {time.time()}\n")
        begin(self, reasoner, passes, shard, progress)

    ExtractionJob.measure = beginning


def run(where: Path, file: Path, arguments: list[str]) -> None:
    """The command line in a folder, noted."""
    os.chdir(where)
    noted(file)
    sys.argv = ["thoughtlens", *arguments]
    main()
