"""`thoughtlens` with small shards, each noted in a file before it is worked on: FILE, then the arguments."""

import sys
from pathlib import Path

from thoughtlens.cli import main
from thoughtlens.runs import block_layout, layout
from thoughtlens.runs.measuring import Thinking

SMALL = 16


def noted(file: Path) -> None:
    """Let every shard be noted whose work begins, whatever becomes of it."""
    begin = Thinking.__init__

    def beginning(self: Thinking, reasoner: object, problems: list, run_layout: object) -> None:
        with file.open("a") as notes:
            notes.write(problems[0].id + "\n")
        begin(self, reasoner, problems, run_layout)

    Thinking.__init__ = beginning


if __name__ == "__main__":
    layout.MOST_PROBLEMS = block_layout.SHARD_PROBLEMS = SMALL
    noted(Path(sys.argv.pop(1)))
    main()
