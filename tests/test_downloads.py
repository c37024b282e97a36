"""How published files are fetched: own copies, verified downloads, clear refusals. The only network is a server made here."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

from mctrace_nb.errors import InputError
from mctrace_nb.tasks.sources import Source

CONTENT = b"one\ntwo\n"


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server on this machine: /good/file gives CONTENT, /half/file breaks off, all else is not found."""
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200 if self.path in ("/good/file", "/half/file") else 404)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT if self.path != "/half/file" else CONTENT[:3])

        def log_message(self, *_):
            pass

    asked = []
    monkeypatch.setenv("MCTRACE_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{running.server_port}", asked=asked, cache=tmp_path / "cache" / "things")
    running.shutdown()
    running.server_close()


def source(url, sha256=hashlib.sha256(CONTENT).hexdigest()):
    return Source({"file": sha256}, ("things",), url, "MIT", "nobody")


def test_a_download_is_verified_and_kept(server):
    notes = []
    good = source(f"{server.url}/good")
    assert good.fetch("file", None, notes).read_bytes() == CONTENT and good.fetch("file", None, notes).parent == server.cache
    assert len(server.asked) == 1 and not notes
    (server.cache / "file").write_bytes(b"spoilt")
    assert good.fetch("file", None, notes).read_bytes() == CONTENT and len(server.asked) == 2


@pytest.mark.parametrize("place, sha256, message", [
    ("good", "0" * 64, "does not have the SHA-256 000000000000... and was thrown away"),
    ("half", None, "cannot be downloaded"), ("half", hashlib.sha256(CONTENT).hexdigest(), "cannot be downloaded"),
    ("none", None, r"cannot be downloaded \(HTTPError\)")])
def test_a_bad_download_leaves_nothing(server, place, sha256, message):
    with pytest.raises(InputError, match=message) as caught:
        source(f"{server.url}/{place}", sha256).fetch("file", None, [])
    assert f"{server.url}/{place}/file" in str(caught.value) and "data_dir" in str(caught.value) and "\n" not in str(caught.value)
    assert not [p for p in server.cache.parent.rglob("*") if p.is_file()]


def test_without_network_the_file_is_named(server):
    with pytest.raises(InputError, match=r"file has no good copy here .*\(ConnectionError\).*data_dir"):
        source("http://127.0.0.1:9").fetch("file", None, [])


def test_a_file_without_a_published_hash_is_pinned_by_its_first_download(server):
    notes, unpinned = [], source(f"{server.url}/good", None)
    with pytest.warns(UserWarning, match="its SHA-256 is not published"):
        unpinned.fetch("file", None, notes)
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    assert sha256 in notes[0] and (server.cache / "file.sha256").read_text().strip() == sha256
    unpinned.fetch("file", None, notes)
    assert len(notes) == 1 and len(server.asked) == 1
    (server.cache / "file.sha256").write_text("0" * 64)
    with pytest.raises(InputError, match="does not have the SHA-256"):
        unpinned.fetch("file", None, notes)


def test_own_copies_come_first_and_differences_are_noted(server, tmp_path):
    notes, good = [], source(f"{server.url}/good")
    (tmp_path / "own" / "things").mkdir(parents=True)
    copy = tmp_path / "own" / "things" / "file"
    copy.write_bytes(CONTENT)
    assert good.fetch("file", tmp_path / "own", notes) == copy and not notes
    copy.write_bytes(b"mine")
    assert good.fetch("file", tmp_path / "own", notes) == copy and "file of data_dir differs from the published file" in notes[0]
    assert not server.asked
