"""Settings of the documentation site, which `make docs` builds into build/site without the network."""

import importlib
from pathlib import Path

import nbformat
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx
from sphinx.util.logging import getLogger

import thoughtlens

project = "thoughtlens"
author = "The thoughtlens developers"
copyright = author
version = release = thoughtlens.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
html_theme = "furo"
html_title = f"thoughtlens {release}"
html_copy_source = False
html_show_sphinx = False

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

# Notebooks are run when the site is built, each in a folder of its own; an error of a cell ends the build.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True
nb_output_stderr = "remove"

add_module_names = False
autodoc_default_options = {"members": True, "undoc-members": True, "no-value": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
default_role = "code"
napoleon_custom_sections = ["Reference"]
napoleon_use_ivar = True
napoleon_use_rtype = False
python_maximum_signature_line_length = 88

PACKAGE = Path(thoughtlens.__file__).parent
FACES = [f"thoughtlens.{stub.parent.name}" for stub in sorted(PACKAGE.glob("*/__init__.pyi"))]


def as_restructured(app: Sphinx, kind: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings are plain text: an indented block is code, and bars are those of a size, |x|, and no substitution."""
    found, lines[:] = [(line if "`" in line else line.replace("|", "\\|")).replace(COLON, ":") for line in lines], []
    for before, line, after in zip(["", *found], found, [*found[1:], ""], strict=False):
        lines.append(line)
        depth = len(before) - len(before.lstrip())
        is_block = len(after) - len(after.lstrip()) >= depth + 4
        if not line and is_block and before.strip() and not before.lstrip().startswith((":", "..", "-", "*")):
            lines += [" " * depth + "::", ""]


COLON = "\N{RATIO}"


def keep_colons(app: Sphinx, kind: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """What comes before a colon in the docstring of an attribute is no type, as napoleon would have it."""
    if kind in ("attribute", "property"):
        lines[:] = [line.replace(":", COLON) for line in lines]


def check_reference(app: Sphinx, error: Exception | None) -> None:
    """Warns of each public name that the reference lacks; warnings are errors in `make docs`."""
    if error is None and app.builder.name == "html":
        known = app.env.domains["py"].objects
        for face in FACES:
            for name in importlib.import_module(face).__all__:
                if f"{face}.{name}" not in known:
                    getLogger(__name__).warning("the reference has no %s.%s", face, name)


def check_notebooks(app: Sphinx, error: Exception | None) -> None:
    """Warns of a notebook whose cells say a warning, or show fewer than two pictures, when they are run."""
    executed = Path(app.outdir).parent / "jupyter_execute"
    for path in sorted(executed.rglob("*.ipynb")) if error is None and app.builder.name == "html" else []:
        outputs = [shown for cell in nbformat.read(path, 4).cells for shown in cell.get("outputs", [])]
        said = "".join(shown["text"] for shown in outputs if shown.get("name") == "stderr")
        warnings = [line for line in said.splitlines() if "Warning" in line and "IProgress" not in line]
        if warnings or sum("image/png" in shown.get("data", {}) for shown in outputs) < 2:
            getLogger(__name__).warning("%s shows fewer than two pictures, or says: %s", path.name, warnings)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_lexer("mermaid", TextLexer)
    app.connect("autodoc-process-docstring", keep_colons, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", as_restructured, priority=600)  # after napoleon
    app.connect("build-finished", check_reference)
    app.connect("build-finished", check_notebooks)
