"""The diagram of docs/architecture.md, drawn from the imports: `python tests/architecture.py` writes it anew."""

import re
from collections import defaultdict
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
DIAGRAM = re.compile(r"```mermaid\n.*?```", re.DOTALL)


def arrows() -> dict[str, set[str]]:
    """By folder (or module beside the folders), what it imports: late imports inside functions count too."""
    graph = grimp.build_graph("thoughtlens")
    found: dict[str, set[str]] = defaultdict(set)
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            ends = [name.split(".")[1] for name in (importer, imported) if "." in name]
            if len(ends) == 2 and len(set(ends)) == 2 and "__main__" not in ends:
                found[ends[0]].add(ends[1])
    return found


def without_detours(found: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The arrows that no longer way replaces, so that the levels can be seen."""

    def below(name: str) -> set[str]:
        return {deeper for direct in found.get(name, ()) for deeper in {direct, *below(direct)}}

    return sorted(
        (upper, lower)
        for upper, its in found.items()
        for lower in its
        if not any(lower in below(other) for other in its - {lower})
    )


def diagram() -> str:
    """The arrows as a Mermaid flowchart, which code hosts draw."""
    lines = [f"    {upper} --> {lower}" for upper, lower in without_detours(arrows())]
    return "\n".join(["```mermaid", "flowchart TD", *lines, "```"])


if __name__ == "__main__":
    PAGE.write_text(DIAGRAM.sub(diagram(), PAGE.read_text("utf-8")), encoding="utf-8")
