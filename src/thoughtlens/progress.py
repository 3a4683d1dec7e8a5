"""Progress of long work on stderr: a bar with the time left, or a line each half minute where a bar can't be seen.

In: what is done, and how much of it there is. Out: a function that is told of every step, for a `with` block.

Bars are those of tqdm, which in a notebook are the notebook's own. Work of less than three seconds shows none.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Final

DELAY: Final = 3.0
"""Seconds before a bar appears."""

EVERY: Final = 30.0
"""Seconds between two lines."""


@contextmanager
def counting(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show how far work is; yields a function that is called with the number of further items done."""
    if _sees_bars():
        from tqdm.auto import tqdm  # slow to import, and not needed where nobody looks

        with tqdm(total=total, desc=what, delay=DELAY, leave=False, file=sys.stderr, dynamic_ncols=True) as bar:

            def update(n_more: int) -> None:
                bar.update(n_more)

            yield update
        return
    done, began, over = 0, time.monotonic(), Event()

    def advance(n_more: int) -> None:
        nonlocal done
        done += n_more

    def speak() -> None:
        while not over.wait(EVERY):
            print(line(what, done, total, time.monotonic() - began), file=sys.stderr, flush=True)  # noqa: T201

    thread = Thread(target=speak, daemon=True)
    thread.start()
    try:
        yield advance
    finally:
        over.set()
        thread.join()


@contextmanager
def told(progress: Callable[[int], None] | None, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """The function that a caller gave to be told of progress; one that shows it if that is None."""
    if progress is not None:
        yield progress
        return
    with counting(what, total) as advance:
        yield advance


def line(what: str, done: int, total: int | None, seconds: float) -> str:
    """Where work stands after so many seconds: `extract: 120 of 300, about 3 min left`."""
    if total is None:
        return f"{what}: {duration(seconds)} so far"
    left = f", about {duration(seconds / done * (total - done))} left" if done else ""
    return f"{what}: {done:,} of {total:,} after {duration(seconds)}{left}"


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _sees_bars() -> bool:
    """Whether somebody looks: stderr is a terminal, or this is a notebook."""
    shell = sys.modules.get("IPython")
    kernel = getattr(getattr(shell, "get_ipython", lambda: None)(), "kernel", None)
    return sys.stderr.isatty() or kernel is not None
