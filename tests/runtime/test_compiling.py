"""Compilation for inference: the same numbers under the same names, and a way on where nothing compiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from kinolab.errors import InputError
from kinolab.runtime import compiling as compiling
from kinolab.runtime.compiling import compile_for_inference
from kinolab.runtime.precision import autocast
from tests.closeness import assert_close


class Net(nn.Module):
    """A norm and a linear layer, which autocast runs in different types."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.linear = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != 16:
            raise InputError(f"expected 16 values, got {x.shape[-1]}")
        return x + self.linear(self.norm(x))


@pytest.fixture
def net() -> Net:
    return Net().eval()


def pretend(monkeypatch: pytest.MonkeyPatch, compile: Callable[[Any], Any]) -> None:
    """Put `compile` in place of torch.compile, as if there were a compiler."""
    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(compiling, "find_compiler", lambda: "g++")


@pytest.mark.wide("compiler")
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.timeout(900)  # some seconds on a quiet machine; a busy one takes long to run g++
def test_compiled_numbers_are_the_same(net: Net) -> None:
    x, names = torch.randn(8, 16), list(net.state_dict())
    with torch.no_grad(), autocast("bfloat16"):
        expected = net(x)
    assert compile_for_inference(net, torch.bfloat16) is net and list(net.state_dict()) == names
    result = net(x)
    assert result.dtype is torch.float32 and not result.requires_grad
    assert_close(result, expected, within=0.01)
    # Frozen: the code that runs holds the weights of then.
    nn.init.zeros_(net.linear.weight)
    assert torch.equal(net(x), result)


@pytest.mark.parametrize(("dtype", "of_linear"), [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16)])
def test_calls_run_in_the_given_precision_without_gradients(
    monkeypatch: pytest.MonkeyPatch, net: Net, dtype: torch.dtype, of_linear: torch.dtype
) -> None:
    pretend(monkeypatch, lambda function: function)
    seen: list[torch.dtype] = []
    net.linear.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    compile_for_inference(net, dtype)
    assert not net(torch.randn(2, 16)).requires_grad
    assert seen == [of_linear]


def test_compiling_twice_compiles_the_module_itself(monkeypatch: pytest.MonkeyPatch, net: Net) -> None:
    given: list[Any] = []

    def record(function: Any) -> Any:
        given.append(function)
        return function

    pretend(monkeypatch, record)
    compile_for_inference(compile_for_inference(net, torch.float32), torch.float32)
    assert [function.__func__ for function in given] == [Net.forward] * 2


def test_a_mistake_of_the_caller_comes_through(monkeypatch: pytest.MonkeyPatch, net: Net) -> None:
    pretend(monkeypatch, lambda function: function)
    with pytest.raises(InputError, match="expected 16 values, got 3"):
        compile_for_inference(net, torch.float32)(torch.randn(2, 3))


def test_without_a_compiler_it_says_so_and_runs(monkeypatch: pytest.MonkeyPatch, net: Net) -> None:
    monkeypatch.setattr(compiling, "find_compiler", lambda: None)
    x = torch.randn(2, 16)
    expected = net(x)
    with pytest.warns(UserWarning, match=r"not compiled, runs as it is: no C\+\+ compiler"):
        compile_for_inference(net, torch.float32)
    assert torch.equal(net(x), expected)


def test_where_the_compiler_fails_it_says_so_once_and_runs(monkeypatch: pytest.MonkeyPatch, net: Net) -> None:
    calls: list[int] = []

    def fails(*args: Any) -> Any:
        calls.append(1)
        raise TorchDynamoException("Python.h: No such file\nand much more")

    x = torch.randn(2, 16)
    with torch.no_grad():
        expected = net(x)
    pretend(monkeypatch, lambda function: fails)
    compile_for_inference(net, torch.float32)
    with pytest.warns(UserWarning, match=r"the compiler failed \(Python\.h: No such file\)$"):
        assert_close(net(x), expected)
    assert_close(net(x), expected)
    assert len(calls) == 1
