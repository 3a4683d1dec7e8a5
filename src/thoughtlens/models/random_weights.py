"""A reasoner becomes one of the same architecture that has learnt nothing: the null of every claim about training.

1. The decoder is made anew from its own configuration, by transformers' own initialisation for it.
2. The projection is drawn anew as PyTorch initialises it.  3. Tokenizer, markers and words stay.

Attention of such a model is what architecture, markers and questions give by themselves. How far its weights spread is
said by the configuration (`initializer_range`), and small models may ask for more than GPT-2's 0.02.
"""

import copy
from dataclasses import replace

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from thoughtlens.errors import OptionError
from thoughtlens.models.codi import Codi
from thoughtlens.models.weights import digest
from thoughtlens.tracing.attention import ATTENTION

_MAX_SEED = 2**63 - 1


def randomize(reasoner: Codi, *, seed: int) -> Codi:
    """The same architecture and projection with weights drawn anew.

    Args:
        reasoner: the model; it stays as it is.
        seed: same seed, same weights, in whatever precision and on whatever device; 0 to 2⁶³ − 1.

    Returns:
        A reasoner on the same device, in the same precision, with a name and a digest of its own.

    Raises:
        OptionError: the seed is out of range.
    """
    if not 0 <= seed <= _MAX_SEED:
        raise OptionError(f"the seed of the random weights is {seed}, expected 0 to 2^63 - 1; pass another.")
    # Drawn on the CPU in float32, then moved: other devices and precisions draw other numbers.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        config = copy.deepcopy(reasoner.lm.config)
        lm = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=ATTENTION)
        projection = _drawn_anew(reasoner.projection)
    known = {**reasoner.provenance, "sha256": digest(lm, projection), "random_weights": seed}
    known["name"] = f"{reasoner.provenance.get('name', 'model')}-random-weights-{seed}"
    known["source"] = {**(reasoner.provenance.get("source") or {}), "random_weights": seed}
    lm, projection = (
        module.to(device=reasoner.lm.device, dtype=reasoner.lm.dtype).eval() for module in (lm, projection)
    )
    return replace(reasoner, lm=lm, projection=projection, provenance=known)


def _drawn_anew(projection: nn.Module) -> nn.Module:
    fresh = copy.deepcopy(projection).to(device="cpu", dtype=torch.float32)
    for layer in fresh.modules():
        if isinstance(layer, (nn.Linear, nn.LayerNorm)):
            layer.reset_parameters()
    return fresh
