"""Progress on stderr: what a line says, and when one is printed."""

from thoughtlens import progress
from thoughtlens.progress import counting, line, told


def test_a_line_says_what_is_done_and_how_long_the_rest_takes():
    assert line("extract", 100, 400, 60.0) == "extract: 100 of 400 after 60 s, about 3 min left"
    assert line("extract", 0, 4_000, 30.0) == "extract: 0 of 4,000 after 30 s"
    assert line("analyze", 0, None, 30.0) == "analyze: 30 s so far"


class TwoWaits:
    """An event for which one waits in vain once; then it is over."""

    waited = 0

    def wait(self, seconds):
        assert seconds == progress.EVERY
        self.waited += 1
        return self.waited > 1

    def set(self):
        pass


def test_without_a_terminal_lines_take_the_place_of_the_bar(capsys, monkeypatch):
    monkeypatch.setattr(progress, "Event", TwoWaits)
    with counting("extract", 400):
        pass
    assert capsys.readouterr().err.startswith("extract: 0 of 400 after ")


def test_a_caller_who_counts_is_told_and_sees_no_line(capsys):
    done = []
    with told(done.append, "extract", 2) as advance:
        advance(2)
    assert done == [2] and capsys.readouterr().err == ""
