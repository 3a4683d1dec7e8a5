"""A batch on its way through a model: what was read so far, the codes of its positions, and the taps that meet it.

Reading a batch of questions costs most of a pass. So a reading can be forked: the same questions go on under several
sets of taps without being read again. And problems that are done can leave it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from thoughtlens.labels import FIRST, PAD_CODE, QUESTION, TEXT, slot_codes, text_code
from thoughtlens.models.base import LatentReasoner
from thoughtlens.models.context import Context
from thoughtlens.tracing.taps import Moment, Site, Taps


class Reading:
    """A batch on its way through the model.

    Attributes:
        reasoner: the model.
        taps: what meets every step from `bot` on.
        slots: code of each named slot, `text` among them.
        keys: codes (problem, position) of what was read.
        rows: index (problem,) of each present problem in the batch as it was begun.
    """

    def __init__(self, reasoner: LatentReasoner, taps: Taps, n_thoughts: int) -> None:
        self.reasoner, self.taps = reasoner, taps
        self.slots = slot_codes(n_thoughts) | {TEXT: text_code(n_thoughts)}
        self.context = Context(reasoner.lm.base_model)
        self.device = reasoner.lm.device
        self.keys = torch.empty(0, dtype=torch.long)
        self.rows = torch.empty(0, dtype=torch.long)

    def question(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read the questions in one pass; the last hidden states (problem, hidden)."""
        width = max(map(len, prompts))
        ids = torch.zeros((len(prompts), width), dtype=torch.long)
        codes = torch.full((len(prompts), width), PAD_CODE)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            codes[row, width - len(prompt) :] = self.slots[QUESTION]
            codes[row, width - len(prompt)] = self.slots[FIRST]
        self.keys, self.rows = codes.to(self.device), torch.arange(len(prompts), device=self.device)
        out = self.context.read(ids.to(self.device), self.keys != PAD_CODE)
        state: Tensor = out.last_hidden_state[:, -1]
        return state

    def fork(self, n_copies: int = 1, *, taps: Taps | None = None, n_thoughts: int | None = None) -> "Reading":
        """The same batch `n_copies` times over, one whole batch after another; this one stays as it is.

        Args:
            n_copies: how often each problem goes on.
            taps: what meets the fork; those of this reading if None.
            n_thoughts: T of the fork, where no thought has been read; that of this reading if None.
        """
        count = self.slots[TEXT] - len(slot_codes(0)) if n_thoughts is None else n_thoughts
        twin = Reading(self.reasoner, self.taps if taps is None else taps, count)
        twin.context = self.context.fork(n_copies)
        twin.keys = self.keys.repeat(n_copies, 1)
        twin.rows = torch.arange(len(twin.keys), device=self.device)
        return twin

    def keep(self, places: Tensor) -> None:
        """Go on with the problems at these places alone; `rows` says who they are."""
        self.context.keep(places)
        self.keys, self.rows = self.keys[places], self.rows[places]

    def forget(self, n_positions: int) -> None:
        """Take back the last positions read."""
        self.context.forget(n_positions)
        self.keys = self.keys[:, : self.keys.shape[1] - n_positions]

    def token(self, token: int, slot: str) -> Tensor:
        """Read the same token in every problem; the last hidden states (problem, hidden)."""
        return self.step(torch.full((len(self.keys), 1), token, device=self.device), self.all(slot))

    def all(self, slot: str) -> Tensor:
        """Codes (problem, 1) of one slot for every problem."""
        return torch.full((len(self.keys), 1), self.slots[slot], device=self.device)

    def step(self, inputs: Tensor, keys: Tensor, queries: Tensor | None = None) -> Tensor:
        """Read one position in every problem, met by the taps; the last hidden states (problem, hidden)."""
        self.keys = torch.cat([self.keys, keys], dim=1)
        queries = keys if queries is None else queries
        met = {"queries": queries, "keys": self.keys, "slots": self.slots, "rows": self.rows}
        out = self.context.read(inputs, keys != PAD_CODE, taps=self.taps, **met)
        state: Tensor = out.last_hidden_state[:, -1]
        return state

    def edited(self, thought: Tensor, slot: str) -> Tensor:
        """Pass a thought through the taps, just before it is fed back."""
        return self.taps(thought, Moment(Site.THOUGHT, None, self.all(slot), self.keys, self.slots, self.rows))
