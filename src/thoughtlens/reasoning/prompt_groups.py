"""Named groups of prompt tokens as keys: codes by which a batch's cuts find them, and a recorder of attention to them.

In: a batch whose questions were read, and its prompts; out: the batch with a code of its own for each token of a group,
or attention by slot and group. A family names its groups (`Reasoner.groups`): of a graph the sources, the targets, the
signs that close an edge, and so on. Runs keep their slots: groups are marked where they are asked for.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from thoughtlens.notation import BOT, FIRST, group_code, key_names
from thoughtlens.reasoning.batch import BatchPass
from thoughtlens.taps import Moment, Site


def mark_groups(batch: BatchPass, prompts: Sequence[Sequence[int]]) -> None:
    """Give the tokens of groups codes of their own, in place of that of `question`; `first` keeps its own."""
    if not batch.reasoner.group_names:
        return
    for row, prompt in enumerate(prompts):
        # Prompts are padded on the left, and end before the token that opens the thoughts.
        start = batch.keys.shape[1] - (len(prompt) - len(batch.reasoner.opening))
        for name, places in batch.reasoner.groups(prompt).items():
            batch.keys[row, [start + place for place in places]] = group_code(name)


def grouped_keys(n_thoughts: int, groups: Sequence[str]) -> list[str]:
    """The key axis with `question` divided into groups, and what is in none of them."""
    return [FIRST, *groups, *key_names(n_thoughts)[1:]]


class GroupRecorder:
    """Keeps the pattern of every named query, its keys pooled by slot and group, of a batch that was marked.

    Attributes:
        attention: (problem, layer, head, query, key) float32 or wider, keys as `grouped_keys` has them; NaN in the row
            of a query that did not occur.
    """

    def __init__(self, batch: BatchPass, n_thoughts: int) -> None:
        config, groups = batch.reasoner.lm.config, batch.reasoner.group_names
        keys = grouped_keys(n_thoughts, groups)
        codes = [group_code(name) if name in groups else batch.slots[name] for name in keys]
        self._codes = torch.tensor(codes, device=batch.device)
        shape = (len(batch.keys), config.num_hidden_layers, config.num_attention_heads, n_thoughts + 3, len(keys))
        dtype = torch.promote_types(batch.reasoner.lm.dtype, torch.float32)
        self.attention = torch.full(shape, torch.nan, dtype=dtype)

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """Keep the pattern's row; every problem of a step has the same query."""
        row = int(moment.queries[0, 0]) - moment.slots[BOT]
        if moment.site is Site.PATTERN and 0 <= row < self.attention.shape[3]:
            in_group = (moment.keys[:, :, None] == self._codes).to(tensor.dtype)
            self.attention[moment.rows.cpu(), moment.layer, :, row] = (tensor[:, :, 0] @ in_group).cpu()
        return tensor

    def n_tokens(self, batch: BatchPass) -> Tensor:
        """How many positions of each key there are: (problem, key)."""
        return (batch.keys[:, :, None] == self._codes).sum(1).cpu()
