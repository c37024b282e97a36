"""What Sphinx and its theme write that a screen reader stumbles over, mended in the finished pages."""

from __future__ import annotations

import re
from pathlib import Path

_EMPTY = r'<th class="head"><p></p></th>'
MENDS = (
    (re.compile(rf"<thead>\n<tr[^>]*>(?:{_EMPTY}\n)+</tr>\n</thead>\n"), ""),  # a table without headers
    (re.compile(_EMPTY), "<td></td>"),
    (re.compile(r'role="heading">'), r'role="heading" aria-level="2">'),  # captions of the contents
    (re.compile(r'<aside class="sidebar-drawer">'), '<aside class="sidebar-drawer" aria-label="All pages">'),
    (re.compile(r'<div class="sidebar-tree">'), '<div class="sidebar-tree" role="navigation" aria-label="All pages">'),
    (re.compile(r'<aside class="toc-drawer'), '<aside aria-label="This page" class="toc-drawer'),
    (re.compile(r'<div class="toc-tree">'), '<div class="toc-tree" role="navigation" aria-label="This page">'),
    (re.compile(r'<div id="search-results">'), '<h1>Search</h1>\n<div id="search-results">'),
    (re.compile(r"<dl>\n((?:<dd>.*</dd>\n)+)</dl>"),  # parameters below each other, a list of definitions of nothing
     lambda found: f'<span class="sig-lines">{found[1].replace("<dd>", "<span>").replace("</dd>", "</span>")}</span>'),
)


def mend(folder: Path) -> None:
    """Mends every page of a folder."""
    for path in folder.rglob("*.html"):
        text = before = path.read_text(encoding="utf-8")
        for wrong, right in MENDS:
            text = wrong.sub(right, text)
        if text != before:
            path.write_text(text, encoding="utf-8")
