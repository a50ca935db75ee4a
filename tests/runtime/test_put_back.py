"""Outputs in a store, of what only knows paths of this machine; on fsspec's store in memory."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from kinolab.cli.options import show
from kinolab.cli.stored import in_store
from kinolab.errors import InputError
from kinolab.runtime import leftovers, sets
from kinolab.runtime import put_back as module
from kinolab.runtime.files import write_text
from kinolab.runtime.put_back import put_back
from kinolab.runtime.remote import Mirror


def there(store: Any) -> dict[str, bytes]:
    found = {}
    for path in sorted(store.store):
        with suppress(FileNotFoundError):  # removed meanwhile, by who puts and by who renews
            found[path.removeprefix("/b/")] = store.cat_file(path)
    return found


def test_a_folder_is_what_was_written_and_goes_on_from_another_machine(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with put_back(Path("memory://b/run")) as here:
        write_text(here / "step-1" / "state", "1")
        write_text(here / "step-1" / "manifest.json", "{}")
    assert there(store) == {"run/step-1/state": b"1", "run/step-1/manifest.json": b"{}"}
    monkeypatch.setenv("HOME", str(tmp_path / "other"))
    order: list[str] = []
    put, drop = Mirror.put, Mirror.drop

    def putting(self: Mirror, name: str) -> None:
        order.append(f"+{name}")
        put(self, name)

    def dropping(self: Mirror, names: Collection[str]) -> None:
        order.extend(f"-{name}" for name in names)
        drop(self, names)

    monkeypatch.setattr(Mirror, "put", putting)
    monkeypatch.setattr(Mirror, "drop", dropping)
    with put_back(Path("memory://b/run")) as here:
        assert (here / "step-1" / "state").read_text() == "1"
        write_text(here / "step-2" / "state", "2")
        write_text(here / "step-2" / "manifest.json", "{}")
        for path in sorted((here / "step-1").iterdir()):
            path.unlink()
    assert order == ["+step-2/state", "+step-2/manifest.json", "-step-1/manifest.json", "-step-1/state"]
    assert there(store) == {"run/step-2/state": b"2", "run/step-2/manifest.json": b"{}"}


def test_what_a_silent_store_did_not_take_is_gone_on_from_and_put_unless_another_wrote_since(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(self: Mirror, name: str, path: Path | None = None) -> int:
        raise InputError("no answer")

    run, home = Path("memory://b/run"), tmp_path / "home"
    with put_back(run) as here:
        write_text(here / "log", "begun")
    for another in (False, True):
        with (
            pytest.raises(InputError, match=r"no answer; what was made is in /.*, and the same command goes on"),
            pytest.MonkeyPatch.context() as patch,
            put_back(run) as here,
        ):
            patch.setattr(Mirror, "put", silent)
            write_text(here / "log", f"days of work {another}")
        if another:
            monkeypatch.setenv("HOME", str(tmp_path / "other"))
            with put_back(run) as here:
                assert (here / "log").read_text() == "days of work False"
                write_text(here / "log", "of another machine")
            monkeypatch.setenv("HOME", str(home))
        with put_back(run) as here:
            assert (here / "log").read_text() == ("of another machine" if another else "days of work False")
    assert there(store) == {"run/log": b"of another machine"}


def test_parts_that_other_machines_put_stay_until_they_are_older_than_what_is_kept(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVERY", 0.01)
    for step in (1, 2, 3, 4):
        store.pipe_file(f"/b/run/checkpoints/step-{step}/rank-1", b"x")
    for step in (2, 3):
        store.pipe_file(f"/b/run/checkpoints/step-{step}/manifest.json", b"{}")
    with put_back(Path("memory://b/run")) as here:
        for path in (here / "checkpoints").glob("step-*"):
            if path.name != "step-3":
                leftovers.remove(path)
        entries = {name: sets.Entry(1) for name in ("rank-0", "rank-1")}
        write_text(here / "checkpoints" / "step-3" / "rank-0", "y")
        write_text(here / "checkpoints" / "step-3" / "manifest.json", sets.Manifest(entries).text())
        leftovers.remove(here / "checkpoints" / "step-3" / "rank-1")
        while any(f"run/checkpoints/step-{step}/rank-1" in there(store) for step in (1, 2)):
            pass
        assert {"run/checkpoints/step-3/rank-1", "run/checkpoints/step-4/rank-1"} <= there(store).keys()
    names = ("manifest.json", "rank-0", "rank-1")
    assert sorted(there(store)) == [f"run/checkpoints/step-3/{name}" for name in names]


def test_a_file_and_what_stands_beside_it_and_no_other(store: Any) -> None:
    store.pipe_file("/b/out/other.mp4", b"x")
    store.pipe_file("/b/out/v-0.mp4", b"made before")
    with put_back(Path("memory://b/out/v.mp4")) as here:
        assert here.name == "v.mp4" and [path.name for path in here.parent.iterdir()] == ["v-0.mp4"]
        write_text(here, "video")
        write_text(here.with_suffix(".json"), "{}")
    assert set(there(store)) == {"out/other.mp4", "out/v-0.mp4", "out/v.mp4", "out/v.json"}


def test_what_is_there_is_put_also_where_the_work_was_cut_off(store: Any) -> None:
    with pytest.raises(KeyboardInterrupt), put_back(Path("memory://b/run")) as here:
        write_text(here / "log", "1")
        raise KeyboardInterrupt
    assert there(store) == {"run/log": b"1"}


def test_what_is_new_is_put_meanwhile_and_a_store_that_fails_then_stops_nobody(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVERY", 0.01)
    puts, put = list[str](), Mirror.put

    def failing(self: Mirror, name: str) -> None:
        puts.append(name)
        if len(puts) == 1:
            raise InputError("no answer")
        put(self, name)

    monkeypatch.setattr(Mirror, "put", failing)
    with put_back(Path("memory://b/run")) as here:
        write_text(here / "log", "1")
        while "run/log" not in there(store):
            pass
    assert len(puts) == 2


def test_a_command_is_given_a_path_of_this_machine(store: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with in_store("generate", {"out": Path("memory://b/run/v.mp4"), "seed": 1}) as values:
        write_text(values["out"], "video")
        assert values["seed"] == 1
    assert (
        there(store) == {"run/v.mp4": b"video"}
        and "put into the store: memory://b/run/v.mp4" in capsys.readouterr().out
    )
    for name, values in (("encode", {"out": Path("memory://b/c")}), ("generate", {"out": Path("v.mp4")}), ("x", {})):
        with in_store(name, values) as same:
            assert same == values, "those that know stores, and paths of this machine, are let alone"


def test_clips_that_a_command_is_given_are_fetched_and_what_it_says_names_the_address(
    store: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    store.pipe_file("/b/a.mp4", b"one")
    given = {
        "clip": Path("memory://b/a.mp4"),
        "images": [Path("memory:/b/a.mp4"), Path("here.png")],
        "seed": Path("s3:/x"),
    }
    with in_store("predict", given) as values:
        assert values["clip"].read_bytes() == values["images"][0].read_bytes() == b"one"
        assert values["images"][1] == Path("here.png") and values["seed"] == given["seed"]
    with (
        pytest.raises(InputError, match=r"^memory://b/none\.mp4: "),
        in_store("x", {"clip": Path("memory:/b/none.mp4")}),
    ):
        pass
    with (
        pytest.raises(InputError, match=r"^memory://b/run/x: no$"),
        in_store("train", {"run": Path("memory://b/run")}) as values,
    ):
        show({"folder": values["run"]}, [f"in {values['run'] / 'model'}"])
        raise InputError(f"{values['run']}/x: no")
    assert capsys.readouterr().out == "in memory://b/run/model\n"
    with in_store("train", {"run": Path("memory://b/run-0.5")}) as values:
        write_text(values["run"] / "log", "1")
    assert store.cat_file("/b/run-0.5/log") == b"1" and "memory://b/run-0.5" in capsys.readouterr().out


def test_two_do_not_write_one_folder_and_several_processes_share_none(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = pytest.raises(InputError, match="another kinolab is writing there")
    with put_back(Path("memory://b/run")), refused, put_back(Path("memory://b/run")):
        pass
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    with pytest.raises(InputError, match="memory://b/run: torchrun"), put_back(Path("memory://b/run")):
        pass
    with pytest.raises(InputError, match=r"^https://h/x: can be read and not written"), put_back(Path("https://h/x")):
        pass
