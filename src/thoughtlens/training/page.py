"""A card becomes a page for people, beside the card itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thoughtlens.files import replacing, write_json
from thoughtlens.runs.conditions import CONDITIONS
from thoughtlens.training.card import GENERATED

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
        f"| {m['seed']} | {m['accuracy']['estimate']:.1%} | {m['hub']['thought']} {_range(m['hub'])} "
        f"| {_range(m['sequential'])} | {_range(m['skip'])} | {', '.join(m['top_heads'])} |"
        for m in seeds["models"]
    ]
    agreement = ", ".join(f"{value:.2f}" for value in seeds["agreement"])
    return [
        "",
        f"Seeds of this recipe, on {seeds['models'][0]['n']} problems; 95 % bootstrap intervals over problems:",
        "",
        "| seed | accuracy | hub and its H | sequential preference | skip preference | top heads |",
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
