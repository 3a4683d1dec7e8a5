r"""Answers: found in a model's text, read from a data set's field, and compared.

A generated text is searched for an announcement, in this order: `answer is`, `####`, `\boxed{}`. Of several of a kind
the last one that can be read counts. A text that announces an answer and doesn't give one has none; only a text
without any announcement is read by its last number.

What is compared depends on the kind of the right answer (`answer_kind`): numbers by exact value (`0.5` is `\dfrac12`),
letters and truth values by what they mean, texts without case, everything by its normal form: layout, currency, units
behind a number and the `x=` before one are dropped. There is no algebra: `2+x` and `x+2` differ, and so do `1,-2` and
`-2,1`; only the rule `math-verify` knows them to be equal, for LaTeX and with the package of that name.

That is the rule `strict`. The rule `official` reads and compares as a family's own evaluation code does, mistakes
included, so that published accuracies can be reproduced: CODI's takes the last number of the text (`LAST_NUMBER`),
Coconut's what follows the last `#` (`AFTER_HASH`). docs/answers.md sets the rules side by side.
"""

import math
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import chain
from typing import Any, Final

from thoughtlens.errors import OptionError

LONGEST_NUMBER: Final = 400
"""Characters of the longest number that is read as one: more than any float has, few enough to compute with."""

_LONGEST_ANSWER: Final = 2_000

_VALUE: Final = r"[-+]?(?:[0-9]+\s+)?(?:[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?|\.[0-9]+)(?:/[0-9]+)?"

# Applied in this order. `(?<!\\)` keeps the line break `\\` of a matrix whole.
_RULES: Final = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        ("−", "-"),
        ("π", r"\\pi"),
        (r"\{,\}", ","),
        (r"(?<!\\)\\[!,;: ]|~", ""),
        (r"(?<!\\)\\[()\[\]$]|\$", ""),
        (r"\\(?:left|right)(?![A-Za-z])", ""),
        (r"\\[dtc]frac", r"\\frac"),
        (r"\\frac\s*(?:\{([^{}]*)\}|([0-9]))\s*(?:\{([^{}]*)\}|([0-9]))", r"\\frac{\1\2}{\3\4}"),
        (r"\\sqrt\s*([0-9])", r"\\sqrt{\1}"),
        (r"\^\s*\{?\s*\\circ\s*\}?|\\degree|°|\\?%", ""),
        # `5 km`, `3.5 miles per hour`, `12 square feet`; neither `3 or 5` nor `2 x`.
        (rf"^\s*({_VALUE})\s+(?!(?:and|or)\b)(?:square |cubic )?[A-Za-z]{{2,}}(?:(?: per |/)[A-Za-z]+)?\s*\.?$", r"\1"),
        # A unit stands at the end, behind a number; `\text{Evelyn}` is an answer.
        (r"(?<=[0-9}])\s*\\(?:text|mbox|textrm|mathrm)\{[^{}]*\}(?:\^\{?[0-9]\}?)?\s*$", ""),
        (r"\\(?:text|mbox|textrm|textbf|mathrm|mathbf)\{([^{}]*)\}", r"\1"),
        # Before spaces go: `1 1/2` is not `11/2`.
        (r"(?<![0-9./])([0-9]+)\s+([0-9]+)/([0-9]+)(?![0-9./])", r"\1\\frac{\2}{\3}"),
        (r"(?<![\w}./])([0-9]+)/([0-9]+)(?![\w./])", r"\\frac{\1}{\2}"),
        (r"([_^])\{(\w)\}", r"\1\2"),
        (r"\s+", ""),
        (r"[.,;:]+$", ""),
        (r"^[A-Za-z]\w?(?:=|\\in(?![A-Za-z]))", ""),
        (r"^\(([A-Za-z])\)$", r"\1"),
    )
)
_WITH_COMMAS = re.compile(r"[-+]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?")
# An exponent of three digits at most: `1e999999999` would take the machine's memory to write out.
_DECIMAL = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?")
_FRACTION = re.compile(r"([-+]?)([0-9]*)\\frac\{(-?[0-9]+)\}\{([0-9]*[1-9][0-9]*)\}")
_LETTERS = ("A", "B", "C", "D", "E")
_TRUTH = {"yes": "true", "no": "false"}


_RELATIVE_TOLERANCE = Fraction(1, 1_000_000)
_ABSOLUTE_TOLERANCE = Fraction(1, 1_000)
_LONGEST_LINE = 2_000

_ANSWER_IS = re.compile(r"\banswer\s*(?:is\b\s*:?|:)", re.IGNORECASE)
# Coconut marks answers by three hashes, which are also a Markdown heading: they count on the last line only.
_HASHES = re.compile(r"####|^###(?=[^#\n]+\Z)", re.MULTILINE)

_UNSIGNED = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
_NUMBER = rf"{_UNSIGNED}(?:[eE][-+]?[0-9]+)?(?:/[0-9]+(?![0-9]|[.,][0-9]))?"
_NUMBER_ALONE = re.compile(rf"-?\s*{_NUMBER}")
# The minus of `5-3` is an operator, that of `= -3` a sign.
_NUMBER_ANYWHERE = re.compile(rf"(?:(?<![\w)\]}}.%])-)?{_NUMBER}")
_NUMBER_THEN_WORDS = re.compile(rf"(-?\s*{_NUMBER})(?=\s*(?:$|[%°(;:]|,?\s*(?:[A-Za-z]{{2}}|a\b)))")

_CLUTTER = re.compile(r"\\?\$|\\[!,]|\*\*|`")
# `<<48/2=24>>24` writes its result twice.
_ANNOTATION = re.compile(r"<<[^<>]*>>\s*(?=[-.0-9])")
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")
_EQUALS = re.compile(r"(?<![<>!:=])=(?!=)")
_COEFFICIENT = re.compile(r"[0-9][a-z](?![A-Za-z0-9])")
_MATHS_SEGMENT = re.compile(r"(?<!\\)\$([^$]*\\[A-Za-z][^$]*)\$|\\[(\[](.*?\\[A-Za-z].*?)\\[)\]]")
_COMMAND = re.compile(r"\\[A-Za-z]")

_TRUE = re.compile(r"(?:true|yes)\b", re.IGNORECASE)
# `no` also begins other answers (`no apples`): followed by a word it is not a truth value.
_FALSE = re.compile(r"false\b|no\b(?!\s*\w)", re.IGNORECASE)
# `A dog` is not choice A, since `a` is a word; `B dog` can only be choice B.
_LETTER = re.compile(r"(?:option\s+|choice\s+)?(?:\(([A-Ea-e])\)|([A-E])(?=$|[):.,])|([B-E])(?=\s)|([b-e])(?=$|\)))")
_BARE_LETTER = re.compile(r"\(?([A-E])[).]*")
_WORDLESS = re.compile(r"(?!.*[A-Za-z]{2})(?=.*[0-9A-Za-z])[-+*/^_=<>!|()\[\]{}.,\s0-9A-Za-zπ√°%]+")
# `18 18` is no number; `1 1/2` is one.
_TWO_NUMBERS = re.compile(r"[0-9]\s+[0-9]+(?=\s|$)")
_TWO_LETTERS = re.compile(r"[^\W\d_]{2}")
# A text without its blanks: `2AB` and `AB=CD` are mathematics, whose letters have a case.
_WORDS = re.compile(r"(?=.*[^\W\d_]{3})[^\\=+*/^_<>|(){}\[\]]+")
_WORD = re.compile(r"[^\W\d_]")


def read_answer(text: str) -> str | None:
    r"""Read the final answer in a model's text.

    Args:
        text: what the model wrote, for instance `The answer is: 18`.

    Returns:
        A number without commas or currency, `true` or `false`, a letter A-E, LaTeX, a word; None where nothing reads
        as an answer.

    Example:
        >>> read_answer("5-3=2, so the answer is: $1,200.")
        '1200'
    """
    text = text.replace("−", "-").rstrip()
    spoken, hashed = _lines_after(_ANSWER_IS, text), _lines_after(_HASHES, text)
    # Words are tried last: `our answer is correct` may follow a `\boxed{}`.
    readings = chain(
        map(_read_line, spoken), map(_read_line, hashed), map(boxed, [text]), map(_phrase, spoken), map(_phrase, hashed)
    )
    found = next((reading for reading in readings if reading is not None), None)
    announced = spoken or hashed or "\\boxed{" in text
    return found if announced else _bare(text)


def gold_answer(value: object) -> str:
    """Write a data set's answer field as the text that answers are compared with.

    Args:
        value: a number, truth value or text; of a text with `####`, what follows the last one.

    Returns:
        A whole number without decimals (18.0 is `18`), no commas or currency, `true`/`false`, a bare letter; any
        other text as it is.

    Raises:
        ValueError: the value is not finite, or of another type.

    Example:
        >>> gold_answer("Half of 36 is <<36/2=18>>18. #### 18"), gold_answer(18.0), gold_answer(True)
        ('18', '18', 'true')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _float_text(value)
    if not isinstance(value, str):
        raise ValueError(f"the answer is {_short(value)}, expected a number, text, true or false; correct the row.")
    text = value.rpartition("####")[2].strip()
    return _number_text(text) or _truth(text, exact=True) or _bare_letter(text) or text


def answer_kind(gold: str) -> str:
    r"""The kind of a right answer, which says how answers are compared with it.

    Args:
        gold: the answer of a problem.

    Returns:
        `boolean` (true, false, yes, no), `letter` (A to E), `number` (also a fraction, or with a unit), `LaTeX` (any
        other mathematics), or `text`.

    Example:
        >>> [answer_kind(gold) for gold in ("true", "B", "1/2", r"\frac{\pi}{2}", "Sally is a sterpus.")]
        ['boolean', 'letter', 'number', 'LaTeX', 'text']
    """
    normal = normal_form(gold)
    if normal in _TRUTH.values():
        return "boolean"
    if normal.upper() in _LETTERS:
        return "letter"
    if exact_number(normal) is not None:
        return "number"
    return "LaTeX" if _COMMAND.search(gold) or not _TWO_LETTERS.search(gold) else "text"


def same_answer(predicted: str | None, gold: str) -> bool:
    r"""Whether a predicted answer is the gold answer.

    Two numbers are the same within a millionth of the larger, but never as much as 0.001 apart, the tolerance of
    GSM-Hard's own evaluation (Gao 2022): whole numbers have to be equal, and 15 is not 15.67. Everything else is the
    same if its normal form is, that of texts without case.

    Args:
        predicted: what `read_answer` returned.
        gold: the answer of a problem.

    Returns:
        True if they are the same; False where nothing was predicted.

    Example:
        >>> same_answer("\\frac{1}{2}", "0.5"), same_answer("15", "15.67"), same_answer(None, "15")
        (True, False, False)
    """
    if predicted is None:
        return False
    ours, theirs = normal_form(predicted), normal_form(gold)
    if predicted == gold or (ours and ours == theirs):
        return True
    a, b = exact_number(ours), exact_number(theirs)
    return a is not None and b is not None and _close(a, b)


def normal_form(answer: str) -> str:
    """The one spelling for all spellings of an answer; empty where it is nothing but layout."""
    if len(answer) > _LONGEST_ANSWER:
        return answer
    for pattern, replacement in _RULES:
        answer = pattern.sub(replacement, answer)
    if _WITH_COMMAS.fullmatch(answer):
        return answer.replace(",", "")
    if answer.isalpha() or _WORDS.fullmatch(answer):
        answer = answer.casefold()
    return _TRUTH.get(answer, answer)


def exact_number(normal: str) -> Fraction | None:
    """The exact value of a normal form: a decimal, fraction or mixed number; None where it isn't one."""
    if len(normal) > LONGEST_NUMBER:
        return None
    if _DECIMAL.fullmatch(normal):
        return Fraction(normal)
    if parts := _FRACTION.fullmatch(normal):
        sign, whole, numerator, denominator = parts.groups()
        magnitude = int(whole or "0") + Fraction(int(numerator), int(denominator))
        return -magnitude if sign == "-" else magnitude
    return None


def _close(a: Fraction, b: Fraction) -> bool:
    apart = abs(a - b)
    return apart <= _RELATIVE_TOLERANCE * max(abs(a), abs(b)) and apart < _ABSOLUTE_TOLERANCE


def _lines_after(mark: re.Pattern[str], text: str) -> list[str]:
    """What follows each mark on its line, or on the next one with text, from the last mark to the first."""
    pieces = mark.split(text)[:0:-1]
    return [piece.lstrip()[:_LONGEST_LINE].partition("\n")[0] for piece in pieces]


def _read_line(line: str) -> str | None:
    """Read the answer that a line opens with; the likeliest reading first."""
    if (maths := boxed(line) or _latex(line)) is not None:
        return maths
    line = _plain(line)
    readings = (_truth(line), _letter(line), _leading_number(line), _wordless(line), _first_number(line))
    return next((reading for reading in readings if reading is not None), None)


def _bare(text: str) -> str | None:
    """Read a text without announcement: a truth value or letter alone, else the last number."""
    alone = text.strip().rstrip(".!")
    numbers = _NUMBER_ANYWHERE.findall(_clean(text))
    return _truth(alone, exact=True) or _bare_letter(alone) or (_tidy(numbers[-1]) if numbers else None)


def _clean(text: str) -> str:
    return _CLUTTER.sub("", text.replace("{,}", ","))


def _plain(line: str) -> str:
    """The line's first sentence without markup; of an equation only its right-hand side."""
    line = _SENTENCE_END.split(_ANNOTATION.sub("", _clean(line)), maxsplit=1)[0]
    # `2x + 3y = 0` is itself an answer.
    result = line if _COEFFICIENT.search(line) else _EQUALS.split(line)[-1]
    result = result.strip(" \t\r\"',;")
    return re.sub(r"^-\s+", "-", result or line.strip())


def boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{}`, braces balanced; None if it never closes."""
    start = text.rfind("\\boxed{") + len("\\boxed{")
    if start < len("\\boxed{"):
        return None
    depth = 1
    # `\\.` steps over escaped braces.
    for brace in re.compile(r"\\.|[{}]").finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            content = text[start : brace.start()].strip()
            return _number_text(content) or content or None
    return None


def _latex(line: str) -> str | None:
    if segment := _MATHS_SEGMENT.search(line):
        return (segment.group(1) or segment.group(2)).strip(" .,;") or None
    line = _SENTENCE_END.split(_clean(line), maxsplit=1)[0]
    return line.strip(" ,;") if _COMMAND.search(line) else None


def _truth(text: str, *, exact: bool = False) -> str | None:
    match = re.fullmatch if exact else re.match
    if match(_TRUE, text):
        return "true"
    return "false" if match(_FALSE, text) else None


def _letter(line: str) -> str | None:
    found = _LETTER.match(line)
    return found.group(found.lastindex or 0).upper() if found else None


def _bare_letter(text: str) -> str | None:
    found = _BARE_LETTER.fullmatch(text)
    return found.group(1) if found else None


def _leading_number(line: str) -> str | None:
    found = _NUMBER_THEN_WORDS.match(line)
    return _tidy(found.group(1)) if found else None


def _wordless(line: str) -> str | None:
    return line if _WORDLESS.fullmatch(line) and not _TWO_NUMBERS.search(line) else None


def _first_number(line: str) -> str | None:
    found = _NUMBER_ANYWHERE.search(line)
    return _tidy(found.group()) if found else None


def _phrase(line: str) -> str | None:
    phrase = _plain(line)
    return phrase if _WORD.search(phrase) else None


def _number_text(text: str) -> str | None:
    """The text as a number without commas and currency, if it is nothing but a number."""
    cleaned = _clean(text).strip()
    return _tidy(cleaned) if _NUMBER_ALONE.fullmatch(cleaned) else None


def _tidy(number: str) -> str:
    return re.sub(r"[,\s]", "", number)


def _float_text(value: float) -> str:
    if not math.isfinite(value):
        raise ValueError(f"the answer is {value}, expected a finite number; correct the row.")
    # `repr` gives the shortest digits that are this float; "f" writes them without an exponent.
    return str(int(value)) if value.is_integer() else format(Decimal(repr(value)), "f")


def _short(value: object) -> str:
    return "null" if value is None else f"of type {type(value).__name__}"


_OFFICIAL_NUMBER = re.compile(r"-?\d+\.?\d*")


def _last_number(text: str) -> str | None:
    """What CODI's evaluation takes: the last number; without any, the letter or truth value that a set asks for."""
    text = text.replace(",", "")
    if numbers := _OFFICIAL_NUMBER.findall(text):
        return str(numbers[-1])
    if "True" in text or "False" in text:
        return "true" if "True" in text else "false"
    said = text.split("The answer is:")[-1].strip()[:1]
    return said if said in _LETTERS else None


def _same_float(predicted: str | None, gold: str) -> bool:
    """Equal as floats; letters and truth values as they are, where CODI's evaluation reads every other word as C."""
    if gold in _LETTERS:
        return (predicted if predicted in _LETTERS or _is_float(predicted) else "C") == gold
    if gold in ("true", "false") or predicted is None:
        return predicted == gold
    return _is_float(predicted) and _is_float(gold) and float(predicted) == float(gold.replace(",", ""))


def _is_float(text: str | None) -> bool:
    try:
        return math.isfinite(float((text or "").replace(",", "")))
    except ValueError:
        return False


def _after_hash(text: str) -> str | None:
    return text.split("#")[-1].replace(",", "").strip() or None


def _same_text(predicted: str | None, gold: str) -> bool:
    # ProntoQA writes True and False, which are kept in small letters here.
    return predicted == (gold.capitalize() if gold in _TRUTH.values() else gold.replace(",", ""))


@dataclass(frozen=True)
class AnswerRule:
    """How an answer is read from a text and compared with the right one.

    Attributes:
        name: `strict`, `official` or `math-verify`.
        read: from a text to the answer in it, None if there is none.
        same: whether what was read is the right answer.
    """

    name: str
    read: Callable[[str], str | None]
    same: Callable[[str | None, str], bool]


STRICT: Final = "strict"
OFFICIAL: Final = "official"
LAST_NUMBER: Final = AnswerRule(OFFICIAL, _last_number, _same_float)
"""The official rule of CODI: `test.py` of github.com/zhenyi4/codi."""

AFTER_HASH: Final = AnswerRule(OFFICIAL, _after_hash, _same_text)
"""The official rule of Coconut: `run.py` of github.com/facebookresearch/coconut."""

MATH_VERIFY: Final = "math-verify"
_SECONDS_OF_ALGEBRA: Final = 5


def _same_by_algebra(predicted: str | None, gold: str) -> bool:
    """The same, or equal by algebra where one answer is LaTeX and the other LaTeX or a number."""
    if predicted is None or same_answer(predicted, gold):
        return predicted is not None
    kinds = {answer_kind(predicted), answer_kind(gold)}
    if "LaTeX" not in kinds or not kinds <= {"LaTeX", "number"} or len(predicted) > LONGEST_NUMBER:
        return False
    parse, verify = _math_verify()
    # The package stops itself by a signal, which only the main thread gets.
    limit = _SECONDS_OF_ALGEBRA if threading.current_thread() is threading.main_thread() else None
    ours, theirs = (parse(f"${answer}$", parsing_timeout=limit) for answer in (predicted, gold))
    return bool(verify(theirs, ours, timeout_seconds=limit))


def _math_verify() -> tuple[Callable[..., Any], Callable[..., Any]]:
    try:
        # Brings sympy, and only MATH needs it.
        from math_verify import parse, verify
    except ImportError as error:
        raise OptionError(
            "the answer rule math-verify needs math-verify, which is not installed; run "
            "`pip install 'thoughtlens[math]'`, or leave the rule at strict."
        ) from error
    return parse, verify


RULES: Final = {
    STRICT: AnswerRule(STRICT, read_answer, same_answer),
    OFFICIAL: LAST_NUMBER,
    MATH_VERIFY: AnswerRule(MATH_VERIFY, read_answer, _same_by_algebra),
}
"""The rules by name, `official` being that of CODI."""


def rule_named(name: str) -> str:
    """The name, if it is that of a rule whose package is installed; else an `OptionError`."""
    if name not in RULES:
        raise OptionError(f"no answer rule {name!r}, expected {', '.join(RULES)}; pass another --answer-rule.")
    if name == MATH_VERIFY:
        _math_verify()
    return name
