"""Sphinx configuration of the documentation, `make docs`.

The source folder is the project's, so that notebooks and pages link to one another, and to code, as
they do in a clone. Lessons are executed when they have changed; figure notebooks are shown as
`python -m bioplaus report --preset desk` drew them from the committed results. Nothing is fetched,
neither to build nor to read: formulas become MathML, and sliders, which need Python, are left out.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_ext")]

from bioplaus.version import __version__ as release  # noqa: E402

project, author, copyright = "bioplaus", "The bioplaus developers", "the bioplaus developers"
version = release
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "myst_nb",
    "api",
    "architecture",
    "drawn",
    "launch",
    "mathml",
]
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "docs/*/*.md",
    "notebooks/*.ipynb",
    "notebooks/lessons/*.ipynb",
    "notebooks/lessons/README.md",
    "tests/README.md",
    "Results/*/README.md",
    "CONTRIBUTING.md",
    "CODE_OF_CONDUCT.md",
    "CHANGELOG.md",
]
exclude_patterns = ["docs/README.md", "**/.ipynb_checkpoints"]
exclude_patterns += [".git", ".venv", "build", "bioplaus", "tests/golden"]  # many files, no page
nitpicky = False
default_role = "py:obj"
keep_warnings = True
# `Config` or `load` in a docstring is the module's own, and there are several: it leads to one
suppress_warnings = ["ref.python"]

html_theme = "furo"
html_title = "bioplaus"
html_static_path = ["_static"]
html_css_files = ["bioplaus.css"]
html_additional_pages = {"index": "redirect.html"}
templates_path = ["_templates"]
html_show_sphinx = False
html_math_renderer = "mathml"
html_copy_source = False

myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence"]
myst_heading_anchors = 4
myst_links_external_new_tab = False

nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / "build" / "docs-executed")
nb_execution_timeout = 1200
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_excludepatterns = ["*/*_fig_*", "*/*_tab_*", "*/*_index*"]
nb_merge_streams = True
nb_ipywidgets_js = {}  # a slider without Python behind it moves nothing
nb_output_stderr = "remove"  # progress bars

autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    "show-inheritance": True,
    "undoc-members": True,
}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_mock_imports: list[str] = []
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Deviations", "Order"]
python_use_unqualified_type_names = True
