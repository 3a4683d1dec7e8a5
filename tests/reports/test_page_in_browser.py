"""The report's page in a real browser, from a file: what it shows, and that keys and links reach everything.

Skipped, with the reason, where Playwright or Debian's Chromium is missing; `make browser` installs both.
"""

import csv
import io
import os
import shutil
from urllib.parse import quote

import pytest
from tests.reports.conftest import HOSTILE

import thoughtlens as tl
from thoughtlens.reports import open_effects, write_report

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed; run `make browser`")

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]


@pytest.fixture(scope="module")
def chromium():
    path = os.environ.get("THOUGHTLENS_CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.skip("Chromium is not installed; run `make browser`")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(hostile_run):
    return f"file://{write_report(hostile_run).path}"


@pytest.fixture
def opened(chromium, address):
    """Opens a page at a fragment; at the end nothing was asked of the network, and nothing complained."""
    contexts, told, asked = [], [], []

    def open_at(fragment="", **options):
        context = chromium.new_context(offline=True, accept_downloads=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: asked.append(request.url.split("#")[0]))
        page.goto(address + fragment)
        # The policy forbids `eval`, which Playwright's own waiting for a condition needs.
        page.wait_for_selector("html[data-state=complete]", timeout=120_000)
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert told == []
    assert set(asked) == {address}


def test_it_opens_and_hostile_text_is_text(opened):
    page = opened()
    assert page.evaluate("window.PWNED") is None
    questions = page.locator("#problem-list .q").all_text_contents()
    assert questions == [question[:160] for question in HOSTILE.values()]
    assert page.locator("img").count() == 0


CLAIMS = {
    "number(-0.0512)": "−0.05",
    "number(123.4)": "123",
    "number(null)": "–",
    "number(-0.0001, 2)": "0",
    "interval(-1, 2)": " [−1.00,\u00a02.00]",
    "interval(null, 1)": "",
    "percent(0.004)": "under 1\u202f%",
    "percent(0.25)": "25\u202f%",
    "pValue(0.0004)": "p\u00a0<\u00a00.001",
    "pValue(0.049)": "p\u00a0=\u00a00.049",
    "pValue(null)": "p undefined",
    "isShown(0.05)": False,
    "ticks(0, 1, 5).map(([x]) => x)": [0, 0.2, 0.4, 0.6000000000000001, 0.8, 1],
    "ticks(-6, 0, 3).map(([, text]) => text)": ["−6", "−4", "−2", "0"],
    "valueOf(255, 254)": None,
    "valueOf(127, 254)": 0.5,
    "placesOf([[0, 0], [0, 1], [1, 0]], 2)": [{"0": 0, "1": 1}, {"0": 2}],
    "onScale('effect', -3, 0, 6)": 0.5,
    "onScale('effect', 3, 0, 6)": 0,
    "onScale('size', 1.5, 1, 2)": 0.5,
    "topOf('excess', [-0.3, 0.2], 0)": 0.3,
    "stepIndexed(3, (q, k) => 10 * q + k)": [[0, 0, 0], [11, 0, 0], [21, 22, 0]],
    "csvText([['a', 1], ['=1+1', '-2'], ['x,\"y\"', null]])": 'a,1\r\n\'=1+1,\'-2\r\n"x,""y""",\r\n',
    "csvCell(-2)": "-2",
    "viewOf('#head=L9H9&p=a%26b', {head: 'L0H0', p: ''}, {head: ['L0H0']})": {"head": "L0H0", "p": "a&b"},
    "addressOf({head: 'L0H0', p: 'a&b'}, {head: 'L0H0', p: ''})": "#p=a%26b",
}


def test_pure_parts(opened):
    page = opened()
    found = {claim: page.evaluate(claim) for claim in CLAIMS}
    assert found == {
        claim: pytest.approx(value) if isinstance(value, float) else value for claim, value in CLAIMS.items()
    }


def test_an_edge_is_marked_by_the_rule_alone(opened):
    edges = """weighed([
      {inner: true, mean: 0.81, loss: 0, cut: {}, none: true, shown: false},
      {inner: true, mean: 0.1, loss: 3, cut: {}, none: false, shown: true},
      {inner: true, mean: 0.09, loss: 0, cut: {}, none: true, shown: false},
      {inner: false, mean: 9, loss: 0, cut: null, none: false, shown: false},
    ])"""
    found = opened().evaluate(edges)
    assert [edge["odd"] for edge in found] == ["looked", "needed", None, None]
    assert [round(edge["lookShare"], 3) for edge in found[:3]] == [0.81, 0.1, 0.09]
    unsure = opened().evaluate(edges.replace("none: true", "none: false").replace("shown: true", "shown: false"))
    assert [edge["odd"] for edge in unsure] == [None] * 4


def test_a_head_and_a_problem_are_picked_by_mouse_and_their_values_are_the_runs(opened, hostile_run):
    page = opened()
    page.locator("#grid [role=gridcell]").nth(9).click()
    page.locator("#problem-list [role=option]").nth(4).click()
    page.wait_for_selector("#card h3:has-text('L2H1')")
    page.wait_for_selector("#problem h3:has-text('plain')")
    mean = hostile_run.attention["attention"].astype("float64").mean("problem").sel(layer=2, head=1)
    own = hostile_run.attention["attention"].astype("float64").sel(problem="plain").mean(["layer", "head"])
    for panel, values, step in (("#card", mean, 0.0051), ("#problem", own, 0.0071)):
        for query, key in (("z3", "z2"), ("eot", "question"), ("bot", "bot")):
            label = page.locator(f'{panel} td[aria-label^="{query} looks at {key}:"]').get_attribute("aria-label")
            assert abs(float(label.split(": ")[1]) - float(values.sel(query=query, key=key))) <= step


def test_keys_alone_reach_a_head_and_a_problem(opened):
    page = opened("#head=L0H0")
    page.locator("#grid [tabindex='0']").focus()
    for key in ("ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    page.wait_for_selector("#card h3:has-text('L1H1')")
    page.locator("#problem-list").focus()
    page.keyboard.press("End")
    page.wait_for_selector("#problem h3:has-text('plain')")
    assert page.evaluate("location.hash") == "#head=L1H1&p=plain"
    stops = set()
    page.locator("#theme").focus()
    for _ in range(120):
        page.keyboard.press("Tab")
        stops.add(page.evaluate("document.activeElement.closest('section')?.id"))
    assert {"summary", "heads", "flow", "problems", "causes"} <= stops


def test_a_link_restores_the_view(opened):
    page = opened(f"#head=L3H2&m=importance&p={quote(next(iter(HOSTILE)))}&scope=head&index=step")
    assert page.locator("#card h3").first.text_content().startswith("L3H2")
    assert page.locator("#problem h3 bdi").text_content() == next(iter(HOSTILE))
    assert page.locator("#head-tools select").first.input_value() == "importance"
    assert "row 5" in page.locator("#card .map").text_content()
    page = opened("#head=L99H0&m=nothing&p=nobody&view=%3Cscript%3E")
    assert page.locator("#grid [aria-selected=true]").count() == 1


def test_tables_are_saved_with_the_runs_numbers(opened, hostile_run, tmp_path):
    page = opened("#head=L0H3")

    def saved(name):
        with page.expect_download() as download:
            page.locator(f"[data-csv={name}]").click()
        download.value.save_as(tmp_path / name)
        return list(csv.DictReader(io.StringIO((tmp_path / name).read_text("utf-8"), newline="")))

    analysis = tl.open_analysis(hostile_run)
    for row in saved("map"):
        cell = analysis.moments["mean"].sel(layer=0, head=3, query=row["query"], key=row["key"])
        assert float(row["mean"]) == pytest.approx(float(cell), abs=2e-5)
    heads = saved("heads")
    importance = analysis.heads["importance"].sel(value="estimate").values.ravel()
    assert [float(row["importance"]) for row in heads] == pytest.approx(importance, rel=1e-3, abs=1e-4)
    assert [row["id"] for row in saved("problems")][2:] == ["'=1+1", "long", "plain"]
    effects = open_effects(hostile_run, "first")
    assert {row["cut"] for row in saved("cuts")} == set(effects["intervention"].values[effects["kind"].values == "cut"])
    assert saved("edges") and saved("problem")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_light_or_dark_as_asked(opened, theme):
    page = opened(color_scheme=theme)
    red = int(page.evaluate("getComputedStyle(document.body).backgroundColor").removeprefix("rgb(").split(",")[0])
    assert (red < 64) == (theme == "dark")


def test_a_narrow_screen_is_not_scrolled_sideways(opened):
    page = opened(viewport={"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_axe_finds_nothing_serious(opened):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    for options in ({}, {"color_scheme": "dark"}):
        found = axe.Axe().run(opened(**options)).response["violations"]
        assert [(of["id"], of["nodes"][0]["html"]) for of in found if of["impact"] in ("serious", "critical")] == []
