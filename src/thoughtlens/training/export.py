"""A trained module becomes a model folder in the official layout, ready for `thoughtlens.load`."""

import json
from pathlib import Path

from safetensors.torch import save_file

from thoughtlens.training.build import Untrained
from thoughtlens.training.recipe import Recipe
from thoughtlens.training.weights import untied


def export(made: Untrained, recipe: Recipe, out: Path) -> None:
    """Write weights, configuration, tokenizer and recipe.

    Args:
        made: the trained module.
        recipe: what it was trained by; kept beside it.
        out: the model's folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    config = made.module.causal_lm.config
    config.save_pretrained(out)
    made.tokenizer.save_pretrained(out)
    save_file(untied(made.module), out / "model.safetensors", metadata={"format": "pt"})
    settings = {"family": "codi", "n_thoughts": recipe.thoughts}
    (out / "thoughtlens.json").write_text(json.dumps(settings) + "\n", "utf-8")
    (out / "recipe.toml").write_text(recipe.text, "utf-8")
