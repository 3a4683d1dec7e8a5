"""Interventions, which change exactly the cells that they address, and the tap that makes many of them in one batch.

in: a site, an address and an edit (`thoughtlens.cuts.edits`); out: a tap. The edit computes new values
everywhere, and the address says where they are taken. An intervention can be written as JSON and read back.

A forked batch holds several copies of the same n problems, each under its own cut; copy v has the rows v·n to
(v+1)·n − 1. Problems that are finished leave the batch, so copies shrink, but the rows of one copy stay together.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Final

import torch
from torch import Tensor

from thoughtlens.cuts.edits import NAME_OF, NAMED, Block, Drawn, Edit, Stop
from thoughtlens.errors import OptionError
from thoughtlens.notation import GRAPH_GROUPS, PAD_CODE, QUESTION, group_code
from thoughtlens.taps import Moment, Site, Tap

EDGE_SITES: Final = (Site.SCORES, Site.PATTERN)
ADDRESS: Final[dict[str, type]] = {"layers": int, "heads": int, "queries": str, "keys": str}
"""The parts of an address, and what each lists."""


@dataclass(frozen=True)
class Intervention:
    """An edit, and where it is made. None in a part of the address means everywhere.

    Attributes:
        site: the place in the pass whose tensor is edited.
        edit: what takes the place of the tensor: one of `cuts.edits`, or any tap.
        layers: indices of layers.
        heads: indices of heads.
        queries: names of the slots that attend; at site THOUGHT, of the thoughts themselves.
        keys: names of the slots attended to, or of groups of prompt tokens where the model's family names any
            (`Reasoner.groups`); only at sites SCORES and PATTERN.

    Raises:
        OptionError: the site is VALUE, which can only be recorded; the edit has no meaning at this site; or the address
            has a part that the site has not.

    Example:
        >>> from thoughtlens.cuts import Zero
        >>> Intervention(Site.HEAD, Zero(), frozenset({4}), frozenset({5}), frozenset({"eot"})).label
        'L4H5 zero at eot'
    """

    site: Site
    edit: Edit | Tap
    layers: frozenset[int] | None = None
    heads: frozenset[int] | None = None
    queries: frozenset[str] | None = None
    keys: frozenset[str] | None = None

    def __post_init__(self) -> None:
        if self.site is Site.VALUE:
            # Its heads are key-value heads and its positions are keys: an address here would mean something else.
            raise OptionError("values can be recorded but not edited; edit thought, scores, pattern or head.")
        if isinstance(self.edit, Edit) and self.site not in self.edit.sites:
            fit = ", ".join(sorted(self.edit.sites))
            raise OptionError(f"the edit {NAME_OF[type(self.edit)]} says nothing at {self.site}; make it at {fit}.")
        if self.keys is not None and self.site not in EDGE_SITES:
            raise OptionError(f"found keys at {self.site}, which has queries alone; name keys at scores or pattern.")
        if self.site is Site.THOUGHT and (self.layers is not None or self.heads is not None):
            raise OptionError("found layers or heads at thought, which is met between passes; name queries alone.")
        if isinstance(self.edit, Block) and self.keys is None:
            raise OptionError("found a block of every key, which leaves a row nothing to look at; name its keys.")
        if isinstance(self.edit, Stop) and self.queries is None:
            raise OptionError("found a stop of every thought without their names; name the thoughts that are left out.")

    @property
    def label(self) -> str:
        """Such as `L4H5 zero`, `z3 mean`, `z4 ⊣ z1, L4H5`, `L2 scale 0.5 at eot`."""
        what = _what(self.edit).strip()  # a donor may have any name, blank ones too
        said = "" if isinstance(self.edit, Block) else f" {what}"
        if self.site in EDGE_SITES:
            where = _where(self.layers, self.heads)
            edge = f"{_listed(self.queries)} ⊣ {_listed(self.keys)}"
            return f"{edge}{said}, {where}" if where else f"{edge}{said}"
        if self.site is Site.THOUGHT:
            return f"{_listed(self.queries, every='thoughts')}{said}"
        scope = "" if self.queries is None else f" at {_listed(self.queries)}"
        return f"{_where(self.layers, self.heads) or 'heads'}{said}{scope}"

    def meets(self, site: Site, layer: int | None) -> bool:
        """Whether anything of it can be at a site of a layer."""
        return site is self.site and (self.layers is None or layer in self.layers)

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """The tensor, edited where it is addressed."""
        if not self.meets(moment.site, moment.layer):
            return tensor
        hit = self._hit(tensor, moment)
        if not hit.any():
            return tensor
        if isinstance(self.edit, Drawn):
            raise OptionError(f"{self.label} needs what other passes gave; make it with `intervene`.")
        return torch.where(hit, self.edit(tensor, moment), tensor)

    def _hit(self, tensor: Tensor, moment: Moment) -> Tensor:
        """Boolean, broadcastable to the tensor."""
        queries = _named(moment.queries, self.queries, moment)
        if self.site is Site.THOUGHT:
            return queries
        every_head = torch.arange(tensor.shape[1], device=tensor.device)
        heads = torch.ones_like(every_head, dtype=torch.bool)
        if self.heads is not None:
            heads = torch.isin(every_head, torch.tensor(sorted(self.heads), device=tensor.device))
        hit = heads[None, :, None, None] & queries[:, None, :, None]
        if self.site is Site.HEAD:
            return hit
        keys = _named(moment.keys, self.keys, moment)
        if isinstance(self.edit, Block):
            # Padding is masked by a finite number: a row that has nothing else left must fail, not attend to padding.
            keys = keys | (moment.keys == PAD_CODE)
        return hit & keys[:, None, None, :]


def as_spec(part: Intervention) -> dict[str, Any]:
    """An intervention as a JSON value: site, edit and address; None in the address means everywhere."""
    if not isinstance(part.edit, Edit):
        raise OptionError(f"found the edit {part.edit!r}, expected one of {', '.join(NAMED)}; only these have a name.")
    known = {field.name: (getattr(part.edit, field.name), field.default) for field in fields(part.edit)}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, (value, _) in known.items()}
    given = {name: plain[name] for name, (value, default) in known.items() if value != default}
    name = NAME_OF[type(part.edit)]
    address = {name: _sorted(getattr(part, name)) for name in ADDRESS}
    return {"site": str(part.site), "edit": {"name": name} | given if given else name, **address}


def from_spec(spec: Any) -> Intervention:
    """The intervention that a JSON value describes, as `as_spec` writes it; `OptionError` if it describes none."""
    try:
        edit = {"name": spec["edit"]} if isinstance(spec["edit"], str) else dict(spec["edit"])
        made = NAMED[edit.pop("name")](**edit)
        for field in fields(made):
            value = getattr(made, field.name)
            if field.type in (int, str) and type(value) is not field.type:
                raise TypeError(f"{field.name} is {value!r}")
        # A misspelt part of an address would otherwise mean everywhere.
        if odd := sorted(spec.keys() - {"site", "edit", *ADDRESS}):
            raise ValueError(f"no part is called {odd[0]!r}")
        sets = {name: _members(name, spec.get(name)) for name in ADDRESS}
        return Intervention(Site(spec["site"]), made, **sets)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise OptionError(
            f"found {spec!r}, expected an intervention such as "
            '{"site": "head", "edit": "zero", "layers": [4], "heads": [5]}; '
            f"write it so ({type(error).__name__}: {error})."
        ) from error


def _members(name: str, values: Any) -> frozenset[Any] | None:
    """What a part of an address lists."""
    if values is None:
        return None
    if not isinstance(values, list) or not all(type(value) is ADDRESS[name] and value != "" for value in values):
        raise TypeError(f"{name} is {values!r}, which is no list of {'numbers' if ADDRESS[name] is int else 'names'}")
    return frozenset(values)


def _named(codes: Tensor, names: frozenset[str] | None, moment: Moment) -> Tensor:
    if names is None:
        return torch.ones_like(codes, dtype=torch.bool)
    wanted = [group_code(name) if name in GRAPH_GROUPS else moment.slots[name] for name in sorted(names)]
    # `question` is all of its groups.
    wanted += [group_code(name) for name in GRAPH_GROUPS] if QUESTION in names else []
    return torch.isin(codes, torch.tensor(wanted, device=codes.device))


def _what(edit: Edit | Tap) -> str:
    """Such as `zero`, `scale 0.5`."""
    if not isinstance(edit, Edit):
        return getattr(edit, "__name__", type(edit).__name__).lower()
    given = [getattr(edit, field.name) for field in fields(edit)]
    shown = ["…" if isinstance(value, tuple) else str(value) for value in given if value != 0 or type(value) is float]
    return " ".join([NAME_OF[type(edit)], *shown])


def _where(layers: frozenset[int] | None, heads: frozenset[int] | None) -> str:
    """Such as `L4H5`, `L4`, `H5` (of every layer), `L4,5H1`."""
    said = (("L", layers), ("H", heads))
    return "".join(letter + ",".join(map(str, sorted(its))) for letter, its in said if its is not None)


def _listed(names: frozenset[str] | None, *, every: str = "all") -> str:
    return every if names is None else ", ".join(sorted(names, key=_in_order))


def _in_order(name: str) -> tuple[str, int]:
    """A key that sorts z2 before z10, and 2 before 10."""
    letter, digits = (name[:1], name[1:]) if name[:1].isalpha() else ("", name)
    return (letter, int(digits)) if digits.isdecimal() else (name, 0)


def _sorted(values: Collection[Any] | None) -> list[Any] | None:
    # Equal sets must give equal lists, however they were filled.
    return None if values is None else sorted(values, key=lambda value: _in_order(str(value)))


class Variants:
    """A tap that gives each copy of a forked batch its own interventions.

    Args:
        copies: the interventions of each copy, in order; none for a copy that is left alone.
        n_problems: problems of one copy.
    """

    def __init__(self, copies: Sequence[Sequence[Intervention]], n_problems: int) -> None:
        self._copies, self._n_problems = copies, n_problems
        self._known: dict[tuple[Site, int | None], dict[int, list[Intervention]]] = {}
        self._rows = torch.empty(0)
        self._stretches: list[slice] = []

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """Edit each stretch of the batch by what is meant for it."""
        met = self._meeting(moment.site, moment.layer)
        if not met:
            return tensor
        self._follow(moment.rows)
        edited = tensor.clone()
        for copy, parts in met.items():
            stretch = self._stretches[copy]
            if stretch.start == stretch.stop:
                continue
            here = moment._replace(
                queries=moment.queries[stretch],
                keys=moment.keys[stretch],
                rows=moment.rows[stretch] - copy * self._n_problems,
            )
            piece = tensor[stretch]
            for part in parts:
                piece = part(piece, here)
            edited[stretch] = piece
        return edited

    def _meeting(self, site: Site, layer: int | None) -> dict[int, list[Intervention]]:
        """Interventions that apply at a site of a layer, by copy; kept, since they are asked for in every step."""
        if (site, layer) not in self._known:
            met = {copy: [part for part in parts if part.meets(site, layer)] for copy, parts in enumerate(self._copies)}
            self._known[site, layer] = {copy: parts for copy, parts in met.items() if parts}
        return self._known[site, layer]

    def _follow(self, rows: Tensor) -> None:
        """Find the rows of each copy, again only where problems have left the batch."""
        if rows is not self._rows:
            borders = torch.arange(len(self._copies) + 1, device=rows.device) * self._n_problems
            ends = torch.searchsorted(rows, borders).tolist()
            self._stretches = [slice(start, end) for start, end in pairwise(ends)]
            self._rows = rows
