"""Where published data come from: pinned downloads with known SHA-256, or the user's own copies."""

from __future__ import annotations

import hashlib
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Mapping

from mctrace_nb.errors import InputError


def cache_folder() -> Path:
    """Where downloads are kept: the environment's MCTRACE_DATA, else the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("MCTRACE_DATA") or platformdirs.user_cache_dir("mctrace_nb"))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Source:
    """Published files at one place.

    files: name -> SHA-256, or None where the publisher's bytes are not pinned; then the first download pins them on this
    machine. folders: names of sub-folders in which copies may lie, the first also in the cache. url: of their folder, at a
    fixed commit where there is one. extracts: name of a file -> name under which a part of it may lie in `data_dir`.
    """

    files: Mapping[str, str | None]
    folders: tuple[str, ...]
    url: str
    licence: str
    citation: str
    extracts: Mapping[str, str] = field(default_factory=dict)

    def copy(self, file: str, data_dir: str | Path | None = None) -> Path | None:
        """The copy of a file that would be read: in `data_dir` or one of its sub-folders, else in the cache."""
        if data_dir and not Path(data_dir).is_dir():
            raise InputError(f"data_dir={str(data_dir)!r} is not a folder; give the folder that holds {file}")
        names = (file, self.extracts[file]) if file in self.extracts else (file,)
        own = [Path(data_dir) / folder / name for name in names for folder in ("", *self.folders)] if data_dir else []
        return next((place for place in (*own, self._cached(file)) if place.is_file()), None)

    def _cached(self, file: str) -> Path:
        return cache_folder() / self.folders[0] / file

    def fetch(self, file: str, data_dir: str | Path | None, notes: list[str]) -> Path:
        """The path of a file, downloaded if there is no copy; what a reader should know about it is added to `notes`.

        A copy in `data_dir` may differ from the published file, which is noted. Raises InputError if a download fails or
        has another hash; nothing of it is left.
        """
        found = self.copy(file, data_dir)
        if found is None or found == self._cached(file):
            return self._download(file, notes)
        if self.files[file] not in (None, _sha256(found)):
            notes.append(f"{found.name} of data_dir differs from the published file (SHA-256 {_sha256(found)[:12]}..., "
                         f"published {self.files[file][:12]}...)")
        return found

    def _download(self, file: str, notes: list[str]) -> Path:
        """The cached file, verified, or a download in its place; a half one leaves nothing."""
        import pooch
        from requests.exceptions import RequestException

        pooch.get_logger().setLevel("WARNING")
        target, url = self._cached(file), f"{self.url}/{file}"
        pin = target.with_name(f"{file}.sha256")
        known = self.files[file] or (pin.read_text().strip() if pin.is_file() else None)
        instead = f"or put a copy into a folder and give data_dir=that folder (--data-dir); the file is {url}"
        try:
            path = Path(pooch.retrieve(url, known, fname=file, path=target.parent))
        except ValueError:  # the hash is wrong
            raise InputError(f"{file}: the download does not have the SHA-256 {known[:12]}... and was thrown away; try again, "
                             f"{instead}") from None
        except (RequestException, OSError) as error:
            raise InputError(f"{file} has no good copy here and cannot be downloaded ({type(error).__name__}); go online, "
                             f"{instead}") from None
        if known is None:
            pin.write_text(_sha256(path) + "\n")
            notes.append(f"{file} downloaded from {url}; its SHA-256 is not published, so {_sha256(path)} was written to "
                         f"{pin.name} beside it and is verified from now on")
            warnings.warn(notes[-1])
        return path
