"""The report in a real browser: opened from the file system, offline, in light and dark."""

import shutil

import pytest

from mctrace_nb import report
from mctrace_nb.compare import compare
from mctrace_nb.tasks import load_task
from mctrace_nb.tracing import Trace

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]


@pytest.fixture(scope="module")
def page_file(tutorial, tmp_path_factory):
    trace = Trace(tutorial, load_task("professions", tutorial, 16), "head_output")
    comparison = compare(trace, "exhaustive,greedy,pgb", budget=2, budgets=[1, 2], epochs=4, progress=False)
    return report.write(tmp_path_factory.mktemp("report"), comparison, {"budget": 2})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_report_shows_everything_without_a_network(page_file, scheme, tmp_path):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(color_scheme=scheme, viewport={"width": 900, "height": 1200})
        requests, complaints = [], []
        page.on("request", lambda r: requests.append(r.url))
        page.on("console", lambda m: complaints.append(m.text))
        page.on("pageerror", lambda e: complaints.append(str(e)))
        page.goto(page_file.as_uri())
        widths = page.eval_on_selector_all("img", "all => all.map(i => i.naturalWidth)")
        assert len(widths) >= 4 and min(widths) > 300
        assert page.eval_on_selector_all("img", "all => all.every(i => i.alt.length > 40)")
        levels = page.eval_on_selector_all("h1,h2,h3", "all => all.map(h => +h.tagName[1])")
        assert levels[0] == 1 and set(levels[1:]) == {2}
        ink, paper = page.evaluate("(() => { const s = getComputedStyle(document.body); return [s.color, s.backgroundColor] })()")
        assert contrast(ink, paper) >= 7, f"{ink} on {paper}"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page must not scroll sideways"
        page.screenshot(path=tmp_path / f"report-{scheme}.png", full_page=True)
        browser.close()
    assert [r for r in requests if not r.startswith(("file:", "data:"))] == [] and complaints == []


def contrast(one: str, two: str) -> float:
    """WCAG contrast ratio of two colours given as rgb(r, g, b)."""
    def light(colour):
        parts = [int(x) / 255 for x in colour[colour.index("(") + 1:-1].split(",")[:3]]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return sum(w * x for w, x in zip((0.2126, 0.7152, 0.0722), linear))

    high, low = sorted((light(one), light(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)
