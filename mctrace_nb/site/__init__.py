"""A book of the README, all notebooks, the guides, the data cards and the reference, that is read without Jupyter and without a network.

Sphinx makes it from what is committed; nothing is run. `build` writes it, whole or not at all: a warning of Sphinx, a link or an anchor that leads
nowhere, a figure without a description and anything that a page would load from elsewhere are errors. It needs the packages of the extra `site`.
"""

from __future__ import annotations

import io
import os
import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from mctrace_nb.errors import InputError
from mctrace_nb.site.book import descriptions, write
from mctrace_nb.site.links import faults
from mctrace_nb.site.mend import mend

ROOT = Path(__file__).resolve().parent.parent.parent
SETTINGS = dict(
    project="mctrace_nb", html_title="mctrace_nb", extensions=["myst_nb", "sphinx.ext.viewcode"], root_doc="index",
    html_theme="furo", html_static_path=[str(Path(__file__).parent / "static")], html_css_files=["site.css"], html_js_files=["site.js"],
    html_theme_options=dict(navigation_with_keys=True), html_show_copyright=False, html_copy_source=False,
    html_show_search_summary=False,  # it is fetched, which browsers refuse to pages opened from a file
    nb_execution_mode="off", nb_merge_streams=True, nb_render_text_lexer="none",
    myst_enable_extensions=["attrs_block"], myst_heading_anchors=4,
    python_maximum_signature_line_length=100, add_module_names=False, toc_object_entries_show_parents="hide",
)


class SiteFailed(Exception):
    """The book has faults; its arguments say them, one each."""


def build(out: str | Path, root: str | Path = ROOT) -> Path:
    """Writes the book of the checkout `root` to the folder `out`, in place of one that is there, and returns its first page.

    Raises InputError if `root` is no checkout, Sphinx is not installed, or `out` holds something else; SiteFailed with every fault of the book.
    """
    root, out = Path(root), Path(out)
    for name in ("README.md", "notebooks", "data"):
        if not (root / name).exists():
            raise InputError(f"{root} has no {name}; the site is made from a checkout of the project")
    if out.exists() and any(out.iterdir()) and not (out / "objects.inv").exists():
        raise InputError(f"{out} holds something that is no site; give another folder")
    try:
        from sphinx.application import Sphinx
        from sphinx.util.docutils import docutils_namespace, patch_docutils
    except ImportError:
        raise InputError("Sphinx is not installed; run make site, or pip install 'mctrace_nb[site]'") from None
    with TemporaryDirectory() as work, patch_docutils(), docutils_namespace():  # so that a second book of one process is like the first
        source, made, warnings = Path(work) / "source", Path(work) / "made", io.StringIO()
        alts = write(root, source)
        app = Sphinx(str(source), None, str(made), str(Path(work) / "doctrees"), "html", SETTINGS, status=None, warning=warnings,
                     parallel=min(2, os.cpu_count() or 1))
        app.connect("doctree-read", lambda app, tree: descriptions(tree, alts.get(app.env.docname, [])))
        app.build()
        mend(made)
        said = [re.sub(r"\x1b\[[\d;]*m", "", line).replace(f"{source}/", "") for line in warnings.getvalue().splitlines() if line.strip()]
        if found := said or faults(made):
            raise SiteFailed(*found)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(made, out, ignore=shutil.ignore_patterns(".buildinfo*"))
    return out / "index.html"
