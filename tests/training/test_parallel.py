"""Two processes that share a training: what they tell each other, what one gathers, and Muon on sharded matrices."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kinolab.errors import InputError
from kinolab.runtime import ranks as places
from kinolab.runtime.ranks import Ranks, any_rank, join_ranks, mean_over_ranks
from kinolab.training import parallel
from kinolab.training.parallel import full_state
from tests.closeness import assert_close
from tests.processes import Child
from tests.training.two_processes import DAMAGES, network, steps

pytestmark = pytest.mark.slow  # many short ones, which take long together


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that two processes wrote what they found to; one start serves all tests."""
    return run_two(tmp_path_factory.mktemp("two"))


def run_two(out: Path, *parts: str) -> Path:
    """Run two processes that write what they find to a folder."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.training.two_processes", str(out), *parts]
    processes = [
        subprocess.Popen(
            command, env={**os.environ, **common, "RANK": str(r), "LOCAL_RANK": str(r)}, stderr=subprocess.PIPE,
            text=True, cwd=Path(__file__).parents[2],
        )
        for r in range(2)
    ]  # fmt: skip
    errors = [process.communicate(timeout=200)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    return out


def found(two: Path, rank: int) -> dict[str, Any]:
    return dict(json.loads((two / f"{rank}.json").read_text()))


@pytest.mark.wide
def test_numbers_are_averaged_and_flags_told(two: Path) -> None:
    for rank in range(2):
        assert found(two, rank)["mean"] == {"a": 0.5, "b": 0.5e-9}
        assert found(two, rank)["any"] == [False, True, True]
    assert mean_over_ranks({"a": 3.0}, Ranks()) == {"a": 3.0} and not any_rank(False, Ranks())


@pytest.mark.wide
def test_one_process_alone_gathers_what_is_sharded(two: Path) -> None:
    first, second = (found(two, rank)["sharded"] for rank in range(2))
    assert first["names"] == sorted(network().state_dict()) and first["same"] and first["plain"]
    assert second["names"] == []
    assert first["rows"] != second["rows"] and first["rows"]["uneven.weight"] + second["rows"]["uneven.weight"] == 17
    module = network()
    assert list(full_state(module, Ranks())) == list(module.state_dict())


@pytest.mark.wide
def test_muon_on_sharded_matrices_steps_as_on_whole_ones(two: Path) -> None:
    """The mean over both halves of a batch is the whole batch's, so one process on all of it does the same."""
    module, before = network(), network().state_dict()
    optimizer = steps(module, slice(None))
    sharded = torch.load(two / "sharded.pt")
    for name, value in module.state_dict().items():
        assert_close(sharded["weights"][name], value, 1e-4, name)
        assert not torch.equal(value, before[name])
    momenta = [s["momentum"] for s in optimizer.state.values() if "momentum" in s]
    assert len(momenta) == len(sharded["momenta"]) == 4
    for ours, theirs in zip(sharded["momenta"], momenta, strict=True):
        assert_close(ours, theirs, 1e-4)


@pytest.mark.wide
def test_a_stop_asked_of_one_process_stops_all_at_one_step(two: Path) -> None:
    """Else the others would wait for it in the next step for ever."""
    assert [found(two, rank)["stopped"]["step"] for rank in range(2)] == [2, 2]
    assert [p.name for p in (two / "run" / "checkpoints").iterdir()] == ["step-00000002"]


@pytest.mark.parametrize(("device", "text"), [("banana", "expected auto"), ("cuda:3", "not there|write cuda alone")])
def test_a_wrong_device_is_refused_before_anybody_is_waited_for(
    device: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=text), join_ranks(device):
        pass


def test_accelerators_of_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes its own, makes it the current one and talks by its backend; a restart has addresses of its own."""
    calls: list[Any] = []
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(places.devices, "count", lambda kind: 2 if kind == "xpu" else 0)
    monkeypatch.setattr(torch.xpu, "set_device", lambda device: calls.append(device))
    monkeypatch.setattr(places.dist, "is_backend_available", lambda name: name != "nccl")
    monkeypatch.setattr(places.dist, "init_process_group", lambda *args, **kwargs: calls.append((args, kwargs)))
    monkeypatch.setattr(places.dist, "destroy_process_group", lambda: calls.append("left"))
    own = torch.device("xpu", 1)
    with join_ranks() as ranks:
        assert ranks == Ranks(1, 2, own)
    assert calls == [own, (("xccl",), {"device_id": own}), "left"]
    calls.clear()
    store = torch.distributed.HashStore()
    monkeypatch.setattr(places, "rendezvous", lambda url: iter([(store, 1, 2)]))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    with join_ranks("cpu"):
        [((backend,), told)] = calls
        told["store"].set("address", "here")
        assert backend == "gloo" and told["rank"] == 1 and told["world_size"] == 2
        assert store.get("restart-2/address") == b"here"
    calls.clear()
    monkeypatch.setenv("GROUP_WORLD_SIZE", "3")  # machines do not count restarts alike
    with join_ranks("cpu"):
        assert calls == [(("gloo",), {"device_id": None})]


@pytest.mark.wide
def test_both_processes_go_on_from_the_same_whole_checkpoint(tmp_path: Path) -> None:
    """Whatever is damaged in the newest one, and whichever process alone could see it."""
    ranks = [found(run, rank) for run in [run_two(tmp_path, "damaged")] for rank in range(2)]
    for name in DAMAGES:
        step = 2 if name == "nothing" else 1
        for rank in ranks:
            assert rank[name] == [step, True, 0 if step == 2 else 2], name
    for rank in ranks:
        assert "none of 2 checkpoints is whole; the newest: " in rank["none"]


def test_gradients_are_laid_out_as_their_parameters_where_no_number_moves() -> None:
    weight = torch.randn(6, 4, 1, 1)
    gradient = torch.randn(6, 4, 1, 1).as_strided((6, 4, 1, 1), (4, 1, 4, 4))
    made = parallel.as_laid_out(gradient, weight.stride())
    assert made.stride() == weight.stride() and torch.equal(made, gradient)
    assert made.data_ptr() == gradient.data_ptr()
    part = torch.randn(9, 4, 1, 1)[3:].as_strided((6, 4, 1, 1), (4, 1, 4, 4), 12)
    assert torch.equal(parallel.as_laid_out(part, weight.stride()), part)
    for other in (torch.randn(4, 6, 1, 1).transpose(0, 1), torch.randn(6, 4, 1, 1)):
        assert parallel.as_laid_out(other, weight.stride()) is other


def test_ddp_has_nothing_to_warn_of_with_channels_last(tmp_path: Path) -> None:
    status, said = Child(_one_of_ddp, tmp_path).wait()
    assert status == 0, said


class _ChannelsLast(torch.autograd.Function):
    """The sum of a weight (6, 4, 1, 1), and its gradient as oneDNN gives that of a convolution on channels last."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return weight.sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        return torch.arange(24.0).as_strided((6, 4, 1, 1), (4, 1, 4, 4)) * gradients[0]


class _Summed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(6, 4, 1, 1))

    def forward(self) -> Tensor:
        total: Tensor = _ChannelsLast.apply(self.weight)
        return total


def _one_of_ddp(folder: Path) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=0, world_size=1)
    bare, module = _Summed(), _Summed()
    bare().backward()
    assert bare.weight.grad is not None and bare.weight.grad.stride() == (4, 1, 4, 4), "as autograd leaves it"
    wrapped = parallel.wrap(module, Ranks(size=2), "ddp")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wrapped().backward()
    assert module.weight.grad is not None and torch.equal(module.weight.grad, bare.weight.grad)
    dist.destroy_process_group()
