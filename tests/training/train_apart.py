"""Train a recipe in a process of its own, say whether a card came of it, and die after some steps if asked to."""

import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path

from thoughtlens.training import train


def main(recipe: Path, out: Path, steps_to_live: int = -1) -> None:
    done = 0

    def advance(n_steps: int) -> None:
        nonlocal done
        done += n_steps
        if done == steps_to_live:
            os.kill(os.getpid(), signal.SIGKILL)

    card = train(recipe, out, counting=lambda title, total: nullcontext(advance))
    sys.stderr.write(f"card: {card is not None}\n")
