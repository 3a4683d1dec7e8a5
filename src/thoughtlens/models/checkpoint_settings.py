"""What a checkpoint's weights do not say: how many thoughts, which alpha, which words; with the origin of each fact.

In: options, a folder's `thoughtlens.json`, the table of known checkpoints (`known.toml`); out: `Settings`. An option
goes before the folder, the folder before the table, the table before the family's default. A default that changes
numbers is an assumption, and is said wherever the model is.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from thoughtlens.errors import CheckpointError

NAME: Final = "thoughtlens.json"
CODI: Final = "codi"
COCONUT: Final = "coconut"
PLAIN: Final = "plain"

ANSWER_PREFIX: Final = "The answer is:"
ANSWER_MARK: Final = "###"
"""What CODI's official training and Coconut's put before an answer."""

_NUMBER: Final = (int, float)
_KINDS: Final[Mapping[str, tuple[Any, str]]] = {
    "family": (str, "a name"),
    "n_thoughts": (int, "a number"),
    "lora_alpha": (_NUMBER, "a number"),
    "markers": (list, "a list of pad, bot, eot and latent"),
    "remove_eos": (bool, "true or false"),
    "suffix": (str, "a text"),
    "before": (list, "a list of tokens"),
    "after": (list, "a list of tokens"),
    "prefix": (str, "a text"),
    "modes": (list, "a list of direct and verbal"),
    "twin": (bool, "true or false"),
    "feedback": (str, "projection, hidden or pause"),
    "tokenizer": (str, "symbols"),
    "config": (dict, "a configuration"),
    "base": (str, "a Hub id"),
    "file": (str, "a file's name"),
}
"""What a folder may say, of which type it is, and that in words."""

_CODI_DEFAULTS: Final[dict[str, Any]] = {
    "family": CODI,
    "n_thoughts": 6,
    "lora_alpha": 32,
    "remove_eos": True,
    "suffix": "",
    "before": [],
    "after": [],
    "prefix": ANSWER_PREFIX,
    "modes": [],
    "feedback": "projection",
}
_COCONUT_DEFAULTS: Final[dict[str, Any]] = _CODI_DEFAULTS | {
    "family": COCONUT,
    "suffix": "\n",
    "prefix": ANSWER_MARK,
    "feedback": "hidden",
}
_DEFAULTS: Final = {
    CODI: _CODI_DEFAULTS,
    COCONUT: _COCONUT_DEFAULTS,
    PLAIN: _COCONUT_DEFAULTS | {"family": PLAIN, "n_thoughts": 0, "markers": []},
}

_WHY: Final = {
    "n_thoughts": "the weights do not say it; pass --thoughts",
    "lora_alpha": "the weights do not say it, the official class has 16 and its scripts pass 32; pass --alpha",
    "remove_eos": "without the end token before `bot`, as in the official scripts; set it in thoughtlens.json",
}
"""Defaults that change numbers, and what to do if they are wrong."""


@dataclass(frozen=True)
class Settings:
    """The facts about one checkpoint, each with its origin: `option`, `folder`, `table` or `default`."""

    facts: Mapping[str, tuple[Any, str]]

    @classmethod
    def of(cls, *, options: Mapping[str, Any], folder: Mapping[str, Any], table: Mapping[str, Any]) -> "Settings":
        """The facts from where they come first; an option that is None was not given."""
        given = {name: value for name, value in options.items() if value is not None}
        known = [(given, "option"), (folder, "folder"), (table, "table")]
        family = next((found["family"] for found, _ in known if "family" in found), CODI)
        known.append((_DEFAULTS.get(family, {}), "default"))
        facts: dict[str, tuple[Any, str]] = {}
        for found, origin in reversed(known):
            facts |= {name: (value, origin) for name, value in found.items() if name in _KINDS}
        if "family" in folder and facts.get("remove_eos", ("", ""))[1] == "default":
            # A folder that names its family was written for this package, whose trainer adds no end token.
            facts["remove_eos"] = (True, "folder")
        return cls(facts)

    def __getitem__(self, name: str) -> Any:
        """The value of a fact; None where nothing is known."""
        return self.facts.get(name, (None, ""))[0]

    def with_family(self, family: str) -> "Settings":
        """The same where the weights turned out to be of this family: its defaults in the place of others."""
        said = {name: fact for name, fact in self.facts.items() if fact[1] != "default"}
        defaults = {name: (value, "default") for name, value in _DEFAULTS[family].items()}
        return Settings(defaults | said)

    def origins(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Value and origin of these facts, as JSON values."""
        return {
            name: {"value": self.facts[name][0], "from": self.facts[name][1]}
            for name in names
            if self[name] is not None
        }

    def wording(self) -> dict[str, Any]:
        """What was set of mode-independent words otherwise than the family's default has it."""
        default = _DEFAULTS.get(self["family"], {})
        names = ("markers", "remove_eos", "suffix", "before", "after", "prefix", "feedback")
        return {name: self[name] for name in names if self[name] is not None and self[name] != default.get(name)}


def assumptions(provenance: Mapping[str, Any]) -> list[str]:
    """What was assumed of a loaded model because nothing says it, a sentence each.

    Args:
        provenance: of a reasoner.

    Returns:
        The sentences; none where every fact that changes numbers was given or is known.

    Example:
        >>> from thoughtlens.models import load
        >>> assumptions(load("tiny-gpt2").provenance)
        []
        >>> assumptions({"settings": {"lora_alpha": {"value": 32, "from": "default"}}})[0][:27]
        'assumed: lora_alpha is 32 ('
    """
    settings = provenance.get("settings") or {}
    return [
        f"assumed: {name} is {json.dumps(settings[name]['value'])} ({why})."
        for name, why in _WHY.items()
        if settings.get(name, {}).get("from") == "default"
    ]


@cache
def known_checkpoints() -> Mapping[str, Mapping[str, Any]]:
    """The table of known checkpoints.

    Returns:
        The facts about each id, as the table in `known.toml` has them; those with `refused` can't be loaded.

    Example:
        >>> known_checkpoints()["zen-E/CODI-gpt2"]["n_thoughts"]
        6
        >>> "Jacobi" in known_checkpoints()["whyNLP/pccot-gpt2"]["refused"]
        True
    """
    table = tomllib.loads((resources.files("thoughtlens.models") / "known.toml").read_text("utf-8"))
    return {name: entry for entry in table["checkpoints"] for name in entry["ids"]}


def defaults(family: str) -> Mapping[str, Any]:
    """What holds for a checkpoint of this family where nothing else is said."""
    return _DEFAULTS[family]


def folder_settings(folder: Path) -> dict[str, Any]:
    """What a folder's `thoughtlens.json` says; nothing where there is none."""
    path = folder / NAME
    if not path.is_file():
        return {}
    try:
        settings: dict[str, Any] = dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is no JSON object ({error}); write the model again.") from error
    for name, value in settings.items():
        kinds, words = _KINDS.get(name, (object, ""))
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool and kinds is not object):
            raise CheckpointError(f"{path} sets {name} to {value!r}, expected {words}; write the model again.")
    if settings.get("n_thoughts", 1) < 0:
        raise CheckpointError(
            f"{path} sets n_thoughts to {settings['n_thoughts']}, expected a number; write the model again."
        )
    return settings
