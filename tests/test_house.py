"""The layout of the package: the tree of the modules is the package's, and names say what modules hold."""

import ast
import re
from collections import Counter
from pathlib import Path

from tests import architecture

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "thoughtlens"
MODULES = [path for path in PACKAGE.rglob("*.py") if path.name not in {"__init__.py", "__main__.py"}]
TWINS = {"attention_against_effects", "comparison", "effects", "heads"}
"""Names that analysis and plots share on purpose: what one computes, the other draws."""


def named() -> list[str]:
    """Paths of the modules in the page's tree: a line names a folder, then its modules, then what they hold."""
    tree = re.search(r"^src/thoughtlens/\n((?:  .*\n)+)", architecture.PAGE.read_text("utf-8"), re.MULTILINE)
    folder, paths = "", []
    for line in tree[1].splitlines():
        at_top = not line.startswith(" " * 3)
        first, _, rest = line.strip().partition(" ")
        folder = (first if first.endswith("/") else "") if at_top else folder
        names = re.split(r" {3,}", (rest if first.endswith("/") else line).strip())[0]
        paths += [f"{folder}{name}.py" for name in re.findall(r"\w+", names)]
    return paths


def test_every_module_is_named_once():
    assert Counter(named()) == Counter(path.relative_to(PACKAGE).as_posix() for path in MODULES)


def test_rooms_are_few():
    assert len(MODULES) <= 100
    assert len([path for path in MODULES if path.parent == PACKAGE]) <= 6
    assert len([path for path in PACKAGE.iterdir() if (path / "__init__.py").exists()]) <= 13


def test_no_name_is_used_in_two_folders():
    counts = Counter(path.stem for path in MODULES if path.parent.name != "cli" and path.stem not in TWINS)
    assert [name for name, n in counts.items() if n > 1] == []


def test_no_module_has_the_name_of_a_function_that_its_folder_exports():
    for path in MODULES:
        if path.parent.name == "cli":
            continue
        stems = {other.stem for other in MODULES if other.parent == path.parent}
        public = {
            node.name
            for node in ast.parse(path.read_text("utf-8")).body
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
        }
        assert not public & stems, path


def test_no_module_is_named_like_an_activity():
    folders = {path.parent.name for path in MODULES} - {"training", "reasoning"}
    assert [name for name in {path.stem for path in MODULES} | folders if name.endswith("ing")] == []


def test_the_diagram_is_that_of_the_imports():
    assert architecture.diagram() in architecture.PAGE.read_text("utf-8"), "run: python tests/architecture.py"


def test_each_way_through_the_code_goes_from_call_to_call():
    ways = architecture.PAGE.read_text("utf-8").split("## Three ways")[1].split("## Conventions")[0].split("\n1. ")[1:]
    assert len(ways) == 3
    for way in ways:
        # The way begins with a command; what transformers calls was given to it by name.
        said = {"tapped_attention"}.union(*(words(path) for path in (PACKAGE / "cli").glob("*.py")))
        for names, module in re.findall(r"((?:`\w+`(?: and | of )?)+) \(`([\w/]+\.py)`\)", way):
            functions = set(re.findall(r"\w+(?=`)", names))
            kinds = ast.FunctionDef | ast.ClassDef
            defined = {node.name for node in ast.walk(parsed(PACKAGE / module)) if isinstance(node, kinds)}
            assert functions <= defined, module
            assert functions <= said, module
            said |= words(PACKAGE / module)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def words(path: Path) -> set[str]:
    """The names that a module uses."""
    used = (node for node in ast.walk(parsed(path)) if isinstance(node, ast.Name | ast.Attribute))
    return {node.id if isinstance(node, ast.Name) else node.attr for node in used}
