"""Turn the name of a problem set into where it is kept and how it reads: the table of named sets.

The columns are what a set's hub copy is known to have; the rows are read by `rows`, as those of a local file.
"""

from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable


@dataclass(frozen=True)
class NamedSet:
    """A problem set that is known by name.

    Attributes:
        name: what the user types.
        about: one line on what is asked.
        hub_id: the data set on the Hugging Face Hub; None if the set is bundled.
        config: the hub's configuration, where there are several.
        splits: the splits that have answers.
        default_split: the one taken unless told.
        columns: the columns that its problems are read from.
        answers: how the gold answer is read.
        steps: how the steps are read; empty where there are none.
        licence: under which the authors publish it.
    """

    name: str
    about: str
    hub_id: str | None
    config: str | None
    splits: tuple[str, ...]
    default_split: str
    columns: tuple[str, ...]
    answers: str
    steps: str
    licence: str


def known_sets() -> dict[str, NamedSet]:
    """The named problem sets by name."""
    return {named.name: named for named in (_arithmetic(), *_HUB_SETS)}


def named_set(name: str) -> NamedSet | None:
    """The problem set of a name, or of a Hub id that has a name; None if there is none."""
    sets = known_sets()
    return sets.get(name) or next((named for named in sets.values() if named.hub_id == name), None)


def bundled_file(name: str, split: str) -> Traversable:
    """The bundled file of a split, whether or not it is there."""
    return resources.files("thoughtlens.problems") / "data" / f"{name}_{split}.jsonl"


def _arithmetic() -> NamedSet:
    # Which splits are bundled is a matter of the package's size, so the folder is asked.
    splits = tuple(split for split in ("train", "test") if bundled_file("arithmetic", split).is_file())
    return NamedSet(
        name="arithmetic",
        about="word problems of a few additions, subtractions and multiplications of small numbers; bundled",
        hub_id=None,
        config=None,
        splits=splits or ("test",),
        default_split="test",
        columns=("id", "question", "answer", "steps"),
        answers="a whole number",
        steps="the list in `steps`",
        licence="Apache-2.0",
    )


_HUB_SETS = (
    NamedSet(
        name="gsm8k",
        about="grade-school word problems of 2 to 8 steps (Cobbe 2021)",
        hub_id="openai/gsm8k",
        config="main",
        splits=("train", "test"),
        default_split="test",
        columns=("question", "answer"),
        answers="what follows the last ####",
        steps="the <<…>> annotations of the solution",
        licence="MIT",
    ),
    NamedSet(
        name="gsm8k_aug",
        about="GSM8K's training problems varied by GPT-4, with steps as equations (Deng 2023)",
        hub_id="zen-E/GSM8k-Aug",
        config=None,
        splits=("train", "test"),
        default_split="train",
        columns=("question", "cot", "answer"),
        answers="a number",
        steps="the <<…>> equations in `cot`",
        licence="Apache-2.0",
    ),
    NamedSet(
        name="svamp",
        about="one-step word problems with varied wording (Patel 2021)",
        hub_id="ChilleD/SVAMP",
        config=None,
        splits=("train", "test"),
        default_split="test",
        columns=("ID", "Body", "Question", "Answer"),
        answers="a number",
        steps="",
        licence="MIT",
    ),
    NamedSet(
        name="multiarith",
        about="word problems of several operations on small numbers (Roy and Roth 2015)",
        hub_id="ChilleD/MultiArith",
        config=None,
        splits=("train", "test"),
        default_split="test",
        columns=("question", "final_ans"),
        answers="a number",
        steps="",
        licence="Apache-2.0",
    ),
    NamedSet(
        name="gsm_hard",
        about="GSM8K's test problems with large numbers put in (Gao 2022)",
        hub_id="reasoning-machines/gsm-hard",
        config=None,
        # Its hub copy is one file, which the hub calls `train`.
        splits=("train",),
        default_split="train",
        columns=("input", "target"),
        answers="a number, rounded to a float",
        steps="",
        licence="MIT",
    ),
    NamedSet(
        name="math500",
        about="500 competition problems with LaTeX answers (Hendrycks 2021, Lightman 2023)",
        hub_id="HuggingFaceH4/MATH-500",
        config=None,
        splits=("test",),
        default_split="test",
        columns=("problem", "answer"),
        answers="LaTeX",
        steps="",
        licence="MIT",
    ),
    NamedSet(
        name="strategyqa",
        about="yes-or-no questions that need implicit steps (Geva 2021)",
        hub_id="ChilleD/StrategyQA",
        config=None,
        splits=("train", "test"),
        default_split="test",
        columns=("question", "answer"),
        answers="true or false",
        steps="",
        licence="MIT",
    ),
    NamedSet(
        name="commonsenseqa",
        about="five-way questions about everyday things (Talmor 2019)",
        hub_id="tau/commonsense_qa",
        config=None,
        # The test split is published without answers.
        splits=("train", "validation"),
        default_split="validation",
        columns=("id", "question", "choices", "answerKey"),
        answers="a letter A-E",
        steps="",
        licence="MIT",
    ),
)
