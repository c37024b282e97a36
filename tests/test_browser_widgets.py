"""Explorers in JupyterLab, in a real browser: what is saved is seen, menus and sliders are moved by keyboard and mouse and the picture
follows, an error is said in words; on light and dark pages."""

import json
import os
import shutil
import subprocess
import sys
import time

import nbformat
import pytest
from conftest import ROOT, free_port, wait_for
from test_browser import CHROMIUM, FLAGS, contrast

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]
TOKEN = "only-for-this-test"
LESSON = "06_penalties_and_schedules.ipynb"
CHANGED = "src => document.querySelector('.widget-html img').src != src"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on loopback with two notebooks; yields what gives the address of one."""
    home = tmp_path_factory.mktemp("lab")
    cell = nbformat.v4.new_code_cell("import mctrace_nb as mct\nmct.widgets.CostCalculator()")
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=kernel), home / "calculator.ipynb")
    shutil.copy(ROOT / "notebooks" / LESSON, home)
    port = free_port()
    folders = {f"JUPYTER_{name}_DIR": str(home / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    settings = home / "CONFIG" / "labconfig" / "default_setting_overrides.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"@jupyterlab/apputils-extension:themes": {"theme": "JupyterLab Dark"},
                                    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
                                    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"}}))  # cells out of sight exist too
    started = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", f"--ServerApp.root_dir={home}", f"--port={port}", "--ip=127.0.0.1",
         f"--IdentityProvider.token={TOKEN}", "--ServerApp.allow_root=True", "--LabApp.expose_app_in_browser=True"],
        cwd=home, env={**os.environ, **folders, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        yield lambda notebook: f"http://127.0.0.1:{port}/lab/tree/{notebook}?reset&token={TOKEN}"  # without the tabs of the test before
    finally:
        started.terminate()
        started.wait(30)


def run_first_cell(page):
    """JupyterLab drops without a word what is run before its kernel is there, so the key is pressed until the cell says that it ran."""
    cell = page.locator(".jp-Notebook .jp-CodeCell").first
    prompt = cell.locator(".jp-InputPrompt").first
    cell.click(timeout=120_000)
    for _ in range(60):
        page.keyboard.press("Control+Enter")
        for _ in range(20):
            if prompt.inner_text().strip() not in ("[ ]:", ""):
                return
            page.wait_for_timeout(100)
    raise AssertionError(f"the cell was never run; the page says {page.locator('.jp-NotebookPanel').inner_text()[:2000]!r}")


def test_picture_follows_menu_and_slider(lab, tmp_path):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        complaints = []
        page.on("pageerror", lambda e: complaints.append(str(e)))
        page.goto(lab("calculator.ipynb"), timeout=120_000)
        run_first_cell(page)
        picture, words = page.locator(".widget-html img"), page.locator(".widget-html p")
        picture.wait_for(timeout=120_000)
        first = picture.get_attribute("src")
        assert "144 components" in words.inner_text() and len(picture.get_attribute("alt")) > 60

        page.locator(".widget-dropdown select").first.select_option("gpt2-medium")
        page.wait_for_function(CHANGED, arg=first, timeout=30_000)
        assert "384 components" in words.inner_text()
        second = picture.get_attribute("src")
        page.locator(".widget-slider .noUi-handle").first.focus()
        page.keyboard.press("ArrowRight")  # prompts: 64 -> 66
        page.wait_for_function(CHANGED, arg=second, timeout=30_000)
        assert len({first, second, picture.get_attribute("src")}) == 3
        ink = words.evaluate("p => getComputedStyle(p).color")
        paper = page.evaluate("getComputedStyle(document.querySelector('.jp-Notebook')).backgroundColor")
        assert contrast(ink, paper) >= 7 and contrast(paper, "rgb(0, 0, 0)") < 3, f"{ink} on {paper}: the page should be dark"
        page.screenshot(path=tmp_path / "calculator.png")
        browser.close()
    assert complaints == []


def execute(page, command, **arguments):
    """A command of JupyterLab, as its menus call it."""
    page.wait_for_function("window.jupyterapp?.commands.hasCommand('notebook:run-all-cells')", timeout=120_000)
    page.evaluate("([name, more]) => window.jupyterapp.commands.execute(name, more)", [command, arguments])


def until_changed(page, cell, move):
    """Makes a move; seconds from its end to another picture in the cell."""
    src = cell.locator(".widget-html img").get_attribute("src")
    move()
    start = time.perf_counter()
    page.wait_for_function("([cell, src]) => { const img = cell.querySelector('.widget-html img'); return img && img.complete && img.src != src }",
                           arg=[cell.element_handle(), src], timeout=30_000)
    return time.perf_counter() - start


def drag(page, handle, track, share):
    """Takes hold of a slider's handle and lets it go at a share of its track."""
    at, along = handle.bounding_box(), track.bounding_box()
    middle = at["y"] + at["height"] / 2
    page.mouse.move(at["x"] + at["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(along["x"] + share * along["width"], middle, steps=8)
    page.mouse.up()


def test_the_lesson_on_penalties_without_and_with_a_kernel(lab, tmp_path):
    """Opened and not run, the saved picture is there. Run, lambda1 is moved by keyboard and mouse, and a mistyped budget is said in words."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1300, "height": 1100})
        complaints = []
        page.on("pageerror", lambda e: complaints.append(str(e)))
        page.on("console", lambda m: m.type == "error" and complaints.append(f"{m.text} ({m.location.get('url', '')})"))
        page.goto(lab(LESSON), timeout=120_000)
        cell = page.locator(".jp-CodeCell", has_text="mct.widgets.LambdaExplorer(")
        saved = cell.locator(".jp-OutputArea img")
        saved.wait_for(timeout=120_000)
        saved.scroll_into_view_if_needed()
        assert saved.evaluate("img => img.naturalWidth") > 300
        assert "model not found" not in page.locator(".jp-NotebookPanel").inner_text() and cell.locator(".widget-slider").count() == 0

        execute(page, "notebook:run-all-cells")
        picture, words = cell.locator(".widget-html img"), cell.locator(".widget-html p")
        picture.wait_for(timeout=180_000)
        slider, seconds = cell.locator(".widget-slider").first, {}
        handle = slider.locator(".noUi-handle")
        pictures, said = [picture.get_attribute("src")], [words.inner_text()]
        handle.focus()
        for how, move in (("key", lambda: page.keyboard.press("ArrowRight")), ("mouse", lambda: drag(page, handle, slider.locator(".noUi-target"), 0.5))):
            seconds[how] = until_changed(page, cell, move)
            words.filter(has_text="components are kept").wait_for(timeout=30_000)
            pictures.append(picture.get_attribute("src"))
            said.append(words.inner_text())
        assert len(set(pictures)) == len(set(said)) == 3 and len(picture.get_attribute("alt")) > 60
        print("seconds from release to the new picture:", {how: round(s, 2) for how, s in seconds.items()})
        assert max(seconds.values()) < 15  # a machine that does much else; the benchmark measures it at rest

        budget = cell.locator(".widget-text", has_text="stop at budget").locator("input")
        budget.fill("five")
        budget.press("Enter")
        alert = cell.locator("[role=alert]")
        alert.wait_for(timeout=30_000)
        assert "budget 'five' is not a whole number; write one such as 5" in alert.inner_text()
        assert picture.is_visible() and picture.get_attribute("src") == pictures[-1]
        for theme in ("Dark", "Light"):
            execute(page, "apputils:change-theme", theme=f"JupyterLab {theme}")
            page.wait_for_function(f"document.body.dataset.jpThemeLight == '{str(theme == 'Light').lower()}'", timeout=30_000)
            ink = alert.evaluate("p => getComputedStyle(p).color")
            paper = page.evaluate("getComputedStyle(document.querySelector('.jp-Notebook')).backgroundColor")
            assert contrast(ink, paper) >= 7, f"{ink} on {paper} in {theme}"
            alert.scroll_into_view_if_needed()
            page.screenshot(path=tmp_path / f"penalties-{theme.lower()}.png")
        budget.fill("")
        budget.press("Enter")
        words.filter(has_text="components are kept").wait_for(timeout=30_000)
        assert cell.locator("[role=alert]").count() == 0 and words.inner_text() == said[-1]
        browser.close()
    assert complaints == []
