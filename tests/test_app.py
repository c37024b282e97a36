"""The explorers as an app for a class: Voila serves them to a real browser, where they are driven by keyboard."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT, apart, free_port, wait_for
from test_browser import CHROMIUM, FLAGS

import mctrace_nb as mct
from mctrace_nb.site import app


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Voila in a folder of its own, as it would add a button to everybody's JupyterLab; yields the address of the app."""
    folder = tmp_path_factory.mktemp("voila")
    there = apart(folder, "voila", "websockets")
    port = free_port()
    data = os.pathsep.join(filter(None, [str(folder / "share" / "jupyter"), os.environ.get("JUPYTER_PATH")]))
    env = {**os.environ, **there, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "JUPYTER_PATH": data}
    started = subprocess.Popen([sys.executable, "-m", "mctrace_nb", "app", "--no-browser", f"--port={port}", "--ip=127.0.0.1"], cwd=folder, env=env,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for(port)
        yield f"http://127.0.0.1:{port}/"
    finally:
        os.killpg(started.pid, 15)
        started.wait(30)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_app_is_driven_by_keyboard(served):
    """The first sliders of both explorers: reached by Tab, moved by an arrow key; picture and words follow, nothing is fetched from elsewhere."""
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        requests, complaints = [], []
        page.on("request", lambda r: requests.append(r.url))
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: complaints.append(str(e)))
        page.goto(served, timeout=120_000)
        page.locator(".widget-html img").nth(1).wait_for(timeout=120_000)
        assert "import mctrace_nb" not in page.inner_text("body"), "a class sees no code"
        for name in ("sparsity, lambda1", "budget S"):
            explorer = page.locator(".widget-vbox", has_text=name).last
            picture, words = explorer.locator(".widget-html img"), explorer.locator(".widget-html p[role=status]")
            before = picture.get_attribute("src"), words.inner_text()
            for _ in range(40):
                page.keyboard.press("Tab")
                if page.evaluate("name => document.activeElement.closest('.widget-inline-hbox')?.innerText.includes(name)", name):
                    break
            assert page.evaluate("document.activeElement.getAttribute('role')") == "slider"
            page.keyboard.press("ArrowRight")
            expect(picture).not_to_have_attribute("src", before[0], timeout=60_000)
            assert words.inner_text() not in (before[1], "computing ...")
        assert [r for r in requests if not r.startswith((served, "data:", "blob:"))] == [] and complaints == []
        browser.close()


def test_the_app_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(app, "find_spec", lambda name: None)
    with pytest.raises(mct.InputError, match="Voila is not installed; run make app"):
        app.serve(tmp_path / "app.ipynb")
    assert not list(tmp_path.iterdir())
