"""Problems, and the rows of local files that they are read from.

In: a `.json`, `.jsonl`, `.csv`, `.tsv`, `.txt` or `.parquet` file, or rows from elsewhere; out: `Problem`s, or one
sentence that says which row can't be read and why. Known are the field names of the named sets and of the files that
their authors publish; any other name is mapped by the caller. A graph (`edges`, `root`, `target`, `neg_target`) is read
in node tokens where `edges` is mapped to the question.

Other people's files are read strictly: nothing that JSON doesn't allow (NaN, a number beyond floats, half a character),
nothing that could take the machine down (endless lines, deep nesting, integers of thousands of digits).
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from thoughtlens.errors import OptionError, ProblemSetError, first_line
from thoughtlens.problems.answers import boxed, gold_answer

LONGEST_ROW = 1_000_000
"""Bytes of the longest row that is read."""
LARGEST_FILE = 1_000_000_000
"""Bytes of the largest `.json` file, which has to fit into memory whole, and of all text that a file's rows hold."""
MOST_ROWS = 10_000_000
"""Rows of the longest file: a Parquet file of some kilobytes may claim any number."""
_MOST_DIGITS = 400
_SPACE = re.compile(r"[ \t\r\n]*")

ID_FIELDS: Final = ("id", "ID", "qid", "unique_id")
QUESTION_FIELDS: Final = ("question", "question_concat", "input", "problem", "instruction")
ANSWER_FIELDS: Final = ("answer", "Answer", "target", "final_ans", "answerKey", "response")
MAPPED_FIELDS: Final = ("id", "question", "answer", "steps")

GRAPH_FIELD: Final = "edges"
"""The field that a question in node tokens is made from, with `root`, `target` and `neg_target`."""

_BY_LINE = (".jsonl", ".txt")
_ANNOTATION = re.compile(r"<<[^<>]*>>")
_MOST_NAMES = 12


@dataclass(frozen=True)
class Problem:
    """One question with its gold answer.

    Attributes:
        id: unique in its set; the key that joins everything about a problem.
        question: the text put to the model.
        answer: the gold answer as text: a number without commas, `true`/`false`, a letter A-E, LaTeX or a sentence.
        steps: the worked steps, where the set gives them; for instance `<<12-5=7>>`.
    """

    id: str
    question: str
    answer: str
    steps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One object of a file.

    Attributes:
        number: its line in a `.jsonl` file, else its place in the list, from 1.
        fields: the object's values by name.
    """

    number: int
    fields: dict[str, object]


def read_rows(path: Path) -> list[Row]:
    """Read every row of a file.

    Args:
        path: a `.jsonl` file of one object a line (blank lines are skipped), a `.json` list of objects or ProntoQA's
            object of them, `.parquet`, a `.csv` or `.tsv` table whose first line names the fields, which are texts, or
            a `.txt` file of lines `question||steps #### answer`, as GSM8K-Aug was first published.

    Returns:
        The rows in order, at least one.

    Raises:
        ProblemSetError: with the file, and the line or row, that can't be read.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "mine.json"
        >>> path.write_text('[{"question": "1+1?", "answer": 2}]') and read_rows(path)
        [Row(number=1, fields={'question': '1+1?', 'answer': 2})]
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise ProblemSetError(
            f"{path} ends in {path.suffix!r}, expected .jsonl, .json, .csv, .tsv, .txt or .parquet; "
            "rename or convert it."
        )
    if not path.is_file():
        found = "is not a file" if path.exists() else "does not exist"
        raise ProblemSetError(f"{path} {found}, expected a file of problems; check the path.")
    try:
        rows = list(_limited(read(path), path))
    except OSError as error:
        raise ProblemSetError(f"{path} can't be read ({error.strerror or error}); check the file.") from error
    if not rows:
        raise ProblemSetError(f"{path} is empty, expected at least one problem; check how it was written.")
    return rows


def read_problems(
    rows: Iterable[Row], *, prefix: str, place: Callable[[int], str], fields: Mapping[str, str] | None = None
) -> tuple[Problem, ...]:
    """Read one problem from each row.

    Args:
        rows: the rows of one set, in order.
        prefix: a row without an id of its own is named `{prefix}_{index}`, counted from 0.
        place: how an error names the row of that number.
        fields: names of fields by what they hold (`id`, `question`, `answer`, `steps`), where they aren't known ones.

    Returns:
        The problems in the order of the rows, ids unique, questions and answers not empty.

    Raises:
        ProblemSetError: naming the first row that breaks this.
        OptionError: a field is mapped to something that a problem doesn't have.

    Example:
        >>> row = Row(1, {"prompt": "1+1?", "answer": "<<1+1=2>> 2 #### 2"})
        >>> read_problems([row], prefix="mine", place="row {}".format, fields={"question": "prompt"})
        (Problem(id='mine_0', question='1+1?', answer='2', steps=('<<1+1=2>>',)),)
    """
    names = check_fields(fields)
    first_place: dict[str, str] = {}
    problems = []
    for index, row in enumerate(rows):
        where = place(row.number)
        try:
            problem = _read_problem(row.fields, f"{prefix}_{index}", names)
        except ValueError as error:
            raise ProblemSetError(f"{where}: {error}") from error
        if (earlier := first_place.setdefault(problem.id, where)) != where:
            raise ProblemSetError(f"{where}: the id {problem.id!r} is that of {earlier}; ids have to differ.")
        problems.append(problem)
    return tuple(problems)


def problems_in(path: Path, prefix: str, fields: Mapping[str, str] | None) -> tuple[Problem, ...]:
    """The problems of a file, as `read_problems` reads its rows."""
    check_fields(fields)  # before the file is read
    return read_problems(read_rows(path), prefix=prefix, place=lambda number: _place_of(path, number), fields=fields)


def _place_of(path: Path, number: int) -> str:
    """How an error names a row: by line where the file has one row a line."""
    return f"{path}, {'line' if path.suffix.lower() in _BY_LINE else 'row'} {number}"


def _read_lines(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        # One byte more than is allowed shows that a line is too long without reading the rest of it.
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_ROW + 1), b""), start=1):
            where = _place_of(path, number)
            _check_length(len(line), where)
            if text := _decode(line, path, first_line=number).strip(" \t\r\n"):
                value, end = _parse(text, 0, where)
                if end != len(text):
                    raise ProblemSetError(
                        f"{where} goes on after its object ends, expected one a line; split the line."
                    )
                yield Row(number, _as_object(value, where))


def _read_list(path: Path) -> Iterator[Row]:
    if path.stat().st_size > LARGEST_FILE:
        raise ProblemSetError(f"{path} is larger than {LARGEST_FILE:,} bytes; write it as .jsonl, one object a line.")
    text = _decode(path.read_bytes(), path, first_line=1)
    at = _skip(text, 0)
    if at == len(text):
        return
    if text[at] == "{" and (examples := _prontoqa_rows(text, at, path)) is not None:
        yield from examples
        return
    if text[at] != "[":
        raise ProblemSetError(
            f"{path}, line {_line(text, at)} is not a list, expected a list of objects; see .jsonl too."
        )
    yield from _list_rows(text, _skip(text, at + 1), path)


def _prontoqa_rows(text: str, at: int, path: Path) -> list[Row] | None:
    """The test examples of ProntoQA's own files, an object of named examples; None where the object is another."""
    examples, end = _parse(text, at, str(path))
    if _skip(text, end) != len(text) or not isinstance(examples, dict):
        return None
    tested = [example.get("test_example") if isinstance(example, dict) else None for example in examples.values()]
    if not tested or not all(isinstance(one, dict) for one in tested):
        return None
    return [Row(number, _as_object(one, _place_of(path, number))) for number, one in enumerate(tested, start=1)]


def _list_rows(text: str, at: int, path: Path) -> Iterator[Row]:
    """Parse row by row rather than at once, so that an error can name the row and the line."""
    number, line, counted = 0, 1, 0
    while text[at : at + 1] != "]":
        number, line, counted = number + 1, line + text.count("\n", counted, at), at
        where = f"{_place_of(path, number)} (line {line})"
        value, end = _parse(text, at, where)
        _check_length(end - at, where)
        yield Row(number, _as_object(value, where))
        at = _next_row(text, end, where)
    if _skip(text, at + 1) != len(text):
        raise ProblemSetError(f"{path}, line {_line(text, at)} goes on after the list ends; keep one list a file.")


def _read_table(path: Path) -> Iterator[Row]:
    """The rows of a table whose first row names the fields; a row is numbered by its place below that one."""
    if path.stat().st_size > LARGEST_FILE:
        raise ProblemSetError(f"{path} is larger than {LARGEST_FILE:,} bytes; write it as .jsonl, one object a line.")
    text = _decode(path.read_bytes(), path, first_line=1)
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    csv.field_size_limit(LONGEST_ROW)
    table = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        names = next(table, [])
        if names and (len(set(names)) < len(names) or not all(names)):
            raise ProblemSetError(
                f"{path}, line 1 names the fields {names!r}, expected different names; correct the first line."
            )
        for number, values in enumerate(filter(None, table), start=1):
            where = _place_of(path, number)
            _check_length(sum(map(len, values)), where)
            if len(values) != len(names):
                raise ProblemSetError(
                    f"{where} (line {table.line_num}) has {len(values)} fields, expected {len(names)} as in line 1; "
                    "quote texts that hold the separator."
                )
            yield Row(number, dict(zip(names, values, strict=True)))
    except csv.Error as error:
        raise ProblemSetError(f"{path}, line {table.line_num} is not readable ({error}); correct it.") from error


def _read_text(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_ROW + 1), b""), start=1):
            where = _place_of(path, number)
            _check_length(len(line), where)
            if text := _decode(line, path, first_line=number).strip():
                question, bars, answer = text.partition("||")
                if not bars:
                    raise ProblemSetError(f"{where} has no ||, expected `question||steps #### answer`; correct it.")
                yield Row(number, {"question": question, "answer": answer})


def _read_parquet(path: Path) -> Iterator[Row]:
    try:
        # Heavy to import, and only this kind of file needs it.
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        message = f"{path} needs pyarrow, which is not installed; run `pip install 'thoughtlens[parquet]'`."
        raise ProblemSetError(message) from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if file.metadata.num_rows > MOST_ROWS:
                raise _too_many(path)
            batches = (batch.to_pylist() for batch in file.iter_batches(batch_size=100))
            for number, fields in enumerate((row for batch in batches for row in batch), start=1):
                yield Row(number, fields)
    # A date out of range is an OverflowError.
    except (pyarrow.ArrowException, UnicodeDecodeError, OverflowError, ValueError) as error:
        raise ProblemSetError(f"{path} is not readable as Parquet ({first_line(error)}); write it again.") from error


def _limited(rows: Iterator[Row], path: Path) -> Iterator[Row]:
    """The rows, as long as there are not too many, nor too much text in them, whatever the size of the file."""
    size = 0
    for row in rows:
        size += sum(len(value) for value in row.fields.values() if isinstance(value, str | bytes))
        if row.number > MOST_ROWS or size > LARGEST_FILE:
            raise _too_many(path)
        yield row


def _too_many(path: Path) -> ProblemSetError:
    return ProblemSetError(
        f"{path} holds more than {MOST_ROWS:,} rows or {LARGEST_FILE:,} characters, more than problems take; check how "
        "it was written, or split it."
    )


_READERS = {
    ".jsonl": _read_lines,
    ".json": _read_list,
    ".csv": _read_table,
    ".tsv": _read_table,
    ".txt": _read_text,
    ".parquet": _read_parquet,
}


def _decode(data: bytes, path: Path, *, first_line: int) -> str:
    try:
        return data.decode("utf-8-sig" if first_line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        # Count in `error.object`, not in `data`: the error does not count the byte order mark.
        line = first_line + error.object.count(b"\n", 0, error.start)
        found = f"byte 0x{error.object[error.start]:02x}"
        raise ProblemSetError(
            f"{path}, line {line} has {found}, which is not UTF-8; save the file as UTF-8."
        ) from error


def _check_length(length: int, where: str) -> None:
    if length > LONGEST_ROW:
        raise ProblemSetError(f"{where} is longer than {LONGEST_ROW:,} bytes, too long for a problem; check the file.")


def _parse(text: str, start: int, where: str) -> tuple[object, int]:
    """Parse the value that begins at `start`; return it and where it ends."""
    try:
        value, end = _DECODER.raw_decode(text, start)
        # An escaped surrogate without its other half can be parsed, but not written: writing it here shows it.
        if text.find("\\u", start, end) >= 0:
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        found = f"{error.msg} at column {error.colno}" + (f" of line {error.lineno}" if "\n" in text else "")
        raise ProblemSetError(f"{where} is not valid JSON ({found}); correct or drop it.") from error
    except RecursionError as error:
        raise ProblemSetError(f"{where} is nested too deeply, expected a flat object; correct or drop it.") from error
    except UnicodeEncodeError as error:
        raise ProblemSetError(
            f"{where} has half of a surrogate pair, expected whole characters; correct it."
        ) from error
    except _Refused as error:
        raise ProblemSetError(f"{where} has {error}; correct or drop it.") from error
    return value, end


def _as_object(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ProblemSetError(
            f"{where} is a JSON {type(value).__name__}, expected an object with named fields; correct it."
        )
    return value


def _next_row(text: str, end: int, where: str) -> int:
    """Where the next row begins, or the list's end."""
    at = _skip(text, end)
    if text[at : at + 1] == "]":
        return at
    if text[at : at + 1] != ",":
        found = f"line {_line(text, at)}"
        raise ProblemSetError(f"{where} is followed by neither a comma nor the list's end ({found}); correct the file.")
    following = _skip(text, at + 1)
    if text[following : following + 1] == "]":
        found = f"line {_line(text, at)}"
        raise ProblemSetError(f"{where} is followed by a comma and no other row ({found}); drop the comma.")
    return following


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


class _Refused(ValueError):
    """A value that Python's JSON reader takes, but that standard JSON or a problem doesn't allow."""


def _refuse_constant(name: str) -> float:
    raise _Refused(f"{name}, which is not JSON and no answer")


def _parse_float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise _Refused(f"the number {text[:20]}, too large for a float")
    return value


def _parse_int(text: str) -> int:
    # Python itself refuses more than 4,300 digits, with an error that names no place.
    if len(text) > _MOST_DIGITS:
        raise _Refused(f"a whole number of {len(text):,} digits, more than {_MOST_DIGITS}")
    return int(text)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Refused(f"the field {next(name for name in names if names.count(name) > 1)!r} twice")
    return fields


_DECODER = json.JSONDecoder(
    parse_constant=_refuse_constant, parse_float=_parse_float, parse_int=_parse_int, object_pairs_hook=_unique
)


def check_fields(fields: Mapping[str, str] | None) -> dict[str, str]:
    """Raise `OptionError` unless every mapped field is one that a problem has; return them as a dict."""
    unknown = [name for name in fields or {} if name not in MAPPED_FIELDS]
    if unknown:
        raise OptionError(
            f"a field is mapped to {unknown[0]!r}, expected one of {', '.join(MAPPED_FIELDS)}; rename it."
        )
    return dict(fields or {})


def _read_problem(fields: dict[str, object], default_id: str, names: Mapping[str, str]) -> Problem:
    answer = _answer_field(fields, names)
    gold = gold_answer(answer)
    if not gold:
        raise ValueError("the answer is empty; give one or drop the row.")
    return Problem(_id(fields, default_id, names), _question(fields, names), gold, _steps(fields, answer, names))


def _id(fields: dict[str, object], default_id: str, names: Mapping[str, str]) -> str:
    name = names.get("id") or _first_known(fields, ID_FIELDS)
    if name is None:
        return default_id
    value = _field(fields, name, "id")
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ValueError(
            f"the id in {name!r} is {value!r}, expected text or a whole number; correct or drop the field."
        )
    return str(value)


def _question(fields: dict[str, object], names: Mapping[str, str]) -> str:
    if "question" not in names and "Body" in fields and "Question" in fields:
        return _join(_text(fields, "Body"), _text(fields, "Question"))
    name = names.get("question") or _first_known(fields, QUESTION_FIELDS)
    if name is None:
        raise _unknown_layout(fields, "question", ("Body with Question", *QUESTION_FIELDS))
    if _is_graph(names):
        return _graph_question(fields)
    question = _text(fields, name)
    if "question" not in names and "query" in fields and "chain_of_thought" in fields:  # ProntoQA's own file
        question = f"{question} {_text(fields, 'query')}"
    return "\n".join([question, *_choices(fields["choices"])]) if "choices" in fields else question


def _answer_field(fields: dict[str, object], names: Mapping[str, str]) -> object:
    name = names.get("answer") or ("target" if _is_graph(names) else _first_known(fields, ANSWER_FIELDS))
    if name is None and isinstance(solution := fields.get("solution"), str):  # MATH gives the answer there alone
        if (found := boxed(solution)) is None:
            raise ValueError("'solution' has no \\boxed{} answer; give an answer or drop the row.")
        return found
    if name is None:
        raise _unknown_layout(fields, "answer", ANSWER_FIELDS)
    return _field(fields, name, "answer")


def _steps(fields: dict[str, object], answer: object, names: Mapping[str, str]) -> tuple[str, ...]:
    """The row's own list of steps; else the calculator annotations of a worked solution."""
    if "steps" not in names and _is_graph(names):
        return tuple(f"{source} {target}" for source, target in pairwise(shortest_path(*_graph(fields)[:3])))
    if "steps" not in names and isinstance(proof := fields.get("chain_of_thought"), list):
        # A step of ProntoQA is a rule and what follows from it, as in Coconut's preprocessing.
        fields = {**fields, "steps": [" ".join(map(str, proof[at : at + 2])) for at in range(0, len(proof), 2)]}
    name = names.get("steps", "steps")
    steps = _field(fields, name, "steps") if "steps" in names else fields.get(name)
    if isinstance(steps, list):
        if not all(isinstance(step, str) for step in steps):
            raise ValueError(f"{name!r} holds other things than text, expected a list of steps; correct it.")
        return tuple(steps)
    if "steps" in names:
        raise ValueError(f"{name!r} is not a list, expected a list of steps; correct it or map another field.")
    texts = [text for text in (fields.get("cot"), answer) if isinstance(text, str)]
    return tuple(annotation for text in texts for annotation in _ANNOTATION.findall(text))


def _is_graph(names: Mapping[str, str]) -> bool:
    return names.get("question") == GRAPH_FIELD


def _graph(fields: dict[str, object]) -> tuple[list[Any], Any, Any, Any]:
    """Edges, root, target and the candidate that can't be reached."""
    edges = _field(fields, GRAPH_FIELD, "question")
    pairs = [tuple(edge) if isinstance(edge, list) else () for edge in edges] if isinstance(edges, list) else []
    nodes = [_field(fields, name, "question") for name in ("root", "target", "neg_target")]
    ends = [end for pair in pairs for end in pair]
    if not pairs or {len(pair) for pair in pairs} != {2} or not all(type(node) is int for node in [*ends, *nodes]):
        raise ValueError(
            "the graph's 'edges', 'root', 'target' and 'neg_target' are not numbers of nodes, expected "
            "edges [[0, 3], …] and a node each; correct the row."
        )
    return pairs, nodes[0], nodes[1], nodes[2]


def _graph_question(fields: dict[str, object]) -> str:
    """A graph in node tokens: `<eos> s t | s t | … s t [Q] a b [R] root`, the last edge being closed by `[Q]`."""
    edges, root, target, other = _graph(fields)
    told = " | ".join(f"{source} {end}" for source, end in edges)
    first, second = sorted((target, other), key=_asked_order(fields))
    return f"<eos> {told} [Q] {first} {second} [R] {root}"


def _asked_order(fields: dict[str, object]) -> Callable[[int], tuple[int, int]]:
    """Candidates in the order of the worded question, which is random; by number where there are no words.

    By number the target of ProsQA would stand first in 40 % of the graphs, and guessing would pay.
    """
    names, question = fields.get("idx_to_symbol"), fields.get("question")
    asked = question.rpartition(". ")[2].rstrip("?").split() if isinstance(question, str) else []

    def place(node: int) -> tuple[int, int]:
        name = names[node] if isinstance(names, list) and 0 <= node < len(names) else None
        return (asked.index(name) if name in asked else 0), node

    return place


def shortest_path(edges: Sequence[tuple[int, int]], root: int, target: int) -> list[int]:
    """The nodes of a shortest path; none where the target can't be reached."""
    paths, reached = {root: [root]}, [root]
    for node in reached:
        for source, end in edges:
            if source == node and end not in paths:
                paths[end] = [*paths[node], end]
                reached.append(end)
    return paths.get(target, [])


def _join(body: str, question: str) -> str:
    """Join SVAMP's two parts; a body without a full stop is mostly the `if` clause of the question."""
    body, question = body.strip(), question.strip()
    if body[-1] in ".!?,;:":
        return f"{body} {question}"
    if re.split(r"[.!?]\s+", body)[-1].lower().startswith("if "):
        opening = question.split()[0]
        # Only these words lose their capital: any other may be a name.
        lowered = opening.lower() if opening in {"How", "What", "Which", "Who", "Total"} else opening
        return f"{body}, {lowered}{question[len(opening) :]}"
    return f"{body}. {question}"


def _choices(choices: object) -> list[str]:
    """CommonsenseQA's choices as lines `A: …`."""
    labels, texts = (choices.get("label"), choices.get("text")) if isinstance(choices, dict) else (None, None)
    if not isinstance(labels, list) or not isinstance(texts, list) or len(labels) != len(texts):
        raise ValueError("'choices' is not {label: [...], text: [...]} of equal lengths; correct it.")
    return [f"{label}: {text}" for label, text in zip(labels, texts, strict=True)]


def _text(fields: dict[str, object], name: str) -> str:
    value = _field(fields, name, "question")
    if not isinstance(value, str):
        raise ValueError(f"the question in {name!r} is of type {type(value).__name__}, expected text; correct the row.")
    if not value.strip():
        raise ValueError(f"the question in {name!r} is empty; write one or drop the row.")
    return value


def _field(fields: dict[str, object], name: str, role: str) -> object:
    if name not in fields:
        raise ValueError(
            f"there is no field {name!r} for the {role}, found {_names(fields)}; correct `--field {role}=`."
        )
    return fields[name]


def _first_known(fields: dict[str, object], known: tuple[str, ...]) -> str | None:
    return next((name for name in known if name in fields), None)


def _unknown_layout(fields: dict[str, object], role: str, known: tuple[str, ...]) -> ValueError:
    expected = ", ".join(known)
    return ValueError(
        f"no field is the {role}: found {_names(fields)}, expected {expected}; use `--field {role}=NAME`."
    )


def _names(fields: dict[str, object]) -> str:
    shown = ", ".join(repr(name) for name in list(fields)[:_MOST_NAMES])
    return f"{shown or 'none'}{', …' if len(fields) > _MOST_NAMES else ''}"
