"""A trained model and the bundled test problems become its card: how it was made, how well it does, its weaknesses.

A card becomes a page for people, beside the card itself.

Trained models become what a card sets side by side: rivals by accuracy, seeds of a recipe by what they attend to.
"""

import json
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from scipy.stats import spearmanr

from thoughtlens.analysis import Analysis, analyze, headline, proportion_interval
from thoughtlens.errors import CheckpointError
from thoughtlens.evaluation.conditions import CONDITIONS, Outcome, evaluate
from thoughtlens.evaluation.lens import decode_thoughts, results_read
from thoughtlens.files import replacing, write_json
from thoughtlens.models.loader import load
from thoughtlens.models.reasoner import Codi, LatentReasoner
from thoughtlens.problems import Problem, ProblemSet
from thoughtlens.runs.extraction import extract
from thoughtlens.runs.store import versions
from thoughtlens.training.objective import n_processes
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
        **measure(reasoner, problems.problems, progress=progress),
        "training": dict(training),
        "caveats": list(recipe.caveats),
    }


def measure(
    reasoner: Codi, problems: Sequence[Problem], *, progress: Callable[[int], None] = lambda n_problems: None
) -> Json:
    """What of a card can be measured again.

    Returns:
        `accuracy`, of each condition with n and a 95 % Wilson interval, over all problems and by number of steps; and
        `lens`, for each step the thought that names its result most often.
    """
    outcomes = evaluate(reasoner, problems, progress=progress)
    return {
        "accuracy": {outcome.condition: _accuracy(outcome, problems) for outcome in outcomes},
        "lens": _lens(reasoner, problems),
    }


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


def _lens(reasoner: Codi, problems: Sequence[Problem]) -> list[Json]:
    """For each step, the thought whose `state_out` names the step's result most often among its top 5 tokens."""
    if not reasoner.n_thoughts or not any(problem.steps for problem in problems):
        return []
    read = results_read(decode_thoughts(reasoner, problems), problems)
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
        "command": f"{together}thoughtlens train {recipe.name}{base} --seed {recipe.seed} --out {recipe.name}",
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


_EARNS = 0.20
"""Share of problems that thoughts must add for a card to say that they earn it."""


def write_card(card: Mapping[str, Any], folder: Path) -> None:
    """Write `card.json` and, for people, `README.md`."""
    write_json(folder / "card.json", card)
    with replacing(folder / "README.md") as file:
        file.write(as_markdown(card))


def as_markdown(card: Mapping[str, Any]) -> str:
    """The card as a page."""
    lines = [f"# {card['name']}", "", card["about"], ""]
    lines += [
        f"{card['architecture']}, {card['layers']} layers × {card['heads']} heads, hidden {card['hidden']}, "
        f"{card['parameters']:,} parameters, {card['thoughts']} thoughts.",
        "",
        f"Accuracy on the {card['accuracy']['own']['n']:,} held-out problems of `{card['problems']['name']}` "
        f"({card['problems']['split']}), answers generated greedily; 95 % Wilson intervals:",
        "",
        *_accuracy_table(card["accuracy"]),
        *_lens_table(card.get("lens", [])),
        *_rivals_table(card),
        *_seeds_table(card["name"], card.get("seeds")),
        "",
        f"Recompute: `thoughtlens models {card['name']} --recompute {card['accuracy']['own']['n']}`.",
        "",
        *_training(card["training"]),
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


def _training(training: Mapping[str, Any] | None) -> list[str]:
    if training is None:
        return []
    n_problems = sum(stage["problems"] for stage in training["stages"])
    return [
        "## Training",
        "",
        f"`{training['command']}`, seed {training['seed']}, "
        f"{training['wall_seconds'] / 60:.0f} minutes on {training['machine']}: "
        + ", ".join(f"{stage['name']} {stage['steps']:,} steps" for stage in training["stages"])
        + f"; {n_problems:,} {training.get('problems', GENERATED)}.",
        "",
    ]


def _lens_table(lens: Sequence[Mapping[str, Any]]) -> list[str]:
    if not lens:
        return []
    return [
        "",
        "Reading thoughts (logit lens on the last hidden state at the thought's own position): how often a step's",
        "result is among the top 5 tokens, at the thought where it is most often, against another problem's result:",
        "",
        "| step | thought | own result | another problem's | n |",
        "|---|---|---|---|---|",
        *[f"| {r['step']} | {r['thought']} | {r['own']:.1%} | {r['other']:.1%} | {r['n']:,} |" for r in lens],
    ]


def _rivals_table(card: Mapping[str, Any]) -> list[str]:
    if not card.get("beside"):
        return []
    rows = [{"name": card["name"], "about": "this model", "accuracy": card["accuracy"]["own"]}, *card["beside"]]
    best = max(card["beside"], key=lambda rival: float(rival["accuracy"]["accuracy"]))
    gain = card["accuracy"]["own"]["accuracy"] - best["accuracy"]["accuracy"]
    return [
        "",
        "Beside it, the same shape and problems, trained otherwise (recipes of these names):",
        "",
        "| model | accuracy | 95 % | |",
        "|---|---|---|---|",
        *[
            f"| {row['name']} | {row['accuracy']['accuracy']:.1%} "
            f"| {row['accuracy']['low']:.1%} – {row['accuracy']['high']:.1%} | {row['about']} |"
            for row in rows
        ],
        "",
        f"Over the best of them this model gains {100 * gain:.1f} points. {_verdict(gain)}",
        "",
        "Recompute: "
        + ", ".join(f"`thoughtlens train {rival['name']} --out {rival['name']}`" for rival in card["beside"])
        + f", then `thoughtlens train {card['name']} --out {card['name']}"
        + "".join(f" --beside {rival['name']}" for rival in card["beside"])
        + "`.",
    ]


def _verdict(gain: float) -> str:
    if gain >= _EARNS:
        return "Its thoughts earn that."
    return (
        f"That is less than {100 * _EARNS:.0f}: this model needs its own thoughts, but problems this short hardly need "
        "any, since a model trained otherwise does nearly as well."
    )


def _seeds_table(name: str, seeds: Mapping[str, Any] | None) -> list[str]:
    if not seeds:
        return []
    others = [m["seed"] for m in seeds["models"][1:]]
    rows = [
        f"| {m['seed']} | {m['accuracy']['estimate']:.1%} | {m['preferred']['thought']} {_range(m['preferred'])} "
        f"| {_range(m['sequential'])} | {_range(m['skip'])} | {', '.join(m['top_heads'])} |"
        for m in seeds["models"]
    ]
    agreement = ", ".join(f"{value:.2f}" for value in seeds["agreement"])
    return [
        "",
        f"Seeds of this recipe, on {seeds['models'][0]['n']} problems; 95 % bootstrap intervals over problems:",
        "",
        "| seed | accuracy | most preferred thought and its H | sequential preference | skip preference | top heads |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        f"Rank correlation of the heads' importance between pairs of seeds: {agreement}.",
        "What differs between seeds is no property of the training; heads of one seed are named for that seed alone.",
        "",
        "Recompute: "
        + ", ".join(f"`thoughtlens train {name} --seed {seed} --out seed-{seed}`" for seed in others)
        + f", then `thoughtlens train {name} --out {name}"
        + "".join(f" --seeds seed-{seed}" for seed in others)
        + "`.",
    ]


def _range(number: Mapping[str, Any]) -> str:
    return f"{number['estimate']:.2f} [{number['low']:.2f}, {number['high']:.2f}]"


def rivals(folders: Sequence[Path]) -> list[Json]:
    """How well other models do, from the cards in their folders.

    Args:
        folders: of models trained by recipes of this package.

    Returns:
        For each its name, what it is, its training, and its accuracy with its own thoughts.

    Raises:
        CheckpointError: a folder has no card.
    """
    rows = []
    for folder in folders:
        path = folder / "card.json"
        if not path.is_file():
            raise CheckpointError(f"{folder} has no card.json; train that model first.")
        card = json.loads(path.read_text("utf-8"))
        rows.append(
            {name: card[name] for name in ("name", "about", "training")} | {"accuracy": card["accuracy"]["own"]}
        )
    return rows


def seeds(folders: Sequence[Path], problems: ProblemSet, progress: Callable[[int], None]) -> Json:
    """What stays and what changes when only the seed of a recipe does.

    Args:
        folders: models of one recipe, from different seeds.
        problems: what they are compared on.
        progress: called with 1 after each model.

    Returns:
        `models`, for each its seed, accuracy, most preferred thought, sequential and skip preference and top five
        heads; and `agreement`, Spearman's rank correlation of the heads' importance for each pair of models.
    """
    analyses, rows = [], []
    for folder in folders:
        analyses.append(_analyze(load(folder, dtype="float32"), problems))
        progress(1)
    for folder, analysis in zip(folders, analyses, strict=True):
        seed = json.loads((folder / "card.json").read_text("utf-8"))["training"]["seed"]
        found = headline(analysis, n_heads=5)
        found["top_heads"] = [head["name"] for head in found["top_heads"]]  # type: ignore[attr-defined]  # JSON
        rows.append({"seed": seed} | found)
    pairs = combinations(range(len(analyses)), 2)
    return {"models": rows, "agreement": [_agreement(analyses[one], analyses[other]) for one, other in pairs]}


def _analyze(reasoner: LatentReasoner, problems: ProblemSet) -> Analysis:
    with tempfile.TemporaryDirectory() as folder:
        run = extract(reasoner, problems, folder)
        return analyze(run.blocks(), correct=run.attention["correct"].values)


def _agreement(one: Analysis, other: Analysis) -> float:
    ranked = [np.nan_to_num(a.heads["importance"].sel(value="estimate").values.ravel()) for a in (one, other)]
    return round(float(spearmanr(ranked[0], ranked[1]).statistic), 3)
