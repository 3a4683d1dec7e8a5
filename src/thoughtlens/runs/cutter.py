"""Problems that pass together become what every cut does to each; what can't be run is found, and says why.

A pass that fails is made again with fewer cuts, then with one on fewer problems, until it is one problem under one cut:
that pair has failed, and the others are as they would have been. It knows nothing of plans or files.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch

from thoughtlens.errors import ThoughtLensError
from thoughtlens.models.base import LatentReasoner
from thoughtlens.problems import Problem
from thoughtlens.runs.cutting import Cutting, Outcome, Parts, batch_of, failed

FAILURES: Final = (ThoughtLensError, RuntimeError, ValueError, IndexError)
"""What a problem that can't be run ends in: its own fault, or torch's word for it."""


@dataclass(frozen=True)
class Cutter:
    """Makes the baseline and every cut of problems that pass together, and finds what can't be run.

    Attributes:
        reasoner: the model.
        problems: of one batch.
        cuts: the interventions of each cut, as they were planned.
        n_thoughts: T.
        bind: gives cuts the values that their edits stand for, for the problems at these places.
        refuse: told the problem, the place of the cut (None: the baseline) and the reason of a failure; may raise.
        n_copies: cuts that think at once.
        read: by its places, the batch whose questions were read last, so that later cuts need not read them again.
    """

    reasoner: LatentReasoner
    problems: Sequence[Problem]
    cuts: Sequence[Parts]
    n_thoughts: int
    bind: Callable[[Sequence[Parts], Sequence[int]], Sequence[Parts]]
    refuse: Callable[[Problem, int | None, str], None]
    n_copies: int
    read: dict[tuple[int, ...], Cutting] = field(default_factory=dict)

    def __call__(self, places: Sequence[int], those: Sequence[int]) -> list[list[Outcome]]:
        """Cut some problems.

        Args:
            places: of the problems.
            those: which cuts.

        Returns:
            A list for the baseline and one a cut, each with an outcome a problem.
        """
        try:
            cutting = self._cutting(tuple(places))
        except torch.OutOfMemoryError:
            raise  # says nothing of the problems: whoever planned the batch makes it smaller
        except FAILURES as error:
            if len(places) == 1:
                return [[self._failed(places[0], None, error)] for _ in (None, *those)]
            if those:
                # Who it is comes first: where failures are not allowed no cut is made in vain.
                self._halves(places, ())
            return self._halves(places, those)
        self._look([cutting.baseline], places, [None])
        chunks = [those[start : start + self.n_copies] for start in range(0, len(those), self.n_copies)]
        return [cutting.baseline, *(row for chunk in chunks for row in self._some(cutting, places, chunk))]

    def _cutting(self, places: tuple[int, ...]) -> Cutting:
        if places not in self.read:
            self.read.clear()
            batch = batch_of(self.reasoner, [self.problems[place] for place in places], self.n_thoughts)
            self.read[places] = Cutting(self.reasoner, batch, self.n_thoughts)
        return self.read[places]

    def _some(self, cutting: Cutting, places: Sequence[int], those: Sequence[int]) -> list[list[Outcome]]:
        """Some cuts at once; where that fails, fewer, then one on fewer problems."""
        try:
            found = cutting.outcomes(self.bind([self.cuts[cut] for cut in those], places))
        except torch.OutOfMemoryError:
            raise
        except FAILURES as error:
            if len(those) > 1:
                middle = len(those) // 2
                return [row for its in (those[:middle], those[middle:]) for row in self._some(cutting, places, its)]
            if len(places) > 1:
                return self._halves(places, those)[1:]
            return [[self._failed(places[0], those[0], error)]]
        self._look(found, places, those)
        return found

    def _halves(self, places: Sequence[int], those: Sequence[int]) -> list[list[Outcome]]:
        middle = len(places) // 2
        pairs = zip(self(places[:middle], those), self(places[middle:], those), strict=True)
        return [[*first, *second] for first, second in pairs]

    def _failed(self, place: int, cut: int | None, error: Exception) -> Outcome:
        said = str(error) if isinstance(error, ThoughtLensError) else f"{type(error).__name__}: {error}"
        self.refuse(self.problems[place], cut, said)
        return failed(said)

    def _look(self, found: Sequence[Sequence[Outcome]], places: Sequence[int], those: Sequence[int | None]) -> None:
        """Failures that did not stop the pass: numbers that are none."""
        for cut, row in zip(those, found, strict=True):
            for place, outcome in zip(places, row, strict=True):
                if outcome.failure:
                    self.refuse(self.problems[place], cut, outcome.failure)
