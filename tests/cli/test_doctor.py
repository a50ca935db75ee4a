"""kinolab doctor: on this machine, and on machines that lack or break one thing each."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kinolab import models
from kinolab.cli import doctor, main
from kinolab.runtime import devices, locks, machine
from kinolab.video import codecs


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["doctor", *words])
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> list[doctor.Finding]:
    """What is found on this machine, looked at once."""
    return doctor.examine(tmp_path_factory.mktemp("runs"))


@pytest.mark.slow
def test_a_dozen_lines_for_a_dozen_checks(
    here: list[doctor.Finding], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f.name for f in here]
    assert names == [
        "kinolab", "packages", "torch", "devices", "precision", "processor", "memory", "codecs", "locks", "disk",
        "extras", "weights",
    ]  # fmt: skip
    assert [f.name for f in here if f.state == "broken"] == [] and all("\n" not in f.says for f in here)
    assert all(f.advice for f in here if f.state != "ok")
    monkeypatch.setattr(doctor, "examine", lambda folder: here)
    assert run() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line[:10].strip()][: len(names)] == names
    assert lines[-1].startswith("all that is needed works; ")


def test_what_is_said_is_what_is_there(here: list[doctor.Finding]) -> None:
    found = {f.name: f for f in here}
    assert torch.__version__ in found["torch"].says
    assert f"auto takes {devices.choose('auto')}" in found["devices"].says
    assert found["precision"].says.startswith(("float32 (auto", "bfloat16 (auto"))
    assert found["processor"].facts["threads"] == torch.get_num_threads()
    assert all(name in found["codecs"].says for name in ("h264", "vp9", "av1", "ffv1", "gif", "webp"))
    assert found["codecs"].facts == {"unwritable": {}, "unreadable": []}
    assert found["locks"].says.startswith("work in ")
    extras = found["extras"].facts
    assert set(extras["installed"]) | set(extras["missing"]) == set(doctor.EXTRAS)
    for packages in extras["installed"].values():
        assert all(importlib.metadata.version(name) == version for name, version in packages.items())
    assert found["weights"].says == "pixels, world, world-image, world-text, encoder: whole"


def test_every_extra_is_told_of() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(doctor.EXTRAS) == set(project["optional-dependencies"]) - {"dev"}


def test_as_json_and_in_words(
    here: list[doctor.Finding], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = doctor.Finding("codecs", "writes nothing", "broken", "pip install av", {"why": "x"})
    monkeypatch.setattr(doctor, "examine", lambda folder: [here[0], bad])
    assert run("--json") == 1
    record = json.loads(capsys.readouterr().out)
    assert record["ok"] is False and record["checks"][1] == {
        "name": "codecs", "says": "writes nothing", "state": "broken", "advice": "pip install av",
        "facts": {"why": "x"},
    }  # fmt: skip
    assert run() == 1
    out = capsys.readouterr().out
    assert "codecs     broken writes nothing\n" in out and "do pip install av\n" in out
    assert out.endswith("broken: codecs; 0 notes\n")


def test_a_check_that_falls_is_a_finding_and_the_others_run(
    monkeypatch: pytest.MonkeyPatch, here: list[doctor.Finding], tmp_path: Path
) -> None:
    for f in here:
        monkeypatch.setattr(doctor, f"check_{f.name}", lambda *folder, kept=f: kept)

    def fall() -> doctor.Finding:
        raise ImportError("libtorch.so: cannot open\nshared object")

    monkeypatch.setattr(doctor, "check_torch", fall)
    found = doctor.examine(tmp_path)
    assert len(found) == len(here) and found[3:] == here[3:]
    assert found[2].state == "broken" and "libtorch.so: cannot open shared object" in found[2].says and found[2].advice


def test_packages_that_are_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("pymunk", "diffusers"):
            raise importlib.metadata.PackageNotFoundError(name)
        return "2.0" if name == "pydantic" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = doctor.check_packages()
    assert found.state == "broken" and found.advice == "pip install pydantic pymunk"
    assert "pymunk (not installed)" in found.says and "pydantic (2.0, expected >=2.7)" in found.says
    extras = doctor.check_extras()
    assert extras.state == "note" and "interop" in extras.facts["missing"] and "interop" in extras.advice
    assert "pip install 'kinolab[" in extras.advice and "models of diffusers" in extras.says


@pytest.mark.parametrize(("built", "version", "state"), [(None, "2.13.0+cpu", "note"), ("12.8", "2.12.1", "ok"),
                                                         (None, "2.10.0", "broken")])  # fmt: skip
def test_torch_that_does_not_fit(built: str | None, version: str, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(Path, "exists", lambda self, **kwargs: str(self) == "/proc/driver/nvidia/gpus")
    found = doctor.check_torch()
    assert found.state == state and version in found.says
    if state == "note":
        assert "an NVIDIA card" in found.says and "pytorch.org" in found.advice
    if state == "broken":
        assert "torch>=2.11" in found.advice


def test_devices_that_do_not_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "there", lambda: [torch.device("cuda", 0), torch.device("cpu")])
    monkeypatch.setattr(devices, "choose", lambda word: torch.device("cuda"))
    monkeypatch.setattr(devices, "memory", lambda device: (3e9, 8e9) if device.type == "cuda" else None)
    monkeypatch.setattr(devices, "name", lambda device: "Card")
    real = torch.eye

    def eye(n: int, device: torch.device) -> torch.Tensor:
        if device.type == "cuda":
            raise RuntimeError("CUDA error: no kernel image is available\nfor execution")
        return real(n)

    monkeypatch.setattr(torch, "eye", eye)
    found = doctor.check_devices()
    assert found.state == "broken" and "--device cpu" in found.advice
    assert "cuda:0 (Card, 3.0 GB of 8.0 GB free), cpu (Card); auto takes cuda" in found.says
    assert "cuda:0 does not compute: CUDA error: no kernel image is available for execution" in found.says
    monkeypatch.setattr(torch, "eye", lambda n, device: real(n))
    assert doctor.check_devices().state == "ok"


def test_a_driver_that_torch_complains_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    found = doctor.check_devices()
    assert found.state == "note" and "built for CUDA, but torch finds none" in found.says and found.advice


def test_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    monkeypatch.setattr(devices, "cores", lambda: 4)
    monkeypatch.setattr(doctor, "_processor_share", lambda: None)
    assert "training.threads=4" in doctor.check_processor().advice
    monkeypatch.setattr(devices, "cores", lambda: 64)
    assert doctor.check_processor().state == "ok"
    monkeypatch.setattr(doctor, "_processor_share", lambda: 2.5)
    found = doctor.check_processor()
    assert found.state == "note" and "2.5 cores' time" in found.says and "training.threads=2" in found.advice


def test_little_memory_and_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "memory_left", lambda device: 10**9)
    assert doctor.check_memory().state == "note" and "1.0 GB of" in doctor.check_memory().says
    monkeypatch.setattr(machine, "memory_left", lambda device: None)
    assert doctor.check_memory().state == "ok" and "does not say" in doctor.check_memory().says
    monkeypatch.setattr(
        shutil, "disk_usage", lambda place: SimpleNamespace(free=10**9 if place == tmp_path else 10**12)
    )
    found = doctor.check_disk(tmp_path / "not" / "yet")
    assert found.state == "note" and f"1.0 GB free in {tmp_path}" in found.says and found.facts["temporary"] == 10**12


def test_codecs_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = codecs.Codec

    def codec(name: str, mode: Any) -> Any:
        if name == "av1":
            raise codecs.UnknownCodecError(name)
        return real(name, mode)

    monkeypatch.setattr(codecs, "Codec", codec)
    monkeypatch.setattr(codecs, "unwritable", lambda folder: {})
    found = doctor.check_codecs()
    assert found.state == "note" and "can't read av1" in found.says and "force-reinstall av" in found.advice


def test_codecs_that_do_not_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from kinolab import video

    assert codecs.unwritable(tmp_path) == {}
    write: Callable[..., None] = video.write

    def broken(path: Path, frames: Any, **options: Any) -> None:
        if path.suffix == ".mp4":
            raise ValueError("libx264 is\nnot there")
        write(path, 255 - frames if path.suffix == ".webm" else frames, **options)

    monkeypatch.setattr(video, "write", broken)
    found = doctor.check_codecs()
    assert found.state == "broken" and found.facts["unwritable"] == {
        "h264": "libx264 is not there", "vp9": "other pixels come back than were written",
    }  # fmt: skip
    assert "writes ffv1, gif, webp;" in found.says


def test_locks_that_do_not_hold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from contextlib import nullcontext

    assert doctor.check_locks(tmp_path / "new").says == f"work in {tmp_path}"
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(locks, "held", lambda lock, otherwise: nullcontext())
    assert doctor.check_locks(tmp_path).state == "note" and "do not work" in doctor.check_locks(tmp_path).says

    def refuse(lock: Path, otherwise: str | None) -> Any:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks, "held", refuse)
    assert f"can't be tried in {tmp_path}: No locks available" in doctor.check_locks(tmp_path).says


def test_weights_that_are_not_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = models.shipped_models()["world"]
    cut, numbers, pointer = (tmp_path / name for name in ("cut", "numbers", "pointer"))
    for folder in (cut, numbers, pointer):
        shutil.copytree(whole, folder)
    data = (whole / "denoiser.safetensors").read_bytes()
    (cut / "denoiser.safetensors").write_bytes(data[: len(data) // 2])
    from safetensors.torch import save_file

    save_file({"x": torch.full((2,), float("nan"))}, numbers / "autoencoder.safetensors")
    (pointer / "denoiser.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    monkeypatch.setattr(models, "shipped_models", lambda: {f.name: f for f in (cut, numbers, pointer)})
    found = doctor.check_weights()
    assert found.state == "broken" and set(found.facts["wrong"]) == {"cut", "numbers", "pointer"}
    assert "NaN" in found.facts["wrong"]["numbers"] and "damaged or cut off" in found.facts["wrong"]["cut"]
    monkeypatch.setattr(models, "shipped_models", dict)
    assert "no shipped model" in doctor.check_weights().says
