"""Files and folders that are written whole or not at all, their fingerprints, and safe names for them.

in: text, bytes, JSON, rows of JSON, or whatever a block writes; out: the file. It is written under another name in the
same folder, flushed to the disk, then renamed in one step, so that a kill or a full disk leaves the old file or none.
JSON never holds NaN: the standard has no such number, and other readers refuse Python's notation.
"""

import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from shutil import rmtree
from typing import Any, BinaryIO, Final, TextIO
from uuid import uuid4

from thoughtlens.errors import RunError

Json = dict[str, Any]
PARTIAL = ".partial"

COMMAND: Final[ContextVar[str]] = ContextVar("command", default="")
"""The command line that is being run; empty where the package is used from Python."""


def call_of(function: str, **options: Any) -> str:
    """The command line that is being run; without one the call of a public function, with the options that were given.

    Example:
        >>> call_of("extract", batch_size=32, record=())
        'thoughtlens.extract(batch_size=32)'
    """
    given = ", ".join(f"{name}={value!r}" for name, value in options.items() if value not in (None, (), [], {}, ""))
    return COMMAND.get() or f"thoughtlens.{function}({given})"


@contextmanager
def writing(folder: Path, *, called: str = "", make: bool = True) -> Iterator[Path]:
    """Make a folder, if asked, and write into it; `RunError` in one sentence where the disk or its rights forbid it."""
    try:
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        yield folder
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(f"can't write {called}{folder} ({reason}); make room there, or name another.") from error


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """Open a text file that takes the place of `path` if the block ends well, and is gone if not."""
    with replacing_bytes(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="\n")
        yield text
        text.flush()
        text.detach()


@contextmanager
def replacing_bytes(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file that takes the place of `path` if the block ends well, and is gone if not."""
    with replacing_path(path) as partial, partial.open("wb") as file:
        yield file


@contextmanager
def replacing_path(path: Path) -> Iterator[Path]:
    """Name a file to write that takes the place of `path` if the block ends well, and is gone if not."""
    # The name is unique, since workers on several machines may share the folder.
    partial = path.with_name(f".{path.name}.{uuid4().hex}{PARTIAL}")
    try:
        yield partial
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Fill a folder that takes the place of `path` if the block ends well, and is gone if not."""
    partial, old = (path.with_name(f".{path.name}.{uuid4().hex}{PARTIAL}") for _ in range(2))
    partial.mkdir(parents=True)
    try:
        yield partial
        if path.exists():
            path.replace(old)
        partial.replace(path)
    finally:
        for left in (partial, old):
            rmtree(left, ignore_errors=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write one JSON object, indented for people."""
    with replacing(path) as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line."""
    with replacing(path) as file:
        file.writelines(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def fingerprint(path: Path) -> str | None:
    """SHA-256 of a file's bytes, as `sha256sum` prints it; None if there is no such file."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprints(folder: Path, names: Iterable[str]) -> dict[str, str | None]:
    """The fingerprint of each named file of a folder."""
    return {name: fingerprint(folder / name) for name in names}


def file_name(text: str) -> str:
    """Text that can't leave its folder, hide there, or be refused by a file system."""
    # A name may have 255 bytes, a letter up to four of them, and endings are still to come.
    return re.sub(r"[^\w.-]+", "_", text).strip(".")[:48] or "unnamed"


def unique(names: Sequence[str]) -> list[str]:
    """The names, a number added to each that repeats an earlier one."""
    taken: list[str] = []
    for name in names:
        numbered = (name if number == 1 else f"{name}_{number}" for number in range(1, len(names) + 1))
        taken.append(next(candidate for candidate in numbered if candidate not in taken))
    return taken
