"""The stages of a recipe, trained one after the other on the transformers Trainer, with checkpoints.

A finished stage leaves its weights as `OUT/training/NAME/finished.safetensors`. A stage that was interrupted goes on
from its last whole checkpoint, and ends with the same weights as if nothing had happened: what a step reads follows
from its number, and the state of every random number generator is part of a checkpoint. Started by torchrun or
accelerate, several processes train together, and process 0 writes.
"""

import json
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from thoughtlens.errors import RecipeError
from thoughtlens.files import replacing, replacing_path, write_json
from thoughtlens.models.checkpoint_settings import CODI
from thoughtlens.problems import Problem
from thoughtlens.runs.writer import differences
from thoughtlens.training.data import Batch, Collator, Generated, Padded, Shuffled, counted_out, read_training_problems
from thoughtlens.training.initial_model import Untrained, build, padding
from thoughtlens.training.objective import CodiModule, averaged, n_processes, rank
from thoughtlens.training.recipe import TERMS, Recipe, Stage

_DESCRIBES = ("name", "about", "caveats", "held_out", "text")  # settings that change no weight


def last_checkpoint(folder: Path) -> Path | None:
    """Find the newest checkpoint of a stage that was written completely.

    Args:
        folder: of the stage.

    Returns:
        The checkpoint's folder; None if there is none.
    """
    found = [path for path in folder.glob("checkpoint-*") if _number(path).isdigit() and _is_whole(path)]
    return max(found, key=lambda path: int(_number(path)), default=None)


def _number(checkpoint: Path) -> str:
    return checkpoint.name.rpartition("-")[2]


def _is_whole(checkpoint: Path) -> bool:
    # Each process writes the state of its random numbers; process 0 writes the Trainer's state last of all.
    alone = n_processes() == 1
    names = ["rng_state.pth"] if alone else [f"rng_state_{number}.pth" for number in range(n_processes())]
    try:
        json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return all(zipfile.is_zipfile(checkpoint / name) for name in names)


def claim(recipe: Recipe, folder: Path) -> None:
    """Record recipe and processes in a training's folder; `RecipeError` where it was begun by others."""
    path = folder / "begun.json"
    asked = _facts(recipe)
    if path.is_file():
        odd = differences(json.loads(path.read_text("utf-8")), asked)
        if odd:
            raise RecipeError(
                f"{folder} holds a training begun otherwise ({odd[0]}); delete it or choose another --out."
            )
    elif rank() == 0:
        _begin(path, asked)


def _begin(path: Path, facts: dict[str, Any]) -> None:
    out = path.parent.parent
    try:
        # Another process of the same training may already have made its own folder.
        if out.exists() and any(entry.name != path.parent.name for entry in out.iterdir()):
            raise RecipeError(
                f"{out} holds files but no training of this tool; choose another --out, or an empty folder."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, facts)
    except OSError as error:
        raise RecipeError(f"can't write the model folder {out} ({error.strerror}); choose another --out.") from error


def _facts(recipe: Recipe) -> dict[str, Any]:
    facts = {name: value for name, value in asdict(recipe).items() if name not in _DESCRIBES}
    facts["stages"] = {f"{number}-{stage['name']}": stage for number, stage in enumerate(facts["stages"], start=1)}
    read_back: dict[str, Any] = json.loads(json.dumps({"processes": n_processes(), "recipe": facts}))
    return read_back


def untied(module: nn.Module) -> dict[str, Tensor]:
    """State dict whose tensors share no memory; tied weights appear under both names, as in official checkpoints."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in module.state_dict().items()}


def save_weights(module: nn.Module, path: Path, *, family: str = CODI) -> None:
    """Write a module's weights under the names of its family; a kill leaves the old file or none."""
    prefix = "codi." if family == CODI else "base_causallm."
    named = {name.replace("codi.", prefix, 1): tensor for name, tensor in untied(module).items()}
    with replacing_path(path) as partial:
        save_file(named, partial, metadata={"format": "pt"})


class Prepared(NamedTuple):
    """What a training needs before its first step.

    Attributes:
        recipe: every stage with its number of steps.
        made: the module, its tokenizer and markers.
        problems: what the model learns from; None where problems are generated.
    """

    recipe: Recipe
    made: Untrained
    problems: tuple[Problem, ...] | None

    @property
    def n_steps(self) -> int:
        """Optimiser steps of all stages."""
        return sum(stage.steps for stage in self.recipe.stages)


def prepare(recipe: Recipe) -> Prepared:
    """Build the module and read the problems of a recipe.

    Args:
        recipe: from `read_recipe`.

    Returns:
        What `train_stages` needs; epochs are counted in steps.

    Raises:
        RecipeError: the base, LoRA or the problems can't be used.
    """
    made = build(recipe)
    problems = read_training_problems(recipe.problems, made.tokenizer) if recipe.problems else None
    return Prepared(counted_out(recipe, len(problems or ()), n_processes()), made, problems)


def train_stages(prepared: Prepared, out: Path, advance: Callable[[int], None] = lambda n_steps: None) -> Untrained:
    """Train every stage; go on where an earlier call on the same folder stopped.

    Args:
        prepared: from `prepare`.
        out: folder; checkpoints and logs go to `out/training`.
        advance: called with the number of steps done.

    Returns:
        The trained module with its tokenizer and markers.

    Raises:
        RecipeError: the folder holds a training by another recipe, or other files, or can't be written.
    """
    made = prepared.made
    claim(prepared.recipe, out / "training")
    for number, stage in enumerate(prepared.recipe.stages, start=1):
        folder = out / "training" / f"{number}-{stage.name}"
        finished = folder / "finished.safetensors"
        if finished.exists():
            made.module.load_state_dict(load_file(finished), strict=True)
            advance(stage.steps)
            continue
        _train_stage(prepared, stage, folder, seed=prepared.recipe.seed * 100 + number, advance=advance)
        if rank() == 0:
            save_weights(made.module, finished)
    return made


class StageTrainer(Trainer):  # type: ignore[misc]  # transformers carries no types
    """The Trainer, which also logs each term of the loss and saves tied weights."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._terms: dict[str, list[Tensor]] = {}

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The module's own loss; its terms are kept for the log."""
        out = model(**inputs)
        for name, term in out.items():
            self._terms.setdefault(name, []).append(term.detach())
        return out["loss"]

    def _prepare_input(self, data: Any) -> Any:
        # The Trainer rebuilds a tuple from an iterator, which a NamedTuple does not accept.
        if isinstance(data, Batch | Padded):
            return type(data)(*map(self._prepare_input, data))
        return super()._prepare_input(data)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add each term's mean since the last log, over all processes."""
        means = {name: float(averaged(torch.stack(terms).mean())) for name, terms in self._terms.items()}
        self._terms.clear()
        super().log(means | logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if self.args.should_save:
            super()._save(output_dir, state_dict=untied(self.model))


class Anneal(TrainerCallback):  # type: ignore[misc]  # transformers carries no types
    """Lowers the weight of step supervision linearly to 0 during the stage."""

    def __init__(self, module: CodiModule, stage: Stage) -> None:
        self.module, self.stage = module, stage

    def on_step_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Set this step's weights."""
        end = max(1.0, self.stage.supervised_until * self.stage.steps)
        remaining = max(0.0, 1.0 - state.global_step / end)
        weights = dict.fromkeys(TERMS, 0.0) | dict(self.stage.weights)
        self.module.weights = weights | {"supervision": weights["supervision"] * remaining}


class Report(TrainerCallback):  # type: ignore[misc]  # transformers carries no types
    """Appends each log entry to a file of JSON lines, and reports how many steps are done.

    An entry's `seconds` count from the beginning of the stage; of an interrupted call they count up to its last
    checkpoint.
    """

    def __init__(self, path: Path, advance: Callable[[int], None]) -> None:
        self.path, self.advance = path, advance
        self.began = time.monotonic()

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the steps of an earlier call, and drop what it logged after its last checkpoint."""
        self.advance(state.global_step)
        if not state.is_world_process_zero:
            return
        lines = self.path.read_text("utf-8").splitlines(keepends=True) if self.path.exists() else []
        kept = [line for line in lines if _entry(line).get("step", state.global_step + 1) <= state.global_step]
        with replacing(self.path) as file:
            file.writelines(kept)
        self.began = time.monotonic() - (_entry(kept[-1]).get("seconds", 0.0) if kept else 0.0)

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Count a step."""
        self.advance(1)

    def on_log(self, args: TrainingArguments, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any) -> None:
        """Write the entry."""
        if not state.is_world_process_zero:
            return
        spent = {"cpu_seconds": round(time.process_time(), 1), "seconds": round(time.monotonic() - self.began, 1)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": state.global_step} | spent | logs) + "\n")


def _entry(line: str) -> dict[str, Any]:
    """A log entry; empty where a kill cut it off."""
    try:
        entry: dict[str, Any] = json.loads(line)
    except ValueError:
        return {}
    return entry


def _train_stage(prepared: Prepared, stage: Stage, folder: Path, *, seed: int, advance: Callable[[int], None]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    module, tokenizer, markers = prepared.made
    module.supervised = stage.supervised
    module.scrambled = stage.scrambled
    module.n_thoughts = prepared.recipe.thoughts_in(stage)
    trainer = StageTrainer(
        model=module,
        args=_arguments(prepared.recipe, stage, folder, seed),
        train_dataset=_dataset(prepared, stage, seed),
        data_collator=Collator(
            tokenizer,
            markers.eot,
            padding(tokenizer, markers),
            after_steps=prepared.recipe.after_steps,
            family=prepared.recipe.family,
            replaced=stage.replaced,
        ),
        callbacks=[Anneal(module, stage), Report(folder / "log.jsonl", advance)],
    )
    trainer.remove_callback(PrinterCallback)
    if rank() > 0:
        # Every process was given the same seed, but needs dropout and offsets of its own.
        torch.manual_seed(seed + rank())
    checkpoint = last_checkpoint(folder)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def _dataset(prepared: Prepared, stage: Stage, seed: int) -> Dataset[Problem]:
    length = stage.steps * stage.accumulation * stage.batch * n_processes()
    if prepared.problems is None:
        return Generated(stage, seed, length)
    return Shuffled(prepared.problems, seed, length)


def _arguments(recipe: Recipe, stage: Stage, folder: Path, seed: int) -> TrainingArguments:
    floor = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": stage.floor}}
    schedule = floor if stage.schedule == "cosine" else {"lr_scheduler_type": stage.schedule}
    # Without student or thoughts the projection gets no gradient, which DistributedDataParallel must be told.
    thinks = bool(stage.weights.get("student")) and recipe.thoughts > 0
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=stage.steps,
        per_device_train_batch_size=stage.batch,
        gradient_accumulation_steps=stage.accumulation,
        train_sampling_strategy="sequential",
        learning_rate=stage.rate,
        warmup_steps=stage.warmup,
        adam_beta1=stage.betas[0],
        adam_beta2=stage.betas[1],
        weight_decay=stage.weight_decay,
        max_grad_norm=stage.clip,
        seed=seed,
        bf16=recipe.bf16,
        use_cpu=not torch.accelerator.is_available(),
        ddp_find_unused_parameters=not thinks,
        save_steps=max(1, min(500, stage.steps // 2)),
        save_total_limit=1,
        logging_steps=max(1, min(50, stage.steps // 10)),
        logging_nan_inf_filter=False,
        report_to=[],
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=[],
        **schedule,
    )
    # One process uses one GPU: transformers would split batches over all that are visible.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments
