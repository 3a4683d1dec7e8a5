"""The state of a batch during the forward passes: key-value cache, attention mask, positions, applied taps, padding.

- `BatchPass`: the batch: what was read so far and the codes of its positions. Reading the questions costs most of a
  pass, so a batch can be forked: the same questions go on under several sets of taps without being read again. Problems
  that are done can leave it.
- `Context`: the same without codes and taps, for training too. Mask and position ids follow from which positions are
  real rather than padding: GPT-2 needs explicit positions under padding, and both families need the mask in
  single-token steps, or a problem's numbers would depend on the problems beside it.
- `roomy_cache`: a key-value cache whose tensors have room to grow. transformers' own cache copies all earlier positions
  into a new tensor at every step; here that happens once in `ROOM` steps. Where gradients may be wanted, the cache is
  transformers' own: what a backward pass needs must not be written over.

How padding is read, and what its rows are given, says a `Protocol` (`thoughtlens.reasoning.protocols`).
"""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

from thoughtlens.models.reasoner import LatentReasoner
from thoughtlens.notation import FIRST, PAD_CODE, QUESTION, TEXT, group_code, slot_codes, text_code
from thoughtlens.reasoning.protocols import EXACT, Protocol
from thoughtlens.taps import Moment, Site, Taps

ROOM: Final = 32
"""Positions that a tensor can grow by before it is copied."""


class _Growing:
    """One tensor (problem, head, position, channel) with room after its last position."""

    def __init__(self) -> None:
        self.whole, self.shown = torch.empty(0), torch.empty(0)

    def append(self, kept: Tensor, new: Tensor) -> Tensor:
        """Kept and new positions, one after the other.

        `kept` is copied unless it is what `append` returned last: rows may have been chosen, positions forgotten.
        """
        start = kept.shape[-2] if kept.numel() else 0
        end = start + new.shape[-2]
        if kept is not self.shown or end > self.whole.shape[-2]:
            self.whole = new.new_empty(*new.shape[:-2], end + ROOM, new.shape[-1])
            if start:
                self.whole[..., :start, :] = kept
        self.whole[..., start:end, :] = new
        self.shown = self.whole[..., :end, :]
        return self.shown


class RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers is not typed
    """The cache of one layer; outside inference mode it works as transformers' own."""

    keys: Any
    values: Any

    def __init__(self) -> None:
        super().__init__()
        self._keys, self._values = _Growing(), _Growing()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """Append new positions, and return all keys and values so far."""
        if not torch.is_inference_mode_enabled():
            joined: tuple[Tensor, Tensor] = super().update(key_states, value_states, *args, **options)
            return joined
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._keys.append(self.keys, key_states)
        self.values = self._values.append(self.values, value_states)
        return self.keys, self.values


def roomy_cache() -> Cache:
    """Make an empty key-value cache whose tensors have room to grow.

    Returns:
        A cache for `past_key_values` of a model of transformers.

    Example:
        >>> cache = roomy_cache()
        >>> cache.get_seq_length()
        0
    """
    return Cache(layer_class_to_replicate=RoomyLayer)


class Context:
    """A growing batch of sequences, read by the decoder without its output layer.

    Attributes:
        backbone: the decoder stack, from embeddings to the final norm.
        real: bool (problem, position), False on padding; None before the first read.
    """

    def __init__(self, backbone: nn.Module, protocol: Protocol = EXACT) -> None:
        self.backbone, self.protocol = backbone, protocol
        self.cache = roomy_cache()
        self.real: Tensor | None = None
        self.n_masked = 0

    def read(self, inputs: Tensor, real: Tensor | None = None, **passed_down: Any) -> Any:
        """Append positions to every sequence, and return the backbone's output for them.

        Args:
            inputs: token ids (problem, position), or embeddings (problem, position, hidden).
            real: bool (problem, position), False on padding; None means that all are real.
            passed_down: handed to the attention function (`taps=` and codes) or the model (`output_hidden_states=`).
        """
        new = torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device) if real is None else real
        first = self.real is None
        self.real = new if self.real is None else torch.cat([self.real, new], dim=1)
        if self.protocol.official:
            # Padding counts as a position; it is masked in the first pass alone, and where that is read again.
            positions = torch.arange(self.real.shape[1], device=new.device).expand(*self.real.shape)
            passed_down |= {"padded": (~new, self.protocol.padded_rows)} if first else {}
            self.n_masked = self.real.shape[1] if first else self.n_masked
            mask = self.real if self.real.shape[1] <= self.n_masked else torch.ones_like(self.real)
        else:
            positions, mask = (self.real.long().cumsum(1) - 1).clamp(min=0), self.real
        passed_mask = self._of_one(mask) if inputs.shape[1] == 1 and self._sees_all else mask.long()
        as_input = {"inputs_embeds": inputs} if inputs.is_floating_point() else {"input_ids": inputs}
        return self.backbone(
            **as_input,
            attention_mask=passed_mask,
            position_ids=positions[:, -inputs.shape[1] :],
            past_key_values=self.cache,
            use_cache=True,
            **passed_down,
        )

    @property
    def _sees_all(self) -> bool:
        """Whether a position sees all before it; in training, transformers' own masks are used."""
        return torch.is_inference_mode_enabled() and getattr(self.backbone.config, "sliding_window", None) is None

    def _of_one(self, mask: Tensor) -> Tensor:
        """The additive mask (problem, 1, 1, position) that transformers would make for one position, at less cost."""
        weight = next(self.backbone.parameters())
        return torch.where(mask[:, None, None], weight.new_zeros(()), torch.finfo(weight.dtype).min)

    def forget(self, n_positions: int) -> None:
        """Take back the last positions read."""
        if n_positions and self.real is not None:
            self.cache.crop(-n_positions)
            self.real = self.real[:, :-n_positions]

    def fork(self, n_copies: int) -> "Context":
        """The same batch `n_copies` times over, one whole batch after another; this one stays as it is."""
        twin = Context(self.backbone, self.protocol)
        for index, layer in enumerate(self.cache.layers):
            copies = (kept.expand(n_copies, *kept.shape).flatten(0, 1) for kept in (layer.keys, layer.values))
            twin.cache.update(*copies, index)
        twin.n_masked = self.n_masked
        twin.real = None if self.real is None else self.real.repeat(n_copies, 1)
        return twin

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the sequences alone."""
        self.cache.batch_select_indices(rows)
        if self.real is not None:
            self.real = self.real[rows]


class BatchPass:
    """A batch of problems on its way through the model.

    Args:
        reasoner: the model.
        taps: what watches or edits every step from `bot` on.
        n_thoughts: T; it decides the codes of the slots.
        protocol: how padding is read.

    Attributes:
        reasoner: the model.
        taps: as given.
        n_thoughts: as given.
        slots: code of each named slot, `text` among them.
        keys: codes (problem, position) of what was read.
        rows: index (problem,) of each present problem in the batch as it was begun.
        asked: the last hidden states (problem, hidden) after the questions.

    Example:
        >>> from thoughtlens.models import load
        >>> from thoughtlens.reasoning import decode, think
        >>> reasoner = load("tiny-gpt2")
        >>> prompt = reasoner.prompt("Ann has 2 bags of 4 pens. She finds 3 more. How many pens does she have?")
        >>> with torch.inference_mode():
        ...     batch = BatchPass(reasoner, Taps(), n_thoughts=6)
        ...     _ = batch.question([prompt[:-1]])
        ...     thinking = think(batch, prompt[-1], 6)
        ...     print(reasoner.decode(decode(batch, thinking.state, [16])[0]))
        The answer is: 11
    """

    def __init__(self, reasoner: LatentReasoner, taps: Taps, n_thoughts: int, protocol: Protocol = EXACT) -> None:
        self.reasoner, self.taps = reasoner, taps
        self.n_thoughts = n_thoughts
        self.slots = slot_codes(n_thoughts) | {TEXT: text_code(n_thoughts)}
        self.context = Context(reasoner.lm.base_model, protocol)
        self.device = reasoner.lm.device
        self.keys = torch.empty(0, dtype=torch.long)
        self.rows = torch.empty(0, dtype=torch.long)
        self.asked = torch.empty(0)

    def question(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read the questions in one pass without taps; returns the last hidden states (problem, hidden)."""
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self.reasoner.padding)
        codes = torch.full((len(prompts), width), PAD_CODE)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            codes[row, width - len(prompt) :] = self.slots[QUESTION]
            codes[row, width - len(prompt)] = self.slots[FIRST]
        self.keys, self.rows = codes.to(self.device), torch.arange(len(prompts), device=self.device)
        opening = torch.tensor(self.reasoner.opening if self.context.protocol.official else (), dtype=torch.long)
        read = torch.cat([ids, opening.expand(len(ids), -1)], dim=1).to(self.device)
        real = torch.cat([self.keys != PAD_CODE, self.keys.new_ones(len(ids), len(opening)) > 0], dim=1)
        out = self.context.read(read, real)
        # What official code gives padded rows depends on `bot` too; it is read again on its own, under the taps.
        self.context.forget(len(opening))
        self.asked = out.last_hidden_state[:, width - 1]
        return self.asked

    def mark_groups(self, prompts: Sequence[Sequence[int]]) -> None:
        """Give the tokens of the family's groups codes of their own, in place of that of `question`, for cuts."""
        if not self.reasoner.group_names:
            return
        for row, prompt in enumerate(prompts):
            # Prompts are padded on the left, and end before the token that opens the thoughts.
            start = self.keys.shape[1] - (len(prompt) - len(self.reasoner.opening))
            for name, places in self.reasoner.groups(prompt).items():
                self.keys[row, [start + place for place in places]] = group_code(name)

    def fork(self, n_copies: int = 1, *, taps: Taps | None = None, n_thoughts: int | None = None) -> "BatchPass":
        """The same batch `n_copies` times over, one whole batch after another; this one stays as it is.

        Args:
            n_copies: how often each problem goes on.
            taps: of the fork; those of this batch if None.
            n_thoughts: T of the fork, where no thought has been read yet; that of this batch if None.
        """
        count = self.n_thoughts if n_thoughts is None else n_thoughts
        twin = BatchPass(self.reasoner, self.taps if taps is None else taps, count, self.context.protocol)
        twin.context = self.context.fork(n_copies)
        twin.keys = self.keys.repeat(n_copies, 1)
        twin.rows = torch.arange(len(twin.keys), device=self.device)
        twin.asked = self.asked.repeat(n_copies, 1)
        return twin

    def keep(self, places: Tensor) -> None:
        """Go on with the problems at these places alone; `rows` follows."""
        self.context.keep(places)
        self.keys, self.rows = self.keys[places], self.rows[places]

    def forget(self, n_positions: int) -> None:
        """Take back the last positions read."""
        self.context.forget(n_positions)
        self.keys = self.keys[:, : self.keys.shape[1] - n_positions]

    def mark(self) -> Any:
        """Where the batch stands, for `back_to`."""
        return self.keys.shape[1]

    def back_to(self, mark: Any) -> None:
        """Take back what was read since a mark."""
        self.forget(self.keys.shape[1] - mark)

    def use(self, taps: Taps) -> None:
        """Go on under other taps; those before have what was kept."""
        self.taps = taps

    def close(self) -> None:
        """Give the taps what they have kept; here they have it already."""

    def token(self, token: int, slot: str) -> Tensor:
        """Read the same token in every problem; returns the last hidden states (problem, hidden)."""
        return self.step(torch.full((len(self.keys), 1), token, device=self.device), self.all(slot))

    def all(self, slot: str) -> Tensor:
        """Codes (problem, 1) of one slot for every problem."""
        return torch.full((len(self.keys), 1), self.slots[slot], device=self.device)

    def step(self, inputs: Tensor, keys: Tensor, queries: Tensor | None = None) -> Tensor:
        """Read one position in every problem, under the taps; returns the last hidden states (problem, hidden)."""
        self.keys = torch.cat([self.keys, keys], dim=1)
        queries = keys if queries is None else queries
        met = {"queries": queries, "keys": self.keys, "slots": self.slots, "rows": self.rows}
        out = self.context.read(inputs, keys != PAD_CODE, taps=self.taps, **met)
        state: Tensor = out.last_hidden_state[:, -1]
        return state

    def think(self, state: Tensor, name: str) -> tuple[Tensor, Tensor]:
        """Feed a state back as a thought and read it; returns the thought and the state after it."""
        thought = self.edited(self.reasoner.feed_back(state), name)
        return thought, self.step(thought[:, None], self.all(name))

    def edited(self, thought: Tensor, slot: str) -> Tensor:
        """Pass a thought through the taps, just before it is fed back."""
        return self.taps(thought, Moment(Site.THOUGHT, None, self.all(slot), self.keys, self.slots, self.rows))
