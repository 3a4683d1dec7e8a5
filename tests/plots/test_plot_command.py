"""`thoughtlens plot`: files named like the figures, and what the options choose."""

import json
from unittest.mock import patch

import pytest
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from typer.testing import CliRunner

from thoughtlens import plots
from thoughtlens.cli import app

OF_CUTS = {"ablation_curve", "attention_against_effect", "dose_response", "effect_forest", "effect_map"}
OF_EDGES = {"influence_maps", "transplant_bars"}
NOT_OF_ONE_RUN = {"save_figure", "model_comparison", "question_tokens"} | OF_CUTS | OF_EDGES


def write_words(figure, file, **_):
    """What a figure says in place of its picture, a line each."""
    file.write("\n".join(text.get_text() for text in figure.findobj(Text) if text.get_visible()).encode())


def call(*words):
    """Call the command; figures are not laid out, and their files hold their words, as those of an SVG do."""
    with (
        patch.object(Figure, "savefig", write_words),
        patch.object(ConstrainedLayoutEngine, "execute", lambda engine, figure: None),
    ):
        return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "planted"
    assert call("run", "--model", "planted", "--n", 5, "--out", folder, "--json", "--no-report").exit_code == 0
    return folder


def test_every_figure_of_one_run_is_drawn_and_named_like_its_function(run_folder):
    drawn = {path.stem for path in (run_folder / "figures").glob("*.svg")}
    assert drawn == set(plots.__all__) - NOT_OF_ONE_RUN
    assert {path.stem for path in (run_folder / "figures").glob("*.png")} == drawn


def test_chosen_layers_heads_and_metric_are_drawn(run_folder):
    result = call(
        "plot",
        run_folder,
        "--layers",
        "1",
        "--heads",
        "L1H0,L0H1",
        "--metric",
        "thought mass",
        "--json",
    )
    assert len(json.loads(result.stdout)["figures"]) == 3 * len(set(plots.__all__) - NOT_OF_ONE_RUN)
    said = {
        name: (run_folder / "figures" / f"{name}.svg").read_text().splitlines()
        for name in ("layer_means", "head_maps", "head_map")
    }
    assert [f"layer {layer}" in said["layer_means"] for layer in (0, 1)] == [False, True]
    assert [head in said["head_maps"] for head in ("L0H0", "L0H1", "L1H0")] == [False, True, True]
    assert "Thought mass of each head" in said["head_map"]


def test_step_indexed_twins_have_a_folder_of_their_own_and_say_what_they_are(run_folder):
    result = call("plot", run_folder, "--step-indexed", "--top", 2, "--json")
    paths = json.loads(result.stdout)["figures"]
    assert len(paths) == 45
    for path in (run_folder / "figures" / "step_indexed").glob("*.svg"):
        assert str(path) in paths
        assert any(line.startswith("Step-indexed") for line in path.read_text().splitlines())


@pytest.mark.parametrize(
    ("option", "given", "words"),
    [("--layers", "one", "expected numbers such as 0,4,8"), ("--heads", "L9H9", "no head")],
)
def test_a_wrong_choice_is_one_sentence(run_folder, option, given, words):
    result = call("plot", run_folder, option, given)
    assert result.exit_code == 2
    assert words in result.stderr.replace("\n", " ")
