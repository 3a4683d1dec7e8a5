"""Notebooks executed in a kernel of their own, and what their cells show."""

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

SRC = Path(__file__).parents[2] / "src"


def notebook_of(*cells: str) -> nbformat.NotebookNode:
    """A notebook of these code cells."""
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])


def executed(notebook: nbformat.NotebookNode, folder: Path, *, timeout: int | None = None) -> nbformat.NotebookNode:
    """The notebook with its outputs, run in `folder` by this Python; an error of a cell is raised."""
    # The kernel is another process: it must find this package, and its files must not be shared with the user's.
    kernel = folder / ".kernel"
    told = {"PYTHONPATH": os.pathsep.join([str(SRC), os.environ.get("PYTHONPATH", "")])}
    told |= {"IPYTHONDIR": str(kernel), "JUPYTER_RUNTIME_DIR": str(kernel), "OMP_NUM_THREADS": "1"}
    client = NotebookClient(notebook, timeout=timeout, resources={"metadata": {"path": str(folder)}})
    client.create_kernel_manager()
    client.km.kernel_spec.argv[0] = sys.executable
    return client.execute(env=os.environ | told)


def shown(cell: nbformat.NotebookNode) -> dict[str, list[str]]:
    """What a cell shows, by kind: MIME types of results and pictures, `stdout` and `stderr`."""
    found: dict[str, list[str]] = {}
    for output in cell["outputs"]:
        kinds = output.get("data") or {output.get("name", "error"): output.get("text", "")}
        for kind, value in kinds.items():
            found.setdefault(kind, []).append(value)
    return found
