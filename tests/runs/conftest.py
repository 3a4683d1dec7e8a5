"""What tests of runs share."""

from functools import partial

import pytest

from thoughtlens.reasoning import reason, think


@pytest.fixture
def short_answers(monkeypatch):
    """Untrained models babble to the last position; four tokens of it are enough."""
    monkeypatch.setattr("thoughtlens.runs.measuring.reason", partial(reason, max_new_tokens=4))


@pytest.fixture
def passes(monkeypatch):
    """How many problems have thought under cuts, one number a pass."""
    counted = []

    def counting(reading, *rest):
        counted.append(len(reading.keys))
        return think(reading, *rest)

    monkeypatch.setattr("thoughtlens.runs.cutting.think", counting)
    return counted
