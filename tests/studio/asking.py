"""A studio in process for tests: its app, and a client that has its key and says the header that the page says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from kinolab.studio.app import make_app
from kinolab.studio.project import Project
from kinolab.studio.safety import Rules

PORT = 8470
URL = f"http://127.0.0.1:{PORT}"
TOKEN = "a-token-that-is-as-long-as-a-real-one-would-be"


@contextmanager
def client(folder: Path, *, token: bool = True, host: str = "127.0.0.1", url: str = URL) -> Iterator[TestClient]:
    """A client of the studio of a folder; without `token` it has no cookie yet."""
    app = make_app(Project.open(folder), Rules(host, PORT, TOKEN))
    with TestClient(app, base_url=url, headers={"x-kinolab": "1"}) as found:
        if token:
            found.cookies.set(f"kinolab_studio_{PORT}", TOKEN)
        yield found


def ok(answer: Any) -> Any:
    """The values of an answer that went well."""
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(answer: Any, status: int = 400) -> str:
    """The line of an answer that says what is wrong."""
    assert answer.status_code == status, answer.text
    line: str = answer.json()["error"]
    assert line and "\n" not in line
    return line
