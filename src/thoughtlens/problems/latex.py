r"""Turn an answer, plain or LaTeX, into one normal form, and that form into an exact number where it is one.

`\dfrac12`, `\frac{1}{2}` and `1/2` have the same normal form; `0.5` has the same number. Layout, currency, units
behind a number and the `x=` before one are dropped. It does no algebra: `2+x` and `x+2` differ, and so do `1,-2` and
`-2,1`.
"""

import re
from fractions import Fraction
from typing import Final

LONGEST_NUMBER: Final = 400
"""Characters of the longest number that is read as one: more than any float has, few enough to compute with."""

_LONGEST_ANSWER: Final = 2_000

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
_TRUTH = {"yes": "true", "no": "false"}


def normal_form(answer: str) -> str:
    """The one spelling that stands for all spellings of an answer.

    Args:
        answer: a number, truth value, letter, word or LaTeX; text beyond 2,000 characters is left as it is.

    Returns:
        The normal form; empty where nothing but layout was given.
    """
    if len(answer) > _LONGEST_ANSWER:
        return answer
    for pattern, replacement in _RULES:
        answer = pattern.sub(replacement, answer)
    if _WITH_COMMAS.fullmatch(answer):
        return answer.replace(",", "")
    if answer.isalpha():
        answer = answer.casefold()
    return _TRUTH.get(answer, answer)


def exact_number(normal: str) -> Fraction | None:
    """The exact value of a normal form, or None where it isn't a number.

    Args:
        normal: what `normal_form` returned.

    Returns:
        The value of a decimal, a fraction or a mixed number.
    """
    if len(normal) > LONGEST_NUMBER:
        return None
    if _DECIMAL.fullmatch(normal):
        return Fraction(normal)
    if parts := _FRACTION.fullmatch(normal):
        sign, whole, numerator, denominator = parts.groups()
        magnitude = int(whole or "0") + Fraction(int(numerator), int(denominator))
        return -magnitude if sign == "-" else magnitude
    return None
