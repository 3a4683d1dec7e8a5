"""What tests of runs share."""

from functools import partial

import pytest

from thoughtlens.reasoning import reason


@pytest.fixture
def short_answers(monkeypatch):
    """Untrained models babble to the last position; four tokens of it are enough."""
    monkeypatch.setattr("thoughtlens.runs.extraction.reason", partial(reason, max_new_tokens=4))
