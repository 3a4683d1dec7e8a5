"""Cuts as tensors, addressed by copy, layer, head, query slot and key slot, and the tap that applies them.

In: the interventions of each copy of a batch, their edits with values; out: a `Fixed` tap that does to every copy what
`Variants` does, up to rounding, by the same kernels whatever is cut. So one captured step serves all cuts of a sweep:
other cuts are other contents of the same tensors.

- Scores: True where a key is blocked.
- Pattern: the factor of each cell.
- Head outputs and thoughts: x becomes factor · x + v, for noise factor · x + ‖x‖ v. The vectors v lie in a table of
  sources, since many cuts take theirs from the same one, and each cell says which source is its own. Where parts of a
  cut meet in a cell, they are made one after the other, in planes.

`tensors_of` gives None for what cannot be put so: an edit that is a function, or too many parts in one cell.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from thoughtlens.cuts.cut_types import Cut
from thoughtlens.cuts.edits import Add, Block, Drawn, Noisy, Plus, Replace, Scale, Stop, Zero
from thoughtlens.cuts.interventions import Intervention
from thoughtlens.notation import BOT, GRAPH_GROUPS, PAD_CODE, QUESTION, TEXT, group_code, slot_codes, text_code
from thoughtlens.taps import Moment, Site

PLANES: Final = 4
"""Parts of a cut that may meet in one cell of a head's output or a thought."""

BYTES: Final = 2**31
"""What the vectors of a batch may take."""

_LEAST: Final = min(PAD_CODE, *map(group_code, GRAPH_GROUPS))
"""The least code of a key, first on the axis of keys."""

_VECTORS: Final = Add | Replace | Plus | Noisy
_TENSORS: Final = Zero | Block | Scale | _VECTORS


class Sizes(NamedTuple):
    """Of a batch and its model; T is that of the pass."""

    n_copies: int
    n_problems: int
    n_layers: int
    n_heads: int
    n_thoughts: int
    n_channels: int
    n_hidden: int


class Plane(NamedTuple):
    """What is done in each cell (copy, layer, head, query), or (copy, query) of thoughts."""

    factor: Tensor
    source: Tensor  # place in the table of sources, from 1; 0 for none


class Vectors(NamedTuple):
    """The planes of a site, its sources (source, problem, …, channel), and which of them (from 1) are noise."""

    planes: tuple[Plane, ...]
    values: Tensor
    noisy: Tensor

    def tensors(self) -> Iterator[Tensor]:
        """All of them, in order."""
        for plane in self.planes:
            yield from plane
        yield from (self.values, self.noisy)


class EditTensors:
    """A tap that gives each copy of a forked batch its own interventions; its rows read one position each.

    Args:
        sizes: of the batch.
        block: bool (copy, layer, head, query, key), or None where nothing is blocked.
        weight: (copy, layer, head, query, key), or None where no cell of the pattern is edited.
        heads: what is done to heads, or None.
        thoughts: what is done to thoughts, or None.
    """

    def __init__(
        self,
        sizes: Sizes,
        block: Tensor | None = None,
        weight: Tensor | None = None,
        heads: Vectors | None = None,
        thoughts: Vectors | None = None,
    ) -> None:
        self.sizes, self.block, self.weight, self.heads, self.thoughts = sizes, block, weight, heads, thoughts
        self._of: tuple[Tensor, Tensor] | None = None
        self._places = (torch.empty(0),) * 4

    def program(self) -> Hashable:
        """Sizes, and which sites are edited, in how many planes, from how many sources."""
        shapes = [None if its is None else its.shape for its in (self.block, self.weight)]
        vectors = [
            None if its is None else tuple(t.shape for t in its.tensors()) for its in (self.heads, self.thoughts)
        ]
        return type(self), self.sizes, *shapes, *vectors

    def tensors(self, device: torch.device) -> list[Tensor]:
        """All of them, on a device."""
        self.block, self.weight = (None if its is None else its.to(device) for its in (self.block, self.weight))
        self.heads, self.thoughts = (_moved(its, device) for its in (self.heads, self.thoughts))
        cells = [its for its in (self.block, self.weight) if its is not None]
        return cells + [tensor for its in (self.heads, self.thoughts) if its is not None for tensor in its.tensors()]

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """Edit what is addressed."""
        match moment.site:
            case Site.SCORES if self.block is not None:
                return tensor.masked_fill(self._cells(self.block, moment), -torch.inf)
            case Site.PATTERN if self.weight is not None:
                return _scaled(tensor, self._cells(self.weight, moment))
            case Site.HEAD if self.heads is not None:
                return self._at_heads(self.heads, tensor, moment)
            case Site.THOUGHT if self.thoughts is not None:
                return self._at_thoughts(self.thoughts, tensor, moment)
        return tensor

    def _cells(self, cells: Tensor, moment: Moment) -> Tensor:
        """(problem, head, 1, key): what is said of each key, whose slot is one of many."""
        copy, _, query, slot = self._where(moment)
        of_query = cells[:, moment.layer][copy, :, query]
        return of_query.gather(2, slot[:, None].expand(-1, of_query.shape[1], -1))[:, :, None]

    def _at_heads(self, vectors: Vectors, tensor: Tensor, moment: Moment) -> Tensor:
        copy, problem, query, _ = self._where(moment)
        head = torch.arange(tensor.shape[1], device=tensor.device)
        values = vectors.values[:, :, moment.layer]
        for plane in vectors.planes:
            factor, source = (cells[:, moment.layer][copy, :, query] for cells in plane)
            # Positions of values begin with `bot`, where queries have what is no slot before it.
            place = (query - 1).clamp(min=0)[:, None]
            given = values[(source - 1).clamp(min=0), problem[:, None], head, place]
            tensor = _edited(tensor, factor[:, :, None, None], source[:, :, None, None], given[:, :, None], vectors)
        return tensor

    def _at_thoughts(self, vectors: Vectors, tensor: Tensor, moment: Moment) -> Tensor:
        copy, problem, query, _ = self._where(moment)
        thought = (query - 2).clamp(min=0, max=vectors.values.shape[2] - 1)
        for plane in vectors.planes:
            factor, source = (cells[copy, query] for cells in plane)
            given = vectors.values[(source - 1).clamp(min=0), problem, thought]
            tensor = _edited(tensor, factor[:, None], source[:, None], given, vectors)
        return tensor

    def _where(self, moment: Moment) -> tuple[Tensor, ...]:
        """Copy, problem and query (problem,) and slot of each key; found once a step, which has the same for all."""
        if self._of is None or self._of[0] is not moment.queries or self._of[1] is not moment.keys:
            n_problems, n_queries = self.sizes.n_problems, self.sizes.n_thoughts + 5
            query = (moment.queries[:, 0] - moment.slots[BOT] + 1).clamp(min=0, max=n_queries - 1)
            copy = torch.div(moment.rows, n_problems, rounding_mode="floor")
            self._of = moment.queries, moment.keys
            self._places = copy, moment.rows % n_problems, query, moment.keys - _LEAST
        return self._places


def _scaled(tensor: Tensor, factor: Tensor) -> Tensor:
    """As by a number; a factor of 0 gives 0, whatever is there."""
    wide = tensor.to(torch.promote_types(tensor.dtype, factor.dtype))
    return torch.where(factor == 0, 0.0, wide * factor).to(tensor.dtype)


def _edited(tensor: Tensor, factor: Tensor, source: Tensor, given: Tensor, vectors: Vectors) -> Tensor:
    """As `factor · x + v` says, or with ‖x‖ v, where there is a source."""
    length = torch.where(vectors.noisy[source], tensor.norm(dim=-1, keepdim=True), 1.0).to(tensor.dtype)
    added = given.to(tensor.dtype) * length
    scaled = _scaled(tensor, factor)
    return torch.where(source > 0, scaled + added, scaled)


def _moved(vectors: Vectors | None, device: torch.device) -> Vectors | None:
    if vectors is None:
        return None
    planes = tuple(Plane(*(cells.to(device) for cells in plane)) for plane in vectors.planes)
    return Vectors(planes, vectors.values.to(device), vectors.noisy.to(device))


def tensors_of(copies: Sequence[Sequence[Intervention]], sizes: Sizes) -> EditTensors | None:
    """The interventions of each copy as tensors; None where they can't be put so."""
    parts = [(copy, part) for copy, its in enumerate(copies) for part in its]
    codes = slot_codes(sizes.n_thoughts) | {TEXT: text_code(sizes.n_thoughts)}
    named = {name for _, part in parts for names in (part.queries, part.keys) for name in names or ()}
    if not named <= codes.keys() | set(GRAPH_GROUPS) or not all(isinstance(part.edit, _TENSORS) for _, part in parts):
        return None
    of = {site: [(copy, part) for copy, part in parts if part.site is site] for site in Site}
    heads, thoughts = (_vectors(of[site], site, sizes) for site in (Site.HEAD, Site.THOUGHT))
    if heads is _UNFIT or thoughts is _UNFIT:
        return None
    return EditTensors(sizes, _blocks(of[Site.SCORES], sizes), _weights(of[Site.PATTERN], sizes), heads, thoughts)


def unfit(cuts: Iterable[Cut], n_layers: int, n_heads: int, n_thoughts: int) -> list[str]:
    """Labels of the cuts that can't be put as tensors."""
    sizes = Sizes(1, 1, n_layers, n_heads, n_thoughts, n_channels=1, n_hidden=1)

    def stand_in(part: Intervention) -> Intervention:
        """What a part will be: values of any kind are one part in a cell."""
        return replace(part, edit=Zero()) if isinstance(part.edit, Drawn | _VECTORS) else part

    made = {cut.label: [stand_in(part) for part in cut.parts if not isinstance(part.edit, Stop)] for cut in cuts}
    return [label for label, parts in made.items() if tensors_of([parts], sizes) is None]


Located = Sequence[tuple[int, Intervention]]
_UNFIT: Final = Vectors((), torch.empty(0), torch.empty(0))


def _address(copy: int, part: Intervention, sizes: Sizes) -> tuple[Any, ...]:
    """Open index of the cells (copy, layer, head, query, key), or (copy, query) of thoughts, that a part names."""
    codes = slot_codes(sizes.n_thoughts) | {TEXT: text_code(sizes.n_thoughts)}
    queries: Sequence[int] = range(1, sizes.n_thoughts + 5)
    if part.queries is not None:
        queries = sorted(codes[name] - codes[BOT] + 1 for name in part.queries)
    if part.site is Site.THOUGHT:
        return torch.tensor(copy), torch.tensor(queries)
    layers, heads = (
        range(n) if its is None else sorted(its)
        for n, its in ((sizes.n_layers, part.layers), (sizes.n_heads, part.heads))
    )
    axes = [[copy], [*layers], [*heads], [*queries]]
    if part.site is not Site.HEAD:
        axes.append(_key_places(part, codes))
    return tuple(torch.meshgrid(*map(torch.tensor, axes), indexing="ij"))


def _key_places(part: Intervention, codes: Mapping[str, int]) -> list[int]:
    """Places on the axis of keys that a part names; `question` is all of its groups, and a block takes padding."""
    if part.keys is None:
        return list(range(codes[TEXT] - _LEAST))
    groups = {name: group_code(name) for name in GRAPH_GROUPS}
    named = [*part.keys, *(GRAPH_GROUPS if QUESTION in part.keys else ())]
    found = [groups[name] if name in groups else codes[name] for name in named]
    return [code - _LEAST for code in [*found, *[PAD_CODE] * isinstance(part.edit, Block)]]


def _cells(sizes: Sizes) -> tuple[int, ...]:
    """Sizes of (copy, layer, head, query, key)."""
    n_keys = text_code(sizes.n_thoughts) - _LEAST
    return sizes.n_copies, sizes.n_layers, sizes.n_heads, sizes.n_thoughts + 5, n_keys


def _blocks(parts: Located, sizes: Sizes) -> Tensor | None:
    if not parts:
        return None
    block = torch.zeros(_cells(sizes), dtype=torch.bool)
    for copy, part in parts:
        block[_address(copy, part, sizes)] = True
    return block


def _weights(parts: Located, sizes: Sizes) -> Tensor | None:
    if not parts:
        return None
    weight = torch.ones(_cells(sizes))
    for copy, part in parts:
        weight[_address(copy, part, sizes)] *= part.edit.factor if isinstance(part.edit, Scale) else 0.0
    return weight


def _vectors(parts: Located, site: Site, sizes: Sizes) -> Vectors | None:
    """Planes and sources of head outputs or thoughts; `_UNFIT` where they can't be put so."""
    if not parts:
        return None
    cells: tuple[int, ...] = (sizes.n_copies, sizes.n_thoughts + 5)
    if site is Site.HEAD:
        cells = (sizes.n_copies, sizes.n_layers, sizes.n_heads, sizes.n_thoughts + 5)
    planes, taken, sources = list[Plane](), torch.zeros(cells, dtype=torch.long), dict[tuple[int, type], Any]()
    for copy, part in parts:
        at, edit = _address(copy, part, sizes), part.edit
        place = int(taken[at].max())
        if place == len(planes):
            planes.append(Plane(torch.ones(cells), torch.zeros(cells, dtype=torch.long)))
        taken[at] = place + 1
        if isinstance(edit, _VECTORS):
            # Cuts of a plan share the values of an edit.
            sources.setdefault((id(_values(edit)), type(edit)), edit)
            planes[place].source[at] = 1 + list(sources).index((id(_values(edit)), type(edit)))
        if not isinstance(edit, Add | Plus):
            planes[place].factor[at] = edit.factor if isinstance(edit, Scale) else 0.0
    table = _table(list(sources.values()), site, sizes)
    if len(planes) > PLANES or table is None:
        return _UNFIT
    noisy = [False, *(isinstance(edit, Noisy) for edit in sources.values())]
    return Vectors(tuple(planes), table, torch.tensor(noisy + [False] * (len(table) + 1 - len(noisy))))


def _values(edit: Any) -> Any:
    return edit.vector if isinstance(edit, Add) else edit.directions if isinstance(edit, Noisy) else edit.values


def _table(edits: Sequence[Any], site: Site, sizes: Sizes) -> Tensor | None:
    """Values (source, problem, …, channel) of edits, room for a power of two of them; None if they do not fit."""
    at_heads = site is Site.HEAD
    shape = [sizes.n_thoughts, sizes.n_hidden]
    if at_heads:
        shape = [sizes.n_layers, sizes.n_heads, sizes.n_thoughts + 4, sizes.n_channels]
    known = [torch.tensor(edit.vector) if isinstance(edit, Add) else _values(edit) for edit in edits]
    if any(its.shape[-1] != shape[-1] for its in known):
        return None
    # Of a pass that stops earlier, values of all thoughts may be given.
    longest = max([shape[-2], *(its.shape[-2] for its in known if its.ndim > 1)])
    n_sources = 2 ** max(0, len(known) - 1).bit_length()
    whole = (n_sources, sizes.n_problems, *shape[:-2], longest, shape[-1])
    if 4 * torch.Size(whole).numel() > BYTES:
        return None
    table = torch.zeros(whole, dtype=torch.promote_types(torch.float32, known[0].dtype) if known else torch.float32)
    for place, its in enumerate(known):
        length = its.shape[-2] if its.ndim > 1 else longest
        table[place, ..., :length, :] = its.to(table.device)
    return table
