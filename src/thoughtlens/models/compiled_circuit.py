"""The compiled reasoner: a Coconut whose weights are written, not trained, so that its whole circuit is known.

In: whether one head has a twin; out: a reasoner that says which of two nodes of a graph can be reached from a root, as
Zhu et al. (2025, arXiv 2505.12514) prove that two layers can: thought k holds all nodes within k steps at once. It
reads graphs in node tokens, `<eos> s t | s t … s t [Q] a b [R] root`, and answers after four thoughts and `[A]`.

How the weights of the GPT-2 are written, in float32:

1. A feature is a direction. All directions are orthonormal and sum to zero, so that LayerNorm's centring changes
   nothing; a constant of 100 at every position keeps its scale. The last norm passes the tokens' own directions alone:
   a thought is the sum of the directions of the nodes that it holds.
2. Layer 0: two heads read the tokens 2 and 1 back, an edge's source and target. The MLP keeps the source as a *key* at
   `|` and `[Q]`, and both candidates at `[R]`.
3. Layer 1: the edge head matches the nodes held with the keys and fetches the targets; where none matches it rests on
   the first token, whose value is zero. The MLP holds every node, old or new, with amplitude 1 again.
4. At `[A]` layer 0 fetches the last thought and layer 1 the candidates, by uniform attention. A candidate says its own
   token a little, one that the last thought holds much; without evidence the first candidate wins. After a node that
   was read as a token, and not behind `[R]`, comes `<eos>`.

`COMPILED` names the heads. What a cut can meet are thoughts and `[A]`, which is `eot` here: `circuit` has the heads and
units that carry something there. In the question's pass alone act the source head, the target head at `|`, `[Q]` and
`[R]`, and the edge head at the root (`OUTSIDE`), which no cut reaches.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from thoughtlens.errors import OptionError
from thoughtlens.models.checkpoint_files import digest
from thoughtlens.models.codi_and_coconut import Coconut, symbol_tokenizer
from thoughtlens.models.reasoner import Markers, Wording
from thoughtlens.notation import EOT, edge_name, head_name, thought_names
from thoughtlens.taps import ATTENTION

N_THOUGHTS: Final = 4
"""As many as the deepest graphs have steps."""

COMPILED: Final[Mapping[str, tuple[int, int]]] = {
    "distract": (0, 0),
    "source": (0, 2),
    "target": (0, 5),
    "unread": (0, 7),
    "edge": (1, 1),
    "rest": (1, 3),
    "decoy": (1, 4),
    "candidates": (1, 6),
}
"""Layer and head of each role; every other head is empty. `distract` and `rest` look at one token with weight 1 and
write nothing, `decoy` looks where `edge` looks and writes nothing (its twin: the same), `unread` writes where nothing
reads."""

OUTSIDE: Final = ("L0H2", "L0H5 at |, [Q] and [R]", "L1H1 at the root")
"""What acts in the question's pass alone, and is no part of `circuit`."""

_NODES: Final = 31
_SEP, _Q, _R, _A, _EOS, _VOCABULARY = 34, 35, 36, 37, 38, 40
_N_LAYERS, _N_HEADS, _HEAD_WIDTH, _WIDTH, _POSITIONS, _RATES = 2, 8, 32, 256, 192, 16
_CONSTANT = 100.0
_SHARPNESS = 30.0  # of the edge head: a match over the first token by e¹⁵
_BACK = 8.0  # of the heads that look back: over every other distance by e⁵⁰

_TOKENS: Final = {"token": _VOCABULARY}
_BUFFERS: Final = {
    "source": _NODES, "target": _NODES + 1, "key": _NODES, "new": _NODES, "candidate": _NODES,
    "cosine": _RATES, "sine": _RATES, "constant": 1, "word": 1, "idle": 8,
}  # fmt: skip
"""Features and how many there are of each; tokens lie on channels of their own, which the last norm passes alone. The
last target says that the token one back is `[R]`; `word` tells a node that was read as a token from a thought."""


def compiled_reasoner(*, twin: bool = False, device: str | torch.device = "cpu") -> Coconut:
    """Build the compiled reasoner.

    Args:
        twin: the decoy carries what the edge head carries, so that each of the two is enough alone.
        device: where to put it.

    Returns:
        The reasoner, float32, in evaluation mode, with four thoughts.

    Example:
        >>> from thoughtlens.reasoning import reason
        >>> reason(compiled_reasoner(), ["<eos> 3 7 | 5 2 | 7 4 [Q] 2 4 [R] 3"]).texts
        ['4']

    Reference: Zhu et al. 2025, arXiv 2505.12514.
    """
    lm = _decoder(twin=twin)
    provenance = {
        "name": "compiled-twin" if twin else "compiled",
        "sha256": digest(lm, nn.Identity()),
        "dtype": "float32",
        "device": str(device),
        "architecture": "gpt2",
        "family": "coconut",
        "layout": "written by the package",
    }
    return Compiled(
        lm.to(device).eval(),
        nn.Identity(),
        symbol_tokenizer(),
        Markers(_A, (EOT,)),
        N_THOUGHTS,
        Wording(prefix=""),
        provenance=provenance,
    )


class Compiled(Coconut):
    """The compiled reasoner's class: a Coconut that refuses questions in words, of which it knows none."""

    examples: Sequence[str] = ("<eos> 3 7 | 5 2 | 7 4 [Q] 2 4 [R] 3", "<eos> 1 8 | 8 9 | 1 6 | 0 2 | 6 5 [Q] 5 2 [R] 1")

    def question(self, text: str) -> list[int]:
        """Token ids of a graph in node tokens; `OptionError` where a symbol is unknown."""
        ids = super().question(text)
        if self.tokenizer.unk_token_id in ids:
            symbol = text.split()[ids.index(self.tokenizer.unk_token_id)]
            raise OptionError(
                f"found {symbol!r} in a question, expected a graph in node tokens such as {self.examples[0]!r}; "
                "use --problems graphs, or read a file of graphs with --field question=edges."
            )
        return ids


def circuit(*, twin: bool = False) -> dict[str, frozenset[str]]:
    """What carries something from thoughts and `[A]`, where it can be cut.

    Args:
        twin: as for `compiled_reasoner`.

    Returns:
        `heads`, names such as `L1H1`; and `units`, a head's edge from a query to a key or group of prompt tokens, such
        as `z1 ⊣ sep, L1H1`. The last thought's edges to `sep` make a thought that is never fed back.

    Example:
        >>> sorted(circuit()["heads"])
        ['L0H5', 'L1H1', 'L1H6']
    """
    last = thought_names(N_THOUGHTS)[-1]
    edges = [("target", EOT, last), ("candidates", EOT, "R")]
    edges += [(role, z, "sep") for role in ("edge", "decoy")[: 1 + twin] for z in thought_names(N_THOUGHTS)[:-1]]
    named = [(head_name(*COMPILED[role]), edge_name(query, key)) for role, query, key in edges]
    return {
        "heads": frozenset(head for head, _ in named),
        "units": frozenset(f"{edge}, {head}" for head, edge in named),
    }


# Writing the weights.


def _directions() -> dict[str, np.ndarray]:
    """The features of each name, (feature, channel): rows 1, 2, … of a cosine transform, which sum to zero."""
    found: dict[str, np.ndarray] = {}
    start = 0
    for sizes, width in ((_TOKENS, _VOCABULARY + 1), (_BUFFERS, _WIDTH - _VOCABULARY - 1)):
        row, place = np.arange(1, width)[:, None], np.arange(width)
        basis = np.zeros((width - 1, _WIDTH))
        basis[:, start : start + width] = np.sqrt(2 / width) * np.cos(np.pi * row * (2 * place + 1) / (2 * width))
        ends = np.cumsum(list(sizes.values()))
        assert ends[-1] < width
        found |= dict(zip(sizes, np.split(basis, ends), strict=False))
        start += width
    return found


def _gain(others: float) -> float:
    """The gain that makes a LayerNorm hand on its input: constant and positions, and `others`, squared norms."""
    return math.sqrt((_CONSTANT**2 + _RATES + others) / _WIDTH)


@torch.no_grad()
def _decoder(*, twin: bool) -> GPT2LMHeadModel:
    f = _directions()
    config = GPT2Config(
        vocab_size=_VOCABULARY, n_positions=_POSITIONS, n_embd=_WIDTH, n_layer=_N_LAYERS, n_head=_N_HEADS,
        n_inner=5 * _NODES + 1, activation_function="relu", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=_EOS, eos_token_id=_EOS, tie_word_embeddings=True,
    )  # fmt: skip
    config._attn_implementation = ATTENTION
    with torch.random.fork_rng(devices=[]):  # the initial weights are drawn, then thrown away
        lm = GPT2LMHeadModel(config)
    for parameter in lm.parameters():
        parameter.zero_()
    body, rates = lm.transformer, _rates()
    angles = np.outer(np.arange(_POSITIONS), rates)
    places = np.cos(angles) @ f["cosine"] + np.sin(angles) @ f["sine"] + _CONSTANT * f["constant"]
    body.wte.weight.copy_(_tensor(f["token"]))
    body.wte.weight[:_NODES] += _tensor(f["word"])
    body.wpe.weight.copy_(_tensor(places))
    for block, before, between in zip(body.h, (1, 5), (3, 5), strict=True):
        block.ln_1.weight.fill_(_gain(before))
        block.ln_2.weight.fill_(_gain(between))
    body.ln_f.weight[: _VOCABULARY + 1] = _gain(5)
    _write_heads(lm, f, rates, twin=twin)
    _write_keys(_Mlp(body.h[0].mlp), f)
    _write_answer(_Mlp(body.h[1].mlp), f)
    return lm


def _rates() -> np.ndarray:
    """Angles a position, geometric from π: over all distances the cosines add up to 6.3 less than at none."""
    rates: np.ndarray = np.pi / 100 ** (np.arange(_RATES) / (_RATES - 1))
    return rates


def _tensor(values: np.ndarray) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def _write_heads(lm: GPT2LMHeadModel, f: dict[str, np.ndarray], rates: np.ndarray, *, twin: bool) -> None:
    def head(
        role: str,
        query: np.ndarray | None,
        key: np.ndarray | None,
        value: np.ndarray,
        out: np.ndarray | None,
        scale: float = 0.0,
    ) -> None:
        """Directions that a head reads, (channel, hidden), its score being scale · query · key, and what it writes."""
        layer, number = COMPILED[role]
        attention, at = lm.transformer.h[layer].attn, number * _HEAD_WIDTH
        rows = {0: query, 1: key, 2: value}
        for part, read in rows.items():
            if read is not None:
                factor = scale * _HEAD_WIDTH**0.5 if part == 0 else 1.0
                start = part * _WIDTH + at
                attention.c_attn.weight[:, start : start + len(read)] = _tensor(factor * read.T)
        if out is not None:
            attention.c_proj.weight[at : at + len(out)] = _tensor(out)

    def back(distance: int) -> np.ndarray:
        """The angles of the position so many before."""
        cosine, sine = np.cos(distance * rates)[:, None], np.sin(distance * rates)[:, None]
        return np.concatenate([cosine * f["cosine"] + sine * f["sine"], cosine * f["sine"] - sine * f["cosine"]])

    token, node, one = f["token"], f["token"][:_NODES], f["constant"] / _CONSTANT
    places = np.concatenate([f["cosine"], f["sine"]])
    head("source", back(2), places, node, f["source"], _BACK)
    head("target", back(1), places, np.vstack([node, token[[_R]]]), f["target"], _BACK)
    head("distract", one, token[[_EOS]], node, None, 20.0)
    head("unread", back(1), places, node[:8], f["idle"], _BACK)
    match = (np.vstack([node, one]), np.vstack([f["key"], 0.5 * token[[_EOS]]]), f["target"][:_NODES])
    head("edge", *match, f["new"], _SHARPNESS)
    head("decoy", *match, f["new"] if twin else None, _SHARPNESS)
    head("candidates", None, None, f["candidate"], 150.0 * f["candidate"])
    head("rest", one, f["target"][[_NODES]], node, None, 20.0)


class _Mlp:
    """The units of an MLP, written one after the other."""

    def __init__(self, mlp: Any) -> None:
        self.mlp, self.n = mlp, 0

    def unit(self, reads: np.ndarray, threshold: float, writes: np.ndarray) -> None:
        """relu(reads · x − threshold) · writes."""
        self.mlp.c_fc.weight[:, self.n] = _tensor(reads)
        self.mlp.c_fc.bias[self.n] = -threshold
        self.mlp.c_proj.weight[self.n] = _tensor(writes)
        self.n += 1


def _write_keys(mlp: _Mlp, f: dict[str, np.ndarray]) -> None:
    """Layer 0: a key at `|` and `[Q]` alone, candidates at `[R]` alone, the first a little stronger."""
    token = f["token"]
    for source, target, key, candidate in zip(f["source"], f["target"], f["key"], f["candidate"], strict=False):
        mlp.unit(source + 3 * (token[_SEP] + token[_Q]), 3.5, 2 * key)
        mlp.unit(1.02 * source + target + 3 * token[_R], 3.5, 2 * candidate)


def _write_answer(mlp: _Mlp, f: dict[str, np.ndarray]) -> None:
    """Layer 1: amplitudes of 1, less what was there; at `[A]` what the candidates say; after the answer, the end."""
    token = f["token"]
    for node, new, held, candidate in zip(token, f["new"], f["target"][:_NODES], f["candidate"], strict=False):
        # A ramp from 0 to 1 between .006 and .012: an edge head that sees 150 edges gives each of them .0067.
        mlp.unit(node + new, 0.006, node / 0.006)
        mlp.unit(node + new, 0.012, -node / 0.006)
        mlp.unit(node, 0.0, -node)
        # The candidates come with 150 / n, n positions: .8 to 12, since graphs have one edge or fifty.
        mlp.unit(12 * (held + token[_A]) + candidate, 24.4, 24 * node)
        mlp.unit(12 * token[_A] + candidate, 12.2, 12 * node)
    mlp.unit(f["word"][0] - 2 * f["target"][_NODES], 0.5, 24 * token[_EOS])
