"""Files and folders that are written whole or not at all and by one process, their fingerprints, and safe names.

in: text, bytes, JSON, rows of JSON, tables, or what a block writes; out: the file. It is written under another name in
the same folder, flushed to the disk, then renamed in one step, so that a kill or a full disk leaves the old file or
none. JSON never holds NaN: the standard has no such number, and other readers refuse Python's notation.

A folder that a process writes for some time has a lock, the file `.lock` in it, which says who holds it. The system
releases it when the process ends, however it ends; the file stays, and means nothing by itself. Processes that share a
folder (`one_of_writers`) hold a lock each, such as `.lock.0-of-3`, and the folder's own while they begin and close.
"""

import hashlib
import io
import json
import os
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TextIO, TypeVar
from uuid import uuid4

from thoughtlens.errors import RunError, first_line

if TYPE_CHECKING:
    import pandas as pd
    from pydantic import BaseModel

    Model = TypeVar("Model", bound=BaseModel)

Json = dict[str, Any]
PARTIAL = ".partial"
LOCK = ".lock"
SHARED: Final = "shared"
"""What stands in the lock of a folder while one of several writers holds it."""
SEAL = ".sha256"

PATIENCE = 1.0
"""Seconds that a second writer waits: a reader, who tries the lock, holds it for a moment."""


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def only_writer(folder: Path, *, called: str = "") -> Iterator[Path]:
    """Write into a folder as `writing` does, and hold its lock meanwhile; may be nested in a process.

    What killed writers left is removed first. `RunError` where another process holds the lock.
    """
    with writing(folder, called=called), _locked(folder) as first:
        if first:
            if (writer := _sharers(folder)) is not None:
                raise RunError(_held(folder, writer))
            _note(folder / LOCK)
            _remove_partial(folder)
        yield folder


Alone = Callable[[], AbstractContextManager[None]]
"""Entered by one of several writers for what it does while the others wait, such as to begin and to close."""


@contextmanager
def one_of_writers(folder: Path, own: str, *, called: str = "") -> Iterator[Alone]:
    """Write into a folder together with other processes of this kind, each under a lock of its own.

    `RunError` where another process holds the same lock, or writes the folder alone.
    """
    from filelock import FileLock, Timeout

    mine = folder / f"{LOCK}.{own}"

    @contextmanager
    def alone() -> Iterator[None]:
        with _locked(folder, waits=True) as first:
            if first:
                _note(folder / LOCK, SHARED)
                if _sharers(folder, but=mine) is None:
                    _remove_partial(folder)
            yield

    with writing(folder, called=called):
        lock = FileLock(mine, timeout=PATIENCE)
        # Under the folder's lock, whose holder removes locks that nobody holds.
        with alone():
            try:
                lock.acquire()
            except Timeout:
                raise RunError(_held(folder, _noted(mine))) from None
            _note(mine)
        try:
            yield alone
        finally:
            lock.release()


@contextmanager
def _locked(folder: Path, *, waits: bool = False) -> Iterator[bool]:
    """Hold the lock of a folder; give whether this process did not hold it before.

    `waits` as long as it takes where the holder shares the folder, and will soon let go.
    """
    from filelock import FileLock, Timeout  # not needed to say no

    lock = FileLock(folder / LOCK, timeout=PATIENCE, is_singleton=True)
    while True:
        try:
            lock.acquire()
            break
        except Timeout:
            if not (waits and _text(folder / LOCK)[3:] == [SHARED]):
                raise RunError(_held(folder, writer_of(folder))) from None
    try:
        yield lock.lock_counter == 1
    finally:
        lock.release()


def _note(lock: Path, *more: str) -> None:
    """Say in a lock who holds it."""
    lock.write_text(" ".join([platform.node(), str(os.getpid()), now(), *more]) + "\n", encoding="utf-8")


def _text(lock: Path) -> list[str]:
    return lock.read_text(encoding="utf-8", errors="replace").split() if lock.is_file() else []


def _noted(lock: Path) -> str | None:
    """Who holds a lock that is held, as "process 12 on host since time"; None if it is this process."""
    host, process, since = [*_text(lock), *["?"] * 3][:3]
    if (host, process) == (platform.node(), str(os.getpid())):
        return None
    return f"process {process} on {host} since {since}"


def _sharers(folder: Path, but: Path | None = None) -> str | None:
    """Who shares a folder whose lock is held, if anybody does; locks of those that have ended are removed."""
    from filelock import FileLock, Timeout

    found = None
    for path in sorted(folder.glob(f"{LOCK}.*")):
        if path != but:
            try:
                with FileLock(path, timeout=0):
                    path.unlink()
            except Timeout:
                found = _noted(path) or f"this process, as {path.name}"
    return found


def check_not_written(folder: Path) -> None:
    """Raise `RunError` while another process holds the lock of a folder; never so in one that can't be written."""
    if writer := writer_of(folder, patience=PATIENCE):
        raise RunError(_held(folder, writer))


def writer_of(folder: Path, *, patience: float = 0.0) -> str | None:
    """Who holds the lock of a folder, as "process 12 on host since time"; None if nobody does but this process."""
    from filelock import FileLock, Timeout

    for path in (folder / LOCK, *sorted(folder.glob(f"{LOCK}.*"))):
        if path.is_file() and os.access(path, os.W_OK):
            try:
                with FileLock(path, timeout=patience):
                    continue
            except Timeout:
                if writer := _noted(path):
                    return writer
    return None


def _held(folder: Path, writer: str | None) -> str:
    return (
        f"{folder} is being written by {writer or 'another process'}; wait for it (`thoughtlens status` says how far a "
        "run is), or name another folder."
    )


def _remove_partial(folder: Path) -> None:
    """Remove unfinished files and folders, but not in folders with a lock of their own."""
    for path in folder.iterdir():
        # Those of Zarr end so too.
        if path.name.endswith(PARTIAL):
            rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        elif path.is_dir() and not path.is_symlink() and not (path / LOCK).exists():
            _remove_partial(path)


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
    """Fill a folder that takes the place of `path`, sealed, if the block ends well, and is gone if not."""
    partial, old = (path.with_name(f".{path.name}.{uuid4().hex}{PARTIAL}") for _ in range(2))
    partial.mkdir(parents=True)
    try:
        yield partial
        with _sealing(path, _content(partial)):
            if path.exists():
                path.replace(old)
            partial.replace(path)
    finally:
        for left in (partial, old):
            rmtree(left, ignore_errors=True)


def write_json(path: Path, value: Mapping[str, Any], *, sealed: bool = False) -> None:
    """Write one JSON object, indented for people; `sealed`: with its SHA-256 beside it, in `NAME.sha256`."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if sealed:
        write_sealed(path, text.encode())
    else:
        with replacing(path) as file:
            file.write(text)


def write_sealed(path: Path, data: bytes) -> None:
    """Write a file with its SHA-256 beside it, in `NAME.sha256`."""
    with _sealing(path, hashlib.sha256(data).hexdigest()), replacing_bytes(path) as file:
        file.write(data)


def read_json(path: Path, *, remedy: str) -> Any:
    """What a JSON file of ours holds; `RunError` with the remedy where it can't be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path} can't be read ({error.strerror or error}); {remedy}.") from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is not readable JSON ({first_line(error)}); {remedy}.") from error


def as_model(path: Path, value: Any, model: "type[Model]", *, remedy: str) -> "Model":
    """What a JSON file of ours holds, as its pydantic model; `RunError` names the file and the field that is wrong."""
    from pydantic import ValidationError  # slow to import, and not needed to say no

    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = error.errors()[0]
        name = ".".join(map(str, found["loc"]))
        expected = found["msg"][:1].lower() + found["msg"][1:]
        said = f"lacks {name!r}" if found["type"] == "missing" else f"has {name} {found['input']!r:.60} ({expected})"
        raise RunError(f"{path} {said}; {remedy}.") from error


def check_seal(path: Path, *, remedy: str) -> None:
    """Raise `RunError` where a sealed file or folder is not as it was written."""
    if not _fits_seal(path):
        raise RunError(f"{path} was altered, or its {SEAL} file is missing; put it back, or {remedy}.")


@contextmanager
def _sealing(path: Path, digest: str) -> Iterator[None]:
    """Keep the digest beside a file or folder that the block puts in place.

    A kill between the two leaves what fits, since the seal has both digests then. What doesn't fit is never sealed.
    """
    _write_seal(path, digest, *([_content(path)] if _fits_seal(path) else []))
    yield
    _write_seal(path, digest)


def _write_seal(path: Path, *digests: str) -> None:
    with replacing(path.with_name(path.name + SEAL)) as file:
        file.writelines(f"{digest}  {path.name}\n" for digest in digests)


def _fits_seal(path: Path) -> bool:
    seal = path.with_name(path.name + SEAL)
    known = seal.read_text(encoding="utf-8", errors="replace").split() if seal.is_file() else []
    return path.exists() and _content(path) in known[::2]


def _content(path: Path) -> str:
    """SHA-256 of a file, or of the names and digests of all files of a folder."""
    if path.is_file():
        return str(fingerprint(path))
    names = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
    return digest_of(fingerprints(path, names))


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line."""
    with replacing(path) as file:
        file.writelines(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def write_table(path: Path, table: "pd.DataFrame") -> Path:
    """Write a table as CSV; return its path.

    An apostrophe comes before texts that a spreadsheet would run as a formula; numbers stay as they are.
    """
    texts = table.select_dtypes(include=["object", "string"]).columns
    with replacing(path) as file:
        table.assign(**{name: table[name].map(_inert) for name in texts}).to_csv(file, index=False)
    return path


def _inert(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else cell


def digest_of(value: Any) -> str:
    """SHA-256 of anything that JSON can hold, in one spelling of it."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


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
