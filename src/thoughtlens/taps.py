"""Taps, functions that watch or edit a forward pass; the five sites where they apply; and recorders, which only watch.

A tap is a function `(tensor, moment) -> tensor`. A recorder is a tap that returns the tensor as it is and keeps some of
it; an intervention is a tap that edits the tensor where it is addressed. Taps travel as a plain argument of the forward
call, so that there are no hooks and no state on the model:

- transformers hands unknown keyword arguments of a forward call down to the attention function, so `taps=` and the
  codes of the positions arrive in `tapped_attention` as arguments.
- Without taps (the question's pass) PyTorch's fused attention runs and nothing is kept; with taps the arithmetic is
  that of transformers' eager attention, with every site in the open.
- The function is registered with transformers together with its mask: without one, transformers would pass no mask at
  all, and attention would not be causal.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask

from thoughtlens.notation import BOT, PAD_CODE


class Site(StrEnum):
    """The five sites where tensors pass through the taps."""

    THOUGHT = "thought"
    """(problem, hidden): a thought, just before it is fed back."""
    SCORES = "scores"
    """(problem, head, query, key): before the softmax."""
    VALUE = "value"
    """(problem, key-value head, key, channel): the values, before the weighted sum; taps see them before PATTERN."""
    PATTERN = "pattern"
    """(problem, head, query, key): after the softmax, in float32 at least."""
    HEAD = "head"
    """(problem, head, query, channel): a head's output, before the output projection."""


class Moment(NamedTuple):
    """Where in the computation a tap sees a tensor.

    Attributes:
        site: one of the five sites.
        layer: index of the layer; None for a thought, which is fed back between passes.
        queries: codes (problem, query) of the positions that attend.
        keys: codes (problem, key) of the positions that can be attended to; PAD_CODE on padding.
        slots: code of each named slot.
        rows: index (problem,) of each present problem in the batch as it was begun; finished problems leave the batch.
    """

    site: Site
    layer: int | None
    queries: Tensor
    keys: Tensor
    slots: Mapping[str, int]
    rows: Tensor


Tap = Callable[[Tensor, Moment], Tensor]
"""A function from a tensor and its moment to the tensor that the pass goes on with."""


@runtime_checkable
class Fixed(Protocol):
    """A tap that works on tensors of its own alone, by the same kernels in every step: a step with it can be captured.

    A captured step has a twin of the tap. Before a batch the contents of the tap's tensors are copied to those of the
    twin, and back after it.
    """

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """As of every tap, without a word to the host."""
        ...

    def program(self) -> Hashable:
        """What it does, apart from what its tensors hold: taps of one program have tensors of the same shapes."""
        ...

    def tensors(self, device: torch.device) -> list[Tensor]:
        """What it reads and writes, on a device."""
        ...


class Taps(tuple[Tap, ...]):
    """Several taps as one: a tensor passes through them in their order.

    Example:
        >>> double, add = (lambda tensor, moment: 2 * tensor), (lambda tensor, moment: tensor + 1)
        >>> moment = Moment(Site.THOUGHT, None, *[torch.empty(0)] * 2, {}, torch.empty(0))
        >>> Taps([double, add])(torch.tensor([1.0]), moment).item()
        3.0
    """

    __slots__ = ()

    def __new__(cls, taps: Iterable[Tap] = ()) -> "Taps":
        """Keep the order given."""
        return super().__new__(cls, taps)

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """Pass a tensor through every tap, from left to right."""
        for tap in self:
            tensor = tap(tensor, moment)
        return tensor


ATTENTION: Final = "thoughtlens"
"""The name that `tapped_attention` is registered under: the `attn_implementation` to load a model with."""


def tapped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    taps: Taps | None = None,
    queries: Tensor | None = None,
    keys: Tensor | None = None,
    slots: Mapping[str, int] | None = None,
    rows: Tensor | None = None,
    padded: tuple[Tensor, str] | None = None,
    **rest: Any,
) -> tuple[Tensor, Tensor | None]:
    """Scaled dot-product attention that shows its scores, pattern and head outputs to the taps.

    Args:
        module: the attention layer, for its `layer_idx`.
        query: (problem, head, query, channel).
        key: (problem, key-value head, key, channel).
        value: (problem, key-value head, key, channel).
        attention_mask: additive, broadcastable to (problem, head, query, key).
        scaling: factor on the scores; 1 / √channels if None.
        dropout: probability; only without taps.
        taps: what watches or edits; None or empty for the fused function.
        queries: codes (problem, query).
        keys: codes (problem, key).
        slots: code of each named slot.
        rows: index (problem,) of each problem in the batch as it was begun.
        padded: bool (problem, query), True on padding, and what its rows get, of `PADDED_ROWS`; only without taps.
        rest: what transformers passes to every attention function.

    Returns:
        The output (problem, query, head, channel) and the pattern (problem, head, query, key) or None.
    """
    if not taps:
        fused: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **rest
        )
        if padded is not None:
            where, what = padded
            given = PADDED_ROWS[what](query, key, value, query.shape[-1] ** -0.5 if scaling is None else scaling)
            return torch.where(where[:, :, None, None], given.transpose(1, 2).to(fused[0].dtype), fused[0]), None
        return fused
    # The loop passes all of them with the taps.
    assert queries is not None and keys is not None and slots is not None and rows is not None
    layer = int(module.layer_idx)  # type: ignore[arg-type]  # nn.Module types every attribute as Tensor or Module

    def see(site: Site, tensor: Tensor) -> Tensor:
        return taps(tensor, Moment(site, layer, queries, keys, slots, rows))

    scores = _grouped(query, key.mT) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if attention_mask is not None:
        scores = scores + attention_mask
    scores = see(Site.SCORES, scores)
    value = see(Site.VALUE, value)
    # Never below float32, never above the scores' own precision: a float32 softmax of float64 scores turns the
    # mask's minimum into -inf and a fully masked row into NaN.
    pattern = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    pattern = see(Site.PATTERN, pattern)
    heads = see(Site.HEAD, _grouped(pattern.to(value.dtype), value))
    return heads.transpose(1, 2).contiguous(), pattern


def _mean_of_all(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    mean = value.mean(2, keepdim=True).repeat_interleave(query.shape[1] // value.shape[1], dim=1)
    return mean.expand(-1, -1, query.shape[2], -1)


def _attention_to_all(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    scores = _grouped(query, key.mT) * scaling
    pattern = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    return _grouped(pattern.to(value.dtype), value)


def _zeros(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    return torch.zeros_like(query)


PADDED_ROWS: Final[Mapping[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]]] = {
    "mean": _mean_of_all,
    "all": _attention_to_all,
    "zero": _zeros,
}
"""What attention gives padded rows: query, key, value and scaling in, (problem, head, query, channel) out."""


def _grouped(left: Tensor, right: Tensor) -> Tensor:
    """Product of every head's matrix with that of its key-value head, without copying the latter for each head.

    (problem, head, query, inner) @ (problem, key-value head, inner, column); neighbouring heads share one.
    """
    n_problems, n_groups = right.shape[:2]
    folded = left.reshape(n_problems, n_groups, -1, left.shape[-1]) @ right
    return folded.view(*left.shape[:-1], right.shape[-1])


AttentionInterface.register(ATTENTION, tapped_attention)
AttentionMaskInterface.register(ATTENTION, eager_mask)


class Recorder:
    """What recorders share: tensors that are made on the device where they are first written, and stay there.

    A recorder works on these tensors alone, by the same kernels in every step, so that a step can be captured with it:
    see `Fixed`. A tensor of rows by query has one row more than is read, for the queries that are not recorded.
    """

    def __init__(self, **sizes: tuple[tuple[int, ...], float, torch.dtype]) -> None:
        self._sizes, self._tensors = sizes, dict[str, Tensor]()

    def program(self) -> Hashable:
        """Class and sizes."""
        return type(self), *self._sizes.items()

    def tensors(self, device: torch.device) -> list[Tensor]:
        """What it has kept so far."""
        return [self._on(device, name) for name in self._sizes]

    def _on(self, device: torch.device, name: str) -> Tensor:
        if name not in self._tensors:
            shape, value, dtype = self._sizes[name]
            with torch.inference_mode(False):  # callers may write to what is read from here
                self._tensors[name] = torch.full(shape, value, dtype=dtype, device=device)
        elif self._tensors[name].device != device:
            self._tensors[name] = self._tensors[name].to(device)
        return self._tensors[name]

    def _read(self, name: str) -> Tensor:
        """What was kept, on the CPU."""
        return self._on(torch.device("cpu"), name) if name not in self._tensors else self._tensors[name].cpu()


def _rows_of(moment: Moment, n_rows: int) -> Tensor:
    """The row (problem, query) of each query; the one after the last for queries that have none."""
    rows = moment.queries - moment.slots[BOT]
    return torch.where((rows >= 0) & (rows < n_rows), rows, n_rows)


class AttentionRecorder(Recorder):
    """Keeps the pattern of every named query, its keys pooled by slot, on the model's device until it is asked for.

    Example:
        >>> from thoughtlens.models import load
        >>> from thoughtlens.reasoning import reason
        >>> recorder = AttentionRecorder(n_problems=1, n_layers=4, n_heads=4, n_thoughts=6, dtype=torch.float32)
        >>> trace = reason(load("tiny-gpt2"), ["Ann has 2 bags of 4 pens. How many?"], taps=[recorder])
        >>> tuple(recorder.attention.shape)
        (1, 4, 4, 9, 11)
    """

    def __init__(self, *, n_problems: int, n_layers: int, n_heads: int, n_thoughts: int, dtype: torch.dtype) -> None:
        shape = (n_problems, n_layers, n_heads, n_thoughts + 4, n_thoughts + 5)
        super().__init__(attention=(shape, torch.nan, torch.promote_types(dtype, torch.float32)))
        self._of: tuple[Tensor, Tensor] | None = None
        self._places = (torch.empty(0),) * 2

    @property
    def attention(self) -> Tensor:
        """(problem, layer, head, query, key) float32 or wider; NaN in the row of a query that did not occur."""
        return self._read("attention")[..., :-1, :]

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """Keep the pattern's rows; of several rows of a query the last one is kept."""
        if moment.site is Site.PATTERN:
            self._keep(tensor, moment)
        return tensor

    def _keep(self, pattern: Tensor, moment: Moment) -> None:
        kept = self._on(pattern.device, "attention")
        row, in_slot = self._places_of(moment, kept, pattern.dtype)
        # One product a problem, heads and queries side by side: broadcasting would copy `in_slot` for each head.
        pooled = (pattern.flatten(1, 2) @ in_slot).view(*pattern.shape[:3], -1).to(kept.dtype)
        for step in range(pattern.shape[2]):
            kept[:, moment.layer][moment.rows, :, row[:, step]] = pooled[:, :, step]

    def _places_of(self, moment: Moment, kept: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Where the rows of this pass go (`_rows_of`), and (problem, key, slot), 1 where a key is of a slot.

        Found at the first layer of a pass and kept for the others, which have the same queries and keys.
        """
        if self._of is None or self._of[0] is not moment.queries or self._of[1] is not moment.keys:
            slots = torch.arange(kept.shape[-1], device=moment.keys.device)
            in_slot = (moment.keys[:, :, None] == slots).to(dtype)
            self._of = moment.queries, moment.keys
            self._places = _rows_of(moment, kept.shape[-2] - 1), in_slot
        return self._places


class QuestionRecorder(Recorder):
    """Keeps how each named query attends to each token of the question, averaged over heads."""

    def __init__(self, *, n_problems: int, n_layers: int, n_thoughts: int, n_tokens: int, dtype: torch.dtype) -> None:
        shape = (n_problems, n_layers, n_thoughts + 4, n_tokens)
        super().__init__(attention=(shape, torch.nan, torch.promote_types(dtype, torch.float32)))

    @property
    def attention(self) -> Tensor:
        """(problem, layer, query, token) float32 or wider; NaN in the row of a query that did not occur.

        Tokens are as they lie in the batch, padding first.
        """
        return self._read("attention")[..., :-1, :]

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """Keep the pattern's first columns; of several rows of a query the last one is kept."""
        if moment.site is Site.PATTERN:
            kept = self._on(tensor.device, "attention")
            row, mean = _rows_of(moment, kept.shape[-2] - 1), tensor[..., : kept.shape[-1]].mean(1)
            for step in range(tensor.shape[2]):
                kept[:, moment.layer][moment.rows, row[:, step]] = mean[:, step].to(kept.dtype)
        return tensor


class ValueRecorder:
    """Keeps how much each key gives each query: the norm of the weighted, projected value, pooled by slot.

    ‖α[q, k] · v[k] · W_O‖, W_O being the head's slice of the output projection; a slot of several tokens has the sum
    of their norms, which is not the norm of their sum.  From 0, no null: a weight on a small value moves little.

    Args:
        rows: the recorder that keeps these rows, as it would keep those of a pattern.
        factors: F (head, channel, rank) of each layer, with ‖v F‖ = ‖v W_O‖ for every v.

    Reference: Kobayashi et al. 2020, arXiv 2004.10102.
    """

    def __init__(self, rows: AttentionRecorder, factors: Sequence[Tensor]) -> None:
        self._rows = rows
        self._factors = factors
        self._norms = torch.empty(0)

    def program(self) -> Hashable:
        """That of the rows, and the shapes of the factors."""
        return type(self), self._rows.program(), *(factor.shape for factor in self._factors)

    def tensors(self, device: torch.device) -> list[Tensor]:
        """Rows and factors."""
        return [*self._rows.tensors(device), *self._factors]

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """Keep the norms of the values; weight them by the pattern, which follows."""
        if moment.site is Site.VALUE and moment.layer is not None:
            factor = self._factors[moment.layer]
            # Neighbouring heads share the values of one key-value head, each with its own projection.
            values = tensor.repeat_interleave(len(factor) // tensor.shape[1], dim=1)
            self._norms = (values.to(factor.dtype) @ factor).norm(dim=-1)
        elif moment.site is Site.PATTERN:
            self._rows(tensor * self._norms[:, :, None], moment)
        return tensor


class PaddingWatch:
    """Keeps the largest attention weight that any query puts on padding: it must be 0."""

    def __init__(self) -> None:
        self.worst = 0.0

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """Look at the pattern's padded columns."""
        if moment.site is Site.PATTERN:
            on_padding = tensor * (moment.keys == PAD_CODE)[:, None, None]
            self.worst = max(self.worst, float(on_padding.max()))
        return tensor


class PaddingRecorder(Recorder):
    """Keeps how much each named query gives to padding."""

    def __init__(self, *, n_problems: int, n_layers: int, n_heads: int, n_thoughts: int) -> None:
        super().__init__(mass=((n_problems, n_layers, n_heads, n_thoughts + 4), 0.0, torch.float32))

    @property
    def mass(self) -> Tensor:
        """(problem, layer, head, query) float32; 0 where there is no padding."""
        return self._read("mass")[..., :-1]

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """Keep the sum of the pattern's padded columns; of several rows of a query the last one is kept."""
        if moment.site is Site.PATTERN:
            kept = self._on(tensor.device, "mass")
            row = _rows_of(moment, kept.shape[-1] - 1)
            given = (tensor * (moment.keys == PAD_CODE)[:, None, None]).sum(-1).float()
            for step in range(tensor.shape[2]):
                kept[:, moment.layer][moment.rows, :, row[:, step]] = given[:, :, step]
        return tensor


class ThoughtRecorder:
    """Keeps the thoughts as they are fed back.

    Attributes:
        thoughts: one (problem, hidden) tensor a thought, in order.
    """

    def __init__(self) -> None:
        self.thoughts: list[Tensor] = []

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """Keep a thought."""
        if moment.site is Site.THOUGHT:
            self.thoughts.append(tensor)
        return tensor


class HeadRecorder(Recorder):
    """Keeps each head's output, before the output projection, at every position from `bot` on.

    Positions are bot, z1 … zT, eot, answer and text; the last is the mean over all other generated tokens.
    """

    def __init__(self, *, n_problems: int, n_layers: int, n_heads: int, n_thoughts: int, n_channels: int) -> None:
        super().__init__(
            sums=((n_problems, n_layers, n_heads, n_thoughts + 5, n_channels), 0.0, torch.float32),
            counts=((n_problems, n_layers, n_thoughts + 5), 0.0, torch.float32),
        )

    @property
    def heads(self) -> Tensor:
        """(problem, layer, head, position, channel) float32; NaN at a position that did not occur."""
        sums, counts = self._read("sums"), self._read("counts")
        return sums[..., :-1, :] / counts[:, :, None, :-1, None]

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """Keep the outputs of one step of one layer."""
        if moment.site is Site.HEAD:
            sums, counts = (self._on(tensor.device, name)[:, moment.layer] for name in ("sums", "counts"))
            place = _rows_of(moment, counts.shape[-1] - 1)
            # A step has each problem once, so no place occurs twice in these indexed additions.
            for step in range(tensor.shape[2]):
                sums[moment.rows, :, place[:, step]] += tensor[:, :, step].float()
                counts[moment.rows, place[:, step]] += 1
        return tensor


class EdgeRecorder(Recorder):
    """Keeps what each head gets from each thought, at every position from `bot` on: weight times value.

    Positions are those of `HeadRecorder`; `text` is not kept.
    """

    def __init__(self, *, n_problems: int, n_layers: int, n_heads: int, n_thoughts: int, n_channels: int) -> None:
        shape = (n_problems, n_layers, n_heads, n_thoughts + 5, n_thoughts, n_channels)
        super().__init__(edges=(shape, 0.0, torch.float32))
        self._values = torch.empty(0)

    @property
    def edges(self) -> Tensor:
        """(problem, layer, head, position, thought, channel) float32; 0 where there is none."""
        return self._read("edges")[:, :, :, :-1]

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """Keep the values; weight those of thoughts by the pattern, which follows."""
        if moment.site is Site.VALUE:
            self._values = tensor
        elif moment.site is Site.PATTERN:
            kept = self._on(tensor.device, "edges")
            n_positions, n_thoughts = kept.shape[3:5]
            codes = moment.slots["z1"] + torch.arange(n_thoughts, device=moment.keys.device)
            is_thought = (moment.keys[:, :, None] == codes).to(tensor.dtype)
            values = self._values.to(tensor.dtype).repeat_interleave(tensor.shape[1] // self._values.shape[1], dim=1)
            weights = tensor @ is_thought[:, None]
            given = (weights[..., None] * (is_thought.mT[:, None] @ values)[:, :, None]).float()
            place = _rows_of(moment, n_positions - 2)
            # `text`, the last position that is read, stays 0: it goes where what is not recorded goes.
            place = place + (place == n_positions - 2)
            for step in range(tensor.shape[2]):
                kept[:, moment.layer][moment.rows, :, place[:, step]] = given[:, :, step]
        return tensor
