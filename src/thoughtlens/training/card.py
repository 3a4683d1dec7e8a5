"""A trained model and the bundled test problems become its card: how it was made, how well it does, its weaknesses."""

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from thoughtlens.analysis import proportion_interval
from thoughtlens.files import replacing, write_json
from thoughtlens.models.codi import Codi
from thoughtlens.problems import Problem, ProblemSet
from thoughtlens.runs.conditions import CONDITIONS, Outcome, evaluate
from thoughtlens.runs.manifest import versions
from thoughtlens.training.recipe import Recipe

Json = dict[str, Any]


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
        "training": dict(training),
        "caveats": list(recipe.caveats),
    }


def accuracies(outcomes: Sequence[Outcome], problems: Sequence[Problem]) -> Json:
    """Accuracy of each condition with n and a 95 % Wilson interval, over all problems and by number of steps."""
    return {outcome.condition: _accuracy(outcome.correct, problems) for outcome in outcomes}


def _accuracy(correct: Sequence[bool], problems: Sequence[Problem]) -> Json:
    counts = sorted({len(problem.steps) for problem in problems})
    by_steps = {
        str(count): _share([c for c, problem in zip(correct, problems, strict=True) if len(problem.steps) == count])
        for count in counts
    }
    return _share(correct) | {"by_steps": by_steps}


def _share(correct: Sequence[bool]) -> Json:
    share = proportion_interval(sum(correct), len(correct))
    return {
        "n": len(correct),
        "correct": sum(correct),
        "accuracy": round(float(share.sel(value="estimate")), 4),
        "low": round(float(share.sel(value="low")), 4),
        "high": round(float(share.sel(value="high")), 4),
    }


def training_facts(recipe: Recipe, out: Path) -> Json:
    """Command, steps, problems seen and wall-clock seconds of a training, from its logs."""
    seconds = 0.0
    for log in sorted(out.glob("training/*/log.jsonl")):
        entries = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
        seconds += sum(entry.get("train_runtime", 0.0) for entry in entries)
    return {
        "command": f"thoughtlens train {recipe.name} --out {recipe.name}",
        "seed": recipe.seed,
        "stages": [{"name": s.name, "steps": s.steps, "problems": s.steps * s.batch} for s in recipe.stages],
        "wall_seconds": round(seconds),
        "machine": f"{platform.machine()}, 1 thread",
        "versions": versions(),
    }


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
        f"Recompute: `thoughtlens models {card['name']} --recompute {card['accuracy']['own']['n']}`.",
        "",
        "## Training",
        "",
        f"`{card['training']['command']}`, seed {card['training']['seed']}, "
        f"{card['training']['wall_seconds'] / 60:.0f} minutes on {card['training']['machine']}: "
        + ", ".join(f"{s['name']} {s['steps']:,} steps" for s in card["training"]["stages"])
        + f"; {n_problems:,} generated problems, none of them a test problem.",
        "",
        "## Before you claim anything about it",
        "",
        *[f"- {caveat}" for caveat in card["caveats"]],
    ]
    return "\n".join(lines) + "\n"


def _accuracy_table(accuracy: Mapping[str, Any]) -> list[str]:
    counts = list(accuracy["own"]["by_steps"])
    rows = ["| thoughts | accuracy | 95 % | " + " | ".join(f"{c} steps" for c in counts) + " |"]
    rows.append("|---|---|---|" + "---|" * len(counts))
    for condition, share in accuracy.items():
        by = " | ".join(f"{share['by_steps'][c]['accuracy']:.1%}" for c in counts)
        rows.append(
            f"| {CONDITIONS[condition]} | {share['accuracy']:.1%} | {share['low']:.1%} – {share['high']:.1%} | {by} |"
        )
    return rows
