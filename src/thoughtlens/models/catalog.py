"""What can be named: the models in the package, and published checkpoints known by their Hub id."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final


@dataclass(frozen=True)
class Published:
    """A checkpoint on the Hub.

    Attributes:
        base: Hub id of the base model, for its configuration and tokenizer only.
        about: one line.
    """

    base: str
    about: str


PUBLISHED: Final[Mapping[str, Published]] = {
    "zen-E/CODI-gpt2": Published("gpt2", "CODI on GPT-2 124M, trained on GSM8k-Aug (arXiv 2502.21074)"),
    "zen-E/CODI-llama3.2-1b-Instruct": Published(
        "meta-llama/Llama-3.2-1B-Instruct", "CODI on LLaMA 3.2 1B Instruct, trained on GSM8k-Aug (arXiv 2502.21074)"
    ),
}


@cache
def bundled() -> Mapping[str, Path]:
    """Folder of each model in the package, by name."""
    root = Path(str(resources.files("thoughtlens.models"))) / "bundled"
    return {folder.name: folder for folder in sorted(root.glob("*")) if (folder / "card.json").is_file()}


def read_card(name: str) -> dict[str, Any]:
    """The card of a model in the package."""
    card: dict[str, Any] = json.loads((bundled()[name] / "card.json").read_text("utf-8"))
    return card
