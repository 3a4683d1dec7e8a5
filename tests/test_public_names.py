"""What the outside can rely on: names, a light import, one signature for figures, a README that runs."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import thoughtlens as tl
from tests.commands import unrendered

ROOT = Path(__file__).parents[1]


def test_all_names_are_there_sorted_and_few():
    assert tl.__all__ == sorted(tl.__all__)
    assert len(tl.__all__) <= 30
    for name in tl.__all__:
        assert getattr(tl, name) is not None


def test_the_stub_has_one_line_a_name():
    stub = (ROOT / "src" / "thoughtlens" / "__init__.pyi").read_text("utf-8")
    names = re.findall(r"^from \.\w* import (\w+) as \1$", stub, re.MULTILINE)
    assert sorted(names) == tl.__all__


def test_unknown_name_is_an_attribute_error():
    assert not hasattr(tl, "nothing")


def test_importing_the_package_does_not_import_torch():
    code = "import sys, thoughtlens, thoughtlens.analysis, thoughtlens.problems; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


RESULTS = {"Analysis", "Comparison", "Study", "Dataset"}
"""What public functions return and figures take."""


def test_every_figure_has_the_one_signature():
    figures = [getattr(tl.plots, name) for name in tl.plots.__all__ if name != "save_figure"]
    assert len(figures) >= 20
    for figure in figures:
        signature = inspect.signature(figure)
        result, *options = signature.parameters.values()
        assert result.annotation.__name__ in RESULTS, figure
        assert result.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        assert all(option.kind is inspect.Parameter.KEYWORD_ONLY for option in options), figure
        assert options[-1].name == "ax"
        assert options[-1].default is None
        assert signature.return_annotation.__name__ == "Figure"


def test_every_figure_says_what_it_shows_and_takes_and_returns():
    for name in tl.plots.__all__:
        document = inspect.getdoc(getattr(tl.plots, name))
        assert all(f"\n{part}:\n" in document for part in ("Args", "Returns", "Example")), name


def test_public_functions_say_what_they_do():
    for name in tl.__all__:
        assert inspect.getdoc(getattr(tl, name)), name


def readme_code() -> str:
    return re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)[1]


def test_python_in_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = readme_code()
    statements = [line for line in code.splitlines() if line.strip() and not line.strip().startswith("#")]
    assert len(statements) <= 20
    with unrendered("png", "svg", "pdf"):
        exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "own 1.0" in printed or "own 0.9" in printed
    for figure in ("hub_profile.png", "effects.png"):
        assert (tmp_path / "runs" / "readme" / figure).exists()


def test_version_is_that_of_the_package():
    from importlib.metadata import version

    assert tl.__version__ == version("thoughtlens")
