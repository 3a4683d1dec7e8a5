"""Terminal output: results on stdout, progress and errors on stderr; closing texts, tables and numbers as text.

Text from data, from a model or from a file is escaped: it can't be read as markup or move the cursor.
What the encoding of a stream lacks is written in ASCII, for instance z3 -| z2.
"""

import codecs
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil, log10
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from thoughtlens.errors import ThoughtLensError
from thoughtlens.progress import counting

out, err = Console(emoji=False), Console(stderr=True, emoji=False)

UNDEFINED = "undefined"
_WIDEST: Final = 10_000
_MOST_DIGITS: Final = 6


_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Characters that move the cursor, colour a terminal or turn the direction of writing; not tab and newline."""

_IN_ASCII: Final = (
    dict(zip("−–—·×‘’“”✓✗✔┃│║━─═", "---*x''\"\"vxv|||---", strict=True))
    | dict.fromkeys("\u00a0\u2009\u202f", " ")
    | {"⊣": "-|", "±": "+-", "…": "...", "→": "->", "←": "<-", "≤": "<=", "≥": ">=", "²": "^2", "³": "^3", "Σ": "sum"}
)

ERRORS: Final = "thoughtlens.ascii"
"""How streams write what their encoding lacks, as `codecs` knows it."""


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    forms = []
    for letter in error.object[error.start : error.end]:
        box = "+" if "\u2500" <= letter <= "\u257f" else letter.encode("ascii", "backslashreplace").decode()
        forms.append(_IN_ASCII.get(letter, box))
    return "".join(forms), error.end


codecs.register_error(ERRORS, _in_ascii)


class Stream(io.TextIOWrapper):
    """stdout or stderr of the command line, where a full disk is told in a sentence, and only if results are lost."""

    of: Any = None  # the stream that it takes the place of, which would close the file that they share if it ended

    def write(self, text: str, /) -> int:
        """Write text."""
        with self._told():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Write what waits."""
        with self._told():
            super().flush()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # What waits can go nowhere, and would be told of again when the process ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if self is sys.stderr:
                return
            if isinstance(error, BrokenPipeError):
                raise
            raise ThoughtLensError(
                f"can't write to stdout ({error.strerror}); make room there, or send the output elsewhere."
            ) from error


def take_streams() -> None:
    """Let all output of this process go through `Stream`; end the process if it has no stdout."""
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (open as long as the process)
    sys.stderr = _taken(sys.stderr)
    if sys.stdout is None:
        print_error(
            ThoughtLensError("stdout is closed, expected a place for results; send them to a file or /dev/null.")
        )
        sys.exit(2)
    sys.stdout = _taken(sys.stdout)


def _taken(stream: Any) -> Stream:
    how = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
    taken = Stream(stream.buffer, encoding=stream.encoding, errors=ERRORS, **how)
    taken.of = stream
    return taken


def visible(text: str) -> str:
    r"""The text with control characters written out, such as `\x1b`."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def shown(value: object) -> str:
    """Any text as it may be printed."""
    return escape(visible(str(value)).encode(out.encoding, ERRORS).decode(out.encoding))


def print_error(error: Exception) -> None:
    """One sentence on stderr."""
    err.print(f"[bold red]Error:[/] {shown(error)}", soft_wrap=True, highlight=False)


def warn(sentence: str) -> None:
    """One sentence on stderr, about something that stops nothing."""
    err.print(f"[bold yellow]Note:[/] {shown(sentence)}", soft_wrap=True, highlight=False)


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout."""
    text = json.dumps(value, ensure_ascii=not out.encoding.startswith("utf"), allow_nan=False)
    # In JSON they stand only in texts, where an escape means the same.
    text = _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    print(text, flush=True)  # noqa: T201 (rich would wrap and colour it)


def tell(facts: Mapping[str, Any], sentence: str, *, as_json: bool) -> None:
    """A result: as JSON for machines, or as a sentence for people."""
    if as_json:
        print_json(facts)
    else:
        out.print(shown(sentence), soft_wrap=True, highlight=False)


@contextmanager
def working(what: str) -> Iterator[None]:
    """A spinner on stderr for work that can't be counted."""
    if err.is_terminal:
        with err.status(shown(what), spinner="dots" if err.encoding.startswith("utf") else "line"):
            yield
    else:
        with counting(what):
            yield


def close(findings: Iterable[tuple[str, str]], paths: Mapping[str, object], after: str) -> None:
    """The closing text of a command: what was found, where the files are, and what to type next."""
    files = ", ".join(f"{name} {path}" for name, path in paths.items() if path)
    lines = [*findings, ("Files", files), ("Next", f"{after}; for all numbers, the same command with --full")]
    if not out.is_terminal:
        width = max(len(label) for label, _ in lines)
        for label, text in lines:
            out.print(f"{shown(label):<{width}}  {shown(text)}", soft_wrap=True, highlight=False)
        return
    drawn = Table.grid("", "", padding=(0, 2))
    for label, text in lines:
        drawn.add_row(f"[bold]{shown(label)}[/]", shown(text))
    out.print(drawn, highlight=False)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "") -> None:
    """A table on stdout."""
    if title:
        # Above the table and not in it, where it would be broken at the table's width.
        tell({}, title, as_json=False)
    drawn = Table()
    for name in columns:
        drawn.add_column(shown(name), overflow="fold")
    for row in rows:
        drawn.add_row(*map(shown, row))
    _print_whole(drawn)


def _print_whole(drawn: Table) -> None:
    """Print a table as wide as it is where nothing limits it: no text is cut off in a file or a pipe."""
    if out.is_terminal:
        out.print(drawn, highlight=False)
        return
    wide = Console(width=_WIDEST, emoji=False)
    width = Measurement.get(wide, wide.options, drawn).maximum
    Console(width=width, emoji=False).print(drawn, highlight=False)


def p_value(value: float | None) -> str:
    """`0.012`, or `< 0.001`."""
    if value is None:
        return UNDEFINED
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def counted(counts: Mapping[str, int]) -> str:
    """Names with their counts, `3 hub, 1 sink`, zeros left out."""
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def with_interval(of: Mapping[str, Any], *, percent: bool = False) -> str:
    """`1.23 [1.20, 1.27]`, or the same in percent; `undefined` where there is no number."""
    if of["estimate"] is None:
        return UNDEFINED
    estimate, low, high = (number(of[name], percent=percent) for name in ("estimate", "low", "high"))
    return f"{estimate} [{low}, {high}]"


def number(value: float | None, *, percent: bool = False) -> str:
    """`1.23`, or `12.3%`, and `0.0004` for what would be rounded to 0; `undefined` where there is none."""
    if value is None:
        return UNDEFINED
    if percent:
        return f"{value:.1%}"
    digits = min(ceil(-log10(abs(value))), _MOST_DIGITS) if value and abs(value) < 0.005 else 2
    return f"{value:.{digits}f}"


Row = tuple[str, str, Callable[[Any], str]]
"""What a table says of some facts: the label, where it stands in the facts (`hub.p`), and how it is written."""


def show_facts(sides: Mapping[str, Mapping[str, Any]], rows: Sequence[Row], *, title: str = "") -> None:
    """A table of facts: a row for each of `rows` that is known of all sides, a column for each side."""
    known = [row for row in rows if all(_at(facts, row[1]) is not _MISSING for facts in sides.values())]
    shown_rows = [(label, *(how(_at(facts, path)) for facts in sides.values())) for label, path, how in known]
    table(("measure", *sides), shown_rows, title=title)


def show_items(items: Sequence[Mapping[str, Any]], columns: Sequence[Row], *, title: str = "") -> None:
    """A table of things of one kind: a row for each, a column for each of `columns`; nothing where there are none."""
    if items:
        rows = [[how(_at(item, path)) for _, path, how in columns] for item in items]
        table([label for label, _, _ in columns], rows, title=title)


def at(facts: Mapping[str, Any], path: str) -> Any:
    """What stands in facts at a path such as `hub.p`, None if nothing does."""
    found = _at(facts, path)
    return None if found is _MISSING else found


_MISSING: Final = object()


def _at(facts: Any, path: str) -> Any:
    """What stands in facts at a path such as `hub.p`; an empty path is the whole."""
    for name in filter(None, path.split(".")):
        if not isinstance(facts, Mapping) or name not in facts:
            return _MISSING
        facts = facts[name]
    return facts
