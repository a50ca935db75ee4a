"""Fetches public weights once, to a folder that the user names, and only with the hash that they must have."""

from __future__ import annotations

import difflib
import http.client
import urllib.error
import urllib.request
from importlib import resources
from pathlib import Path
from typing import BinaryIO

from pydantic import Field, model_validator

from kinolab.config import Config, load_config, read_yaml
from kinolab.contracts.events import Events, Listener, advance, events_of
from kinolab.errors import InputError
from kinolab.metrics.weights import checked_hash
from kinolab.runtime import files
from kinolab.runtime.hashes import Sha256

BLOCK = 1 << 20
LARGEST = 20 * 2**30
"""Bytes that are taken of a file whose size is not known."""
TIMEOUT = 30.0
"""Seconds without an answer after which there is no network."""


class WeightsFile(Config):
    """A public file of weights."""

    file: str = Field(pattern=r"^[\w][\w.-]*$")
    """Name that the file gets in the folder."""
    url: str
    """Where it is."""
    sha256: str | None = Field(pattern="^[0-9a-f]{64}$")
    """Hash of its bytes; null = not known for sure."""
    reason: str = ""
    """Why the hash is not known."""
    size: int | None = Field(default=None, ge=1)
    """Bytes; null = not known."""
    license: str
    """What its page says of its licence."""

    @model_validator(mode="after")
    def _says_why(self) -> WeightsFile:
        if self.sha256 is None and not self.reason:
            raise ValueError("a file without a hash needs the reason")
        return self


def load_manifest(path: Path | None = None) -> dict[str, WeightsFile]:
    """Name -> file, of a YAML manifest; None = the one that comes with the package."""
    path = path or Path(str(resources.files("kinolab") / "metrics" / "extractors" / "manifest.yaml"))
    return {name: load_config(WeightsFile, entry, name=f"{path}: {name}") for name, entry in read_yaml(path).items()}


def fetch(
    name: str, folder: Path, *, sha256: str | None = None, manifest: Path | None = None, events: Listener = None
) -> Path:
    """The path of a public file in `folder`: downloaded there unless it is there already, its hash checked either way.

    sha256: the hash that you know, needed where the manifest has none. A file gets its final name only after its hash
    was found right; a download that breaks off or is stopped leaves nothing behind.

    Raises:
        InputError: for an unknown name, no or another hash, no network, a file that is not what was meant.
    """
    entries = load_manifest(manifest)
    if name not in entries:
        close = difflib.get_close_matches(name, entries, n=1)
        hint = f", did you mean {close[0]!r}?" if close else ""
        raise InputError(f"{name!r}: no such weights; expected one of {', '.join(entries)}{hint}")
    entry = entries[name]
    expected = _expected(name, entry, sha256)
    path = folder / entry.file
    if path.exists():
        checked_hash(path, expected)
        return path
    with files.opened(path) as file:
        came = _download(name, entry, file, path, events_of(events))
        if came != expected:
            raise InputError(f"{entry.url}: expected sha256 {expected}, got {came}; nothing was kept")
    return path


def _expected(name: str, entry: WeightsFile, stated: str | None) -> str:
    if stated is not None and entry.sha256 is not None and stated.lower() != entry.sha256:
        raise InputError(f"{name}: the manifest has sha256 {entry.sha256}, you stated {stated.lower()}")
    expected = entry.sha256 or stated
    if expected is None:
        raise InputError(f"{name}: its hash is not known for sure ({entry.reason}); state sha256=... to fetch it")
    return expected.lower()


def _download(name: str, entry: WeightsFile, file: BinaryIO, path: Path, events: Events) -> str:
    """Write what the URL gives; its sha256. More than the known size, or than any weights have, is not taken."""
    digest, size, most = Sha256(), 0, entry.size or LARGEST
    try:
        with urllib.request.urlopen(entry.url, timeout=TIMEOUT) as answer:
            while block := answer.read(BLOCK):
                size += len(block)
                if size > most:
                    raise InputError(f"{entry.url}: more than the {most:,} bytes expected; nothing was kept")
                digest.data(block)
                file.write(block)
                # Of a size that is not known there is always more.
                advance(events, size, entry.size or size + 1)
    except urllib.error.HTTPError as error:
        error.close()
        raise InputError(f"{name}: {entry.url} answered {error.code} {error.reason}") from None
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise InputError(f"{name}: no network to {entry.url} ({reason}); bring the file to {path} by hand") from None
    if entry.size is not None and size != entry.size:
        raise InputError(f"{entry.url}: expected {entry.size:,} bytes, got {size:,}; nothing was kept")
    return digest.hex()
