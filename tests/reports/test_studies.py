"""A study of made-up cuts on made-up attention: what is written, drawn and said of it."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from tests.analysis.effects_made import made_effects
from tests.commands import unrendered

from thoughtlens.errors import RunError
from thoughtlens.files import replacing_folder
from thoughtlens.notation import step_label
from thoughtlens.reports import open_effects, study, study_headline, write_study
from thoughtlens.reports.study_files import study_figures
from thoughtlens.schema import attention_dataset

N, LAYERS, HEADS, THOUGHTS = 60, 2, 4, 5
UNITS = [(layer, head) for layer in range(LAYERS) for head in range(HEADS)]


@dataclass(frozen=True)
class RunInMemory:
    """What a study asks of a run."""

    path: Path
    attention: xr.Dataset

    @property
    def manifest(self):
        return {"options": {"model": {"name": "made up"}, "problems": {"name": "made up", "n": N}}}

    def blocks(self):
        for start in range(0, N, 25):
            yield self.attention.isel(problem=slice(start, start + 25))


def attention_where(looks):
    """Rows that give thoughts the more, the more their head looks at them."""
    rng = np.random.default_rng(0)
    values = rng.exponential(size=(N, LAYERS, HEADS, THOUGHTS + 3, THOUGHTS + 5))
    values[..., 3 : 3 + THOUGHTS] *= np.array(looks).reshape(1, LAYERS, HEADS, 1, 1)
    rows = np.arange(THOUGHTS + 3)[:, None] + 2 >= np.arange(THOUGHTS + 5)[None, :]
    values = values * rows
    values /= values.sum(-1, keepdims=True)
    ids = [f"p{k}" for k in range(N)]
    return attention_dataset(values, problem_ids=ids, correct=np.ones(N), n_question_tokens=np.full(N, 9))


def unit(family, name, edit="zero", **dose):
    return {"family": family, "unit": name, "edit": edit, **dose}


def effects_where(costs):
    """Cutting head h costs `costs[h]` nats, with a little noise; thoughts, edges, orders and degrees are cut too."""
    rng = np.random.default_rng(1)
    cuts = {name: unit("heads", name) for name in (f"L{layer}H{head}" for layer, head in UNITS)}
    lost = dict(zip(cuts, costs, strict=True))
    cuts |= {f"z{k}": unit("thoughts", f"z{k}") for k in range(1, 6)}
    lost |= {f"z{k}": 0.1 * k for k in range(1, 6)}
    edges = [(q, k) for q in range(2, 6) for k in range(1, q)]
    cuts |= {f"z{q} ⊣ z{k}": unit("edges", f"z{q} ⊣ z{k}", "block") for q, k in edges}
    lost |= {f"z{q} ⊣ z{k}": 0.03 * q * k for q, k in edges}
    for order in ("attention", "random order 1", "random order 2"):
        lost |= {step_label(order, k): 0.1 * k * (1 + ("random" in order)) for k in range(1, 9)}
        cuts |= {step_label(order, k): {"order": order, "k": k} for k in range(1, 9)}
    grades = {f"half {x}": unit("heads", "L0H0", "scale", dose=1 - x) for x in (0.25, 0.5)}
    cuts, lost = cuts | grades, lost | {"half 0.25": 0.3, "half 0.5": 0.2}
    base = rng.normal(-1, 0.2, size=N)
    logprob = {label: base - cost + rng.normal(0, 0.02, size=N) for label, cost in lost.items()}
    controls = {
        "L1H3": ["L0H1 by chance"],
        "attention · first 8": [step_label("random order 1", k) for k in range(1, 9)],
    }
    controls["attention · first 8"] += [step_label("random order 2", k) for k in range(1, 9)]
    logprob["L0H1 by chance"] = base
    correct = {label: values > -1.6 for label, values in logprob.items()}
    found = logprob | {"none": base}
    made = made_effects(correct, baseline=base > -1.6, logprob=found, controls=controls, addresses=cuts)
    return made.assign(exploratory=made["intervention"] == "L1H3").assign_attrs(study="made-up")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return RunInMemory(tmp_path_factory.mktemp("run"), attention_where(np.linspace(0.2, 3.0, 8)))


@pytest.fixture(scope="module")
def agreeing(run):
    return study(run, effects_where(np.linspace(0.0, 0.7, 8)), n_resamples=200)


@pytest.fixture(scope="module")
def written(run, agreeing):
    facts = write_study(run, agreeing, figures=False)
    folder = run.path / "studies" / "made-up"
    assert facts["files"] == [str(folder / "effects.csv"), str(folder / "effects_summary.json")]
    headline = json.loads((folder / "effects_summary.json").read_text())
    assert headline == {name: fact for name, fact in facts.items() if name != "files"}
    return pd.read_csv(folder / "effects.csv"), headline


def test_every_kind_of_unit_of_which_there_are_enough_has_a_verdict(written):
    """Five or six thoughts are too few: no line says anything of them."""
    verdicts = written[1]["verdict"]
    assert {name: [row["attention"] for row in rows] for name, rows in verdicts.items()} == {
        "heads, zero": ["raw"],
        "edges": ["raw", "rolled-out"],
    }


def test_attention_that_follows_the_cost_predicts_it(written):
    (row,) = written[1]["verdict"]["heads, zero"]
    assert row["rho"] == pytest.approx(1.0)
    assert row["reading"].startswith("raw attention predicts the effect of cutting heads: rho = 1.00")
    assert row["n_units"] == 8 and row["n"] == N


def test_attention_that_runs_against_the_cost_misleads(run):
    table = study(run, effects_where(np.linspace(0.7, 0.0, 8)), n_resamples=100).verdicts["heads, zero"]
    assert table["rho"].sel(attention="raw") < -0.9


def test_other_kinds_of_attention_have_rows_of_their_own(run):
    flat = attention_where(np.ones(8))
    done = study(run, effects_where(np.linspace(0.0, 0.7, 8)), others={"value-weighted": flat}, n_resamples=50)
    assert done.verdicts["heads, zero"]["attention"].values.tolist() == ["raw", "value-weighted"]
    rho = done.verdicts["heads, zero"]["rho"]
    assert rho.sel(attention="raw") == pytest.approx(1.0) and abs(rho.sel(attention="value-weighted")) < 0.9
    kinds = done.verdicts["edges"]["attention"].values.tolist()
    assert kinds == ["raw", "rolled-out", "value-weighted", "rolled-out value-weighted"]


def test_the_headline_names_what_costs_most(written):
    top = written[1]["top"][0]
    assert top["cut"] == "attention · first 8"
    assert top["joint_logprob"]["estimate"] == pytest.approx(-0.8, abs=0.02)
    assert written[1]["n"] == N
    assert written[1]["n_controls"] == 17


def test_orders_are_placed_among_random_orders(written):
    (order,) = written[1]["orders"]
    assert (order["order"], order["n_random"]) == ("attention", 2)
    # Both random orders cost twice as much, sooner.
    assert order["p"]["joint_logprob"] == 1.0


def test_the_table_has_every_cut_and_control(written, agreeing):
    assert len(written[0]) == agreeing.effects.sizes["intervention"] - 1
    assert set(written[0]["kind"]) == {"cut", "control"}
    assert written[0]["intervention"][written[0]["exploratory"]].to_list() == ["L1H3"]
    assert (written[1]["study"], written[1]["n_exploratory"]) == ("made-up", 1)


def test_effects_that_do_not_say_so_are_not_exploratory(run, agreeing):
    effects = agreeing.effects.drop_vars("exploratory").assign_attrs(study="plain")
    assert write_study(run, agreeing._replace(effects=effects), figures=False)["n_exploratory"] == 0
    assert not pd.read_csv(run.path / "studies" / "plain" / "effects.csv")["exploratory"].any()


def test_the_headline_is_json_without_nan(run, written):
    assert "NaN" not in (run.path / "studies" / "made-up" / "effects_summary.json").read_text()


def test_every_figure_that_the_cuts_give_is_drawn(run, agreeing):
    with unrendered("png", "svg", "pdf"):
        files = list(map(Path, write_study(run, agreeing)["files"]))
    written = {path.name for path in files if path.parent == run.path / "studies" / "made-up" / "figures"}
    expected = {
        "effect_forest",
        "effect_map_heads_zero",
        "effect_map_heads_scale",
        "influence_maps_edges",
        "ablation_curve",
        "dose_response",
        "attention_against_effect_heads_zero_raw",
    }
    expected |= {
        f"attention_against_effect_{kind}_{how}" for kind in ("thoughts", "edges") for how in ("raw", "rolled-out")
    }
    assert written == {f"{name}.{suffix}" for name in expected for suffix in ("png", "svg", "pdf")}
    assert all(path.is_file() for path in files) and len(files) == len(written) + 2


def test_effects_of_some_problems_are_set_beside_the_attention_of_these(run):
    some = effects_where(np.linspace(0.0, 0.7, 8)).isel(problem=slice(40, 10, -1))
    done = study(run, some, n_resamples=50)
    expected = run.attention["attention"].isel(problem=slice(11, 41)).mean(("problem", "layer", "head"))
    np.testing.assert_allclose(done.attention, expected, rtol=1e-6)
    assert done.verdicts["heads, zero"]["n"] == 30


def test_effects_of_another_runs_problems_are_refused(run):
    foreign = effects_where(np.zeros(8)).assign_coords(problem=[f"q{k}" for k in range(N)])
    with pytest.raises(RunError, match="0 of the 60 problems"):
        study(run, foreign)


def test_a_run_without_cuts_says_how_to_make_them(run):
    with pytest.raises(RunError, match="thoughtlens intervene"):
        open_effects(run)


def write(effects, folder):
    with replacing_folder(folder / "effects.zarr") as store:
        effects.to_zarr(store, zarr_format=3, consolidated=False)


def test_effects_are_read_from_the_study_that_is_named(run, tmp_path):
    effects, there = effects_where(np.linspace(0.0, 0.7, 8)), RunInMemory(tmp_path, run.attention)
    (tmp_path / "studies" / "one").mkdir(parents=True)
    write(effects, tmp_path / "studies" / "one")
    for found in (open_effects(there), open_effects(there, "one"), study(there, "one", n_resamples=50).effects):
        xr.testing.assert_identical(found, effects)
    with pytest.raises(RunError, match=r"has no finished study 'two', found one; make cuts first"):
        open_effects(there, "two")
    write(effects, tmp_path / "studies" / "two")
    with pytest.raises(RunError, match=r"has the studies one, two, expected one; name which\."):
        study(there)


def test_a_plan_of_heads_alone_gives_the_figures_of_heads(run):
    effects = effects_where(np.linspace(0.0, 0.7, 8)).isel(intervention=slice(0, 9)).assign_attrs(controls="{}")
    figures = study_figures(study(run, effects, n_resamples=50))
    assert set(figures) == {"effect_forest", "effect_map_heads", "attention_against_effect_heads_raw"}


def test_the_closing_tables_say_what_was_found(written, capsys, monkeypatch):
    from rich.console import Console

    from thoughtlens.cli import closing_texts

    monkeypatch.setattr(closing_texts.terminal, "out", Console(width=160))
    facts = written[1]
    facts["top"][1]["cut"] = "[bold]\x1b[31m"
    closing_texts.show_study(facts)
    said = capsys.readouterr().out
    assert "attention · first 8" in said
    assert "raw attention predicts the effect of cutting heads" in said
    assert "[bold]" in said and "\x1b[31m" not in said
    assert "against 2 random orders" in said
    assert "(1 of all exploratory)" in said


def test_where_no_cut_is_shown_to_cost_anything_attention_is_not_judged(run):
    """Sixty problems of nothing but noise order the heads somehow, and some order agrees with attention."""
    facts = study_headline(run, study(run, effects_where(np.zeros(8)), n_resamples=50))
    (row,) = facts["verdict"]["heads, zero"]
    assert row["n_significant"] == 0
    assert "no cut of heads is shown to cost anything (Holm over the plan, n = 60)" in row["reading"]
    assert facts["verdict"]["edges"][0]["n_significant"] > 0
