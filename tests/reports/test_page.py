"""The report's page: its numbers are the run's, its texts are inert, and it asks for nothing from outside."""

import base64
import hashlib
import json
import re
import shutil

import numpy as np
import pytest
from scipy import stats
from tests.commands import call, sentence
from tests.reports.conftest import HOSTILE
from tests.reports.page_parts import Parts

import thoughtlens as tl
from thoughtlens.files import replacing_folder
from thoughtlens.reports import open_effects, write_report
from thoughtlens.reports.page import script
from thoughtlens.reports.page_data import cells_of, clean, quantised
from thoughtlens.runs.reader import chosen_problems


@pytest.fixture(scope="module")
def page(hostile_run):
    return write_report(hostile_run)


@pytest.fixture(scope="module")
def parts(page):
    return Parts(page.path.read_text("utf-8"))


@pytest.fixture(scope="module")
def uncut(hostile_run, parts, tmp_path_factory):
    """The same run, analyzed and without a study, whose page takes less time."""
    copied = tmp_path_factory.mktemp("uncut") / "run"
    shutil.copytree(hostile_run.path, copied, ignore=shutil.ignore_patterns("studies", "report.html"))
    return tl.open_run(copied)


def test_cells_are_those_that_the_mask_allows(hostile_run):
    mean = hostile_run.attention["attention"].astype("float32").mean(["problem", "layer", "head"]).values
    assert cells_of(6) == np.argwhere(mean > 0).tolist()


def test_maps_are_the_runs_means_with_t_intervals(hostile_run, parts):
    attention = hostile_run.attention["attention"].values.astype(float)
    queries, keys = np.array(parts.data["runs"][0]["cells"]).T
    codes = parts.block("r0-maps-attention", "<u2").reshape(3, -1, len(queries))
    heads = attention.reshape(5, 16, 9, 11)
    layers = attention.mean(2)
    units = np.concatenate([heads, layers, layers.mean(1, keepdims=True)], axis=1)[..., queries, keys]
    n = np.isfinite(units).sum(0)
    mean, error = np.nanmean(units, 0), np.maximum(np.nanstd(units, 0, ddof=1) / np.sqrt(n), 1e-12)
    assert n.min() < 5, "a text without an answer has no such row"
    low, high = stats.t.interval(0.95, n - 1, loc=mean, scale=error)
    few = n < 5
    for found, expected in zip(codes, (mean, low.clip(0, 1), high.clip(0, 1)), strict=True):
        assert np.abs(found / 65534 - expected)[~few].max() <= 1e-5
    assert (codes[1:, few] == 65535).all()


def test_a_problems_maps_are_its_attention(hostile_run, parts):
    data = parts.data["runs"][0]
    queries, keys = np.array(data["cells"]).T
    for place in range(5):
        own = (
            hostile_run.attention["attention"]
            .isel(problem=place)
            .values.reshape(16, 9, 11)[:, queries, keys]
            .astype(float)
        )
        codes = parts.block(f"r0-p{place}", "u1").reshape(17, -1)
        expected = np.array([*own, own.mean(0)])
        assert ((codes == 255) == np.isnan(expected)).all()
        assert np.nanmax(np.abs(np.where(codes == 255, np.nan, codes / 254) - expected)) <= 0.5 / 254 + 1e-6


def test_measures_are_the_analysis(hostile_run, parts):
    analysis, data = tl.open_analysis(hostile_run), parts.data["runs"][0]
    found = {measure["id"]: measure["values"] for measure in data["measures"]}
    mass = analysis.heads["thought_mass"].values.reshape(16, 3)
    assert np.allclose([of[:3] for of in found["thought_mass"]], mass, rtol=1e-3)
    assert found["x-hub"][5][3] == pytest.approx(float(analysis.evidence["q"].sel(measure="hub")[1, 1]), rel=1e-3)
    assert [data["names"][head] for head in data["ranked"]] == analysis.ranking["name"].values.tolist()


def test_effects_are_the_studys(hostile_run, parts):
    done, [found] = tl.study(hostile_run, "first"), parts.data["runs"][0]["studies"]
    kinds = done.effects["kind"].values
    cuts = done.effects["intervention"].values[kinds == "cut"].tolist()
    assert [cut["label"] for cut in found["cuts"]] == cuts
    correct = done.effects["correct"].values
    codes = parts.block("r0-cuts-first", "u1").reshape(len(cuts), 5)
    for cut, row, after in zip(found["cuts"], codes, correct[kinds == "cut"], strict=True):
        effect = done.summary[found["ranked"]].sel(intervention=cut["label"])
        assert cut["effects"][found["ranked"]] == pytest.approx(effect.values.tolist(), rel=1e-3)
        assert cut["broken"] == (correct[0] & ~after).sum() == (row == 2).sum()
        assert len(cut["controls"]) == 1
    assert found["families"]["edges"]["cuts"].keys() == {"z3 ⊣ z2", "z6 ⊣ z4"}


def test_hostile_text_is_data_and_nothing_else(parts):
    problems = parts.data["runs"][0]["problems"]
    assert [problem["question"] for problem in problems] == list(HOSTILE.values())
    assert [problem["id"] for problem in problems] == list(HOSTILE)
    scripts = [given for tag, given in parts.elements if tag == "script"]
    assert [given for given in scripts if given.get("type") not in ("application/json", "text/plain")] == [{}]
    assert not [tag for tag, _ in parts.elements if tag == "img"]
    assert not [name for _, given in parts.elements for name in given if name.startswith("on") or name == "style"]


def test_the_policy_allows_the_pages_own_script_and_no_network(parts):
    policy = next(given["content"] for _, given in parts.elements if given.get("http-equiv"))
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    for name, held in (("script-src", parts.held["script"]), ("style-src", parts.held["style"])):
        digest = base64.b64encode(hashlib.sha256(held.encode()).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"
    assert rules["default-src"] == "'none'"
    addresses = [given.get(name) for _, given in parts.elements for name in ("src", "href") if given.get(name)]
    assert all(address.startswith("#") for address in addresses)


def test_the_scripts_make_elements_with_text_alone():
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", script())


def test_the_command_writes_it(uncut):
    facts = json.loads(call("report", uncut.path, "--json").stdout)
    assert facts["report"] == str(uncut.path / "report.html")
    assert facts["bytes"] == (uncut.path / "report.html").stat().st_size < 300_000


def test_a_notebook_shows_it_in_a_frame(page):
    frame = Parts(page._repr_html_()).elements
    assert [tag for tag, _ in frame] == ["iframe"]
    assert frame[0][1]["srcdoc"].startswith("<!doctype html>")


def test_sums_alone_make_a_page_too(tmp_path):
    from thoughtlens.runs import MEAN

    run = tl.extract(tl.load("tiny-gpt2"), tl.sample("arithmetic", n=4), tmp_path / "run", keep=MEAN)
    parts = Parts(write_report(run).path.read_text("utf-8"))
    data = parts.data["runs"][0]
    codes = parts.block("r0-maps-attention", "<u2").reshape(3, 21, -1)
    assert (codes[1:, 16:] == 65535).all()
    layers = codes[0, :16].reshape(4, 4, -1).mean(1)
    assert np.abs(codes[0, 16:20] - layers).max() <= 1
    assert not data["single"]
    assert "kept sums" in parts.shown


def test_codes_are_within_half_a_step_and_undefined_is_apart():
    values = np.array([0.0, 0.1, 0.5, 1.0, np.nan])
    codes = quantised(values, "uint8")
    assert codes[-1] == 255
    assert np.abs(codes[:-1] / 254 - values[:-1]).max() <= 0.5 / 254


def test_problems_are_chosen_at_equal_distances():
    assert chosen_problems(3) == [0, 1, 2]
    assert chosen_problems(1000, 4) == [0, 250, 500, 750]
    assert len(set(chosen_problems(257))) == 200


def test_json_never_holds_nan():
    assert clean({"a": [float("nan"), 1.23456, np.float32("inf")], "b": (np.int64(3), "x")}) == {
        "a": [None, 1.235, None],
        "b": [3, "x"],
    }


@pytest.fixture(scope="module")
def several(uncut, tmp_path_factory):
    """The page of a run beside itself, under names that try to break it, and the comparison that it shows."""
    runs = {"<b>one": uncut, "other</script>": uncut}
    page = write_report(runs, tmp_path_factory.mktemp("several") / "both.html")
    return Parts(page.path.read_text("utf-8")), tl.compare(runs, n_resamples=1)


def test_several_runs_are_compared_on_one_page(several):
    parts, comparison = several
    data = parts.data
    assert [run["label"] for run in data["runs"]] == ["<b>one", "other</script>"]
    found = data["comparison"]["profiles"]["preference"]["of"]["<b>one"]
    expected = comparison.measures["preference"].sel(model="<b>one", depth="all", value="estimate").values
    assert np.allclose(np.array(found, dtype=float)[:, 0], expected, rtol=1e-3, equal_nan=True)
    assert data["comparison"]["differences"][0]["of"] == "other</script>"
    assert {name for name in parts.held if name.startswith("b-r1-maps")} == {"b-r1-maps-attention", "b-r1-maps-rollout"}
    assert "is shown; that does not show that the runs are alike" in parts.shown
    assert "b" not in {tag for tag, given in parts.elements if "one" in str(given)}


def test_several_runs_need_a_file(hostile_run):
    said = sentence("report", hostile_run.path, hostile_run.path, "--label", "a", "--label", "b")
    assert "2 runs were given without a file for their report; name one with --out" in said


def test_a_study_of_another_version_is_named_and_not_shown(hostile_run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(hostile_run.path, copied)
    effects = open_effects(tl.open_run(copied), "first").drop_vars("kl")
    with replacing_folder(copied / "studies" / "first" / "effects.zarr") as store:
        effects.to_zarr(store, zarr_format=3, consolidated=False)
    parts = Parts(write_report(tl.open_run(copied)).path.read_text("utf-8"))
    assert parts.data["runs"][0]["studies"] == []
    assert "Study first is not shown: the effects have nothing as 'kl'" in parts.shown
