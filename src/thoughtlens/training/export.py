"""A trained module becomes a model folder in the official layout, ready for `thoughtlens.load`."""

import json
from pathlib import Path

from thoughtlens.files import replacing
from thoughtlens.training.build import Untrained
from thoughtlens.training.recipe import Recipe
from thoughtlens.training.weights import save_weights


def export(made: Untrained, recipe: Recipe, out: Path) -> None:
    """Write weights, the base's configuration and tokenizer, what the loader must know, and the recipe.

    Args:
        made: the trained module.
        recipe: what it was trained by; kept beside it.
        out: the model's folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    made.module.causal_lm.config.save_pretrained(out)
    made.tokenizer.save_pretrained(out)
    settings = {"family": "codi", "n_thoughts": recipe.thoughts}
    if recipe.lora:
        settings["lora_alpha"] = recipe.lora.alpha
    with replacing(out / "thoughtlens.json") as file:
        file.write(json.dumps(settings) + "\n")
    with replacing(out / "recipe.toml") as file:
        file.write(recipe.text)
    save_weights(made.module, out / "model.safetensors")
