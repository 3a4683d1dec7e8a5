"""The tables of docs/answers.md, row by row, and what the official rule of Coconut and of GSM-Hard's size comes to."""

import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from thoughtlens.errors import OptionError
from thoughtlens.problems import AFTER_HASH, LAST_NUMBER, RULES, gold_answer, rule_named

PAGE = (Path(__file__).parents[2] / "docs" / "answers.md").read_text("utf-8")
TABLES = [
    [re.split(r" \| ", row.strip("| ")) for row in re.findall(r"^\| `.*$", part, re.M)]
    for part in PAGE.split("|---|")[1:]
]
ROWS = [row for table in TABLES for row in table]


def bare(cell):
    return None if cell == "none" else cell.strip("`").replace("\\n", "\n")


def test_the_page_has_both_tables():
    assert sorted({len(row) for row in ROWS}) == [3, 4] and len(ROWS) == 23


@pytest.mark.parametrize("row", [row for row in ROWS if len(row) == 3], ids=lambda row: row[0])
def test_what_is_read(row):
    text, strict, official = map(bare, row)
    assert (RULES["strict"].read(text), RULES["official"].read(text)) == (strict, official)


@pytest.mark.parametrize("row", [row for row in ROWS if len(row) == 4], ids=lambda row: " ".join(row[:2]))
def test_what_is_right(row):
    read, gold, strict, official = map(bare, row)
    assert RULES["strict"].same(read, gold) == (strict == "right")
    assert RULES["official"].same(read, gold) == (official == "right")


@pytest.mark.parametrize(
    ("text", "gold", "right"),
    [
        ("### 1,234", "1234", True),
        ("a # b\n### 9 ", "9", True),
        ("### 9.0", "9", False),
        ("no mark", "no mark", True),
        ("### True", "true", True),
        ("### False", "true", False),
    ],
)
def test_coconut_compares_what_follows_the_last_hash_as_text(text, gold, right):
    assert AFTER_HASH.same(AFTER_HASH.read(text), gold) == right


def test_answers_of_two_decimals_are_rounded_no_further_than_the_set_allows(data_folder):
    targets = [json.loads(line)["target"] for line in (data_folder / "gsm_hard.jsonl").read_text().splitlines()]
    said = [(f"The answer is: {target:.2f}", gold_answer(target)) for target in targets]
    strict = [RULES["strict"].same(RULES["strict"].read(text), gold) for text, gold in said]
    official = [LAST_NUMBER.same(LAST_NUMBER.read(text), gold) for text, gold in said]
    assert (len(said), sum(official), sum(a and not b for a, b in zip(strict, official, strict=True))) == (
        1319,
        1157,
        35,
    )
    assert not any(b and not a for a, b in zip(strict, official, strict=True))


def test_a_rule_that_is_not_there_is_said():
    assert rule_named("official") == "official"
    with pytest.raises(OptionError, match="no answer rule 'lenient', expected strict, official, math-verify"):
        rule_named("lenient")


def test_a_rule_whose_package_is_missing_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(OptionError, match=r"needs math-verify, which is not installed; run `pip install 'thoughtlens"):
        rule_named("math-verify")
    # What the strict rule knows needs no package.
    same = RULES["math-verify"].same
    assert same("1/2", r"\frac{1}{2}") and not same("2", "3") and not same("true", "x+1") and not same(None, "x")


@pytest.mark.parametrize(
    ("read", "gold", "right"),
    [
        ("2+x", "x+2", True), ("x+3", "x+2", False), (r"\sqrt{8}", r"2\sqrt{2}", True), ("1,-2", "-2,1", True),
        (r"\sqrt{4}", "2", True), ("(2,1)", "(1,2)", False), ("-q+p", "p - q", True),
    ],
)  # fmt: skip
def test_math_verify_knows_algebra(read, gold, right):
    pytest.importorskip("math_verify")
    assert not RULES["strict"].same(read, gold) and RULES["math-verify"].same(read, gold) == right
    with ThreadPoolExecutor(1) as other:
        assert other.submit(RULES["math-verify"].same, read, gold).result() == right
