"""Turn the name of a problem set into where it is kept and how it reads: the table of named sets.

The columns are what a set's hub copy is known to have; the rows are read by `rows`, as those of a local file.

Turn a data set on the Hugging Face Hub into rows and the commit they come from, or into one sentence why not.

The commit is resolved first and the rows are loaded at it, so that what is recorded is what was read. What the columns
mean is not known here.

Turn a name or a path into a problem set, and a set into a sample of it that anyone can draw again.

A set carries where it came from (`source`, `revision`) and a fingerprint of its problems. Sampling n of N problems
with a seed takes the indices `sorted(random.Random(seed).sample(range(N), n))`. How a model fares on the problems is
not known here.
"""

import hashlib
import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from thoughtlens.errors import OptionError, ProblemSetError
from thoughtlens.files import write_json_lines
from thoughtlens.problems.rows import Problem, Row, check_fields, place_of, read_problems, read_rows


@dataclass(frozen=True)
class NamedSet:
    """A problem set that is known by name.

    Attributes:
        name: what the user types.
        about: one line on what is asked.
        hub_id: the data set on the Hugging Face Hub; None if the set is bundled.
        config: the hub's configuration, where there are several.
        splits: the splits that have answers.
        default_split: the one taken unless told.
        columns: the columns that its problems are read from.
        answers: how the gold answer is read.
        steps: how the steps are read; empty where there are none.
        licence: under which the authors publish it.
    """

    name: str
    about: str
    hub_id: str | None
    config: str | None
    splits: tuple[str, ...]
    default_split: str
    columns: tuple[str, ...]
    answers: str
    steps: str
    licence: str


def known_sets() -> dict[str, NamedSet]:
    """The named problem sets by name."""
    return {named.name: named for named in (_arithmetic(), *_HUB_SETS)}


def named_set(name: str) -> NamedSet | None:
    """The problem set of a name, or of a Hub id that has a name; None if there is none."""
    sets = known_sets()
    return sets.get(name) or next((named for named in sets.values() if named.hub_id == name), None)


def bundled_file(name: str, split: str) -> Traversable:
    """The bundled file of a split, whether or not it is there."""
    return resources.files("thoughtlens.problems") / "data" / f"{name}_{split}.jsonl"


def _arithmetic() -> NamedSet:
    # Which splits are bundled is a matter of the package's size, so the folder is asked.
    splits = tuple(split for split in ("train", "test") if bundled_file("arithmetic", split).is_file())
    return NamedSet(
        name="arithmetic",
        about="word problems of a few additions, subtractions and multiplications of small numbers; bundled",
        hub_id=None,
        config=None,
        splits=splits or ("test",),
        default_split="test",
        columns=("id", "question", "answer", "steps"),
        answers="a whole number",
        steps="the list in `steps`",
        licence="Apache-2.0",
    )


_HUB_SETS = (
    NamedSet(
        name="gsm8k",
        about="grade-school word problems of 2 to 8 steps (Cobbe 2021)",
        hub_id="openai/gsm8k",
        config="main",
        splits=("train", "test"),
        default_split="test",
        columns=("question", "answer"),
        answers="what follows the last ####",
        steps="the <<…>> annotations of the solution",
        licence="MIT",
    ),
    NamedSet(
        name="gsm8k_aug",
        about="GSM8K's training problems varied by GPT-4, with steps as equations (Deng 2023)",
        hub_id="zen-E/GSM8k-Aug",
        config=None,
        splits=("train", "test"),
        default_split="train",
        columns=("question", "cot", "answer"),
        answers="a number",
        steps="the <<…>> equations in `cot`",
        licence="Apache-2.0",
    ),
    NamedSet(
        name="svamp",
        about="one-step word problems with varied wording (Patel 2021)",
        hub_id="ChilleD/SVAMP",
        config=None,
        splits=("train", "test"),
        default_split="test",
        columns=("ID", "Body", "Question", "Answer"),
        answers="a number",
        steps="",
        licence="MIT",
    ),
    NamedSet(
        name="multiarith",
        about="word problems of several operations on small numbers (Roy and Roth 2015)",
        hub_id="ChilleD/MultiArith",
        config=None,
        splits=("train", "test"),
        default_split="test",
        columns=("question", "final_ans"),
        answers="a number",
        steps="",
        licence="Apache-2.0",
    ),
    NamedSet(
        name="gsm_hard",
        about="GSM8K's test problems with large numbers put in (Gao 2022)",
        hub_id="reasoning-machines/gsm-hard",
        config=None,
        # Its hub copy is one file, which the hub calls `train`.
        splits=("train",),
        default_split="train",
        columns=("input", "target"),
        answers="a number, rounded to a float",
        steps="",
        licence="MIT",
    ),
    NamedSet(
        name="math500",
        about="500 competition problems with LaTeX answers (Hendrycks 2021, Lightman 2023)",
        hub_id="HuggingFaceH4/MATH-500",
        config=None,
        splits=("test",),
        default_split="test",
        columns=("problem", "answer"),
        answers="LaTeX",
        steps="",
        licence="MIT",
    ),
    NamedSet(
        name="strategyqa",
        about="yes-or-no questions that need implicit steps (Geva 2021)",
        hub_id="ChilleD/StrategyQA",
        config=None,
        splits=("train", "test"),
        default_split="test",
        columns=("question", "answer"),
        answers="true or false",
        steps="",
        licence="MIT",
    ),
    NamedSet(
        name="commonsenseqa",
        about="five-way questions about everyday things (Talmor 2019)",
        hub_id="tau/commonsense_qa",
        config=None,
        # The test split is published without answers.
        splits=("train", "validation"),
        default_split="validation",
        columns=("id", "question", "choices", "answerKey"),
        answers="a letter A-E",
        steps="",
        licence="MIT",
    ),
)


_COMMIT = re.compile(r"[0-9a-f]{40}")
_SECONDS_TO_WAIT = 20


def read_hub_rows(hub_id: str, config: str | None, split: str, revision: str | None) -> tuple[list[Row], str]:
    """Read one split of a hub data set.

    Args:
        hub_id: `owner/name`.
        config: the configuration, None for the only one.
        split: the split.
        revision: a branch, tag or commit; None for the newest.

    Returns:
        The rows, numbered from 1, and the commit hash they were read at.

    Raises:
        ProblemSetError: `datasets` isn't installed, or the hub can't be reached, refuses or lacks the set.
    """
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
    # The hub's libraries raise a dozen unrelated classes; whichever it is, the user can mend it, and the cause is kept.
    except Exception as error:
        raise ProblemSetError(_explain(error, hub_id, split, revision)) from error


def _resolve(hub_id: str, revision: str | None) -> str:
    """The commit that a revision stands for; a commit stands for itself, so that cached sets load without a network."""
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    # Heavy, and of no use to local files.
    from huggingface_hub import HfApi

    commit = HfApi().dataset_info(hub_id, revision=revision, timeout=_SECONDS_TO_WAIT).sha
    if commit is None:
        raise ValueError("the hub names no commit")
    return commit


def _explain(error: Exception, hub_id: str, split: str, revision: str | None) -> str:
    # By name, since the classes come from three libraries and moved between versions.
    kinds = {kind.__name__ for kind in type(error).__mro__}
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
    # A gated set is also a set not found, so it is asked for first.
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
        return rows_fingerprint([asdict(problem) for problem in self.problems])


def rows_fingerprint(rows: Sequence[Mapping[str, object]]) -> str:
    """SHA-256 of problems as the rows of a file that `write_problems` wrote."""
    return hashlib.sha256(json.dumps(rows, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


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
    try:
        write_json_lines(path, map(asdict, problems))
    except UnicodeEncodeError as error:
        raise ProblemSetError(f"{path} can't hold half of a surrogate pair; write whole characters.") from error
    except OSError as error:
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
