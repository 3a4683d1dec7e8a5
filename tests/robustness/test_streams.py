"""What terminals, homes and signals do to the command line: a result, or one sentence and an exit code."""

import io
import json
import os
import signal
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from tests import apart
from tests.commands import CliRunner, app, call, sentence

import thoughtlens as tl
from thoughtlens.cli import main, terminal
from thoughtlens.files import PARTIAL, write_table, writer_of
from thoughtlens.models import cache_folder, load, planted_problems
from thoughtlens.models import checksum_cache as caches

PACKAGE = Path(tl.__file__).parent


def printed(monkeypatch, encoding: str, print_it) -> str:
    """What a function prints to stdout in an encoding."""
    stream = terminal.Stream(io.BytesIO(), encoding=encoding, errors=terminal.ERRORS)
    monkeypatch.setattr(sys, "stdout", stream)
    print_it()
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)


TEXT = "z3 ⊣ z2, −1 ± 2\u00a0%\u202fof 3 × 4 … ✓ 問"


def test_what_an_encoding_lacks_is_written_in_ascii(monkeypatch):
    def tell():
        terminal.tell({}, TEXT, as_json=False)

    assert printed(monkeypatch, "ascii", tell) == "z3 -| z2, -1 +- 2 % of 3 x 4 ... v \\u554f\n"
    assert printed(monkeypatch, "latin-1", tell) == "z3 -| z2, -1 ± 2\u00a0% of 3 × 4 ... v \\u554f\n"
    assert printed(monkeypatch, "utf-8", tell) == f"{TEXT}\n"


def test_tables_keep_their_columns_in_ascii(monkeypatch):
    lines = printed(monkeypatch, "ascii", lambda: terminal.table(("⊣", "n"), [("a ⊣ b", "1"), ("…", "2")])).splitlines()
    assert {len(line) for line in lines} == {len(lines[0])}
    assert lines[3] == "| a -| b | 1 |"


def test_json_is_the_same_value_in_every_encoding(monkeypatch):
    facts = {"label": f"{TEXT}\x1b[31m\x9b\u202e"}
    for encoding in ("ascii", "latin-1", "utf-8"):
        said = printed(monkeypatch, encoding, lambda: terminal.print_json(facts))
        assert json.loads(said) == facts
        assert not set("\x1b\x9b\u202e") & set(said)


def test_help_is_printed_in_ascii():
    assert CliRunner(charset="ascii").invoke(app, ["status", "--help"]).exit_code == 0


@pytest.mark.parametrize("code", ["\x1b", "\x07", "\r", "\x9b", "\u202e", "\u2066"])
def test_control_characters_are_shown(monkeypatch, code):
    written_out = code.encode("unicode_escape").decode()
    label = f"a{code}[31mb"

    def show():
        terminal.tell({}, label, as_json=False)
        terminal.table((label,), [(label,)], title=label)
        terminal.close([(label, label)], {label: label}, label)

    said = printed(monkeypatch, "utf-8", show)
    assert code not in said
    assert said.count(f"a{written_out}[31mb") == 9
    monkeypatch.undo()
    assert f"a{written_out}[31mb has no manifest.json" in sentence("status", label)


def full(words: list[str]) -> None:
    """Run a command on a full stdout."""
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO("/dev/full", "w")), encoding="utf-8")
    command(words)


def closed(words: list[str]) -> None:
    """Run a command without stdout."""
    sys.stdout = None
    command(words)


def piped(words: list[str]) -> None:
    """Run a command into a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    sys.stdout = io.TextIOWrapper(os.fdopen(write, "wb"), encoding="utf-8")
    command(words)


def command(words: list[str]) -> None:
    """The command line as the installed script calls it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["thoughtlens", *words]
    main()


FULL = "Error: can't write to stdout (No space left on device); make room there, or send the output elsewhere.\n"


@pytest.mark.parametrize(
    ("how", "words", "code", "said"),
    [
        (full, ["models"], 2, FULL),
        (full, ["models", "--json"], 2, FULL),
        (full, ["--version"], 2, FULL),
        (closed, ["models"], 2, "Error: stdout is closed, expected a place for results; send them to a file or "),
        (piped, ["models", "--json"], 1, ""),
        (piped, ["--help"], 1, ""),
    ],
)
def test_a_stdout_that_takes_nothing_ends_in_a_sentence(tmp_path, how, words, code, said):
    process = apart.begin(how, words, log=tmp_path / "log")
    process.join()
    told = (tmp_path / "log").read_text()
    assert process.exitcode == code, told
    assert told.startswith(said) and told.count("\n") == bool(said), told


def extracted(folder: Path) -> None:
    tl.extract(load("planted"), planted_problems(12), folder)


WORK = {
    "extract": (["extract", "--model", "planted", "--problems", "planted", "--shard-size", "1"], "shards/000000.json"),
    "run": (["run", "--model", "planted", "--n", "500", "--shard-size", "1", "--no-report"], "shards/000000.json"),
    "intervene": (
        ["intervene", "--heads", "all", "--whole", "--study", "s"],
        "studies/s/outcomes/000000.jsonl",
    ),
    "train": (["train", "tiny-gpt2"], "training"),
}


@pytest.mark.parametrize(
    ("what", "ending"),
    [
        ("extract", signal.SIGINT),
        ("run", signal.SIGTERM),
        pytest.param("intervene", signal.SIGINT, marks=pytest.mark.nightly),
        ("intervene", signal.SIGTERM),
        ("train", signal.SIGTERM),
    ],
)
def test_a_signal_ends_a_command_with_one_line_and_frees_the_folder(tmp_path, what, ending):
    words, begun = WORK[what]
    folder, log = tmp_path / "folder", tmp_path / "log"
    if what == "intervene":
        extracted(folder)
    process = apart.begin(command, [*words, *([] if what == "intervene" else ["--out"]), str(folder)], log=log)
    while not (folder / begun).exists():
        assert process.is_alive(), log.read_text()
        time.sleep(0.01)
    os.kill(process.pid, ending)
    process.join()
    said = log.read_text()
    assert process.exitcode == 128 + ending, said
    assert said == "Note: stopped; what was finished is kept, and the same command goes on from there.\n"
    assert writer_of(folder) is None
    assert not list(folder.rglob(f"*{PARTIAL}"))


def test_the_handler_of_sigterm_is_the_command_lines_alone():
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    call("models")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.fixture
def homeless(tmp_path, monkeypatch, caplog):
    """A machine with a temporary folder of its own; a function that names the home."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "tmp"))
    for name in ("THOUGHTLENS_CACHE", "HF_HOME", "MPLCONFIGDIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    caches._temporary.cache_clear()
    yield lambda home: monkeypatch.setenv("HOME", str(home))
    caches._temporary.cache_clear()


@pytest.mark.parametrize("kind", ["a file", "missing", "read-only"])
def test_without_a_home_caches_are_temporary_with_one_warning(tmp_path, monkeypatch, caplog, homeless, kind):
    home = tmp_path / "home"
    if kind == "a file":
        home.touch()
    elif kind == "read-only":
        home.mkdir()
        there = os.access
        monkeypatch.setattr(
            os, "access", lambda path, mode: there(path, mode) and not (mode & os.W_OK and path == home)
        )
    homeless(home)
    caches.settle_caches()
    temporary = tmp_path / "tmp" / f"thoughtlens-{os.getuid()}"
    assert cache_folder() == temporary / "thoughtlens"
    assert os.environ["HF_HOME"] == str(temporary / "huggingface")
    assert caches.checksum([Path(tl.__file__)]) and caches.cached()
    assert [record.getMessage() for record in caplog.records] == [
        f"nothing can be kept in {home}/.cache; caches are in {temporary}, which the system may empty"
    ]
    assert kind == "a file" or not list(tmp_path.glob("home/*"))


def test_a_cache_that_cannot_be_removed_is_said(tmp_path, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setenv("THOUGHTLENS_CACHE", str(tmp_path))
    caches.checksum([Path(tl.__file__)])
    monkeypatch.setattr("pathlib.Path.unlink", refused)  # root may remove everything
    assert "can't be removed ([Errno 13] Permission denied); remove it by hand" in sentence("cache", "--clear")


@pytest.mark.parametrize("empty", ["", "relative"])
def test_an_empty_cache_folder_is_that_of_the_home(tmp_path, monkeypatch, homeless, empty):
    (tmp_path / "home").mkdir()
    homeless(tmp_path / "home")
    monkeypatch.setenv("XDG_CACHE_HOME", empty)
    caches.settle_caches()
    assert "XDG_CACHE_HOME" not in os.environ
    assert "HF_HOME" not in os.environ
    assert cache_folder() == tmp_path / "home" / ".cache" / "thoughtlens"


def test_texts_that_a_spreadsheet_would_run_are_quoted(tmp_path):
    cells = ["=cmd()", "+1+1", "-1", "@x", "\t=1", "\n=1", "L0H0", ""]
    table = pd.DataFrame({"label": cells, "estimate": [-1.5, *[0.0] * 7]})
    written = pd.read_csv(write_table(tmp_path / "table.csv", table), keep_default_na=False)
    assert written["label"].tolist() == [*(f"'{cell}" for cell in cells[:6]), "L0H0", ""]
    assert written["estimate"][0] == -1.5


def test_every_table_is_written_so():
    assert [path.name for path in PACKAGE.rglob("*.py") if ".to_csv(file" in path.read_text("utf-8")] == ["files.py"]
