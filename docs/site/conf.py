"""The documentation as a site: `make docs`. Sources are the pages of docs/ and some at the root of the repository.

The source folder is that root, so that a link between pages means the same here and where the files are read.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# the packages, for the reference, and the extensions beside this file
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

project = "bulkformer-ray"
author = "the authors of bulkformer-ray"
version = release = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]

extensions = ["myst_parser", "sphinx.ext.autodoc", "settings_reference", "mathml"]
root_doc = "docs/index"
include_patterns = ["docs/**", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
exclude_patterns = [".*", "**/__pycache__", "docs/_build", "docs/site"]

myst_enable_extensions = ["colon_fence", "dollarmath"]
# anchors of headings as on the forges: [...](page.md#a-heading)
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": False}

html_theme = "pydata_sphinx_theme"
html_title = "BulkFormer on Ray"
html_extra_path = ["root"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_math_renderer = "mathml"
html_theme_options = {
    "header_links_before_dropdown": 7,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": [],
    "footer_end": [],
}
html_context = {"default_mode": "auto"}

linkcheck_timeout = 20
linkcheck_retries = 2
# publishers that refuse programs
linkcheck_ignore = [r"https://doi\.org/", r"https://www\.biorxiv\.org/", r"http://127\.0\.0\.1"]
