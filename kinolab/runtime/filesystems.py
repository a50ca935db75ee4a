"""Where fsspec's file systems come from, and what their errors mean: one line each, with the address in it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kinolab.errors import InputError, MissingExtraError
from kinolab.runtime.lines import one_line

EXTRAS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}
PATIENCE: dict[str, Any] = {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 3}}
"""Seconds, and tries, before a store counts as one that doesn't answer."""
REFUSED = re.compile(r"credential|forbidden|accessdenied|access denied|unauthorized|anonymous caller|\b40[13]\b", re.I)
"""In the words of a store that won't do it for this caller, whatever class of error they come in."""


@dataclass(frozen=True)
class Entry:
    """An object: bytes, and the moment in nanoseconds that its copy bears, which says of which version that is."""

    bytes: int
    moment: int


class NoObjectError(InputError):
    """There is no such bucket or object."""


class ExistsError(InputError):
    """An object that must not exist does."""


def filesystem(kind: str) -> Any:
    """The file system of a kind of store.

    Raises:
        MissingExtraError: where its library is not installed.
    """
    import fsspec

    options: dict[str, Any] = {"config_kwargs": PATIENCE} if kind.startswith("s3") else {}
    try:
        if kind.startswith("http"):
            import aiohttp

            limits = aiohttp.ClientTimeout(
                total=None, sock_connect=PATIENCE["connect_timeout"], sock_read=PATIENCE["read_timeout"]
            )
            options = {"client_kwargs": {"timeout": limits}}
        return fsspec.filesystem(kind, skip_instance_cache=kind != "memory", use_listings_cache=False, **options)
    except ImportError:
        raise MissingExtraError(EXTRAS.get(kind, "a library for it"), "storage", f"{kind}://") from None


class UnansweredError(InputError):
    """A store that was asked for what it may have, and gave no answer, or another than it should."""


@contextmanager
def told(what: str) -> Iterator[None]:
    """Errors of a store as one line each; a missing object, a full disk and a library that lacks are what they are."""
    try:
        yield
    except (InputError, FileExistsError):
        raise
    except FileNotFoundError:
        raise NoObjectError(f"{what}: no such bucket or object") from None
    except PermissionError as error:
        raise InputError(f"{what}: not allowed ({one_line(error, 120)}); see the credentials") from None
    except OSError as error:
        if error.filename is not None and error.errno is not None:  # of this machine's disk
            raise
        exists = "PreconditionFailed" in str(error) or "already exists" in str(error).lower()
        said = one_line(error, 160) or f"no answer ({type(error).__name__})"
        if REFUSED.search(said):
            raise InputError(f"{what}: not allowed ({said}); see the credentials") from None
        raise (ExistsError if exists else UnansweredError)(f"{what}: {said}") from None
    except Exception as error:  # of the library's own, which is another for every store
        words = f"{type(error).__name__}: {error}"
        if "PreconditionFailed" in words:
            raise ExistsError(f"{what}: exists") from None
        if REFUSED.search(words):
            raise InputError(f"{what}: not allowed ({one_line(words, 120)}); see the credentials") from None
        raise UnansweredError(f"{what}: the store doesn't answer as it should ({one_line(words, 160)})") from None


def cache_folder() -> Path:
    """The user's folder for what can be had again."""
    try:
        return Path.home() / ".cache"
    except RuntimeError:  # a user id without a name, as in containers
        import tempfile

        return Path(tempfile.gettempdir())


def entry_of(info: Mapping[str, Any]) -> Entry:
    """What is known of an object. The nanoseconds of its moment are made of its tag, as stores count in seconds."""
    when = next((info[key] for key in ("LastModified", "updated", "mtime", "created") if info.get(key)), None)
    tag = next((str(info[key]) for key in ("ETag", "etag", "md5Hash") if info.get(key)), "")
    if isinstance(when, str):
        with suppress(ValueError):
            when = datetime.fromisoformat(when.replace("Z", "+00:00"))
    when = when.timestamp() if isinstance(when, datetime) else when  # a list and a question may say it in two ways
    seconds = int(when) if isinstance(when, float) else 0
    part = (
        int.from_bytes(hashlib.sha256(f"{seconds if tag else when} {tag}".encode()).digest()[:4], "big") % 1_000_000_000
    )
    return Entry(int(info.get("size") or 0), seconds * 1_000_000_000 + part)
