"""Problem sets by name or path, with their provenance, and samples of them that anyone can draw again.

The named sets are listed in `sets.toml`; those on the Hugging Face Hub are read at a fixed commit, so that what is
recorded is what was read. In: a name, Hub id or path; out: a `ProblemSet`.
"""

import difflib
import hashlib
import json
import random
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, lru_cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from thoughtlens.errors import OptionError, ProblemSetError, first_line
from thoughtlens.files import write_json_lines
from thoughtlens.problems.rows import Problem, Row, check_fields, problems_in, read_problems

ALL = "all"
"""The split that is all others of a set, in their order."""


@dataclass(frozen=True, kw_only=True)
class NamedSet:
    """A problem set that is known by name.

    Attributes:
        name: what the user types.
        about: one line on what is asked.
        hub_id: the data set on the Hugging Face Hub; None if the set is bundled, or only in files of its authors.
        home: where its authors publish it; nothing for bundled sets.
        configs: the Hub's configurations that it is made of, where there are several.
        file: the bundled file, without split and ending, if it is not called as the set is.
        fields: names of fields by what they hold, where they are not those that are known.
        splits: the splits that have answers.
        default_split: the split that is used if none is given.
        columns: the columns that its problems are read from.
        kind: of the right answers, as `answer_kind` names them.
        answers: how the gold answer is read.
        steps: how the steps are read; empty where there are none.
        licence: under which the authors publish it.
        sizes: how many problems each split has, as far as it is known.
        read: what of it was read for real, in the words of the table of sets.
    """

    name: str
    about: str
    hub_id: str | None = None
    home: str = ""
    configs: tuple[str, ...] = ()
    file: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    splits: tuple[str, ...]
    default_split: str
    columns: tuple[str, ...]
    kind: str
    answers: str
    steps: str = ""
    licence: str
    sizes: Mapping[str, int] = field(default_factory=dict)
    read: str = ""

    @property
    def bundled(self) -> bool:
        """Whether its problems are in the package."""
        return not self.home


@dataclass(frozen=True)
class ProblemSet:
    """Problems with their provenance.

    Attributes:
        problems: in the order of the source.
        name: the named set, or the file's stem.
        split: the split, where one was named or is the default.
        source: the path as given, the Hub id, or `bundled:` and a file's name.
        revision: the commit of a Hub set; None for a file.
        seed: by which the problems were drawn from the set; None where all of it is here.
    """

    problems: tuple[Problem, ...]
    name: str
    split: str | None
    source: str
    revision: str | None = None
    seed: int | None = None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the problems, whatever file or data set they came from."""
        return rows_fingerprint([asdict(problem) for problem in self.problems])


class Sample(list[Problem]):
    """Problems in a list that knows the set they are from, `drawn`; what is changed or cut out of it is a list."""

    def __init__(self, drawn: ProblemSet) -> None:
        super().__init__(drawn.problems)
        self.drawn = drawn


def as_set(problems: ProblemSet | Sequence[Problem]) -> ProblemSet:
    """The set of problems from `sample`, if they are still those; a set called "given" of others."""
    if isinstance(problems, Sample) and tuple(problems) == problems.drawn.problems:
        return problems.drawn
    return problems if isinstance(problems, ProblemSet) else ProblemSet(tuple(problems), "given", None, "given")


def rows_fingerprint(rows: Sequence[Mapping[str, object]]) -> str:
    """SHA-256 of problems as the rows of a file that `write_problems` wrote."""
    return hashlib.sha256(json.dumps(rows, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def known_sets() -> dict[str, NamedSet]:
    """List the named problem sets.

    Returns:
        The description of each set, by name.

    Example:
        >>> known_sets()["gsm8k"].splits
        ('train', 'test')
    """
    return dict(_table())


def load_set(
    name_or_path: str | Path,
    split: str | None = None,
    *,
    fields: Mapping[str, str] | None = None,
    revision: str | None = None,
) -> ProblemSet:
    """Load a whole problem set with its provenance.

    Args:
        name_or_path: a name of `known_sets`, its Hub id, or a `.json`, `.jsonl`, `.csv`, `.tsv`, `.txt`
            or `.parquet` file.
        split: a named set's split, its default unless given; for a file the prefix of ids, its stem unless given.
        fields: names of fields by what they hold, for instance `{"question": "prompt"}`.
        revision: branch, tag or commit of a Hub set.

    Returns:
        Every problem of the split, in the order of the source.

    Raises:
        ProblemSetError: the set is missing, empty or malformed.
        OptionError: the split is unknown, a field is mapped to nothing a problem has, or a file is given a revision.

    Example:
        >>> found = load_set("arithmetic")
        >>> found.source, len(found.problems)
        ('bundled:arithmetic_test.jsonl', 2400)
    """
    named = named_set(str(name_or_path))
    if named is None:
        return _load_file(Path(name_or_path), split, fields, revision)
    split = named.default_split if split is None else split
    if split not in named.splits:
        raise OptionError(
            f"{named.name} has no split {split!r}, expected one of {', '.join(named.splits)}; choose one."
        )
    if named.hub_id is not None:
        return _load_hub(named, split, fields, revision)
    return _load_bundled(named, split, fields, revision)


def draw(problem_set: ProblemSet, n: int | None, seed: int = 42, *, most: int | None = None) -> ProblemSet:
    """Draw n problems without repetition.

    Of N problems those at `sorted(random.Random(seed).sample(range(N), n))` are taken.

    Args:
        problem_set: what is drawn from.
        n: how many, 1 to N; None keeps the set as it is, or draws `most`.
        seed: same seed, same problems.
        most: how many are drawn at most where n is None; all if None.

    Returns:
        A set with the same provenance; its problems stay in their order.

    Raises:
        OptionError: n is below 1.
        ProblemSetError: n is more than the set has.

    Example:
        >>> few = draw(load_set("arithmetic"), 2)
        >>> [problem.id for problem in few.problems]
        ['test_102', 'test_456']
        >>> len(draw(load_set("arithmetic"), None, most=5_000).problems)
        2400
    """
    size = len(problem_set.problems)
    n = min(most, size) if n is None and most is not None else n
    if n is None:
        return problem_set
    if n < 1:
        raise OptionError(f"n is {n}, expected 1 to {size:,}; leave it out for all problems.")
    if n > size:
        raise ProblemSetError(
            f"{problem_set.source} has {size:,} problems, {n:,} were asked for; ask for at most {size:,}."
        )
    indices = sorted(random.Random(seed).sample(range(size), n))
    return replace(problem_set, problems=tuple(problem_set.problems[index] for index in indices), seed=seed)


def sample(
    name_or_path: str | Path,
    split: str | None = None,
    n: int | None = None,
    seed: int = 42,
    *,
    fields: Mapping[str, str] | None = None,
    revision: str | None = None,
) -> list[Problem]:
    """Draw problems of a named set or a local file: `load_set`, then `draw`, as a list.

    Args:
        name_or_path: as for `load_set`.
        split: as for `load_set`.
        n: how many, without repetition; None for all.
        seed: of the draw.
        fields: as for `load_set`.
        revision: as for `load_set`.

    Returns:
        The problems in the order of the set, in a list. Given to `extract` as it is, the run's manifest says what set
        they are from; a list that was changed is of problems "given".

    Raises:
        ProblemSetError: the set is missing, malformed or smaller than n.
        OptionError: n is below 1, the split is unknown, or a file is given a revision.

    Example:
        >>> problem = sample("arithmetic", n=1)[0]
        >>> problem.steps[-1], problem.answer
        ('<<19+6=25>>', '25')
    """
    return Sample(draw(load_set(name_or_path, split, fields=fields, revision=revision), n, seed))


def write_problems(path: str | Path, problems: Iterable[Problem]) -> None:
    """Write problems as a `.jsonl` file that reads back as the same problems.

    Args:
        path: ends in `.jsonl`; an existing file is replaced, at once or not at all.
        problems: one a line, with id, question, answer and steps.

    Raises:
        OptionError: the path has another ending.
        ProblemSetError: the file can't be written, or a text holds half of a surrogate pair.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "mine.jsonl"
        >>> write_problems(path, [Problem("a", "What is 1 plus 1?", "2")])
        >>> sample(path)
        [Problem(id='a', question='What is 1 plus 1?', answer='2', steps=())]
    """
    path = Path(path)
    if path.suffix.lower() != ".jsonl":
        raise OptionError(f"{path} ends in {path.suffix!r}, expected .jsonl; name such a file.")
    try:
        write_json_lines(path, map(asdict, problems))
    except UnicodeEncodeError as error:
        raise ProblemSetError(f"{path} can't hold half of a surrogate pair; write whole characters.") from error
    except OSError as error:
        raise ProblemSetError(f"{path} can't be written ({error.strerror}); choose a folder that is there.") from error


def named_set(name: str) -> NamedSet | None:
    """The problem set of a name, or of a Hub id that has a name; None if there is none."""
    return _table().get(name) or next((named for named in _table().values() if named.hub_id == name), None)


@cache
def _table() -> dict[str, NamedSet]:
    table = tomllib.loads((resources.files("thoughtlens.problems") / "sets.toml").read_text("utf-8"))
    rows: dict[str, dict[str, Any]] = {
        name: {key: tuple(of) if isinstance(of, list) else of for key, of in row.items()} for name, row in table.items()
    }
    return {name: NamedSet(**row, name=name) for name, row in rows.items()}


def bundled_file(name: str, split: str) -> Traversable:
    """The bundled file of a split, whether or not it is there."""
    return resources.files("thoughtlens.problems") / "data" / f"{name}_{split}.jsonl"


def _load_file(path: Path, split: str | None, fields: Mapping[str, str] | None, revision: str | None) -> ProblemSet:
    if not path.suffix and not path.exists():
        near = difflib.get_close_matches(str(path), known_sets(), n=1)
        raise ProblemSetError(
            f"no problem set is called {str(path)!r}, expected {', '.join(known_sets())}, or a .jsonl, .json, .csv, "
            f".tsv, .txt or .parquet file{f'; did you mean {near[0]}?' if near else '.'}"
        )
    _check_no_revision(str(path), revision)
    problems = problems_in(path, split or path.stem, fields)
    return ProblemSet(problems, path.stem, split, str(path))


def _load_bundled(named: NamedSet, split: str, fields: Mapping[str, str] | None, revision: str | None) -> ProblemSet:
    _check_no_revision(named.name, revision)
    if not named.bundled:
        raise ProblemSetError(
            f"{named.name} is not on the Hub; get its file from {named.home} and name it: --problems PATH."
        )
    file = bundled_file(named.file or named.name, split)
    if not file.is_file():
        raise ProblemSetError(f"the bundled set {named.name!r} lacks its file {file.name}; install thoughtlens again.")
    with resources.as_file(file) as path:
        problems = _read_once(path, split, tuple((fields or named.fields).items()))
    return ProblemSet(problems, named.name, split, f"bundled:{file.name}")


@lru_cache(maxsize=4)
def _read_once(path: Path, split: str, fields: tuple[tuple[str, str], ...]) -> tuple[Problem, ...]:
    """Problems that a process may ask for often, and whose file does not change."""
    return problems_in(path, split, dict(fields))


def _load_hub(named: NamedSet, split: str, fields: Mapping[str, str] | None, revision: str | None) -> ProblemSet:
    assert named.hub_id is not None
    check_fields(fields)
    if split == ALL:
        parts = [_load_hub(named, one, fields, revision) for one in named.splits if one != ALL]
        problems = tuple(problem for part in parts for problem in part.problems)
        return ProblemSet(problems, named.name, split, named.hub_id, parts[0].revision)
    rows: list[Row] = []
    commit = revision
    for config in named.configs or (None,):
        more, commit = read_hub_rows(named.hub_id, config, split, commit)
        rows += [Row(len(rows) + row.number, row.fields) for row in more]
    where = f"{named.hub_id} ({split})"
    _check_columns(rows, named, where, fields)
    problems = read_problems(rows, prefix=split, place=lambda number: f"{where}, row {number}", fields=fields)
    return ProblemSet(problems, named.name, split, named.hub_id, commit)


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


_COMMIT = re.compile(r"[0-9a-f]{40}")
_SECONDS_TO_WAIT = 20


def read_hub_rows(hub_id: str, config: str | None, split: str, revision: str | None) -> tuple[list[Row], str]:
    """The rows of one split, numbered from 1, and the commit that they were read at; None reads the newest commit."""
    try:
        # Heavy, optional, and of no use to local files.
        from datasets import load_dataset
    except ImportError as error:
        raise ProblemSetError(
            f"{hub_id} is read with datasets, which is not installed; run `pip install 'thoughtlens[hub]'`, "
            "or name a local file."
        ) from error
    try:
        commit = _resolve(hub_id, revision)
        dataset = load_dataset(hub_id, config, split=split, revision=commit)
        return [Row(number, dict(fields)) for number, fields in enumerate(dataset, start=1)], commit
    # The Hub's libraries raise a dozen unrelated classes. The user can mend each of them, so all become one sentence.
    except Exception as error:
        raise ProblemSetError(_explain(error, hub_id, split, revision)) from error


def _resolve(hub_id: str, revision: str | None) -> str:
    """The commit of a revision. A commit is returned as it is, so that cached sets load without a network."""
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi

    commit = HfApi().dataset_info(hub_id, revision=revision, timeout=_SECONDS_TO_WAIT).sha
    if commit is None:
        raise ValueError("the hub names no commit")
    return commit


def _explain(error: Exception, hub_id: str, split: str, revision: str | None) -> str:
    # Classes are compared by name, since they come from three libraries and moved between versions.
    kinds = {kind.__name__ for kind in type(error).__mro__}
    reason = first_line(error).rstrip(". ")
    # Libraries also report a gated set as not found, so this comes first.
    if "GatedRepoError" in kinds or "gated" in reason:
        return f"{hub_id} is gated; accept its terms on its hub page and run `hf auth login`, or name a local file."
    if "RevisionNotFoundError" in kinds:
        return f"{hub_id} has no revision {revision!r}; leave it out for the newest, or name a commit of its hub page."
    if kinds & {"RepositoryNotFoundError", "DatasetNotFoundError"}:
        return f"{hub_id} is missing from the hub or private; check its hub page, or name a local file."
    if kinds & {"ConnectionError", "TransportError", "LocalEntryNotFoundError", "TimeoutError"}:
        return f"{hub_id} can't be reached ({reason}); connect to the network, or name a local .jsonl file instead."
    found = f"{type(error).__name__}: {reason}"
    return f"{hub_id}, split {split!r}, can't be loaded ({found}); try another `--problems-revision`, or a file."
