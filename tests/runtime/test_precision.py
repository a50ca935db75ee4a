import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kinolab.autoencoders.base import Posterior
from kinolab.runtime import precision
from kinolab.runtime.precision import Measurement, NonFiniteError, check_finite, watch_finite
from tests.machine import MEASURED


def measured(
    monkeypatch: pytest.MonkeyPatch, ratio: float, onednn_error: float = 1e-6, onednn_fuses: bool = True
) -> None:
    result = Measurement(ratio, 1.0, ratio, 1.0, onednn_error, onednn_fuses)
    monkeypatch.setattr(precision, "measure", lambda: result)


def test_measure_is_done_once_and_is_sane() -> None:
    first = MEASURED()
    assert MEASURED() is first
    assert 1e-3 < first.ratio < 1e3
    assert max(first.matmul_float32, first.conv3d_float32) < 1.0


def test_ratio_is_the_geometric_mean() -> None:
    assert Measurement(2.0, 1.0, 8.0, 1.0, 0.0).ratio == pytest.approx(4.0)


@pytest.mark.parametrize(("ratio", "dtype"), [(0.1, torch.float32), (1.1, torch.float32), (3.0, torch.bfloat16)])
def test_auto_follows_the_measurement_and_says_so(
    monkeypatch: pytest.MonkeyPatch, ratio: float, dtype: torch.dtype
) -> None:
    measured(monkeypatch, ratio)
    assert precision.resolve("auto") is dtype
    assert f"{ratio:.1f} times" in precision.describe("auto")
    assert precision.describe("auto").startswith(str(dtype).removeprefix("torch."))


def test_an_explicit_policy_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, 0.01)
    assert precision.resolve("bfloat16") is torch.bfloat16
    measured(monkeypatch, 100.0)
    assert precision.resolve("float32") is torch.float32
    assert precision.describe("float32") == "float32 (as asked)"


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="fp16"):
        precision.resolve("fp16")  # type: ignore[arg-type]


def test_autocast_computes_in_the_chosen_precision_and_keeps_the_weights() -> None:
    layer = nn.Linear(8, 8)
    x = torch.randn(2, 8)
    with precision.autocast("bfloat16") as dtype:
        assert dtype is torch.bfloat16
        assert layer(x).dtype is torch.bfloat16
        with precision.autocast("float32") as inner:
            assert inner is torch.float32
            assert layer(x).dtype is torch.float32
    assert layer(x).dtype is torch.float32
    assert layer.weight.dtype is torch.float32


def test_float32_through_onednn_has_float32s_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the processor: `float32` is within 1e-5 of exact, and the process setting comes back."""
    monkeypatch.setattr(precision, "measure", MEASURED)
    generator = torch.Generator().manual_seed(1)
    x, w = torch.randn(256, 384, generator=generator), torch.randn(512, 384, generator=generator)
    exact = F.linear(x.double(), w.double())
    before = torch.get_float32_matmul_precision()
    with precision.autocast("float32"):
        result = F.linear(x, w)
    assert torch.get_float32_matmul_precision() == before
    assert float((result - exact).abs().max() / exact.abs().max()) < precision.EXACT


@pytest.mark.parametrize(
    ("error", "fuses", "setting"), [(1e-6, True, "medium"), (4e-3, True, "highest"), (1e-6, False, "highest")]
)
def test_onednn_is_used_only_where_it_is_exact_and_gains(
    monkeypatch: pytest.MonkeyPatch, error: float, fuses: bool, setting: str
) -> None:
    measured(monkeypatch, 3.0, error, fuses)
    with precision.fast_float32():
        assert torch.get_float32_matmul_precision() == setting
    assert torch.get_float32_matmul_precision() == "highest"


def test_no_clock_decides_which_library_computes_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two libraries differ in the last bits: were it decided by time, a process beside others would compute another
    text embedding, other frames, and other weights than the same one alone."""

    def race_of(found: list[float]) -> object:
        return lambda first, second: (found[0], found.pop(0))

    wanted = set()
    for times in ([1.0, 100.0, 1.0], [100.0, 1.0, 1.0]):  # each library the faster one by far, if both were timed
        monkeypatch.setattr(precision, "_race", race_of(times))
        wanted.add(precision._measure().onednn_wanted)
    assert len(wanted) == 1


def test_only_a_fused_multiply_add_leaves_something_of_the_product() -> None:
    x, w = precision._fused_or_not(64)
    rounded = x[0] * w[0]
    orders = torch.stack([rounded[torch.randperm(64, generator=torch.Generator().manual_seed(k))] for k in range(20)])
    assert not orders.cumsum(1)[:, -1].any() and not rounded.view(8, 8).sum(0).sum().any()
    assert float(x[0].double() @ w[0].double()) == 32 * 2.0**-24
    total = 0.0
    for a, b in zip(x[0].tolist(), w[0].tolist(), strict=True):  # float64 holds a product and a sum of these exactly
        total = float(torch.tensor(a * b + total, dtype=torch.float32))
    assert total != 0.0


@pytest.mark.parametrize(("fused", "found"), [((), False), (("highest", "medium"), False), (("medium",), True)])
def test_onednn_is_preferred_where_it_alone_fuses(
    monkeypatch: pytest.MonkeyPatch, fused: tuple[str, ...], found: bool
) -> None:
    """Stand-ins for the libraries: exact products where they fuse, rounded ones where they don't."""

    def linear(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        if torch.get_float32_matmul_precision() in fused:
            return (x.double() @ w.double().T).float()
        return (x[:, None] * w[None]).sum(-1)

    small = precision._fused_or_not(16)
    monkeypatch.setattr(precision, "_fused_or_not", lambda: small)
    monkeypatch.setattr(precision.F, "linear", linear)
    assert precision._only_onednn_fuses() is found
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_setting_comes_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, 3.0)
    with pytest.raises(RuntimeError, match="stop"), precision.autocast("float32"):
        raise RuntimeError("stop")
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_programs_own_newer_switches_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, 3.0)
    switch = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    switch.fp32_precision = "bf16"
    try:
        with precision.autocast("float32"):
            assert switch.fp32_precision == "bf16"
    finally:
        switch.fp32_precision = "none"
    assert torch.get_float32_matmul_precision() == "highest"


def test_check_finite_passes_what_is_finite() -> None:
    check_finite("large", torch.full((1000,), torch.finfo(torch.float32).max))
    check_finite("half", torch.full((10,), 60000.0, dtype=torch.float16))
    check_finite("empty", torch.zeros(0))
    check_finite("integers", torch.arange(3))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_check_finite_names_the_tensor_and_the_cure(bad: float) -> None:
    tensor = torch.zeros(2, 3)
    tensor[1, 2] = bad
    with pytest.raises(NonFiniteError, match=r"decoder\.out: 1 (NaN|infinite) of 6 values \(float32\)") as caught:
        check_finite("decoder.out", tensor)
    assert "precision float32" not in str(caught.value)
    with pytest.raises(NonFiniteError, match="use precision float32"):
        check_finite("decoder.out", tensor.bfloat16())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.middle = nn.Sequential(nn.ReLU(), nn.Linear(2, 2))
        self.last = nn.Linear(2, 2)
        self.scale = 1.0

    def forward(self, x: torch.Tensor) -> Posterior:
        y = self.last(self.middle(self.first(x)) * self.scale)
        return Posterior(y, y)


def test_watch_names_the_innermost_module_and_its_weight() -> None:
    net = Net()
    with torch.no_grad():
        net.middle[1].bias[0] = float("nan")  # type: ignore[operator]
    with (
        pytest.raises(NonFiniteError, match=r"^middle\.1 \(Linear\), whose bias is not finite: 1 NaN of 2"),
        watch_finite(net),
    ):
        net(torch.ones(1, 2))


def test_watch_says_when_the_fault_lies_between_modules() -> None:
    net = Net()
    net.scale = float("inf")
    with pytest.raises(NonFiniteError, match=r"^last \(Linear\), whose input is not finite either"), watch_finite(net):
        net(torch.ones(1, 2))


def test_of_a_sharded_weight_the_local_part_is_looked_at() -> None:
    from torch.distributed.tensor import DTensor, Shard, init_device_mesh

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        weight = torch.ones(4)
        check_finite("weight", DTensor.from_local(weight, mesh, [Shard(0)]))
        weight[1] = float("inf")
        with pytest.raises(NonFiniteError, match=r"^weight: 1 infinite of 4"):
            check_finite("weight", DTensor.from_local(weight, mesh, [Shard(0)]))
    finally:
        torch.distributed.destroy_process_group()


def test_watch_looks_into_typed_outputs_and_cleans_up() -> None:
    class Overflow(nn.Module):
        def forward(self, x: torch.Tensor) -> Posterior:
            return Posterior(x, x.exp().exp())

    module = Overflow()
    x = torch.full((1,), 20.0)
    with pytest.raises(NonFiniteError, match=r"^Overflow \(Overflow\): 1 infinite"), watch_finite(module):
        module(x)
    module(x)
    assert not module._forward_hooks
    with watch_finite(module):
        module(torch.zeros(1))
