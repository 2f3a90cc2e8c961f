"""The site of these pages: ``make docs``. Pages are MyST Markdown; passes are described by their own code."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from djinn_fx.version import VERSION  # noqa: E402

project = "djinn-fx"
copyright = "the djinn-fx authors"
version = release = VERSION

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["decisions/0000-template.md"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
#: Pages also link to files of the repository, which no site has.
suppress_warnings = ["myst.xref_missing"]

html_theme = "furo"
html_title = "djinn-fx"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_use_ivar = True
