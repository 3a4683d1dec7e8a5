"""What tests of cuts share."""

import pytest

from thoughtlens.reasoning import think


@pytest.fixture
def passes(monkeypatch):
    """How many problems have thought under cuts, one number a pass."""
    counted = []

    def counting(reading, *rest):
        counted.append(len(reading.keys))
        return think(reading, *rest)

    monkeypatch.setattr("thoughtlens.cuts.passes.think", counting)
    return counted
