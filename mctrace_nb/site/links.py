"""Every page of a built site looked through: links, anchors, what a page loads, pictures without a description."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_REMOTE = re.compile(r"""(?:url\(|@import)\s*["']?(?:https?:)?//[^)"';]+""")


class _Page(HTMLParser):
    """links: what it leads to; loads: what the browser fetches for it; anchors: places in it; bare: pictures without a description."""

    def __init__(self, text: str):
        super().__init__()
        self.links, self.loads, self.anchors, self.bare = [], [], {"", "top"}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        of = dict(attrs)
        self.anchors |= {of[name] for name in ("id", "name") if of.get(name)}
        if tag == "a" and of.get("href") is not None:
            self.links.append(of["href"])
        elif tag == "link" and of.get("rel") not in ("canonical", "author"):
            self.loads.append(of.get("href", ""))
        if of.get("src"):
            self.loads.append(of["src"])
        if tag == "img" and not (of.get("alt") or "").strip():
            self.bare.append(of.get("src", ""))


def faults(folder: Path) -> list[str]:
    """What is wrong with the pages of a folder, a sentence each."""
    pages = {p.resolve(): _Page(p.read_text(encoding="utf-8")) for p in sorted(folder.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        where = path.relative_to(folder.resolve()).as_posix()
        found += [f"{where}: a picture has no description: {src[:80]}" for src in page.bare]
        for address in page.links + page.loads:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                if address in page.loads and parts.scheme != "data":
                    found.append(f"{where}: loads {address[:120]} from elsewhere")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                found.append(f"{where}: {address} leads nowhere")
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{where}: {address} leads to an anchor that is not there")
    for style in sorted(folder.rglob("*.css")):
        found += [f"{style.relative_to(folder).as_posix()}: {one} is loaded from elsewhere" for one in _REMOTE.findall(style.read_text(encoding="utf-8"))]
    return found
