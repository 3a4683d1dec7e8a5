"""The page about the 2025 scripts: its commands run, its files come out of them, its names are there."""

import contextlib
import inspect
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
from tests.commands import call, undrawn

from thoughtlens import plots

PAGE = (Path(__file__).parents[2] / "docs" / "checklist.md").read_text("utf-8")
SPANS = sorted(set(re.findall(r"`([^`\n]+)`", PAGE)))
FIGURES = sorted({span.removeprefix("plots.") for span in SPANS if re.fullmatch(r"plots\.\w+", span)})
NAMES = [span for span in SPANS if re.fullmatch(r"thoughtlens(\.\w+)+", span)]
FILES = [span for span in SPANS if re.fullmatch(r"(runs/[\w./-]*\w|sample\.jsonl)", span)]

OUTPUTS = {
    "1_sample_dataset.py": ["attention_dataset_100_train.json"],
    "2_extract_attention_6x6.py": ["attention_patterns_raw.npy", "attention_metadata.json"],
    "3_aggregate_attention.py": ["attention_patterns_avg.npy", "attention_stats.json"],
    "4_visualize_heatmaps.py": ["1_top_heads_attention.png", "2_attention_by_layer.png"],
    "5_analyze_hubs_and_flow.py": ["attention_summary.json", "3_hub_analysis.png"],
    "6_compute_head_metrics.py": [
        "heads_ranked_by_flow.csv", "heads_ranked_by_hub.csv", "heads_ranked_by_skip.csv", "ranked_heads.csv",
        "critical_heads_findings.txt",
    ],
    "7_visualize_critical_heads.py": [
        "4_critical_heads_attention.png", "5_top3_critical_heads.png", "6_metric_distributions.png",
    ],
    "8_compare_models.py": ["model_comparison.json", "model_comparison.png"],
    "debug_attention_shape.py": [],
    "visualize_ct_attention.py": [
        "top_10_heads_attention.png", "hub_attention_by_layer.png", "skip_connections_by_layer.png",
        "layer_evolution_H{h}.png", "attention_statistics.png",
    ],
}  # fmt: skip
"""Everything that a script wrote."""


def commands() -> list[list[str]]:
    block = re.search(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    return [shlex.split(line) for line in block[1].splitlines()]


def make(folder: Path, lines: list[list[str]]) -> Path:
    with contextlib.chdir(folder), undrawn():
        for program, *arguments in lines:
            assert program == "thoughtlens"
            call(*arguments)
    return folder


LATER = re.compile(r"runs/(together|null|one/analysis/groups)\b")
"""What the last three commands make: comparisons, null models and groups, whose files tests/reports looks at."""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("checklist"), commands()[:-3])


@pytest.fixture(scope="module")
def later(made) -> Path:
    return make(made, commands()[-3:])


@pytest.mark.parametrize("script", OUTPUTS)
def test_page_has_every_output_in_its_script_s_section(script):
    section = re.search(rf"^## {re.escape(script)}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert section is not None
    first_column = [row.split("|")[1] for row in section[1].splitlines() if row.startswith("|")]
    for output in OUTPUTS[script]:
        assert any(output in cell for cell in first_column), output


def test_every_row_says_where_and_what_differs():
    rows = [line for line in PAGE.splitlines() if line.startswith("|")]
    assert all(len([cell for cell in row.strip("|").split("|") if cell.strip()]) == 3 for row in rows)


def test_commands_make_every_file_that_the_page_names(made):
    assert len(FILES) >= 20
    assert [name for name in FILES if not LATER.match(name) and not (made / name).exists()] == []


@pytest.mark.nightly
def test_later_commands_make_their_files_too(later):
    named = [name for name in FILES if LATER.match(name)]
    assert len(named) >= 8
    assert [name for name in named if not (later / name).exists()] == []


def test_every_exported_file_is_named(made):
    """Nothing is written that the page does not speak of."""
    exported = {path.name for path in (made / "runs" / "one" / "export").iterdir()}
    assert exported == {Path(name).name for name in FILES if name.startswith("runs/one/export/")}


def test_every_step_indexed_figure_is_named(made):
    drawn = {path.name for path in (made / "runs/one/figures/step_indexed").glob("*.png")}
    [evolution] = {name for name in drawn if re.fullmatch(r"layer_evolution_H\d+\.png", name)}
    named = {Path(name).name for name in FILES if name.startswith("runs/one/figures/step_indexed/")}
    assert drawn - {evolution} == named


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there(name):
    module, _, attribute = name.rpartition(".")
    try:
        import_module(name)
    except ModuleNotFoundError:
        assert callable(getattr(import_module(module), attribute))


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_a_figure_function(name):
    assert list(inspect.signature(getattr(plots, name)).parameters)[-1] == "ax"
