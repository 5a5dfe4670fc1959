"""Sphinx site of shift_ser; `make docs` builds it."""

import shift_ser
from shift_ser.model.heads import variants
from shift_ser.training.protocols import PROTOCOLS

project = "shift_ser"
author = "The shift_ser contributors"
copyright = f"2026, {author}"
version = release = shift_ser.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_title = f"shift_ser {release}"
exclude_patterns = ["_build"]
default_role = "code"  # docstrings write `name`
napoleon_use_ivar = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
myst_enable_extensions = ["substitution", "colon_fence"]
myst_heading_anchors = 3


def _table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (titles, ("---",) * len(titles), *rows))


# Tables that pages show are made of the package's own.
myst_substitutions = {
    "protocols": _table(("`--protocol`", "what it does"), [(f"`{p.name}`", p.help) for p in PROTOCOLS.values()]),
    "variants": _table(
        ("`--variant`", "model", "head", "placement of the shift"),
        [(f"`{name}`", told.title, f"`{head}`", f"`{told.placement}`") for name, (head, told) in variants().items()],
    ),
}  # fmt: skip
