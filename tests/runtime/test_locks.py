"""One holder at a time, in this process and others, and who it is."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from kinolab.errors import InputError
from kinolab.runtime.locks import held, holder


def test_a_second_one_is_told_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "run" / ".lock"
    told = rf"busy \(process {os.getpid()} on .* since \d{{4}}-"
    with held(path, "busy"), pytest.raises(InputError, match=told), held(path, "busy"):
        pass
    with held(path, "busy"):
        pass


def test_a_lock_is_let_go_of_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), held(tmp_path / ".lock", "busy"):
        raise ZeroDivisionError
    with held(tmp_path / ".lock", "busy"):
        pass


def test_without_words_it_waits(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with held(tmp_path / ".lock"):
            order.append("second")

    thread = threading.Thread(target=second)
    with held(tmp_path / ".lock", "busy"):
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_system_lets_go_when_a_process_is_killed(tmp_path: Path) -> None:
    ready, tell = os.pipe()
    child = os.fork()
    if not child:
        with held(tmp_path / ".lock", "busy"):
            os.write(tell, b"x")
            os.kill(os.getpid(), 9)
    os.read(ready, 1)
    os.waitpid(child, 0)
    assert f"process {child} on" in (holder(tmp_path / ".lock") or "")
    with held(tmp_path / ".lock", "busy"):
        assert f"process {os.getpid()} on" in (holder(tmp_path / ".lock") or "")


def test_links_are_refused_and_what_they_lead_to_stays(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / ".lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="link"), held(tmp_path / ".lock", "busy"):
        pass
    assert (tmp_path / "victim").read_text() == "mine"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b'{"kinolab": 5}', b'{"kinolab": ' + b"[" * 2000, b"other"])
def test_a_strange_lock_file_is_no_matter(content: bytes, tmp_path: Path) -> None:
    (tmp_path / ".lock").write_bytes(content)
    assert holder(tmp_path / ".lock") is None
    with held(tmp_path / ".lock", "busy"), pytest.raises(InputError, match="busy"), held(tmp_path / ".lock", "busy"):
        pass
    assert content != b"other" or (tmp_path / ".lock").read_bytes() == b"other", "what another program wrote stays"
    assert holder(tmp_path / "none") is None
