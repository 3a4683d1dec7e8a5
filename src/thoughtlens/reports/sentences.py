"""The results of a run, a study and a comparison in sentences, and cautions: none says more than the test behind it.

In: the headline numbers of a run (`reports.summary`), of its studies (`page_data.facts_of`) and of a comparison. Out:
`Finding`s and cautions, plain text, for the page and for the terminal.

1. "More than an even share" is said where the one-sided test of the evidence says so (p < 0.05), and "less" where the
   whole interval lies below it. Else the number stands alone, with the words that nothing is shown.
2. A hub is named where `hub_test` finds one, in the mean head and in single heads, and nowhere else.
3. A cut costs something where its p-value, corrected over all cuts of its plan (Holm), is below 0.05; those whose mean
   loss is within the margin are told apart. A mean effect is called none where an effect inside the margin is shown
   (`no_effect` of the study's summary).
4. That nothing was found is never said as if it showed that there is nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import ceil, log10
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from thoughtlens.analysis.effects import ALPHA

if TYPE_CHECKING:
    from thoughtlens.runs.reader import Run

FEW_CUT: Final = 50
_MOST_DIGITS: Final = 6
_N_NAMED: Final = 5
"""Heads, or cuts, that a sentence names."""


class Finding(NamedTuple):
    """A sentence of the summary."""

    about: str
    """what it is about, in one or two words"""
    text: str
    panel: str
    """the panel that shows it: heads, flow, problems, causes"""


def findings(
    facts: Mapping[str, Any], parts: Mapping[str, float | None], studies: Sequence[Mapping[str, Any]]
) -> list[Finding]:
    """What a run shows, from the general to the single case.

    `parts` are the mean shares of a thought's row; `studies` are those of the page, newest first.
    """
    return [
        *_answers(facts),
        *_looks(facts, parts),
        *_hub(facts),
        *_order(facts),
        *_heads(facts),
        *cuts(studies),
    ]


def number(value: float | None, digits: int = 2) -> str:
    """`1.23`, `−0.05`, and `−0.0004` for what would be rounded to 0; `undefined` where there is none."""
    if value is None or value != value:
        return "undefined"
    if value and abs(value) < 0.5 / 10**digits:
        digits = min(ceil(-log10(abs(value))), _MOST_DIGITS)
    text = f"{value:.{digits}f}"
    return "0" if float(text) == 0 else text.replace("-", "−")


def with_interval(of: Mapping[str, Any], digits: int = 2) -> str:
    """`1.23 [1.20, 1.27]`, with a blank inside the brackets that doesn't break."""
    if of["low"] is None or of["high"] is None:
        return number(of["estimate"], digits)
    return f"{number(of['estimate'], digits)} [{number(of['low'], digits)},\u00a0{number(of['high'], digits)}]"


def percent_with_interval(of: Mapping[str, Any]) -> str:
    """`92 % [86 %, 97 %]`, blanks that don't break inside."""
    if of["low"] is None or of["high"] is None:
        return percent(of["estimate"])
    return f"{percent(of['estimate'])} [{percent(of['low'])},\u00a0{percent(of['high'])}]"


def counts_of(types: Mapping[str, int]) -> str:
    """Names with their counts, `3 hub, 1 sink`, zeros left out."""
    return ", ".join(f"{n} {name}" for name, n in types.items() if n)


def percent(share: float | None) -> str:
    """`12 %`, `under 1 %`."""
    if share is None:
        return "undefined"
    return "under 1\u202f%" if 0 < share < 0.005 else f"{100 * share:.0f}\u202f%"


def p_value(p: float | None) -> str:
    """`p = 0.012`, `p < 0.001`."""
    if p is None:
        return "p undefined"
    return "p\u00a0<\u00a00.001" if p < 0.001 else f"p\u00a0=\u00a0{p:.2g}"


def counted(n: int, one: str, several: str = "") -> str:
    """`1 head`, `3 heads`."""
    return f"{n:,} {one if n == 1 else several or one + 's'}"


def cut_short(run: "Run") -> str:
    """How many texts of a run reached the most tokens that they may have; "" if none did."""
    from thoughtlens.reasoning.loop import MAX_NEW_TOKENS  # imports torch, which has made the run

    most = int(run.manifest["options"].get("max_new_tokens", MAX_NEW_TOKENS))
    n = sum(row["n_tokens"] >= most for row in run.results())
    return f"{n:,} texts were cut short after {most:,} tokens; --max-new-tokens sets how many." if n else ""


def _answers(facts: Mapping[str, Any]) -> Iterator[Finding]:
    right, n = facts["accuracy"], facts["n"]
    n_right = round(right["estimate"] * n)
    text = f"{n_right:,} of {counted(n, 'problem')} answered rightly: {percent_with_interval(right)}."
    yield Finding("Answers", text, "problems")


def _looks(facts: Mapping[str, Any], parts: Mapping[str, float | None]) -> Iterator[Finding]:
    names = {
        "first": "to the prompt's first token", "question": "to the question's other tokens",
        "bot": "to the opening marker", "earlier thoughts": "to earlier thoughts", "self": "to itself",
    }  # fmt: skip
    # No attention at all: the model has no such part, for instance no opening marker.
    known = {name: share for name, share in parts.items() if name in names and share}
    shares = ", ".join(f"{percent(known[name])} {names[name]}" for name in sorted(known, key=lambda name: -known[name]))
    found = facts["evidence"]["thoughts"]
    text = f"Of its attention a thought gives {shares} (means over layers and heads). " if shares else ""
    yield Finding("Where thoughts look", f"{text}Earlier thoughts get {_against_even(found)}.", "flow")


def _against_even(found: Mapping[str, Any]) -> str:
    if found["estimate"] is None or found["p"] is None:
        return "an amount of which nothing can be said here"
    by = with_interval({name: None if found[name] is None else 100 * found[name] for name in _BOUNDS}, 1)
    by += " percentage points"
    if found["p"] < ALPHA:
        return f"{by} more than if every token got the same ({p_value(found['p'])})"
    if found["high"] is not None and found["high"] < 0:
        return f"less than if every token got the same: {by}"
    return f"an amount that is not shown to be more than if every token got the same ({by}, {p_value(found['p'])})"


_BOUNDS: Final = ("estimate", "low", "high")


def _hub(facts: Mapping[str, Any]) -> Iterator[Finding]:
    hub, heads = facts["hub"], facts["hub_heads"]
    if hub["p"] is None:
        yield Finding(
            "Hub", "Whether there is a hub can't be said here: it takes four thoughts and five problems.", "heads"
        )
        return
    strength = (
        f"without the thought that favours it most it gets {number(hub['strength'])} even shares, a hub over "
        f"{heads['least']}; {p_value(hub['p'])}"
    )
    mean = (
        f"{hub['thought']} is a hub of the mean head, the average of all heads: more than one later thought prefers it "
        if hub["thought"]
        else "No thought is shown to be a hub of the mean head, the average of all heads "
    ) + f"({strength})."
    n = heads["n_heads"]
    own = "has a hub of its own" if n == 1 else "have a hub of their own"
    single = (
        f"{counted(n, 'head')} of {heads['of']} {own}" if n else f"No single head of {heads['of']} is shown to have one"
    )
    beyond = f"(corrected over heads; {facts['selected_on']})"
    yield Finding("Hub", f"{mean} {single} {beyond}.", "heads")


def _order(facts: Mapping[str, Any]) -> Iterator[Finding]:
    sentences = {
        "sequential": ("Previous thought", "The thought just before gets"),
        "skip": ("Skipping back", "The last thought gives the first half of the thoughts"),
    }
    for name, (about, beginning) in sentences.items():
        ratio, found = facts[name], facts["evidence"][name]
        if ratio["estimate"] is None or found["p"] is None:
            yield Finding(about, "Nothing can be said of it with so few thoughts or problems.", "heads")
            continue
        if found["p"] is not None and found["p"] < ALPHA and ratio["estimate"] > 1:
            claim = f"more than no preference would give ({p_value(found['p'])})"
        elif ratio["high"] is not None and ratio["high"] < 1:
            claim = "less than no preference would give (the whole interval is below 1)"
        else:
            claim = f"which shows no preference ({p_value(found['p'])})"
        even = " (what attention spread evenly over earlier thoughts would give)" if name == "sequential" else ""
        yield Finding(about, f"{beginning} {with_interval(ratio)} times an even share{even}, {claim}.", "heads")


def _heads(facts: Mapping[str, Any]) -> Iterator[Finding]:
    if types := counts_of(facts["types"] or {}):
        yield Finding(
            "Types of heads",
            f"{types}, by where each gives more than 0.05 of its attention beyond an even spread.",
            "heads",
        )
    unreliable = facts["ranking"]["unreliable"]
    first = ", ".join(
        f"{head['name']} ({head['type']})" if head.get("type") else head["name"]
        for head in facts["top_heads"][:_N_NAMED]
    )
    if unreliable or not first:
        text = f"{str(unreliable)[:1].upper()}{str(unreliable)[1:]}" if unreliable else "No head is ranked."
    else:
        reliability = number(facts["ranking"]["reliability"])
        text = (
            f"By importance (attention to thoughts times how far one of them is preferred) {first} come first. Two "
            f"halves of these problems agree on the order by {reliability} (1: the same order, 0: chance)."
        )
    yield Finding("Heads", text, "heads")


def cuts(studies: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """What the newest study shows, of those whose cuts were not all added later; `page_data.facts_of` gives them."""
    study = next((study for study in studies if any(not cut["exploratory"] for cut in study["cuts"])), None)
    if study is None:
        yield Finding("Cutting", "Nothing was cut in this run, so nothing here says what the answer needs.", "causes")
        return
    made, ranked = study["cuts"], study["ranked"]
    label = study["labels"][ranked]
    margin = study["margins"][ranked]
    lost = [cut for cut in made if (cut["p"][ranked] or 1.0) < ALPHA and cut["effects"][ranked][0] < 0]
    costs = [cut for cut in lost if cut["effects"][ranked][0] < -margin]
    where = f"In study {study['name']}, on {counted(study['n'], 'problem')}, "
    if costs:
        first, *others = sorted(costs, key=lambda cut: cut["effects"][ranked][0])[:_N_NAMED]
        text = (
            f"{where}{len(costs)} of {counted(len(made), 'cut')} {'is' if len(costs) == 1 else 'are'} shown to cost "
            f"{label} (Holm over all cuts), by {margin:g} nats or more as measured. {first['label']} costs most: "
            f"{_size(first, ranked)} nats, and {first['broken']} of {first['n']} answers break."
        )
        if others:
            named = ", ".join(f"{cut['label']} {number(cut['effects'][ranked][0])}" for cut in others)
            text += f" Then {named} nats."
        text += _legend([first, *others])
    else:
        text = (
            f"{where}none of {counted(len(made), 'cut')} is shown to cost {label} (Holm over all cuts) by {margin:g} "
            "nats or more; that does not show that nothing matters."
        )
        measured = [cut for cut in made if cut["effects"][ranked][0] < 0]
        if largest := sorted(measured, key=lambda cut: cut["effects"][ranked][0])[:_N_NAMED]:
            named = ", ".join(f"{cut['label']} {number(cut['effects'][ranked][0])}" for cut in largest)
            text += f" Largest as measured: {named} nats.{_legend(largest)}"
    if small := len(lost) - len(costs):
        text += f" {counted(small, 'further cut')} {'costs' if small == 1 else 'cost'} something, but less."
    if none := sum(bool(cut["none"][ranked]) for cut in made):
        text += f" Of {counted(none, 'cut')} the effect is shown to lie within ±{margin:g} nats."
    yield Finding("Cutting", text, "causes")
    if matched := [cut for cut in made if cut["controls"] and cut.get("p_controls")]:
        beyond = sum(
            cut["effects"][ranked][0] < 0 and cut["p_controls"][ranked] * (1 + len(cut["controls"])) < _ALONE
            for cut in matched
        )
        numbers = [len(cut["controls"]) for cut in matched]
        chance = sum(1 / (1 + n) for n in numbers)
        each = f"{min(numbers)}" if min(numbers) == max(numbers) else f"{min(numbers)} to {max(numbers)}"
        text = (
            f"{beyond} of {counted(len(matched), 'cut')} cost more than each of their {each} controls, random cuts of "
            f"things like them; by chance alone about {number(chance, 1)} would."
        )
        yield Finding("Controls", text, "causes")
    for family, rows in study["verdicts"].items():
        reading = str(rows[0]["reading"])
        yield Finding(f"Looking and cutting: {family}", f"{reading[:1].upper()}{reading[1:]}.", "causes")


def _size(cut: Mapping[str, Any], outcome: str) -> str:
    estimate, low, high = cut["effects"][outcome]
    return with_interval({"estimate": estimate, "low": low, "high": high})


def _legend(named: Sequence[Mapping[str, Any]]) -> str:
    """What the sign in the label of an edge means, by the first label that has it."""
    edge = next((str(cut["label"]) for cut in named if "⊣" in str(cut["label"])), "")
    query, _, key = edge.partition(" ⊣ ")
    return f" ({query} ⊣ {key.split()[0]}: {query} cannot attend to {key.split()[0]}.)" if edge else ""


_ALONE: Final = 1.5
"""Below this, p times one more than the controls: no control costs as much."""


MEASURES: Final = {
    "accuracy": "accuracy",
    "preferred": "preference for the thought that the first run prefers",
    "sequential": "preference for the previous thought",
    "skip": "preference for the first half",
    "thought_mass": "attention to earlier thoughts",
}
"""Measures of a comparison, as its sentences name them."""

UNITS: Final = {"accuracy": "of all answers", "thought_mass": "of a thought's attention"}
"""What a difference is a part of; the others are in even shares."""


def differences(comparison: Mapping[str, Any]) -> Iterator[Finding]:
    """How runs differ from the first, by what is shown after Holm's correction over all differences."""
    for pair in comparison["differences"]:
        tested = {name: pair[name] for name in MEASURES if pair.get(name) and pair[name].get("p_holm") is not None}
        shown = {name: its for name, its in tested.items() if its["p_holm"] < ALPHA}
        about = f"{pair['of']} and {pair['minus']}"
        if shown:
            changes = "; ".join(
                f"{MEASURES[name]} {with_interval(its)} {UNITS.get(name, 'even shares')}" for name, its in shown.items()
            )
            text = f"{pair['of']} minus {pair['minus']}: {changes} (each shown after Holm's correction)."
        else:
            text = f"None of {counted(len(tested), 'difference')} is shown; that does not show that the runs are alike."
        yield Finding(about, text, "comparison")


def cautions(
    facts: Mapping[str, Any],
    studies: Sequence[Mapping[str, Any]],
    *,
    keeps_means: bool,
    readings: Mapping[str, Any],
) -> list[str]:
    """What a reader should know before believing the numbers."""
    found = [f"{text[:1].upper()}{text[1:]}" for text in facts["warnings"]]
    if keeps_means:
        found.append("The run kept sums and no single problems: intervals of measures are over blocks of problems.")
    failed = [check["name"] for check in readings.get("checks", ()) if not check["passed"]]
    if failed:
        found.append(f"The model failed a check ({', '.join(failed)}): numbers may be about the software.")
    if studies:
        newest = studies[0]
        found += [f"{text[:1].upper()}{text[1:]}." for text in newest["warnings"]]
        if newest["n"] < FEW_CUT:
            found.append(f"Cuts of the newest study were measured on {counted(newest['n'], 'problem')} only.")
        if not any(cut["controls"] for cut in newest["cuts"]):
            found.append("The newest study has no control cuts: a loss may be that of any such cut.")
        if newest["n_failed"]:
            found.append(f"{counted(newest['n_failed'], 'pair')} of cut and problem could not be run and are left out.")
        if n_late := sum(cut["exploratory"] for cut in newest["cuts"]):
            were = "was" if n_late == 1 else "were"
            found.append(f"{counted(n_late, 'cut')} of the newest study {were} added later and {were} exploratory.")
    return found
