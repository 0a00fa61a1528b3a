"""The site: a guide in MyST's Markdown, and a reference from the docstrings.

Built by `sphinx-build -W --keep-going docs build/docs`, with the extra `docs` installed.
"""

import sys
import typing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))
# Has jaxtyping call its types Float[Array, "*batch 3"], without its module; read when that is imported.
typing.GENERATING_DOCUMENTATION = True  # type: ignore[attr-defined]

project = "jaxnerf"
author = "The jaxnerf authors"
copyright = "The jaxnerf authors, Apache-2.0"

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_parser",
    "docstrings",
    "generated",
]
html_theme = "furo"
html_title = "jaxnerf"
html_static_path = ["static"]
html_css_files = ["jaxnerf.css"]
exclude_patterns = ["programs", "extensions", "build"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Docstrings have names and formulas in single backticks: code, and a link where a name is known.
default_role = "py:obj"
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
