"""
Sphinx's configuration: the pages, in Markdown. The reference of the public names is pydoctor's (docs/adr/0004).
"""

from importlib.metadata import version as installed_version

project = "pymail-tx"
author = "The pymail-tx contributors"
copyright = f"2026, {author}"  # noqa: A001  # Sphinx's word
release = version = installed_version("pymail-tx")

extensions = ["myst_parser", "sphinxcontrib.mermaid"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
nitpicky = True

myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "pymail-tx"
html_extra_path = ["_build/extra"]
"""What stands there is copied as it is: api/, from pydoctor."""
