"""Turn rows of the known layouts into problems, or into one sentence that names the row that can't be.

Known are the field names of the named sets and of the files that their authors publish; any other name is mapped by
the caller. Where the rows come from is not known here: `place` says how an error names one.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from thoughtlens.errors import OptionError, ProblemSetError
from thoughtlens.problems.answers import gold_answer
from thoughtlens.problems.files import Row
from thoughtlens.problems.problem import Problem

ID_FIELDS: Final = ("id", "ID", "qid", "unique_id")
QUESTION_FIELDS: Final = ("question", "question_concat", "input", "problem", "instruction")
ANSWER_FIELDS: Final = ("answer", "Answer", "target", "final_ans", "answerKey", "response")
MAPPED_FIELDS: Final = ("id", "question", "answer", "steps")

_ANNOTATION = re.compile(r"<<[^<>]*>>")
_MOST_NAMES = 12


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
    question = _text(fields, name)
    return "\n".join([question, *_choices(fields["choices"])]) if "choices" in fields else question


def _answer_field(fields: dict[str, object], names: Mapping[str, str]) -> object:
    name = names.get("answer") or _first_known(fields, ANSWER_FIELDS)
    if name is None:
        raise _unknown_layout(fields, "answer", ANSWER_FIELDS)
    return _field(fields, name, "answer")


def _steps(fields: dict[str, object], answer: object, names: Mapping[str, str]) -> tuple[str, ...]:
    """The row's own list of steps; else the calculator annotations of a worked solution."""
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


def _join(body: str, question: str) -> str:
    """Join SVAMP's two parts; a body that stops without a full stop is mostly the `if` half of the question."""
    body, question = body.strip(), question.strip()
    if body[-1] in ".!?,;:":
        return f"{body} {question}"
    if re.split(r"[.!?]\s+", body)[-1].lower().startswith("if "):
        opening = question.split()[0]
        # Only words known to be no names lose their capital.
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
