"""Turn a name or a path into a problem set, and a set into a sample of it that anyone can draw again.

A set carries where it came from (`source`, `revision`) and a fingerprint of its problems. Sampling n of N problems
with a seed takes the indices `sorted(random.Random(seed).sample(range(N), n))`. How a model fares on the problems is
not known here.
"""

import hashlib
import json
import os
import random
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path

from thoughtlens.errors import OptionError, ProblemSetError
from thoughtlens.problems.files import Row, place_of, read_rows
from thoughtlens.problems.hub import read_hub_rows
from thoughtlens.problems.named import NamedSet, bundled_file, known_sets, named_set
from thoughtlens.problems.problem import Problem
from thoughtlens.problems.rows import check_fields, read_problems


@dataclass(frozen=True)
class ProblemSet:
    """Problems with their provenance.

    Attributes:
        problems: in the order of the source.
        name: the named set, or the file's stem.
        split: the split, where one was named or is the default.
        source: the path as given, the hub id, or `bundled:` and a file's name.
        revision: the commit of a hub set; None for a file.
    """

    problems: tuple[Problem, ...]
    name: str
    split: str | None
    source: str
    revision: str | None = None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the problems, whatever file or hub they came from."""
        records = [asdict(problem) for problem in self.problems]
        return hashlib.sha256(json.dumps(records, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sample(
    name_or_path: str | Path,
    split: str | None = None,
    n: int | None = None,
    seed: int = 42,
    *,
    fields: Mapping[str, str] | None = None,
    revision: str | None = None,
) -> list[Problem]:
    """Sample problems of a named set or a local file.

    Args:
        name_or_path: a name of `known_sets`, its Hub id, or a `.json`, `.jsonl` or `.parquet` file.
        split: a named set's split, its default unless given; for a file the prefix of ids, its stem unless given.
        n: how many, without repetition; None for all.
        seed: of the draw.
        fields: names of fields by what they hold, for instance `{"question": "prompt"}`.
        revision: branch, tag or commit of a hub set.

    Returns:
        The problems in the order of the set.

    Raises:
        ProblemSetError: the set is missing, malformed or smaller than n.
        OptionError: an option that can't be meant.
    """
    return list(draw(load_set(name_or_path, split, fields=fields, revision=revision), n, seed).problems)


def load_set(
    name_or_path: str | Path,
    split: str | None = None,
    *,
    fields: Mapping[str, str] | None = None,
    revision: str | None = None,
) -> ProblemSet:
    """Load a whole problem set with its provenance; the arguments are those of `sample`."""
    named = named_set(str(name_or_path))
    if named is None:
        return _load_file(Path(name_or_path), split, fields, revision)
    split = named.default_split if split is None else split
    if split not in named.splits:
        raise OptionError(
            f"{named.name} has no split {split!r}, expected one of {', '.join(named.splits)}; choose one."
        )
    return _load_bundled(named, split, revision) if named.hub_id is None else _load_hub(named, split, fields, revision)


def draw(problem_set: ProblemSet, n: int | None, seed: int = 42) -> ProblemSet:
    """Draw n problems without repetition; None keeps the set as it is."""
    if n is None:
        return problem_set
    size = len(problem_set.problems)
    if n < 1:
        raise OptionError(f"n is {n}, expected at least 1; leave it out for all problems.")
    if n > size:
        raise ProblemSetError(
            f"{problem_set.source} has {size:,} problems, {n:,} were asked for; ask for at most {size:,}."
        )
    indices = sorted(random.Random(seed).sample(range(size), n))
    return replace(problem_set, problems=tuple(problem_set.problems[index] for index in indices))


def write_problems(path: str | Path, problems: Iterable[Problem]) -> None:
    """Write problems as a `.jsonl` file that reads back as the same problems.

    Args:
        path: ends in `.jsonl`; a file that is there is replaced, at once or not at all.
        problems: one a line, with id, question, answer and steps.
    """
    path = Path(path)
    if path.suffix.lower() != ".jsonl":
        raise OptionError(f"{path} ends in {path.suffix!r}, expected .jsonl; name such a file.")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    lines = [json.dumps(asdict(problem), ensure_ascii=False) + "\n" for problem in problems]
    try:
        partial.write_bytes("".join(lines).encode())
        partial.replace(path)
    except UnicodeEncodeError as error:
        raise ProblemSetError(f"{path} can't hold half of a surrogate pair; write whole characters.") from error
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise ProblemSetError(f"{path} can't be written ({error.strerror}); choose a folder that is there.") from error


def _load_file(path: Path, split: str | None, fields: Mapping[str, str] | None, revision: str | None) -> ProblemSet:
    if not path.suffix and not path.exists():
        names = ", ".join(known_sets())
        raise ProblemSetError(
            f"no problem set is called {str(path)!r}, expected {names}, or a .jsonl, .json or .parquet file."
        )
    _check_no_revision(str(path), revision)
    problems = _read_file(path, split or path.stem, fields)
    return ProblemSet(problems, path.stem, split, str(path))


def _load_bundled(named: NamedSet, split: str, revision: str | None) -> ProblemSet:
    _check_no_revision(named.name, revision)
    file = bundled_file(named.name, split)
    if not file.is_file():
        raise ProblemSetError(f"the bundled set {named.name!r} lacks its file {file.name}; install thoughtlens again.")
    with resources.as_file(file) as path:
        return ProblemSet(_read_file(path, split, None), named.name, split, f"bundled:{file.name}")


def _load_hub(named: NamedSet, split: str, fields: Mapping[str, str] | None, revision: str | None) -> ProblemSet:
    assert named.hub_id is not None
    check_fields(fields)
    rows, commit = read_hub_rows(named.hub_id, named.config, split, revision)
    where = f"{named.hub_id} ({split})"
    _check_columns(rows, named, where, fields)
    problems = read_problems(rows, prefix=split, place=lambda number: f"{where}, row {number}", fields=fields)
    return ProblemSet(problems, named.name, split, named.hub_id, commit)


def _read_file(path: Path, prefix: str, fields: Mapping[str, str] | None) -> tuple[Problem, ...]:
    check_fields(fields)
    return read_problems(read_rows(path), prefix=prefix, place=lambda number: place_of(path, number), fields=fields)


def _check_no_revision(source: str, revision: str | None) -> None:
    if revision is not None:
        raise OptionError(f"{source} has no revisions, found {revision!r}; leave the revision out.")


def _check_columns(rows: list[Row], named: NamedSet, where: str, fields: Mapping[str, str] | None) -> None:
    if not rows:
        raise ProblemSetError(f"{where} is empty, expected at least one problem; try another `--problems-revision`.")
    missing = [column for column in named.columns if column not in rows[0].fields]
    if missing and not fields:
        found = ", ".join(rows[0].fields)
        raise ProblemSetError(
            f"{where} has no column {missing[0]!r}, found {found}; use `--field` or another `--problems-revision`."
        )
