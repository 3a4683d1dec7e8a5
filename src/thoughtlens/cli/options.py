"""The options that commands share, their checks, and what they name: models, engines, sizes of batches.

in: what a user types after an option; out: its value, or one sentence on what is wrong with it. The packages that the
modules of `cli` import load their parts when these are first used, so that `--help` answers at once.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

import thoughtlens as tl
from thoughtlens import models, runs
from thoughtlens.cli import terminal
from thoughtlens.errors import OptionError
from thoughtlens.reasoning.protocols import PROTOCOLS
from thoughtlens.runs.engines import Part, part_named

DEFAULT_MODEL = "tiny-gpt2"
DEFAULT_PROBLEMS = "arithmetic"
PLANTED = "planted"
"""The model whose truth is known, and the problems that it can solve."""
OWN_PROBLEMS: Final = {PLANTED: PLANTED, "compiled": "graphs", "compiled-twin": "graphs"}
"""Models that can do one task alone, and its problems."""
DEFAULT_COUNT = 100


def within(option: str, least: int, most: int | None = None) -> Callable[[Any], Any]:
    """A check of a whole number, which costs no time."""

    def check(value: Any) -> Any:
        if value is not None and (value < least or (most is not None and value > most)):
            allowed = f"at least {least}" if most is None else f"{least} to {most}"
            raise OptionError(f"{option} is {value}, expected {allowed}; pass another.")
        return value

    return check


def one_of(option: str, *names: str) -> Callable[[str], str]:
    """A check of a word, which costs no time."""

    def check(value: str) -> str:
        if value not in names:
            raise OptionError(f"no {option} {value!r}, expected one of {', '.join(names)}; pass another.")
        return value

    return check


def _is_run(folder: Path) -> Path:
    # Here and not at the top, like all that a command needs and `--help` does not.
    from thoughtlens.runs.writer import read_manifest

    read_manifest(folder)
    return folder


def are_runs(folders: list[Path] | None) -> list[Path] | None:
    """Refuse folders that hold no run."""
    return folders and [_is_run(folder) for folder in folders]


def _may_be_run(folder: Path) -> Path:
    from thoughtlens.runs.writer import check_free

    check_free(folder)
    return folder


def is_file(path: Path | None) -> Path | None:
    """Refuse a file that is not there."""
    if path is not None and not path.is_file():
        raise OptionError(f"{path} is no file, expected a plan of cuts; check --plan.")
    return path


Model = Annotated[str, typer.Option("--model", help="A bundled name, a Hub id, or a folder: CODI or Coconut.")]
Base = Annotated[
    str | None, typer.Option("--base", help="The base model: folder or Hub id, for configuration and tokenizer.")
]
Revision = Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit of a Hub model.")]
Alpha = Annotated[float | None, typer.Option("--alpha", help="LoRA's alpha, if it is not 32.")]
Mode = Annotated[
    str,
    typer.Option(
        "--mode",
        callback=one_of("mode", "latent", "direct", "verbal"),
        help="latent; or direct, verbal: without thoughts, where the weights can.",
    ),
]
KnownAs = Annotated[
    str | None, typer.Option("--as", metavar="ID", help="Id of a known checkpoint whose facts hold for the folder.")
]
ReadingRule = Annotated[
    str,
    typer.Option(
        "--answer-rule",
        callback=one_of("answer rule", "strict", "official", "math-verify"),
        help="How answers are read: strict, official as in the family's own code, or math-verify for MATH.",
    ),
]
PaddingProtocol = Annotated[
    str,
    typer.Option(
        "--protocol",
        callback=one_of("protocol", *PROTOCOLS),
        help="exact, or official-padding-v4-cuda, -v4-cpu, -v5, for published numbers.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device", help="cpu, cuda, cuda:1, … or mps (float32); CUDA if there is a GPU. Several: --engine ray."
    ),
]
RandomWeights = Annotated[
    int | None, typer.Option("--random-weights", metavar="SEED", help="Draw the model's weights at random.")
]
Precision = Annotated[
    str,
    typer.Option(
        "--dtype",
        help=(
            "float32, float64, bfloat16, float16 or, on NVIDIA GPUs, tf32. Half precision is faster, but its rounding "
            "grows from thought to thought; how far is measured and said. auto: float32, but half on CUDA if that "
            "moves no cell of attention by more than 0.02."
        ),
    ),
]
Problems = Annotated[str, typer.Option("--problems", help="A named set (`thoughtlens problems`) or a file.")]
Split = Annotated[str | None, typer.Option("--split", help="Split of a named set; prefix of the ids of a file.")]
Field = Annotated[
    list[str] | None, typer.Option("--field", help="Name of a field in a file: question=NAME, answer=NAME.")
]
SetRevision = Annotated[
    str | None, typer.Option("--problems-revision", help="Branch, tag or commit of a Hub data set.")
]
Count = Annotated[int | None, typer.Option("--n", help="How many problems; all if not given.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the sample.")]
Out = Annotated[
    Path,
    typer.Option(
        "--out", callback=_may_be_run, help="The run folder; an unfinished run with the same options goes on."
    ),
]
Thoughts = Annotated[
    int | None,
    typer.Option(
        "--thoughts",
        callback=within("--thoughts", 1, 32),
        help="How many thoughts, 1 to 32; as trained if not given.",
    ),
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(
        "--max-new-tokens",
        callback=within("--max-new-tokens", 1),
        help="Tokens after which an answer is cut short; 256 if not given.",
    ),
]


def batch_size_named(given: str) -> int | Literal["auto"]:
    """What `--batch-size` means."""
    if given == "auto":
        return "auto"
    try:
        size = int(given)
    except ValueError as error:
        raise OptionError(f"--batch-size is {given!r}, expected auto or a number such as 32; pass another.") from error
    return int(within("--batch-size", 1)(size))


def _is_batch_size(given: str) -> str:
    batch_size_named(given)
    return given


BatchSize = Annotated[
    str,
    typer.Option(
        "--batch-size",
        metavar="auto|N",
        callback=_is_batch_size,
        help="Problems of a pass; auto: what fits into the memory of a GPU, else 32.",
    ),
]
Record = Annotated[
    list[str] | None, typer.Option("--record", help="values: also how much each key gives (twice the space).")
]
ShardSize = Annotated[
    int | None,
    typer.Option(
        "--shard-size",
        callback=within("--shard-size", 1),
        help="Problems of a shard, which a worker does at a time.",
    ),
]


Shard = Annotated[
    Part | None,
    typer.Option(
        "--shard",
        metavar="i/n",
        parser=part_named,
        help="Be one of n processes that share the work, i from 0 to n - 1: do every n-th shard; the last one closes.",
    ),
]
Keep = Annotated[
    str,
    typer.Option(
        "--keep",
        callback=one_of("--keep", "raw", "mean"),
        help="raw: attention of every problem; mean: sums over 512 blocks, of constant size.",
    ),
]
Pattern = Annotated[
    str, typer.Option("--pattern", help="attention, or value-weighted where the run was made with --record values.")
]
Holdout = Annotated[
    float | None,
    typer.Option(
        "--holdout", metavar="SHARE", help="Test this share of the problems; the others choose what is tested."
    ),
]
HoldoutSeed = Annotated[int, typer.Option("--holdout-seed", help="Of the halves; the same in all commands.")]
Full = Annotated[bool, typer.Option("--full", help="Every table, in the place of the summary.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, for machines.")]
RunModel = Annotated[
    str | None, typer.Option("--model", help="Where the run's model is now, if it is not where the run found it.")
]
AnalysisName = Annotated[
    str | None, typer.Option("--analysis", metavar="NAME", help="The analysis of this name, not the default one.")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", callback=_is_run, help="A run folder.")]
NoReport = Annotated[bool, typer.Option("--no-report", help="Leave out the HTML page of results.")]
EngineName = Annotated[str, typer.Option("--engine", help="Where the work is done: local, or ray (extra `ray`).")]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", help="Ray: how many; one for each GPU, which a model does not share, or CPU, if not given."
    ),
]
Address = Annotated[
    str | None, typer.Option("--address", help="Ray: address of a running cluster; one is started if not given.")
]


ENGINES: Final = ("local", "ray")


def engine_named(name: str, *, workers: int | None = None, address: str | None = None) -> "runs.Engine":
    """The engine of a name; asked for before anything is loaded, so that a mistake costs no time."""
    if name == "ray":
        try:
            return runs.Ray(workers=workers, address=address)
        except ImportError as error:
            raise OptionError(
                "--engine ray needs Ray, which is not installed; run `pip install 'thoughtlens[ray]'`."
            ) from error
    if name != "local":
        raise OptionError(f"no engine {name!r}; there are: {', '.join(ENGINES)}.")
    if workers is not None or address is not None:
        raise OptionError("--workers and --address belong to --engine ray; leave them out, or add --engine ray.")
    return runs.Local()


def fields_of(given: list[str] | None) -> dict[str, str]:
    """What `--field` means: the names of fields in a file."""
    return dict(_field(each) for each in given or ())


def _field(given: str) -> tuple[str, str]:
    what, equals, name = given.partition("=")
    if not equals or not name:
        raise OptionError(f"--field is {given!r}, expected for instance question=NAME; give both sides.")
    return what, name


def check_model(name: str, **how: Any) -> None:
    """Refuse what of a model's options can't be right, before torch is imported."""
    from thoughtlens.models.catalog import check_asked  # not needed for `--help`

    check_asked(
        name, **{name: how[name] for name in ("revision", "known_as", "alpha", "dtype", "device") if name in how}
    )


def load_model(name: str, random_weights: int | None = None, **how: Any) -> "models.LatentReasoner":
    """A reasoner, loaded as the options say; with a seed, its architecture with random weights."""
    with terminal.working(f"load {name}"):
        reasoner = tl.load(name, **how)
        return reasoner if random_weights is None else models.randomize(reasoner, seed=random_weights)
