"""A trained model and the bundled test problems become its card: how it was made, how well it does, its weaknesses."""

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
import xarray as xr

from thoughtlens.analysis import proportion_interval
from thoughtlens.files import replacing, write_json
from thoughtlens.models.codi import Codi
from thoughtlens.problems import Problem, ProblemSet
from thoughtlens.runs.conditions import CONDITIONS, Outcome, evaluate
from thoughtlens.runs.lens import decode_thoughts, results_read
from thoughtlens.runs.manifest import versions
from thoughtlens.training.ranks import n_processes
from thoughtlens.training.recipe import PretrainedBase, Recipe, Stage

Json = dict[str, Any]
GENERATED: Final = "generated problems, none of them a test problem"


def make_card(
    reasoner: Codi,
    recipe: Recipe,
    problems: ProblemSet,
    *,
    training: Mapping[str, Any],
    progress: Callable[[int], None] = lambda n_problems: None,
) -> Json:
    """Measure a model and describe it.

    Args:
        reasoner: the trained model.
        recipe: what it was trained by.
        problems: held-out problems.
        training: what is known of the training: command, seconds.
        progress: called with the number of problems solved, six times over all of them.

    Returns:
        The card, as JSON values.
    """
    config = reasoner.lm.config
    read = results_read(decode_thoughts(reasoner, problems.problems), problems.problems)
    outcomes = evaluate(reasoner, problems.problems, progress=progress)
    return {
        "name": recipe.name,
        "about": recipe.about,
        "architecture": config.model_type,
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "hidden": config.hidden_size,
        "parameters": sum(p.numel() for p in (*reasoner.lm.parameters(), *reasoner.projection.parameters())),
        "thoughts": reasoner.n_thoughts,
        "problems": {"name": problems.name, "split": problems.split, "fingerprint": problems.fingerprint},
        "accuracy": accuracies(outcomes, problems.problems),
        "lens": _lens(read),
        "training": dict(training),
        "caveats": list(recipe.caveats),
    }


def accuracies(outcomes: Sequence[Outcome], problems: Sequence[Problem]) -> Json:
    """Accuracy of each condition with n and a 95 % Wilson interval, over all problems and by number of steps."""
    return {outcome.condition: _accuracy(outcome, problems) for outcome in outcomes}


def _accuracy(outcome: Outcome, problems: Sequence[Problem]) -> Json:
    correct = outcome.correct
    counts = sorted({len(problem.steps) for problem in problems})
    by_steps = {
        str(count): _share([c for c, problem in zip(correct, problems, strict=True) if len(problem.steps) == count])
        for count in counts
    }
    # A model robbed of its thoughts may write its steps out instead, as it learnt to do as its own teacher.
    wrote_steps = sum("<<" in text for text in outcome.texts) / len(outcome.texts)
    return _share(correct) | {"wrote_steps": round(wrote_steps, 4), "by_steps": by_steps}


def _share(correct: Sequence[bool]) -> Json:
    share = proportion_interval(sum(correct), len(correct))
    return {
        "n": len(correct),
        "correct": sum(correct),
        "accuracy": round(float(share.sel(value="estimate")), 4),
        "low": round(float(share.sel(value="low")), 4),
        "high": round(float(share.sel(value="high")), 4),
    }


def _lens(read: xr.Dataset) -> list[Json]:
    """For each step, the thought whose `state_out` names the step's result most often among its top 5 tokens."""
    rows = []
    for step in read["step"].values:
        own = read["own"].sel(step=step, stage="state_out")
        best = own.idxmax("thought").item()
        row = {"step": int(step), "thought": best, "n": int(read["n"].sel(step=step))}
        for name in ("own", "other"):
            row[name] = round(float(read[name].sel(step=step, stage="state_out", thought=best)), 4)
        rows.append(row)
    return rows


def training_facts(recipe: Recipe, out: Path) -> Json:
    """Command, steps, problems seen and wall-clock seconds of a training, from its recipe and its logs."""
    base = f" --base {recipe.base.pretrained}" if isinstance(recipe.base, PretrainedBase) else ""
    together = f"torchrun --nproc_per_node={n_processes()} --no-python " if n_processes() > 1 else ""
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()}, {_threads()}"
    return {
        "command": f"{together}thoughtlens train {recipe.name}{base} --out {recipe.name}",
        "seed": recipe.seed,
        "stages": [{"name": s.name, "steps": s.steps, "problems": _n_read(s)} for s in recipe.stages],
        "problems": f"problems of {recipe.problems.name}" if recipe.problems else GENERATED,
        "wall_seconds": round(sum(map(_seconds, sorted(out.glob("training/*/log.jsonl"))))),
        "machine": machine,
        "versions": versions(),
    }


def _n_read(stage: Stage) -> int:
    return stage.steps * stage.batch * stage.accumulation * n_processes()


def _seconds(log: Path) -> float:
    last = json.loads(log.read_text("utf-8").splitlines()[-1])
    seconds: float = last.get("seconds", last.get("train_runtime", 0.0))
    return seconds


def _threads() -> str:
    count = torch.get_num_threads()
    return f"{count} thread" if count == 1 else f"{count} threads"


def write_card(card: Mapping[str, Any], folder: Path) -> None:
    """Write `card.json` and, for people, `README.md`."""
    write_json(folder / "card.json", card)
    with replacing(folder / "README.md") as file:
        file.write(as_markdown(card))


def as_markdown(card: Mapping[str, Any]) -> str:
    """The card as a page."""
    n_problems = sum(stage["problems"] for stage in card["training"]["stages"])
    lines = [f"# {card['name']}", "", card["about"], ""]
    lines += [
        f"{card['architecture']}, {card['layers']} layers × {card['heads']} heads, hidden {card['hidden']}, "
        f"{card['parameters']:,} parameters, {card['thoughts']} thoughts.",
        "",
        f"Accuracy on the {card['accuracy']['own']['n']:,} held-out problems of `{card['problems']['name']}` "
        f"({card['problems']['split']}), answers generated greedily; 95 % Wilson intervals:",
        "",
        *_accuracy_table(card["accuracy"]),
        "",
        "Reading thoughts (logit lens on the last hidden state at the thought's own position): how often a step's",
        "result is among the top 5 tokens, at the thought where it is most often, against another problem's result:",
        "",
        "| step | thought | own result | another problem's | n |",
        "|---|---|---|---|---|",
        *[f"| {r['step']} | {r['thought']} | {r['own']:.1%} | {r['other']:.1%} | {r['n']:,} |" for r in card["lens"]],
        "",
        f"Recompute: `thoughtlens models {card['name']} --recompute {card['accuracy']['own']['n']}`.",
        "",
        "## Training",
        "",
        f"`{card['training']['command']}`, seed {card['training']['seed']}, "
        f"{card['training']['wall_seconds'] / 60:.0f} minutes on {card['training']['machine']}: "
        + ", ".join(f"{s['name']} {s['steps']:,} steps" for s in card["training"]["stages"])
        + f"; {n_problems:,} {card['training'].get('problems', GENERATED)}.",
        "",
        "## Before you claim anything about it",
        "",
        *[f"- {caveat}" for caveat in card["caveats"]],
    ]
    return "\n".join(lines) + "\n"


def _accuracy_table(accuracy: Mapping[str, Any]) -> list[str]:
    counts = list(accuracy["own"]["by_steps"])
    rows = ["| thoughts | accuracy | 95 % | wrote its steps | " + " | ".join(f"{c} steps" for c in counts) + " |"]
    rows.append("|---|---|---|---|" + "---|" * len(counts))
    for condition, share in accuracy.items():
        by = " | ".join(f"{share['by_steps'][c]['accuracy']:.1%}" for c in counts)
        rows.append(
            f"| {CONDITIONS[condition]} | {share['accuracy']:.1%} | {share['low']:.1%} – {share['high']:.1%} "
            f"| {share['wrote_steps']:.1%} | {by} |"
        )
    return rows
