"""What a model has read so far: its key-value cache, and which positions are real rather than padding.

Attention masks and position ids are derived from `real` at every step. GPT-2 needs explicit positions under padding,
and both families need the mask in single-token steps too, or a problem's numbers would depend on its batch.
"""

from typing import Any

import torch
from torch import Tensor, nn

from thoughtlens.models.cache import roomy_cache


class Context:
    """A growing batch of sequences, read by the decoder without its output layer.

    Attributes:
        backbone: the decoder stack, from embeddings to the final norm.
        real: bool (problem, position), False on padding; None before the first read.
    """

    def __init__(self, backbone: nn.Module) -> None:
        self.backbone = backbone
        self.cache = roomy_cache()
        self.real: Tensor | None = None

    def read(self, inputs: Tensor, real: Tensor | None = None, **passed_down: Any) -> Any:
        """Append positions to every sequence.

        Args:
            inputs: token ids (problem, position), or embeddings (problem, position, hidden).
            real: bool (problem, position), False on padding; None means that all are real.
            passed_down: handed to the attention function (`taps=` and codes) or the model (`output_hidden_states=`).

        Returns:
            The backbone's output for the new positions.
        """
        new = torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device) if real is None else real
        self.real = new if self.real is None else torch.cat([self.real, new], dim=1)
        positions = (self.real.long().cumsum(1) - 1).clamp(min=0)[:, -inputs.shape[1] :]
        as_input = {"inputs_embeds": inputs} if inputs.is_floating_point() else {"input_ids": inputs}
        return self.backbone(
            **as_input,
            attention_mask=self.real.long(),
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            **passed_down,
        )

    def forget(self, n_positions: int) -> None:
        """Take back the last positions read."""
        if n_positions and self.real is not None:
            self.cache.crop(-n_positions)
            self.real = self.real[:, :-n_positions]

    def fork(self, n_copies: int) -> "Context":
        """The same batch `n_copies` times over, one whole batch after another; this one stays as it is."""
        twin = Context(self.backbone)
        for index, layer in enumerate(self.cache.layers):
            copies = (kept.expand(n_copies, *kept.shape).flatten(0, 1) for kept in (layer.keys, layer.values))
            twin.cache.update(*copies, index)
        twin.real = None if self.real is None else self.real.repeat(n_copies, 1)
        return twin

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the sequences alone."""
        self.cache.batch_select_indices(rows)
        if self.real is not None:
            self.real = self.real[rows]
