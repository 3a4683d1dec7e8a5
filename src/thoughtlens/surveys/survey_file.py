"""What a survey asks for: a TOML file of models, problem sets, draws, groups and options; and the folder of each run.

    models = ["tiny-gpt2", { model = "models/codi", as = "zen-E/CODI-gpt2", name = "codi" }]
    problems = ["arithmetic", { problems = "mine.jsonl", n = 50 }]
    seeds = [42]                        # draws of the problems
    [groups]                            # training seeds of one recipe
    codi = ["a0", "a1", "a2"]
    [run]                               # options of `thoughtlens run`
    [analyze]                           # of `thoughtlens analyze`
    [intervene]                         # of `thoughtlens intervene`; nothing is cut without this table

In: the file. Out: a `SurveyPlan`, whose runs lie in `DIR/MODEL/PROBLEMS/SEED/`: readable names, with a digest of what
was asked for, so that runs of other options have another folder. Neither models nor problems are loaded, nor is torch.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from thoughtlens.errors import OptionError
from thoughtlens.files import Json, as_model, check_seal, digest_of, file_name, read_json
from thoughtlens.models.catalog import check_asked

SURVEY: Final = "survey.json"
FORMAT: Final = 1
MOST_PROBLEMS: Final = 100
"""Problems of a run where the file does not say how many, as for `thoughtlens run`."""

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0.0, lt=1.0)]


class _Options(BaseModel):
    """A table of options, by the names that they have on the command line."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        alias_generator=lambda name: {"known_as": "as", "leave_out": "except"}.get(name, name.replace("_", "-")),
    )

    def given(self) -> Json:
        """What was given, by the names in the file."""
        found: Json = self.model_dump(by_alias=True, exclude_unset=True)
        return found


class _OfModel(_Options):
    """Options of a run that may differ from model to model."""

    base: str | None = None
    revision: str | None = None
    alpha: float | None = None
    known_as: str | None = None
    random_weights: Annotated[int, Field(ge=0)] | None = None
    thoughts: Annotated[int, Field(ge=1, le=32)] | None = None
    batch_size: Count = 32
    device: str | None = None
    dtype: str = "auto"


class _OfProblems(_Options):
    """Options of a run that may differ from set to set."""

    n: Count | None = None
    n_steps: Count | None = None
    split: str | None = None
    field: tuple[str, ...] = Field(default=(), strict=False)
    problems_revision: str | None = None


class RunOptions(_OfModel, _OfProblems):
    """The table `[run]`."""

    record: tuple[Literal["values"], ...] = Field(default=(), strict=False)
    shard_size: Count | None = None
    protocol: Literal["exact", "official-padding-v4-cuda", "official-padding-v4-cpu", "official-padding-v5"] = "exact"
    answer_rule: Literal["strict", "official", "math-verify"] = "strict"
    max_new_tokens: Count | None = None
    engine: Literal["local", "ray"] = "local"
    workers: Count | None = None
    address: str | None = None


class AnalyzeOptions(_Options):
    """The table `[analyze]`."""

    pattern: Literal["attention", "value-weighted"] = "attention"
    null_draws: Annotated[int, Field(ge=0)] = 0
    holdout: Share | None = None
    holdout_seed: int = 0


class InterveneOptions(_Options):
    """The table `[intervene]`."""

    heads: str | None = None
    kv_groups: str | None = None
    thoughts: str | None = None
    edges: str | None = None
    edit: tuple[str, ...] = Field(default=(), strict=False)
    at: str | None = None
    whole: bool = False
    frozen: bool = False
    together: bool = False
    leave_out: str | None = None
    restore: str | None = None
    effects: str | None = None
    plan: str | None = None
    order: tuple[str, ...] = Field(default=(), strict=False)
    random_orders: Annotated[int, Field(ge=0)] = 10
    controls: Annotated[int, Field(ge=0)] = 0
    caliper: float = 0.5
    donors: Count = 1
    holdout: Share | None = None
    holdout_seed: int = 0
    margin: Annotated[float, Field(gt=0.0)] = 0.05
    accuracy_margin: Annotated[float, Field(gt=0.0)] = 0.02
    n: Count | None = None
    seed: int = 0
    batch_size: Count = 32
    max_new_tokens: Count | None = None
    allow_failed: bool = False


class ModelEntry(_OfModel):
    """A model of a survey; what it says goes before `[run]`."""

    model: str
    name: str = ""


class ProblemsEntry(_OfProblems):
    """A problem set of a survey; what it says goes before `[run]`."""

    problems: str
    name: str = ""


class SurveyRun(NamedTuple):
    """One run of a survey: its model and problem set by name, the seed of the draw, and its folder in the survey's."""

    model: str
    problems: str
    seed: int
    folder: str


class SurveyPlan(BaseModel):
    """What a survey file asks for, as `read_survey` gives it; attributes are the names in the file.

    Example:
        Which runs does a survey have?

            [run.folder for run in read_survey("survey.toml").runs]
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: tuple[ModelEntry, ...]
    problems: tuple[ProblemsEntry, ...]
    seeds: Annotated[tuple[Annotated[int, Field(strict=True)], ...], Field(min_length=1)] = (42,)
    groups: dict[str, tuple[str, ...]] = {}
    run: RunOptions = RunOptions()
    analyze: AnalyzeOptions = AnalyzeOptions()
    intervene: InterveneOptions | None = None

    @property
    def runs(self) -> list[SurveyRun]:
        """The runs, model by model, each on every set, each of every draw."""
        return [
            SurveyRun(model.name, of.name, seed, f"{self._slug(model)}/{self._slug(of)}/{seed}")
            for model in self.models
            for of in self.problems
            for seed in self.seeds
        ]

    @property
    def study(self) -> str | None:
        """The name of the study of cuts in each run; None where nothing is cut."""
        return None if self.intervene is None else f"survey-{digest_of(self.intervene.given())[:8]}"

    def model_options(self, name: str) -> _OfModel:
        """What holds for a model: its own entry, and what it leaves out as `[run]` has it."""
        found: _OfModel = _merged(self.run, next(of for of in self.models if of.name == name), _OfModel)
        return found

    def problem_options(self, name: str) -> _OfProblems:
        """What holds for a problem set, likewise."""
        found: _OfProblems = _merged(self.run, next(of for of in self.problems if of.name == name), _OfProblems)
        return found

    def source(self, name: str) -> str:
        """What a model or a problem set of this name is called where it is loaded."""
        named = {of.name: of.model for of in self.models} | {of.name: of.problems for of in self.problems}
        return named[name]

    def as_json(self) -> Json:
        """The survey as `survey.json` has it: what was given, and the folder of each run."""
        return {
            "models": [of.given() for of in self.models],
            "problems": [of.given() for of in self.problems],
            "seeds": list(self.seeds),
            "groups": {name: list(its) for name, its in self.groups.items()},
            "run": self.run.given(),
            "analyze": self.analyze.given(),
            "intervene": None if self.intervene is None else self.intervene.given(),
            "study": self.study,
            "runs": [run._asdict() for run in self.runs],
        }

    def _slug(self, of: ModelEntry | ProblemsEntry) -> str:
        """A readable name, with a digest of all that decides the numbers."""
        kind = _OfModel if isinstance(of, ModelEntry) else _OfProblems
        how = _merged(self.run, of, kind).model_dump(exclude={"device", "batch_size"})
        others = self.run.model_dump(
            exclude={*_OfModel.model_fields, *_OfProblems.model_fields, "shard_size", "engine", "workers", "address"}
        )
        return f"{file_name(of.name)[:32]}-{digest_of([self.source(of.name), how, others])[:6]}"


def _merged(run: RunOptions, own: _Options, kind: type[Any]) -> Any:
    """The options of one kind, as the entry says, else as `[run]` says, else as they are by default."""
    said = {name: getattr(of, name) for of in (run, own) for name in kind.model_fields if name in of.model_fields_set}
    return kind.model_construct(**said)


def read_survey(path: str | Path) -> SurveyPlan:
    r"""Read a survey file and check it, before anything is loaded.

    Args:
        path: a TOML file with `models`, `problems`, and if wanted `seeds` (42 alone if not), `[groups]`, `[run]`,
            `[analyze]` and `[intervene]`. A model or a set is a name, or a table with `model` or `problems`, a `name`
            of its own and options that go before those of `[run]`. Paths are from where the command runs.

    Returns:
        The survey.

    Raises:
        OptionError: the file can't be read, or names something unknown, twice, or of the wrong type.
        CheckpointError: a model that is named can't be one.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> folder = TemporaryDirectory()
        >>> path = Path(folder.name, "survey.toml")
        >>> _ = path.write_text('models = ["tiny-gpt2", "tiny-llama"]\nproblems = ["arithmetic"]')
        >>> [(run.model, run.problems, run.seed) for run in read_survey(path).runs]
        [('tiny-gpt2', 'arithmetic', 42), ('tiny-llama', 'arithmetic', 42)]
        >>> folder.cleanup()
    """
    try:
        given = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise OptionError(f"{path} can't be read ({error.strerror}), expected a survey as a TOML file.") from error
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{path} is not readable as TOML ({error}); correct it.") from error
    try:
        plan = SurveyPlan.model_validate(_with_tables(given))
    except ValidationError as error:
        raise OptionError(_explain(error, path)) from error
    _check(plan, path)
    return plan


def _with_tables(given: Json) -> Json:
    """The entries that are names alone as tables, and a name for each."""
    found = dict(given)
    for key, of in (("models", "model"), ("problems", "problems")):
        if isinstance(entries := given.get(key), list):
            tables = [{of: entry} if isinstance(entry, str) else entry for entry in entries]
            found[key] = [
                {"name": _short(entry[of])} | entry
                if isinstance(entry, dict) and isinstance(entry.get(of), str)
                else entry
                for entry in tables
            ]
    return found


def _short(source: str) -> str:
    """What is called so where it has no name of its own: the last part of an id or a path, without an ending."""
    last = source.rstrip("/").rsplit("/", 1)[-1]
    return Path(last).stem if Path(last).suffix in (".json", ".jsonl", ".csv", ".tsv", ".txt", ".parquet") else last


_TABLES: Final[Mapping[str, type[BaseModel]]] = {
    "models": ModelEntry, "problems": ProblemsEntry, "run": RunOptions, "analyze": AnalyzeOptions,
    "intervene": InterveneOptions,
}  # fmt: skip


_KINDS: Final = {
    "tuple_type": "a list", "model_type": "a table", "dict_type": "a table", "string_type": "a text",
    "int_type": "a whole number", "float_type": "a number", "bool_type": "true or false",
}  # fmt: skip
"""What is expected where a value is of the wrong type, in words of TOML."""


def _explain(error: ValidationError, path: str | Path) -> str:
    """One sentence on what pydantic found first, unknown names before others."""
    found = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    table, *inner = found["loc"]
    settings = _TABLES.get(str(table), SurveyPlan) if inner else SurveyPlan
    name = ".".join(str(part) for part in inner if isinstance(part, str)) or str(table)
    place = f"{path}" if settings is SurveyPlan else f"{path}, {_place(str(table), inner)},"
    if found["type"] == "extra_forbidden":
        known = ", ".join(of.alias or key for key, of in settings.model_fields.items())
        return f"{place} sets {name!r}, expected some of {known}."
    if found["type"] == "missing":
        return f"{place} lacks {name!r}; give it."
    expected = _KINDS.get(found["type"], found["msg"].removeprefix("Input should be "))
    return f"{place} sets {name} to {found['input']!r}, expected {expected}; correct it."


def _place(table: str, inner: Sequence[int | str]) -> str:
    number = next((part for part in inner if isinstance(part, int)), None)
    return f"[{table}]" if number is None or table not in ("models", "problems") else f"entry {number + 1} of {table}"


def _check(plan: SurveyPlan, path: str | Path) -> None:
    """Refuse what the types allow and no survey can be, before torch is imported."""
    for key, names in (
        ("models", [of.name for of in plan.models]),
        ("problems", [of.name for of in plan.problems]),
        ("seeds", [str(seed) for seed in plan.seeds]),
    ):
        if not names:
            raise OptionError(f"{path} lists no {key}, expected one or more; name them.")
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise OptionError(f"{path} lists {twice!r} twice in {key}, expected each once; give one another `name`.")
    known, seen = {of.name for of in plan.models}, set[str]()
    for group, members in plan.groups.items():
        if group in known:
            raise OptionError(f"{path} has a group {group!r}, which is the name of a model; name the group otherwise.")
        for member in members:
            if member not in known:
                raise OptionError(
                    f"{path} has {member!r} in the group {group!r}, expected names of its models: "
                    f"{', '.join(sorted(known))}."
                )
            if member in seen:
                raise OptionError(f"{path} has {member!r} in two groups or twice in one; leave it in one place.")
            seen.add(member)
        if len(members) < 2:
            raise OptionError(f"{path} has {len(members)} models in the group {group!r}, expected two or more.")
    if plan.intervene is not None and plan.run.protocol != "exact":
        raise OptionError(
            f"{path} has [intervene] beside the protocol {plan.run.protocol}, and cuts are exact; drop one."
        )
    if plan.run.engine == "local" and (plan.run.workers, plan.run.address) != (None, None):
        raise OptionError(f"{path} has workers or an address, which belong to the engine ray; drop them, or name it.")
    for option in plan.run.field + tuple(given for of in plan.problems for given in of.field):
        if not all(option.partition("=")):
            raise OptionError(f"{path} has the field {option!r}, expected for instance question=NAME; give both sides.")
    for of in plan.models:
        how = plan.model_options(of.name)
        check_asked(
            of.model, revision=how.revision, known_as=how.known_as, alpha=how.alpha, dtype=how.dtype, device=how.device
        )


class _RunFolder(BaseModel):
    model: str
    problems: str
    seed: int
    folder: Annotated[str, Field(pattern=r"^[^/.][^/]*(/[^/.][^/]*){2}$")]


class _Folder(BaseModel):
    """What `survey.json` must have to be believed."""

    runs: list[_RunFolder]
    study: str | None


def read_survey_folder(folder: Path) -> Json:
    """The content of a survey's `survey.json`; `RunError` if it can't be read or was altered."""
    remedy = "run the same survey again with --force"
    path = folder / SURVEY
    check_seal(path, remedy=remedy)
    found: Json = read_json(path, remedy=remedy)
    as_model(path, found, _Folder, remedy=remedy)
    return found


def same_survey(one: Json, other: Json) -> bool:
    """Whether two surveys ask for the same."""
    kept = [{key: of for key, of in each.items() if key not in ("format", "made_by")} for each in (one, other)]
    return json.dumps(kept[0], sort_keys=True) == json.dumps(kept[1], sort_keys=True)
