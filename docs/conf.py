"""Configuration of the documentation: build it with `make docs`, with warnings as errors and without the network."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]
# Notebooks run in separate processes with the same import path.
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])

from downscale.version import __version__  # noqa: E402

project = "downscale"
author = "The downscale developers"
copyright = f"2026, {author}"
version = release = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_nb",
    "sphinx_design",
    "commands",
    "mathml",
    "notebooks",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_ext", "**.ipynb_checkpoints"]
html_theme = "pydata_sphinx_theme"
html_math_renderer = "mathml"
html_title = f"downscale {release}"
html_static_path = ["_static"]
html_css_files = ["extra.css"]
html_show_sourcelink = False
# Only the guide and the reference have subpages.
html_sidebars = {"*": []}
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 6,
    "secondary_sidebar_items": ["page-toc"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "footer_start": ["copyright"],
    "footer_end": [],
}

# Markdown: headings are link targets, $...$ is mathematics.
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

# Notebooks are stored without outputs; a build runs them (DOCS_NOTEBOOKS=off skips this).
nb_execution_mode = "off" if os.environ.get("DOCS_NOTEBOOKS") == "off" else "cache"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True

# The reference is generated from the docstrings of every module, without data from other projects.
autosummary_generate = True
autosummary_imported_members = False
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_mock_imports = ["dask_cuda", "dask_jobqueue"]
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
numpydoc_xref_param_type = False

nitpicky = True
nitpick_ignore_regex = [
    # Libraries whose inventories would have to be downloaded.
    (r"py:.*", r"(numpy|np|xarray|xr|torch|nn|matplotlib|lightning|dask|pydantic|typer|datetime|cftime|numba)\b.*"),
    (r"py:class", r"downscale\.(accessor\._Accessor|runs\.recipe\.(_Arguments|_Terrain))"),
    (r"py:.*", r"(builtins|collections|enum|typing|pathlib|types|abc|concurrent|logging)\b.*"),
]
suppress_warnings = ["mystnb.unknown_mime_type", "myst.header"]
