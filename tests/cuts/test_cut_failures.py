"""A problem that can't be run under a cut is found, named, and never taken for wrong; nobody else is touched by it."""

from dataclasses import dataclass, replace

import pytest
import torch
from tests.conftest import random_reasoner
from tests.cut_oracle import PROBLEMS, rows
from tests.cuts.test_cutting import assert_alike

from thoughtlens.cuts import Intervention, Replace, Zero, ablate_head, ablate_thought, knock_out
from thoughtlens.cuts.passes import Cutter, Cutting, batch_of
from thoughtlens.errors import RunError
from thoughtlens.problems import Problem
from thoughtlens.taps import Site

pytestmark = pytest.mark.usefixtures("short_texts")

CUTS = [ablate_head(f"L{layer}H{head}", edit=Zero()) for layer in range(2) for head in range(4)]
EIGHT = [replace(problem, id=f"{problem.id}{k}") for k in (1, 2) for problem in PROBLEMS]


@pytest.fixture(scope="module")
def gpt2(tokenizer):
    return random_reasoner("gpt2", tokenizer)


@dataclass
class Poison:
    """Binds cuts so that one of them can't be made on one problem: by an error, or by numbers that are none."""

    problem: int
    cut: int
    how: str

    def __call__(self, parts, places):
        return [self._spoilt(its, places) if its == CUTS[self.cut].parts else its for its in parts]

    def _spoilt(self, parts, places):
        if self.problem not in places:
            return parts
        if self.how == "error":
            return (Intervention(Site.THOUGHT, _tear),)
        values = torch.zeros(len(places), 6, 32)
        values[list(places).index(self.problem)] = torch.nan
        return (*parts, Intervention(Site.THOUGHT, Replace(values), queries=frozenset({"z2"})))


def _tear(tensor, moment):
    raise RuntimeError("shapes differ")


def cutter_of(reasoner, bind, refuse, problems=EIGHT, n_copies=3):
    prompts = [reasoner.prompt(problem.question) for problem in problems]
    cutter = Cutter(reasoner, problems, prompts, [one.parts for one in CUTS], 6, bind, refuse, n_copies)
    return lambda places, those: rows(cutter(places, those))


def unbound(parts, places):
    return parts


@pytest.fixture(scope="module")
def sound(short_texts, gpt2):
    """Outcomes of all cuts of all problems, where nothing fails."""
    return cutter_of(gpt2, unbound, refuse_all)(range(8), range(8))


@pytest.mark.parametrize("how", ["error", "nan"])
def test_the_pair_that_fails_is_named_and_all_others_are_as_without_it(how, gpt2, sound):
    told = []
    spoilt = cutter_of(gpt2, Poison(5, 6, how), lambda *said: told.append(said))(range(8), range(8))
    assert {(problem.id, cut) for problem, cut, _ in told} == {("few2", 6)}
    assert spoilt[7][5].failure and not spoilt[7][5].correct and spoilt[7][5].answer == ""
    assert spoilt[7][5].gold_logprob != spoilt[7][5].gold_logprob
    for row, (found, expected) in enumerate(zip(spoilt, sound, strict=True)):
        if row == 7 and how == "nan":  # its neighbours are given zeros as z2
            expected = [*expected[:5], *expected[6:]]
            assert all(not outcome.failure for place, outcome in enumerate(found) if place != 5)
            continue
        keep = [place for place in range(8) if (row, place) != (7, 5)]
        assert_alike([found[place] for place in keep], [expected[place] for place in keep])


def refuse_all(problem, cut, reason):
    raise RunError(f"{problem.id} under {cut}: {reason}")


def test_an_error_that_is_not_allowed_ends_the_search_in_its_own_words(gpt2):
    with pytest.raises(RunError, match="few2 under 6: RuntimeError: shapes differ"):
        cutter_of(gpt2, Poison(5, 6, "error"), refuse_all)(range(8), range(8))


def too_long(place):
    problems = list(EIGHT)
    problems[place] = Problem("long", "How many?", " ".join(["7"] * 300))
    return problems


@pytest.mark.parametrize("place", [0, 5, 7])
def test_a_problem_that_can_not_be_run_at_all_is_found_before_any_cut_is_made(place, gpt2, passes):
    with pytest.raises(RunError, match="long under None: the gold answer of long takes"):
        cutter_of(gpt2, unbound, refuse_all, too_long(place))(range(8), range(8))
    assert sum(passes) <= 8


def test_a_problem_that_can_not_be_run_at_all_is_failed_everywhere_and_the_others_are_not(gpt2, sound):
    told = []
    found = cutter_of(gpt2, unbound, lambda *said: told.append(said), too_long(5))(range(8), range(8))
    assert {problem.id for problem, *_ in told} == {"long"}
    for row, expected in zip(found, sound, strict=True):
        assert "takes" in row[5].failure
        assert_alike([*row[:5], *row[6:]], [*expected[:5], *expected[6:]])


def test_running_out_of_memory_is_nobodys_failure(gpt2):
    def full(parts, places):
        raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError):
        cutter_of(gpt2, full, refuse_all)(range(8), range(8))


def test_numbers_too_large_to_be_numbers_are_failures(gpt2):
    """Infinite thoughts come out of the norms as NaN; a wrong answer would be read from them."""
    part = Intervention(Site.THOUGHT, lambda tensor, moment: tensor * torch.inf)
    (found,) = rows(Cutting(gpt2, batch_of(gpt2, PROBLEMS, 6), 6).outcomes([(part,)]))
    assert all("expected finite numbers" in outcome.failure for outcome in found)


def test_a_row_with_nothing_left_fails_instead_of_looking_at_padding(gpt2):
    """Two blocks together leave `bot` nothing, or one where the question is a single token; others pad the batch."""
    problems = [replace(PROBLEMS[0], id="one", question="?"), *PROBLEMS]
    cutting = Cutting(gpt2, batch_of(gpt2, problems, 6), 6)
    whole = knock_out("bot", ["first", "question"]).parts + knock_out("bot", "bot").parts
    single = knock_out("bot", ["first", "bot"]).parts
    left, some = rows(cutting.outcomes([whole, single]))
    assert all(outcome.failure for outcome in left)
    assert [bool(outcome.failure) for outcome in some] == [True, False, False, False, False]


def test_a_failure_under_one_cut_leaves_its_problem_under_others(gpt2):
    cutting = Cutting(gpt2, batch_of(gpt2, PROBLEMS, 6), 6)
    nothing = (Intervention(Site.THOUGHT, lambda tensor, moment: tensor * torch.nan),)
    sound = ablate_thought("z3", edit=Zero()).parts
    (expected,) = rows(cutting.outcomes([sound]))
    failed, found = rows(cutting.outcomes([nothing, sound]))
    assert all(outcome.failure for outcome in failed)
    assert_alike(found, expected)
