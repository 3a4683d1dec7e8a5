"""Stages of a recipe run one after the other on the transformers Trainer, with checkpoints, and can be resumed.

A finished stage leaves its weights as `OUT/training/NAME/finished.safetensors`; a broken-off one goes on from its last
checkpoint. Problems are drawn by index from an endless stream, so that the data of step s is the same whether or not
the training was interrupted.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from thoughtlens.problems.arithmetic import arithmetic_problem
from thoughtlens.problems.problem import Problem
from thoughtlens.training.build import Untrained, build
from thoughtlens.training.examples import Batch, Collator, Padded
from thoughtlens.training.objective import TERMS, CodiModule
from thoughtlens.training.recipe import Recipe, Stage
from thoughtlens.training.weights import untied


class Stream(Dataset[Problem]):
    """Generated training problems, by index."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self.stage, self.seed = stage, seed

    def __len__(self) -> int:
        return self.stage.steps * self.stage.batch

    def __getitem__(self, index: int) -> Problem:
        return arithmetic_problem(index, split="train", seed=self.seed, n_steps=self.stage.n_steps)


class StageTrainer(Trainer):  # type: ignore[misc]  # transformers carries no types
    """The Trainer, logging each term of the loss and saving tied weights."""

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
        # The Trainer rebuilds a tuple from an iterator, which a named one refuses.
        if isinstance(data, Batch | Padded):
            return type(data)(*map(self._prepare_input, data))
        return super()._prepare_input(data)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add each term's mean since the last log."""
        means = {name: float(sum(terms) / len(terms)) for name, terms in self._terms.items()}
        self._terms.clear()
        super().log(means | logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        super()._save(output_dir, state_dict=untied(self.model))


class Anneal(TrainerCallback):  # type: ignore[misc]  # transformers carries no types
    """Lets step supervision fall linearly to nothing, by the stage's own progress."""

    def __init__(self, module: CodiModule, stage: Stage) -> None:
        self.module, self.stage = module, stage

    def on_step_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Set this step's weights."""
        end = max(1.0, self.stage.supervised_until * self.stage.steps)
        remaining = max(0.0, 1.0 - state.global_step / end)
        weights = dict.fromkeys(TERMS, 0.0) | dict(self.stage.weights)
        self.module.weights = weights | {"supervision": weights["supervision"] * remaining}


class Report(TrainerCallback):  # type: ignore[misc]  # transformers carries no types
    """Appends each log entry to a file of JSON lines, and tells how many steps are done."""

    def __init__(self, path: Path, advance: Callable[[int], None]) -> None:
        self.path, self.advance = path, advance

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the steps of an earlier call."""
        self.advance(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Count a step."""
        self.advance(1)

    def on_log(self, args: TrainingArguments, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any) -> None:
        """Write the entry."""
        entry = {"step": state.global_step, "cpu_seconds": round(time.process_time(), 1)} | logs
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def train_stages(recipe: Recipe, out: Path, advance: Callable[[int], None] = lambda n_steps: None) -> Untrained:
    """Train through every stage, going on where an earlier call on the same folder stopped.

    Args:
        recipe: what to train.
        out: folder; checkpoints and logs go to `out/training`.
        advance: called with the number of steps done.

    Returns:
        The trained module with its tokenizer and markers.
    """
    made = build(recipe)
    for number, stage in enumerate(recipe.stages, start=1):
        folder = out / "training" / f"{number}-{stage.name}"
        finished = folder / "finished.safetensors"
        if finished.exists():
            made.module.load_state_dict(load_file(finished), strict=True)
            advance(stage.steps)
            continue
        _train_stage(made, stage, folder, seed=recipe.seed * 100 + number, advance=advance)
        save_file(untied(made.module), finished)
    return made


def _train_stage(made: Untrained, stage: Stage, folder: Path, *, seed: int, advance: Callable[[int], None]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    made.module.supervised = stage.supervised
    made.module.scrambled = stage.scrambled
    trainer = StageTrainer(
        model=made.module,
        args=_arguments(stage, folder, seed),
        train_dataset=Stream(stage, seed),
        data_collator=Collator(made.tokenizer, made.markers.eot, made.markers.pad),
        callbacks=[Anneal(made.module, stage), Report(folder / "log.jsonl", advance)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)))


def _arguments(stage: Stage, folder: Path, seed: int) -> TrainingArguments:
    floor = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.03}}
    schedule = floor if stage.schedule == "cosine" else {"lr_scheduler_type": stage.schedule}
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=stage.steps,
        per_device_train_batch_size=stage.batch,
        train_sampling_strategy="sequential",
        learning_rate=stage.rate,
        warmup_steps=stage.warmup,
        adam_beta2=0.98,
        weight_decay=0.01,
        max_grad_norm=1.0,
        seed=seed,
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
