"""The closing of a study of cuts: its files written, its figures drawn, its tables shown."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thoughtlens.cli import terminal

if TYPE_CHECKING:
    from thoughtlens.runs.reading import Run


def study_and_write(done: "Run", *, figures: bool = True) -> tuple[dict[str, Any], list[Path]]:
    """The headline of a run's cuts and the files of its study, written anew; its figures too, if asked.

    Raises:
        RunError: nothing has been cut in this run.
    """
    from thoughtlens.studies import study, study_headline, write_study, write_study_figures

    with terminal.working("study"):
        found = study(done)
        paths = write_study(done, found)
    if figures:
        with terminal.working("plot"):
            paths += write_study_figures(done, found)
    return study_headline(done, found), paths


def show_study(facts: Mapping[str, Any]) -> None:
    """The closing tables of a study: what costs most, and whether looking predicted cutting."""
    title = (
        f"{facts['model']['name']} on {facts['problems']['name']}, n = {facts['n']}: {facts['n_cuts']} cuts, "
        f"{facts['n_controls']} controls, 95 % intervals over problems"
    )
    columns = ("cut", "accuracy", "log-probability, nats", "broken / mended", "p (Holm)", "p (controls)")
    terminal.table(columns, [_cut(row) for row in facts["top"]], title=title)
    terminal.table(("measure", "value"), _measures(facts))
    rows = [_verdict(family, row) for family, its in facts["verdict"].items() for row in its]
    if rows:
        columns = ("cut", "attention", "rho", "p", "in both tops", "reliability")
        terminal.table(columns, rows, title="does looking predict cutting?")
    for its in facts["verdict"].values():
        for row in its:
            terminal.tell({}, row["reading"], as_json=False)
    for row in facts["orders"]:
        terminal.tell({}, _order(row), as_json=False)


def _cut(row: Mapping[str, Any]) -> tuple[str, ...]:
    failed = f" ({row['n_failed']} failed)" if row["n_failed"] else ""
    return (
        f"{row['cut']}{failed}",
        terminal.with_interval(row["accuracy"], percent=True),
        terminal.with_interval(row["gold_logprob"]),
        f"{row['n_broken']} / {row['n_mended']}",
        _p(row["p_holm"]["gold_logprob"]),
        f"{_p(row['p_controls']['gold_logprob'])} of {row['n_controls']}" if row["n_controls"] else "no controls",
    )


def _measures(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    found, detectable = facts["n_significant"], facts["detectable"]
    accuracy = "undefined" if detectable["accuracy"] is None else f"{detectable['accuracy']:.1%}"
    return [
        ("accuracy without cuts", terminal.with_interval(facts["baseline"]["accuracy"], percent=True)),
        ("gold log-probability without cuts", terminal.with_interval(facts["baseline"]["gold_logprob"])),
        ("significant after Holm", f"{found['gold_logprob']} by log-probability, {found['accuracy']} by accuracy"),
        ("detectable with this n", f"{accuracy} accuracy, {_p(detectable['gold_logprob'])} nats (power 0.8, one cut)"),
        ("pairs left out as failed", str(facts["n_failed"])),
    ]


def _verdict(family: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    shared = row["precision"]["estimate"]
    both = (
        terminal.UNDEFINED
        if shared is None
        else f"{shared * row['k']:.1f} of {row['k']} (chance {row['chance'] * row['k']:.1f})"
    )
    rho = terminal.with_interval(row["rho"])
    return family, row["attention"], rho, _p(row["p"]), both, _p(row["reliability"])


def _order(row: Mapping[str, Any]) -> str:
    p = row["p"]["gold_logprob"]
    against = (
        "no random orders to compare with" if p is None else f"p = {_p(p)} against {row['n_random']} random orders"
    )
    return f"cutting by {row['order']}: mean effect {_p(row['area']['gold_logprob'])} nats over the order, {against}"


def _p(number: float | None) -> str:
    return terminal.UNDEFINED if number is None else f"{number:.2g}"
