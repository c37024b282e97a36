"""The calculator in JupyterLab, in a real browser: a menu is set, a slider moved by the keyboard, and the picture follows; on a dark page."""

import json
import os
import socket
import subprocess
import sys
import time

import nbformat
import pytest
from conftest import ROOT
from test_browser import CHROMIUM, FLAGS, contrast

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]
TOKEN = "only-for-this-test"
CHANGED = "src => document.querySelector('.widget-html img').src != src"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on loopback with one notebook; yields its address."""
    home = tmp_path_factory.mktemp("lab")
    cell = nbformat.v4.new_code_cell("import mctrace_nb as mct\nmct.widgets.CostCalculator()")
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=kernel), home / "calculator.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = {f"JUPYTER_{name}_DIR": str(home / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    settings = home / "CONFIG" / "labconfig" / "default_setting_overrides.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"@jupyterlab/apputils-extension:themes": {"theme": "JupyterLab Dark"},
                                    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}))
    started = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", f"--ServerApp.root_dir={home}", f"--port={port}", "--ip=127.0.0.1",
         f"--IdentityProvider.token={TOKEN}", "--ServerApp.allow_root=True"],
        cwd=home, env={**os.environ, **folders, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with socket.socket() as try_it:
                if not try_it.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/lab/tree/calculator.ipynb?token={TOKEN}"
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
        page.goto(lab, timeout=120_000)
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
