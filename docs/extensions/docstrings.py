"""How docstrings are read: as plain text with code in backticks, and links where a name is known."""

import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

# Marks of reStructuredText that are stars, bars and underscores to those who write docstrings.
_MARKS = re.compile(r"([*|]|_(?=\W|$))")
_CODE = re.compile(r"(``.*?``|`[^`]*`)")
# Sections that napoleon would take apart at commas and colons; and an entry of those that are lists.
_FIELDS = {
    "Args:": "Parameters",
    "Attributes:": "Attributes",
    "Returns:": "Returns",
    "Yields:": "Yields",
}
_ENTRY = re.compile(r"^  (\w[\w, ]*): (.*)$")
# Names that stand for one thing wherever they are written: Samples, Samples.fits, render_rays; not: rays.
_CLASS = re.compile(r"^[A-Z]\w*[a-z]\w*(\.\w+)?$")
_PROPER = re.compile(rf"{_CLASS.pattern}|^[a-z]+_\w+$")


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect what follows."""
    app.connect("autodoc-process-docstring", escape, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", readable_signature)
    app.connect("doctree-read", link_names)
    app.connect("missing-reference", find_by_last_name)
    return {"parallel_read_safe": True}


def escape(app, what, name, obj, options, lines: list[str]) -> None:
    """Take the marks of reStructuredText for themselves, but in code; keep modules' tables."""
    if what == "module":
        lines[:] = list(_with_tables(lines))
    code_from = None
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if code_from is not None and (not line.strip() or indent > code_from):
            continue
        code_from = None
        if line.rstrip().endswith("::") or line.startswith(".. code-block"):
            code_from = indent
        if line.lstrip().startswith((">>>", "...")):
            code_from = indent - 1  # to the end of what it prints
            continue
        parts = _CODE.split(line)
        lines[number] = "".join(
            part if part.startswith("`") else _MARKS.sub(r"\\\1", part) for part in parts
        )
    lines[:] = list(_with_lists(lines))


def _with_lists(lines: list[str]) -> Iterator[str]:
    """A docstring with its arguments and attributes as lists, one or more names an entry."""
    within = False
    for line in lines:
        if section := _FIELDS.get(line):
            within = section in ("Parameters", "Attributes")
            yield from ("", f":{section}:")
        elif within and (entry := _ENTRY.match(line)):
            names = ", ".join(f"**{name.strip()}**" for name in entry[1].split(","))
            yield f"  - {names} \u2013 {entry[2]}"
        elif within and line.strip() and not line.startswith("  "):
            within = False
            yield line
        else:
            yield line


def _with_tables(lines: list[str]) -> Iterator[str]:
    """The lines of a module's docstring, whose indented parts are to be shown as they stand."""
    before = ""
    for line in lines:
        if line.startswith("  ") and not before.strip():
            yield from (".. code-block:: text", "")
        if line.strip() or not before.startswith("  "):
            before = line
        yield line


def readable_signature(app, what, name, obj, options, signature, returns):
    """A signature that Sphinx can parse; none of a protocol, which nobody calls."""
    if what == "class" and getattr(obj, "_is_protocol", False):
        return "", returns
    if signature and "<factory>" in signature:
        return signature.replace("<factory>", "..."), returns
    return None


def link_names(app: Sphinx, document: nodes.document) -> None:
    """Have names of jaxnerf in the guide, and keys of the configuration, be links."""
    for literal in list(document.findall(nodes.literal)):
        text, parent = literal.astext(), literal.parent
        if isinstance(parent, nodes.reference | addnodes.pending_xref | nodes.title):
            continue
        is_ours = _CLASS.match(text) and not _is_theirs(literal)
        if is_ours or re.fullmatch(r"jaxnerf(\.\w+)+", text):
            domain, kind = "py", "obj"
        elif re.fullmatch(r"(--)?[a-z_]+(\.[a-z_0-9]+)*", text):
            domain, kind = "std", "confval"
        else:
            continue
        link = addnodes.pending_xref(
            "", refdomain=domain, reftype=kind, reftarget=text.removeprefix("--"), refexplicit=False,
            refdoc=app.env.docname, refwarn=False,
        )  # fmt: skip
        parent.replace(literal, link)
        link += literal


def _is_theirs(node: nodes.Node) -> bool:
    """Whether a name stands in the first column of a table, where other libraries' names are."""
    while node is not None and not isinstance(node, nodes.entry):
        node = node.parent
    return node is not None and node.parent.index(node) == 0


def find_by_last_name(app: Sphinx, env, node, content) -> nodes.Node | None:
    """The one thing that is meant by `Samples` or `Samples.fits`, wherever it is documented."""
    target = node["reftarget"]
    if node.get("refdomain") != "py" or not _PROPER.match(target):
        return None
    objects = env.domains.python_domain.objects
    for wanted in (target, target.partition(".")[0]):
        found = [
            name for name, entry in objects.items()
            if name.endswith(f".{wanted}") and not entry.aliased
        ]  # fmt: skip
        if len(found) == 1:
            entry = objects[found[0]]
            uri = app.builder.get_relative_uri(node["refdoc"], entry.docname)
            return nodes.reference(
                "", "", content, internal=True, refuri=f"{uri}#{entry.node_id}", reftitle=found[0]
            )
    return None
