"""The 3D U-Net of Video Diffusion Models: its public layout, and who sees whom (parity: tests/golden_kinds/vdm.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from kinolab.checkpoints import inspect, load, save
from kinolab.contracts.conditions import Value
from kinolab.contracts.options import ForwardOptions
from kinolab.contracts.reach import Reach
from kinolab.denoisers import Conditions, Vdm, VdmConfig
from kinolab.denoisers.vdm import LinearAttention
from kinolab.errors import InputError
from kinolab.layers.lora import LoraLinear, merge_lora
from tests.closeness import NETWORK, assert_close, assert_same, assert_small, differs

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = ("vdm_unet3d", "vdm_unet3d_cond")


def make(seed: int = 0, **fields: Any) -> Vdm:
    """A tiny U-Net whose every parameter is random."""
    base = {
        "dim": 8, "dim_mults": (1, 2), "num_heads": 2, "head_dim": 6, "spatial_head_dim": 4, "input_kernel": 3,
        "input_size": 4, "num_frames": 5,
    }  # fmt: skip
    torch.manual_seed(seed)
    model = Vdm(VdmConfig.model_validate({**base, **fields}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


@torch.no_grad()
def run(model: Vdm, z: Tensor, conditions: Conditions | None = None, options: ForwardOptions | None = None) -> Tensor:
    return model(z, torch.linspace(100, 900, len(z)), conditions or Conditions(), options)


def focus(rows: Tensor) -> Conditions:
    return Conditions(focus=Value("vector", rows.float()))


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_condition_that_is_not_told_is_the_null_one() -> None:
    stored = load_file(GOLDEN / "vdm_unet3d_cond.safetensors")
    model = load(GOLDEN / "vdm_unet3d_cond.safetensors", prefix="weights.")
    out = run(model, stored["x"])
    assert_same(out, run(model, stored["x"], Conditions(pooled=stored["cond"]).all_null(2)))
    assert bool(differs(out, run(model, stored["x"], Conditions(pooled=stored["cond"]))).any())


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_the_public_layout_is_written_as_it_is_read(name: str, tmp_path: Path) -> None:
    stored = load_file(GOLDEN / f"{name}.safetensors")
    public = {n.removeprefix("weights."): w.float() for n, w in stored.items() if n.startswith("weights.")}
    save(load(GOLDEN / f"{name}.safetensors", prefix="weights."), tmp_path / "x.safetensors", "vdm")
    assert_same(load_file(tmp_path / "x.safetensors"), public)


def test_a_training_checkpoint_is_read_by_its_averaged_network(tmp_path: Path) -> None:
    stored = load_file(GOLDEN / "vdm_unet3d.safetensors")
    weights = {n.removeprefix("weights."): w for n, w in stored.items() if n.startswith("weights.")}
    raw = {f"model.denoise_fn.{n}": torch.zeros_like(w) for n, w in weights.items()}
    averaged = {f"ema.denoise_fn.{n}": w for n, w in weights.items()}
    schedule = {f"{who}.{n}": torch.ones(4) for who in ("model", "ema") for n in ("betas", "posterior_mean_coef1")}
    torch.save({**_nested({**raw, **averaged, **schedule}), "step": 7, "scaler": {}}, tmp_path / "model-1.pt")
    found = inspect(tmp_path / "model-1.pt")
    assert found.format == "vdm" and not found.problems and set(found.assumed) == {"input_size", "num_frames"}
    expected = load(GOLDEN / "vdm_unet3d.safetensors", prefix="weights.")
    assert_same(load(tmp_path / "model-1.pt").state_dict(), expected.state_dict())


def _nested(flat: dict[str, Tensor]) -> dict[str, Any]:
    return {
        who: {n.removeprefix(f"{who}."): w for n, w in flat.items() if n.startswith(f"{who}.")}
        for who in ("model", "ema")
    }


def test_what_is_missing_or_too_much_is_named(tmp_path: Path) -> None:
    stored = load_file(GOLDEN / "vdm_unet3d.safetensors")
    weights = {n.removeprefix("weights."): w.clone() for n, w in stored.items() if n.startswith("weights.")}
    del weights["downs.1.3.fn.norm.gamma"]
    save_file({**weights, "extra.weight": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=r"1 missing: downs\.1\.3\.fn\.norm\.gamma; 1 unexpected: extra\.weight"):
        load(tmp_path / "x.safetensors")


def test_rotary_frequencies_may_be_absent(tmp_path: Path) -> None:
    """Older versions of the public code did not store them."""
    stored = load_file(GOLDEN / "vdm_unet3d.safetensors")
    names = [n for n in stored if n.startswith("weights.") and "rotary" not in n]
    save_file({n.removeprefix("weights."): stored[n].clone() for n in names}, tmp_path / "x.safetensors")
    expected = load(GOLDEN / "vdm_unet3d.safetensors", prefix="weights.").state_dict()
    assert_close(load(tmp_path / "x.safetensors").state_dict()["rotary_frequencies"], expected["rotary_frequencies"])


def test_one_frame_is_the_image_model() -> None:
    """A clip of one frame, and the same frame as a single image: attention over one frame is its value."""
    model, z = make(), noise(2, 4, 1, 4, 4)
    assert_close(run(model, z), run(model, z, Conditions(image_frames=1)), within=NETWORK)


def test_images_and_clip_do_not_see_each_other() -> None:
    model, z = make(num_classes=3, pooled_dim=5, text_dim=6), noise(2, 4, 5, 4, 4)
    told = Conditions(
        label=torch.tensor([[0, 1, 2], [2, 2, 0]]), pooled=noise(2, 3, 5), text=noise(2, 3, 4, 6), image_frames=2
    )
    out = run(model, z, told)
    for frame in range(5):
        changed = z.clone()
        changed[:, :, frame] += 1
        moved = differs(run(model, changed, told), out).amax((0, 1, 3, 4)).tolist()
        assert moved == ([True] * 3 + [False] * 2 if frame < 3 else [t == frame for t in range(5)])
    clip = told.map(lambda v: v[:, 0]).replace(image_frames=0)
    assert_close(run(model, z[:, :, :3], clip), out[:, :, :3], within=NETWORK)
    image = told.map(lambda v: v[:, 2]).replace(image_frames=0)
    assert_close(run(model, z[:, :, 4:], image), out[:, :, 4:], within=NETWORK)


def test_a_row_of_images_alone_trains_every_weight_it_uses() -> None:
    model, z = make(), noise(1, 4, 2, 4, 4)
    model(z, torch.ones(1), Conditions(image_frames=2)).sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert without == ["relative_bias.table.weight"] or not without


def test_focus_is_the_rows_own_and_null_is_none() -> None:
    model, z = make(focus=True), noise(2, 4, 3, 4, 4)
    plain, focused = run(model, z), run(model, z, focus(torch.ones(2)))
    half = run(model, z, focus(torch.tensor([1, 0])))
    assert_close(half[:1], focused[:1], within=NETWORK)
    assert_close(half[1:], plain[1:], within=NETWORK)
    assert bool(differs(focused, plain).any())
    null = focus(torch.ones(2)).with_null(torch.tensor([True, False]), ["focus"])
    assert_close(run(model, z, null)[:1], plain[:1], within=NETWORK)


def test_attention_over_time_knows_distances_and_not_places() -> None:
    """With a clip of equal frames and no bias every frame comes out alike; the bias tells them apart by neighbours."""
    model = make()
    z = noise(1, 4, 1, 4, 4).expand(-1, -1, 4, -1, -1)
    out = run(model, z)
    assert_close(out, out[:, :, :1].expand_as(out), within=NETWORK)  # equal values whatever the weights
    z = noise(1, 4, 6, 4, 4)
    late = run(model, torch.cat([z, z], 2)[:, :, 6:])
    assert_close(late, run(model, z), within=NETWORK)


def test_a_reach_of_linear_attention_is_a_softmax_over_the_read_places() -> None:
    torch.manual_seed(0)
    layer, x = LinearAttention(8, 2, 3), torch.randn(2, 3, 4, 8)
    lists = ((0, 1), (2,), (0, 2))

    class Told:
        def __init__(self, lists: Any) -> None:
            self.lists = lists

    with torch.no_grad():
        out = layer(x, Told(lists))
        q, k, v = layer.qkv(x).unflatten(-1, (3, 2, 3)).unbind(-3)
        for frame, read in enumerate(lists):
            keys, values = (torch.cat([a[:, r] for r in read], 1) for a in (k, v))  # (B, R * S, N, d)
            read_of = torch.einsum("bsnd,bsne->bnde", keys.softmax(1), values)
            expected = torch.einsum("bsnd,bnde->bsne", q[:, frame].softmax(-1) * 3**-0.5, read_of)
            assert_close(out[:, frame], layer.proj(expected.flatten(-2)))


def test_conditions_can_be_null_by_themselves() -> None:
    model, z = make(num_classes=3, pooled_dim=5, text_dim=6), noise(2, 4, 2, 4, 4)
    mask, text = torch.tensor([[True, True, False, False], [False] * 4]), noise(2, 4, 6)
    told = Conditions(label=torch.tensor([0, 1]), pooled=noise(2, 5), text=text, text_mask=mask)
    both = torch.tensor([True, True])
    for name in ("label", "pooled", "text"):
        without = Conditions.of({n: v for n, v in told.items() if n != name})
        assert_close(run(model, z, told.with_null(both, [name])), run(model, z, without), within=NETWORK)
        assert bool(differs(run(model, z, told)[:1], run(model, z, without)[:1]).any())
    padded = torch.cat([text[:, :2], noise(2, 2, 6, seed=9)], 1)
    assert_close(run(model, z, told.replace(text=padded)), run(model, z, told), within=NETWORK)  # padding is not read


def test_ports_begin_as_nothing_and_are_heard_once_trained() -> None:
    model = Vdm(VdmConfig(dim=8, dim_mults=(1, 2), num_heads=2, head_dim=4, vectors={"level": 0}, fields={"low": 2}))
    z = noise(1, 4, 2, 4, 4)
    level, low = Value("vector", torch.tensor([0.5])), Value("field", noise(1, 2, 2, 4, 4))
    told = Conditions(level=level, low=low)
    plain = run(model, z)
    assert_small(run(model, z, told) - plain, plain)
    for name, parameter in model.named_parameters():
        if "ports" in name:
            torch.nn.init.normal_(parameter)
    heard = run(model, z, told)
    assert bool(differs(heard, run(model, z, told.without(["level"]))).any())
    assert bool(differs(heard, run(model, z, told.without(["low"]))).any())
    assert_close(run(model, z), plain, within=NETWORK)


def test_recomputing_levels_changes_no_gradient() -> None:
    z = noise(1, 4, 2, 4, 4)
    gradients = []
    for recompute in (False, True):
        model = make(gradient_checkpointing=recompute)
        model(z, torch.ones(1), Conditions()).square().sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert_close(gradients[1][name], gradient, within=NETWORK, what=name)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"dim": 7}, "dim: expected an even number, got 7"),
        ({"input_kernel": 4}, "input_kernel: expected an odd number, got 4"),
        ({"dim_mults": ()}, "dim_mults: expected one number or more"),
        ({"input_size": 6, "dim_mults": (1, 2, 4)}, "input_size 6: 3 levels need multiples of 4"),
        ({"learned_variance": True, "out_channels": 3}, "learned_variance has 8 output channels"),
        ({"vectors": {"focus": 0}}, "set focus: true"),
    ],
)
def test_configs_that_can_not_be_say_why(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        VdmConfig.model_validate(fields)


def test_inputs_that_can_not_be_are_one_clear_line() -> None:
    model = make()
    with pytest.raises(InputError, match="multiples of 2, got 5 x 4"):
        run(model, noise(1, 4, 2, 5, 4))
    with pytest.raises(InputError, match="image_frames from 0 to 2"):
        run(model, noise(1, 4, 2, 4, 4), Conditions(image_frames=3))
    with pytest.raises(InputError, match="read their own places alone"):
        run(model, noise(1, 4, 2, 4, 4), Conditions(image_frames=1), ForwardOptions(reach=Reach("all")))
    with pytest.raises(InputError, match="without pooled conditions"):
        run(model, noise(1, 4, 2, 4, 4), Conditions(pooled=torch.zeros(1, 3)))


def test_a_low_rank_change_of_attention_over_time_is_heard() -> None:
    model, z = make(), noise(1, 4, 3, 4, 4)
    attention: Any = model.input_temporal_attn.attn
    attention.qkv = LoraLinear(attention.qkv, 2)
    plain = run(model, z)
    torch.nn.init.normal_(attention.qkv.lora_up)
    changed = run(model, z)
    assert bool(differs(changed, plain).any())
    merged = make()
    merged.load_state_dict(merge_lora(model.state_dict()))
    assert_close(run(merged, z), changed, within=NETWORK)
