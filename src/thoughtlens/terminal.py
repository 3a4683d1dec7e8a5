"""What the command line shows: results on stdout, progress and errors on stderr, each in one way.

Text from data, from a model or from a file is escaped: it can't be read as markup or move the cursor.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.control import strip_control_codes
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

out, err = Console(), Console(stderr=True)


def shown(value: object) -> str:
    """Any text as it may be printed."""
    return escape(strip_control_codes(str(value)).replace("\x1b", ""))


def print_error(error: Exception) -> None:
    """One sentence on stderr."""
    err.print(f"[bold red]Error:[/] {shown(error)}", soft_wrap=True, highlight=False)


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False))  # noqa: T201 (rich would wrap and colour it)


def tell(facts: Mapping[str, Any], sentence: str, *, as_json: bool) -> None:
    """A result, for machines or for people."""
    if as_json:
        print_json(facts)
    else:
        out.print(shown(sentence), soft_wrap=True, highlight=False)


@contextmanager
def counting(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr; yields a function that takes how many more are done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda n_more: progress.advance(task, n_more)


@contextmanager
def working(what: str) -> Iterator[None]:
    """A spinner on stderr for work that can't be counted."""
    if err.is_terminal:
        with err.status(what):
            yield
    else:
        yield


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "") -> None:
    """A table on stdout."""
    drawn = Table(*columns, title=shown(title) or None, title_justify="left")
    for row in rows:
        drawn.add_row(*map(shown, row))
    out.print(drawn)


def with_interval(number: Mapping[str, Any], *, percent: bool = False) -> str:
    """`1.23 [1.20, 1.27]`, or the same in percent; `undefined` where there is no number."""
    if number["estimate"] is None:
        return "undefined"
    form = "{:.1%}" if percent else "{:.2f}"
    estimate, low, high = (form.format(number[name]) for name in ("estimate", "low", "high"))
    return f"{estimate} [{low}, {high}]"
