"""The book of the project: complete, in order, opened from the file system without a network, by eye, by ear and by keyboard."""

import os

import nbformat
import pytest
from conftest import ROOT
from test_browser import CHROMIUM, FLAGS, contrast

import mctrace_nb as mct
from mctrace_nb import site
from mctrace_nb.site import api, book, links

NEEDED = "the packages of the extra `site` are not installed"
BROWSER = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
LESSON, ROOM = "notebooks/06_penalties_and_schedules.html", "api/tracing.html"


def small(root):
    """A checkout of one page of each sort; a link and an anchor lead from each to another."""
    cells = [nbformat.v4.new_markdown_cell("# One: and more\n\nSee [first](../README.md#two) and [file](../data/a.csv).")]
    for folder in ("notebooks", "data"):
        (root / folder).mkdir(parents=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), root / "notebooks" / "00_one.ipynb")
    (root / "README.md").write_text("# Book\n\n[one](notebooks/00_one.ipynb) [data](data/README.md)\n\n## Two\n\nText.\n")
    (root / "data" / "README.md").write_text("# Data\n\nText.\n")
    (root / "data" / "a.csv").write_text("a\n1\n")
    return root


@pytest.fixture
def quickly(monkeypatch):
    """The book without the pages of the reference, which are the same for every checkout."""
    pytest.importorskip("sphinx", reason=NEEDED)
    monkeypatch.setattr(book, "reference", lambda: {"index": "# Reference\n"})


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    for name in ("sphinx", "myst_nb", "furo"):
        pytest.importorskip(name, reason=NEEDED)
    return site.build(tmp_path_factory.mktemp("book") / "site").parent


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


class Opened:
    """A page from the file system, and whatever it asked for or complained of."""

    def __init__(self, browser, built, name, scheme="light", width=1440):
        self.page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
        self.requests, self.complaints = [], []
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.on("requestfailed", lambda r: self.complaints.append(r.url))
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda e: self.complaints.append(str(e)))
        self.page.goto(f"{(built / name.split('?')[0]).as_uri()}{name[len(name.split('?')[0]):]}")

    def __enter__(self):
        return self.page

    def __exit__(self, *error):
        self.page.close()
        if error[0] is None:
            assert [r for r in self.requests if not r.startswith(("file:", "data:", "blob:"))] == [] and self.complaints == []


def colours(page):
    return page.evaluate("(() => { const s = getComputedStyle(document.body); return [s.color, s.backgroundColor] })()")


# --- what goes in ---

def test_the_order_of_the_book():
    parts = book.chapters(ROOT)
    names = [os.path.basename(p) for p in (*parts["The course"], *parts["Analyses"])]
    assert names[0] == "00_start_here.ipynb" and names == sorted(names[:-3]) + ["analysis.ipynb", "study.ipynb", "13_paper_figures.ipynb"]
    assert list(parts) == ["The course", "Analyses", "Guides", "Data"]
    assert {ROOT / p for pages in parts.values() for p in pages} == {
        *ROOT.glob("notebooks/**/*.ipynb"), *ROOT.glob("notebooks/*.md"), *ROOT.glob("notebooks/howto/*.md"), *ROOT.glob("data/**/README.md")}


def test_every_public_name_is_in_the_reference():
    pages = api.reference()
    for name, room in mct._WHERE.items():
        assert f"<mctrace_nb.{room}.{name}>" in pages["index"] and f":module: mctrace_nb.{room}\n" in pages[room]
        assert any(f"{{py:{kind}}} {name}" in pages[room] for kind in ("class", "function", "exception")), name
    assert set(mct._ROOMS) <= set(pages)
    assert "{py:method} effects(masks" in pages["tracing"], "methods that a class inherits from another room"
    assert "{py:data} Canvas\n:type: matplotlib.figure.Figure\n" in pages["plots"] and "suppressComposite" not in pages["plots"]
    assert "`corruption`: where the replacing values come from" in pages["tracing"]
    for text in pages.values():
        assert " at 0x" not in text


def test_prose_means_itself_and_examples_stay_code():
    def thing(size):
        """Takes *none* of <these> [x](y), but `a_b`.

        size: how many.

            one = thing(1)
        """

    text = api._prose(thing, ["size"])
    assert r"\*none\* of \<these\> \[x\](y), but `a_b`." in text and "\n\n`size`: how many.\n\n```python\none = thing(1)\n```" in text


@pytest.mark.parametrize("page, said", [
    ('<a href="gone.html">', "gone.html leads nowhere"), ('<a href="#gone">', "#gone leads to an anchor"),
    ('<a href="other.html#gone">', "other.html#gone leads to an anchor"), ('<script src="https://cdn.net/a.js"></script>', "loads https://cdn.net/a.js"),
    ('<link rel="stylesheet" href="//cdn.net/a.css">', "loads //cdn.net/a.css"), ('<img src="a.png">', "a picture has no description")])
def test_faults_of_pages_are_found(tmp_path, page, said):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "other.html").write_text('<p id="here">')
    (tmp_path / "page.html").write_text('<a href="other.html#here"><a href="https://elsewhere.net/"><img src="a.png" alt="one">')
    assert links.faults(tmp_path) == []
    (tmp_path / "page.html").write_text(page)
    fault, = links.faults(tmp_path)
    assert fault.startswith("page.html: ") and said in fault


def test_styles_that_load_from_elsewhere_are_found(tmp_path):
    (tmp_path / "a.css").write_text('a { background: url(data:image/png;base64,x) } b { background: url("b.png") }')
    assert links.faults(tmp_path) == []
    (tmp_path / "a.css").write_text("@font-face { src: url(https://fonts.net/a.woff2) }")
    assert len(links.faults(tmp_path)) == 1


@pytest.mark.slow
def test_a_book_is_built_whole_or_not_at_all(quickly, tmp_path):
    root, out = small(tmp_path / "root"), tmp_path / "site"
    first = site.build(out, root).read_text()
    assert 'href="notebooks/00_one.html"' in first and ">00 One<" in first
    assert 'href="../index.html#two"' in (out / "notebooks" / "00_one.html").read_text() and len(list(out.glob("_downloads/*/a.csv"))) == 1
    for wrong in ("[gone](notebooks/02.ipynb)", "[gone](#three)", "<a href='gone.html'>gone</a>", "![](data/a.png)"):
        (root / "data" / "a.png").write_bytes((ROOT / "data" / "front.png").read_bytes())
        (root / "data" / "README.md").write_text(f"# Data\n\n{wrong}\n".replace("(notebooks", "(../notebooks").replace("(data/", "("))
        with pytest.raises(site.SiteFailed, match="data/README"):
            site.build(out, root)
    assert (out / "index.html").read_text() == first, "the book that was there stays"


def test_a_book_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(mct.InputError, match="has no README.md; the site is made from a checkout"):
        site.build(tmp_path / "site", tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").touch()
    with pytest.raises(mct.InputError, match="holds something that is no site"):
        site.build(tmp_path / "taken", ROOT)
    assert (tmp_path / "taken" / "thesis.tex").exists()


# --- what comes out ---

@BROWSER
@pytest.mark.slow
def test_every_page_opens_offline_with_its_figures_on_a_phone(built, browser):
    pages = [p.relative_to(built).as_posix() for p in sorted(built.glob("[ns]*/*.html"))]
    assert len(pages) >= 14
    for name in ("index.html", *pages, "data/README.html", "api/index.html", "api/plots.html", ROOM, "genindex.html", "_modules/mctrace_nb/relax.html"):
        with Opened(browser, built, name, "dark", width=375) as page:
            shown = page.eval_on_selector_all("article img", "all => all.map(i => [i.alt, i.naturalWidth])")
            source = (ROOT / name).with_suffix(".ipynb")
            if source.exists():
                cells = nbformat.read(source, as_version=4).cells
                figures = [o.data["text/plain"] for c in cells if c.cell_type == "code" for o in c.outputs if "image/png" in o.get("data", {})]
                assert [alt for alt, _ in shown] == figures
                assert page.locator(".live").count() >= sum("mct.widgets." in c.source for c in cells if c.cell_type == "code")
            assert all(alt and width > 300 for alt, width in shown), name
            assert page.evaluate("document.querySelector('.content').scrollWidth <= innerWidth"), f"{name} must not scroll sideways"
            ink, paper = colours(page)
            assert contrast(ink, paper) >= 7 and contrast(paper, "rgb(255, 255, 255)") > 10, name


@BROWSER
@pytest.mark.slow
def test_search_finds_a_word_and_a_name(built, browser):
    for word, found in (("stereotype", "Start here"), ("LambdaExplorer", "mctrace_nb.widgets.LambdaExplorer")):
        with Opened(browser, built, "index.html") as page:
            page.locator(".sidebar-search").fill(word)
            page.keyboard.press("Enter")
            page.locator("#search-results li", has_text=found).first.wait_for()  # they appear one after the other


@BROWSER
@pytest.mark.slow
def test_light_and_dark_are_chosen_and_kept(built, browser):
    with Opened(browser, built, LESSON) as page:
        _, paper = colours(page)
        button = page.locator(".content-icon-container .theme-toggle")
        for _ in range(3):  # auto, light, dark
            if page.evaluate("document.body.dataset.theme") == "dark":
                break
            button.focus()
            page.keyboard.press("Enter")
        night = colours(page)
        assert contrast(*night) >= 7 and night[1] != paper
        page.reload()
        assert colours(page) == night


@BROWSER
@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_stands_in_the_way_of_a_screen_reader(built, browser, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    for name in ("index.html", LESSON, ROOM, "search.html?q=mask"):
        with Opened(browser, built, name, scheme) as page:
            page.wait_for_load_state()
            found = axe.Axe().run(page, options={"preload": False}).response["violations"]
            assert [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("moderate", "serious", "critical")] == [], name
            for role in ("main", "navigation", "contentinfo", "search"):
                assert page.get_by_role(role).count() >= 1, f"{name}: no landmark {role}"
            levels = page.eval_on_selector_all("h1,h2,h3,h4,h5", "all => all.map(h => +h.tagName[1])")
            assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in zip(levels, levels[1:])), name


@BROWSER
@pytest.mark.slow
def test_what_scrolls_sideways_is_reached_by_keyboard(built, browser):
    with Opened(browser, built, LESSON, width=375) as page:
        wide = page.eval_on_selector_all("article pre", "all => all.filter(p => p.scrollWidth > p.clientWidth + 1).map(p => p.tabIndex)")
        assert wide and set(wide) == {0}
