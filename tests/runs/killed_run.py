"""`thoughtlens`, each shard and the time noted in a file before it is worked on: FILE, then the arguments."""

import sys
import time
from pathlib import Path

from thoughtlens.cli import main
from thoughtlens.runs import Thinking


def noted(file: Path) -> None:
    """Let every shard be noted whose work begins, whatever becomes of it."""
    begin = Thinking.__init__

    def beginning(self: Thinking, reasoner: object, problems: list, run_layout: object) -> None:
        with file.open("a") as notes:
            notes.write(f"{problems[0].id} {time.time()}\n")
        begin(self, reasoner, problems, run_layout)

    Thinking.__init__ = beginning


if __name__ == "__main__":
    noted(Path(sys.argv.pop(1)))
    main()
