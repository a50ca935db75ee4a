"""Which device is taken, what is said of it, and what is refused: on machines that this one is made to look like."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from kinolab.errors import InputError
from kinolab.runtime import devices


def machine(patch: pytest.MonkeyPatch, *, cuda: int = 0, xpu: int = 0, mps: bool = False, hip: bool = False) -> None:
    """Let torch say that there are so many devices, and that it was built for their kinds."""
    patch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    patch.setattr(torch.cuda, "device_count", lambda: cuda)
    patch.setattr(torch.cuda, "get_device_name", lambda device: f"Card {torch.device(device).index or 0}")
    patch.setattr(torch.cuda, "current_device", lambda: 0)
    patch.setattr(torch.xpu, "is_available", lambda: xpu > 0)
    patch.setattr(torch.xpu, "device_count", lambda: xpu)
    patch.setattr(torch.xpu, "get_device_name", lambda device: "Arc")
    patch.setattr(torch.xpu, "current_device", lambda: 0)
    patch.setattr(torch.backends.mps, "is_available", lambda: mps)
    patch.setattr(torch.backends.mps, "is_built", lambda: mps)
    patch.setattr(torch.version, "cuda", "12.8" if cuda and not hip else None)
    patch.setattr(torch.version, "hip", "6.4" if hip else None)
    patch.setattr(torch.version, "xpu", "2025" if xpu else None)


@pytest.mark.parametrize(
    ("has", "taken", "line"),
    [
        ({}, "cpu", "device: cpu, 1 thread (auto: this torch is built for no GPU)"),
        ({"mps": True}, "mps", "device: mps, Apple GPU (auto)"),
        ({"xpu": 1, "mps": True}, "xpu", "device: xpu, Arc (auto)"),
        ({"cuda": 2, "xpu": 1}, "cuda", "device: cuda, Card 0 (auto)"),
        ({"cuda": 1, "hip": True}, "cuda", "device: cuda, Card 0, ROCm (auto)"),
    ],
)
def test_auto_takes_the_first_that_is_there_and_says_which(
    has: dict[str, int], taken: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, **has)  # type: ignore[arg-type]
    chosen = devices.choose("auto")
    assert chosen == torch.device(taken) and devices.announce(chosen) == line
    assert devices.announce(chosen, taken) == line.partition(" (auto")[0]


@pytest.mark.parametrize(
    ("word", "has", "meant"),
    [
        ("cpu", {"cuda": 1}, torch.device("cpu")),
        (" CPU:0 ", {}, torch.device("cpu")),
        ("CUDA", {"cuda": 1}, torch.device("cuda")),
        ("cuda:1", {"cuda": 2}, torch.device("cuda", 1)),
        ("xpu:0", {"xpu": 1}, torch.device("xpu", 0)),
        ("mps", {"mps": True}, torch.device("mps")),
    ],
)
def test_words_of_devices_that_are_there(
    word: str, has: dict[str, int], meant: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, **has)  # type: ignore[arg-type]
    assert devices.choose(word) == meant


@pytest.mark.parametrize(
    ("word", "has", "text"),
    [
        ("cuda", {}, r"^device cuda: not there, this torch \(.*\) is built without CUDA; expected auto or cpu$"),
        ("mps", {"cuda": 1}, r"built without MPS; expected auto, cuda:0 or cpu$"),
        ("xpu:3", {}, r"^device xpu:3: .*built without XPU"),
        ("cuda:1", {"cuda": 1}, r"^device cuda:1: not there, there is 1 cuda device; expected auto, cuda:0 or cpu$"),
        ("cuda:7", {"cuda": 2}, r"there are 2 cuda devices; expected auto, cuda:0, cuda:1 or cpu$"),
        ("mps:1", {"mps": True}, r"there is 1 mps device; expected auto, mps or cpu$"),
        ("gpu", {}, r"^device 'gpu': expected auto or cpu; for gpu write auto$"),
        ("rocm:1", {}, r"for rocm:1 write cuda$"),
        ("banana", {"cuda": 1}, r"^device 'banana': expected auto, cuda:0 or cpu$"),
        ("cuda:-1", {"cuda": 1}, r"^device 'cuda:-1': expected"),
        ("cpu:1", {}, r"^device 'cpu:1': expected"),
        ("meta", {}, r"^device 'meta': expected"),
        ("", {}, r"^device '': expected"),
        (0, {}, r"^device 0: expected"),
    ],
)
def test_other_words_are_one_clear_line(
    word: object, has: dict[str, int], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, **has)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=text) as error:
        devices.choose(word)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_a_torch_device_is_taken_as_it_is() -> None:
    for device in (torch.device("meta"), torch.device("cuda", 5), torch.device("mps")):
        assert devices.choose(device) is device


def test_a_driver_that_does_not_work_is_said_and_the_cpu_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    monkeypatch.setattr(torch.version, "cuda", "12.8")

    def broken() -> bool:
        import warnings

        warnings.warn("CUDA initialization: the driver is too old\n(Triggered internally at x.cpp:1)", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", broken)
    chosen = devices.choose("auto")  # without a warning
    assert chosen == torch.device("cpu")
    told = "this torch (", ") is built for CUDA, but CUDA initialization: the driver is too old"
    assert all(part in devices.announce(chosen) for part in told) and "Triggered" not in devices.announce(chosen)
    with pytest.raises(InputError, match=r"device cuda: not there.*the driver is too old; expected auto or cpu$"):
        devices.choose("cuda")


def test_each_process_of_a_machine_takes_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cuda=2)
    assert [devices.for_process("auto", k, 2) for k in range(2)] == [torch.device("cuda", k) for k in range(2)]
    assert devices.for_process("cpu", 3, 4) == torch.device("cpu")
    assert devices.for_process("cuda:1", 0, 1) == torch.device("cuda", 1)
    assert devices.for_process("auto", 0, 1) == torch.device("cuda", 0)
    with pytest.raises(InputError, match=r"process 3 of 3 on this machine has no device: there are 2 cuda devices"):
        devices.for_process("auto", 2, 3)
    with pytest.raises(InputError, match=r"device cuda:1: each of the 2 processes here.*write cuda alone"):
        devices.for_process("cuda:1", 0, 2)
    machine(monkeypatch, mps=True)
    assert devices.for_process("auto", 0, 1) == torch.device("mps")
    with pytest.raises(InputError, match="MPS can't be shared"):
        devices.for_process("auto", 1, 2)


def test_which_devices_have_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, wanted in ((True, True), (False, False)):
        properties = SimpleNamespace(has_fp64=has)
        monkeypatch.setattr(torch.xpu, "get_device_properties", lambda device, found=properties: found)
        assert devices.has_float64("xpu") is wanted
    assert devices.has_float64("cpu") and devices.has_float64(torch.device("cuda", 1))
    assert not devices.has_float64("mps")


def test_memory_of_each_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("cuda", "xpu"):
        module = getattr(torch, kind)
        monkeypatch.setattr(module, "mem_get_info", lambda device: (30, 80))
        monkeypatch.setattr(module, "max_memory_allocated", lambda device: 50)
        assert devices.memory(torch.device(kind)) == (30, 80) and devices.peak_memory(torch.device(kind)) == 50
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 16)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 5)
    assert devices.memory(torch.device("mps")) == (11, 16) and devices.peak_memory(torch.device("mps")) == 5
    assert devices.memory(torch.device("cpu")) is None and devices.peak_memory(torch.device("cpu")) is None


@pytest.mark.parametrize("kind", ["cuda", "xpu", "mps", "cpu"])
def test_waiting_asks_the_device_that_computes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    for name in ("cuda", "xpu", "mps"):
        monkeypatch.setattr(getattr(torch, name), "synchronize", lambda *device, name=name: asked.append(name))
    devices.synchronize(torch.device(kind))
    assert asked == ([] if kind == "cpu" else [kind])


def test_draws_of_other_libraries_are_seeded_and_leave_no_trace() -> None:
    before = torch.get_rng_state()
    with devices.seeded(3, torch.device("cpu")):
        first = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    with devices.seeded(3, torch.device("cpu")):
        assert torch.equal(torch.rand(3), first)


def test_no_device_computes_in_another_dtype_within_no_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16), torch.autocast("mps", torch.bfloat16), devices.no_autocast():
        assert not any(torch.is_autocast_enabled(kind) for kind in ("cpu", *devices.ACCELERATORS))
        assert (torch.eye(2) @ torch.eye(2)).dtype == torch.float32


def test_where_a_module_is() -> None:
    assert devices.device_of(torch.nn.Linear(2, 2, device="meta")) == torch.device("meta")
    assert devices.device_of(torch.nn.Identity()) == devices.device_of(object()) == torch.device("cpu")
