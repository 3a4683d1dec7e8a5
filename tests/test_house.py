"""The tree of modules in the README is that of the package."""

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "thoughtlens"
ENTRANCES = {"__init__.py", "__main__.py"}


def named() -> list[str]:
    """Paths of the modules in the README's tree, a folder's modules being indented below it."""
    text = (ROOT / "README.md").read_text("utf-8")
    tree = re.search(r"^    src/thoughtlens/\n((?:      .*\n)+)", text, re.MULTILINE)
    assert tree is not None
    folder, paths = "", []
    for line in tree[1].splitlines():
        indent, name = re.match(r"( +)(\S+) ", f"{line} ").groups()
        folder = "" if len(indent) == 6 else folder
        if name.endswith("/"):
            folder = name
        else:
            paths.append(folder + name)
    return paths


def test_every_module_is_named_once():
    modules = [path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if path.name not in ENTRANCES]
    assert Counter(named()) == Counter(modules)
