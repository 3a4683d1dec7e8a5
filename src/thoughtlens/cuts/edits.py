"""Edits: what takes the place of a thought, a score, a cell of the pattern or the output of a head.

An edit is a frozen value with a name in `NAMED`, under which it is written as JSON. Most compute new values themselves,
as functions `(tensor, moment) -> tensor`; an intervention says where these are taken. The edits of `Drawn` take values
from passes in which nothing is cut: `cuts.replacement_values` makes a `Replace`, `Plus` or `Noisy` of each for a batch.
"""

from dataclasses import dataclass
from math import isfinite
from typing import ClassVar, Final, get_args

import torch
from torch import Tensor

from thoughtlens.errors import OptionError
from thoughtlens.notation import BOT
from thoughtlens.taps import Moment, Site

Sites = frozenset[Site]
_ANY: Final[Sites] = frozenset({Site.THOUGHT, Site.PATTERN, Site.HEAD})
_VECTORS: Final[Sites] = frozenset({Site.THOUGHT, Site.HEAD})
_THOUGHTS: Final[Sites] = frozenset({Site.THOUGHT})


@dataclass(frozen=True)
class Zero:
    """Zeros. A row of the pattern in which a cell is zeroed sums to less than 1.

    Example:
        >>> from thoughtlens.cuts import ablate_head
        >>> ablate_head("L4H5", edit=Zero()).label
        'L4H5 zero'
    """

    sites: ClassVar[Sites] = _ANY

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """Zeros of the same shape."""
        return torch.zeros_like(tensor)


@dataclass(frozen=True)
class Block:
    """A score that the softmax turns into exactly 0; the other keys of the row share the weight.

    Example:
        >>> from thoughtlens.cuts import knock_out
        >>> knock_out("z4", "z1").parts[0].edit
        Block()
    """

    sites: ClassVar[Sites] = frozenset({Site.SCORES})

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """Minus infinity everywhere."""
        return torch.full_like(tensor, -torch.inf)


@dataclass(frozen=True)
class Scale:
    """A multiple of what was there.

    Attributes:
        factor: 1 leaves all, 0 nothing.

    Example:
        >>> from thoughtlens.cuts import ablate_thought
        >>> ablate_thought("z2", edit=Scale(0.5)).label
        'z2 scale 0.5'
    """

    factor: float
    sites: ClassVar[Sites] = _ANY

    def __post_init__(self) -> None:
        # 1 and 1.0 are the same factor, with the same label and spec.
        object.__setattr__(self, "factor", float(self.factor))
        if not isfinite(self.factor):
            raise OptionError(f"found the factor {self.factor}, expected a finite number; give one.")

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """The tensor times the factor."""
        scaled: Tensor = tensor * self.factor
        return scaled


@dataclass(frozen=True)
class Add:
    """A direction added to what was there, such as a difference of means.

    Attributes:
        vector: one number a channel: as wide as a thought, or as a head.

    Example:
        >>> Add([1, 2]).vector
        (1.0, 2.0)
    """

    vector: tuple[float, ...]
    sites: ClassVar[Sites] = _VECTORS

    def __post_init__(self) -> None:
        object.__setattr__(self, "vector", tuple(map(float, self.vector)))

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """The tensor plus the vector."""
        if len(self.vector) != tensor.shape[-1]:
            raise OptionError(
                f"found a vector of {len(self.vector)} numbers to add at {moment.site}, expected {tensor.shape[-1]}; "
                "give one number a channel."
            )
        return tensor + torch.tensor(self.vector, dtype=tensor.dtype, device=tensor.device)


@dataclass(frozen=True)
class Stop:
    """No thought: `eot` follows the last thought before. The thinking pass reads it; it is never called as a tap."""

    sites: ClassVar[Sites] = _THOUGHTS

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """Refuse: a thought that is stopped does not exist."""
        raise OptionError("thoughts can't be stopped while they are thought; pass fewer n_thoughts, or intervene.")


@dataclass(frozen=True)
class Mean:
    """The mean over the other problems of the study that could be run, of the same position.

    The problem itself is left out. With `--holdout`, the mean is over the problems that choose.

    Of a head's outputs at `text`, the tokens of the answer that are not the `answer` query, each problem has one value,
    their mean: so it is here, in `Resample` and in `Donor`. Name other positions to leave them alone.

    Example:
        >>> from thoughtlens.cuts import ablate_thought
        >>> ablate_thought("z2", edit=Mean()).label
        'z2 mean'
    """

    sites: ClassVar[Sites] = _VECTORS


@dataclass(frozen=True)
class Resample:
    """What another problem had there (`cuts.replacement_values.donors`).

    Attributes:
        seed: same seed, same problems; the same for every position, layer and head.
        rank: which of a problem's donors, 0 for the first.

    Example:
        >>> from thoughtlens.cuts import ablate_thought
        >>> ablate_thought("z2", edit=Resample(seed=3)).label
        'z2 resample 3'
    """

    seed: int = 0
    rank: int = 0
    sites: ClassVar[Sites] = _VECTORS


@dataclass(frozen=True)
class Noise:
    """A random direction, as long as what was there.

    Attributes:
        seed: same seed, same directions, whatever the batch.

    Example:
        >>> from thoughtlens.cuts import ablate_head
        >>> ablate_head("L4H5", edit=Noise()).label
        'L4H5 noise'
    """

    seed: int = 0
    sites: ClassVar[Sites] = _VECTORS


@dataclass(frozen=True)
class Donor:
    """What one given problem had there.

    Attributes:
        problem: its id; one of the study.

    Example:
        >>> from thoughtlens.cuts import ablate_head
        >>> ablate_head("L4H5", edit=Donor("gsm_7")).label
        'L4H5 donor gsm_7'
    """

    problem: str
    sites: ClassVar[Sites] = _VECTORS


@dataclass(frozen=True)
class Own:
    """What the problem itself had there when nothing was cut: it is frozen.

    A head's output at `text` is not frozen: values are known for the told answer only, not for generated text.
    """

    sites: ClassVar[Sites] = _VECTORS


@dataclass(frozen=True)
class Received:
    """What a head got from one thought when nothing was cut, weight times value, added to its output.

    Attributes:
        key: name of the thought.
    """

    key: str
    sites: ClassVar[Sites] = frozenset({Site.HEAD})


@dataclass(frozen=True)
class Shuffle:
    """The problem's own thoughts, in another order.

    Attributes:
        seed: same seed, same order; never the order that was, and the same for all problems.
    """

    seed: int = 0
    sites: ClassVar[Sites] = _THOUGHTS


Drawn = Mean | Resample | Noise | Donor | Own | Received | Shuffle
Edit = Zero | Block | Scale | Add | Stop | Drawn

NAMED: Final[dict[str, type[Edit]]] = {edit.__name__.lower(): edit for edit in get_args(Edit)}
"""Every edit by its name."""

NAME_OF: Final = {edit: name for name, edit in NAMED.items()}


@dataclass(frozen=True)
class Replace:
    """Given values in the place of what was there.

    Attributes:
        values: thoughts (problem, thought, hidden), or heads' outputs (problem, layer, head, position, channel) with
            the positions bot, z1 … zT, eot, answer, text; one problem for all, or aligned with the batch as begun.

    Example:
        >>> from thoughtlens.cuts import Intervention
        >>> Intervention(Site.THOUGHT, Replace(torch.zeros(1, 6, 8))).label
        'thoughts replace'
    """

    values: Tensor

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """The given values of the positions that are met."""
        return met(self.values, moment).to(tensor).expand_as(tensor)


@dataclass(frozen=True)
class Plus:
    """Given values added to what was there.

    Attributes:
        values: laid out as those of `Replace`.
    """

    values: Tensor

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """The tensor plus the given values of the positions that are met."""
        return tensor + met(self.values, moment).to(tensor)


@dataclass(frozen=True)
class Noisy:
    """Given directions, each as long as what was there.

    Attributes:
        directions: of length 1, laid out as the values of `Replace`.
    """

    directions: Tensor

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """The directions of the positions that are met, stretched."""
        stretched: Tensor = met(self.directions, moment).to(tensor) * tensor.norm(dim=-1, keepdim=True)
        return stretched


def met(values: Tensor, moment: Moment) -> Tensor:
    """The values at a moment, (problem, [head, query,] channel), of values laid out as those of `Replace`."""
    rows = moment.rows.to(values.device) if len(values) > 1 else torch.zeros(1, dtype=torch.long)
    codes = moment.queries.to(values.device)
    if moment.site is Site.THOUGHT:
        # One thought at a time is fed back, in all problems.
        return values[rows, int(codes[0, 0]) - moment.slots["z1"]]
    # Padding (code −1) is clamped to a valid index; the value gathered there is never used.
    places = (codes - moment.slots[BOT]).clamp(min=0)
    found = values[:, moment.layer][rows[:, None], :, places]
    return found.transpose(1, 2)
