"""Terminal output: results on stdout, progress and errors on stderr; tables, progress bars and numbers as text.

Text from data, from a model or from a file is escaped: it can't be read as markup or move the cursor.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from rich.console import Console
from rich.control import strip_control_codes
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

out, err = Console(), Console(stderr=True)

UNDEFINED: Final = "undefined"
_STRONGEST: Final = ("hub", "sequential", "skip")


def shown(value: object) -> str:
    """Any text as it may be printed."""
    return escape(strip_control_codes(str(value)).replace("\x1b", ""))


def print_error(error: Exception) -> None:
    """One sentence on stderr."""
    err.print(f"[bold red]Error:[/] {shown(error)}", soft_wrap=True, highlight=False)


def warn(sentence: str) -> None:
    """One sentence on stderr, about something that stops nothing."""
    err.print(f"[bold yellow]Note:[/] {shown(sentence)}", soft_wrap=True, highlight=False)


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False))  # noqa: T201 (rich would wrap and colour it)


def tell(facts: Mapping[str, Any], sentence: str, *, as_json: bool) -> None:
    """A result: as JSON for machines, or as a sentence for people."""
    if as_json:
        print_json(facts)
    else:
        out.print(shown(sentence), soft_wrap=True, highlight=False)


@contextmanager
def counting(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr; yields a function that is called with the number of further items done."""
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


def closing(facts: Mapping[str, Any]) -> None:
    """The closing tables of a run: accuracy, preferences, excess over the nulls, and top heads."""
    hub, hubs, even = facts["hub"], facts["hub_heads"], "of an even share"
    rows = [
        ("accuracy", with_interval(facts["accuracy"], percent=True)),
        ("answer rows", f"{facts['n_answer_rows']} (texts that reached the answer prefix)"),
        ("hub", f"{hub['thought']}: {with_interval(hub)} {even}" if hub["thought"] else UNDEFINED),
        ("sequential preference", f"{with_interval(facts['sequential'])} {even}"),
        ("skip preference", f"{with_interval(facts['skip'])} {even}"),
        ("heads with a hub", f"{hubs['n_heads']} of {hubs['of']} (beyond {hubs['least']} even shares, q < 0.05)"),
        ("types of heads", counted(facts["types"])),
        ("ranking of heads", _ranking(facts["ranking"])),
    ]
    title = f"{facts['model']['name']} on {facts['problems']['name']}, n = {facts['n']}"
    table(("measure", "value"), rows, title=f"{title}, 95 % intervals over {facts['intervals_over']}")
    beyond_nulls(facts["evidence"], title="attention of a row beyond its null")
    _top_heads(facts)


def beyond_nulls(evidence: Mapping[str, Any], *, title: str) -> None:
    """The table of each measure's excess over its null, and a line that says which null that is."""
    of_null: dict[str, list[str]] = {}
    for name, found in evidence.items():
        of_null.setdefault(found["null"], []).append(name)
    rows = [
        (f"{name} {found.get('thought') or ''}", with_interval(found), p_value(found["p"]), found["n_heads"])
        for name, found in evidence.items()
    ]
    title += ", mean of all heads; heads: 0.05 or more, q < 0.05"
    table(("measure", "excess", "p", "heads with it"), rows, title=title)
    tell({}, "; ".join(f"null of {', '.join(names)}: {null}" for null, names in of_null.items()), as_json=False)


def _top_heads(facts: Mapping[str, Any]) -> None:
    if not facts["top_heads"]:
        return
    columns = ("hub_preference", "sequential", "skip", "thought_mass", "importance")
    heads = [
        (h["name"], h["type"], h["hub"] or UNDEFINED, *(_number(h[name]) for name in columns))
        for h in facts["top_heads"]
    ]
    names = ("head", "type", "hub", "hub H", "sequential", "skip", "thought mass", "importance")
    table(names, heads, title="top heads by attention (not by cause)")
    lists = [(name, *(f"{h['name']} {h['preference']:.2f}" for h in facts["strongest"][name])) for name in _STRONGEST]
    if all(len(row) > 1 for row in lists):
        places = ("strongest for", "first", "second", "third")
        table(places[: max(map(len, lists))], lists, title="strongest heads, with their preference")


def _ranking(ranking: Mapping[str, Any]) -> str:
    if ranking["unreliable"]:
        return str(ranking["unreliable"])
    overlap, chance = (_number(ranking[name], percent=True) for name in ("top_overlap", "top_overlap_by_chance"))
    return f"reliability {_number(ranking['reliability'])}; halves share {overlap} of the top heads (chance {chance})"


def p_value(value: float | None) -> str:
    """`0.012`, or `< 0.001`."""
    if value is None:
        return UNDEFINED
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def counted(counts: Mapping[str, int]) -> str:
    """Names with their counts, `3 hub, 1 sink`, zeros left out."""
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def with_interval(number: Mapping[str, Any], *, percent: bool = False) -> str:
    """`1.23 [1.20, 1.27]`, or the same in percent; `undefined` where there is no number."""
    if number["estimate"] is None:
        return UNDEFINED
    estimate, low, high = (_number(number[name], percent=percent) for name in ("estimate", "low", "high"))
    return f"{estimate} [{low}, {high}]"


def _number(value: float | None, *, percent: bool = False) -> str:
    if value is None:
        return UNDEFINED
    return f"{value:.1%}" if percent else f"{value:.2f}"


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
