"""What tests of runs share."""

import pytest

from thoughtlens.reasoning import reason


@pytest.fixture
def short_answers(monkeypatch):
    """Untrained models babble to the last position; four tokens of it are enough, whatever the extraction asks for."""

    def briefly(*arguments, **how):
        return reason(*arguments, **how | {"max_new_tokens": 4})

    monkeypatch.setattr("thoughtlens.runs.extraction.reason", briefly)
