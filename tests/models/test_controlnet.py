"""Control networks beside a U-Net: what they add, to whom, how strongly, and their public files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kinolab.checkpoints import inspect, load, save
from kinolab.contracts.conditions import Conditions, Value
from kinolab.contracts.options import ForwardOptions
from kinolab.contracts.reach import Reach
from kinolab.denoisers import AnimateDiff, Denoiser, DiT, DiTConfig, Unet, UnetConfig, build
from kinolab.denoisers.controlnet import ControlNet, ControlNetConfig
from kinolab.errors import InputError
from kinolab.models import ModelPart
from kinolab.models.controlnet import ControlNetPart, ControlNetPartConfig, control_part
from kinolab.models.part import WithParts
from tests import golden_kinds
from tests.closeness import NETWORK, STORED, assert_close, assert_same
from tests.tiny_unets import SMALL, UNETS

PIXELS: dict[str, Any] = {"hint_widths": (4, 6), "hint_ratio": 2}


@torch.no_grad()
def random(model: Any, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def unet() -> Unet:
    return random(Unet(UnetConfig(**SMALL)))


def clip() -> tuple[Tensor, Tensor, Conditions]:
    generator = torch.Generator().manual_seed(1)
    z, text = torch.randn(2, 4, 3, 4, 4, generator=generator), torch.randn(2, 5, 8, generator=generator)
    return z, torch.tensor([300.0, 800.0]), Conditions(text=text)


def hinted(told: Conditions, null: Tensor | None = None, **hints: Tensor) -> Conditions:
    nulls = None if null is None else dict.fromkeys(hints, null)
    return told.told(Conditions.of({name: Value("field", hint) for name, hint in hints.items()}, nulls))


def hint(seed: int = 0, side: int = 8) -> Tensor:
    return torch.rand(2, 3, 3, side, side, generator=torch.Generator().manual_seed(seed))


def part(denoiser: Denoiser, seed: int | None = 5, **fields: Any) -> ControlNetPart:
    made = ControlNetPart(ControlNetPartConfig(**{**PIXELS, **fields}), denoiser)
    return made if seed is None else random(made, seed)


@torch.no_grad()
def run(denoiser: Denoiser, told: Conditions, parts: dict[str, ModelPart], **options: Any) -> Tensor:
    z, t, _ = clip()
    return WithParts(denoiser, parts).eval()(z, t, told, ForwardOptions(**options))


@pytest.mark.parametrize("name", UNETS)
@pytest.mark.slow
def test_an_untrained_one_leaves_every_u_net_as_it_is(name: str) -> None:
    denoiser, (z, t, told) = random(build(UNETS[name])), clip()  # type: ignore[arg-type]
    with torch.no_grad():
        plain = denoiser(z, t, told)
    assert_same(run(denoiser, hinted(told, control=hint()), {"control": part(denoiser, None)}), plain)
    assert not torch.equal(run(denoiser, hinted(told, control=hint()), {"control": part(denoiser)}), plain)


def test_it_begins_as_a_copy_of_the_image_model_and_not_of_layers_over_time() -> None:
    denoiser = random(AnimateDiff(UNETS["animatediff"]))  # type: ignore[arg-type]
    made, theirs = part(denoiser, None).net, denoiser.state_dict()
    own = made.state_dict()
    fresh = {name for name in own if name not in theirs}
    assert {name.split(".")[0] for name in fresh} == {
        "controlnet_cond_embedding", "controlnet_down_blocks", "controlnet_mid_block"
    }  # fmt: skip
    assert_same({n: v for n, v in own.items() if n not in fresh}, {n: theirs[n] for n in own if n not in fresh})
    assert not any("motion" in name for name in own)


def test_what_several_add_is_summed_and_strength_is_a_factor() -> None:
    denoiser, (z, t, told) = unet(), clip()
    first, second = part(denoiser), part(denoiser, 6, port="depth", scale=0.5)
    parts: dict[str, ModelPart] = {"a": first, "b": second}
    both = hinted(told, control=hint(1), depth=hint(2))
    seen: dict[str, Any] = {}
    denoiser.register_forward_pre_hook(lambda _, args: seen.update(all=args[3].residuals))
    run(denoiser, both, parts)
    with torch.no_grad():
        one, other = (p.net.read(z, t, told, h) for p, h in ((first, hint(1)), (second, hint(2))))
    assert set(seen["all"]) == set(one) == set(range(5))  # the middle block's input, number 5, has none
    for number, value in seen.pop("all").items():
        assert_close(value, one[number] + 0.5 * other[number])
    run(denoiser, both, parts, strength={"control": 2.0, "depth": 0.0})
    for number, value in seen.pop("all").items():
        assert_close(value, 2 * one[number])


def test_a_row_without_a_map_is_as_without_the_network() -> None:
    denoiser, (_, _, told) = unet(), clip()
    beside: dict[str, ModelPart] = {"control": part(denoiser)}
    plain, whole = run(denoiser, told, beside), run(denoiser, hinted(told, control=hint()), beside)
    mixed = run(denoiser, hinted(told, torch.tensor([True, False]), control=hint()), beside)
    assert_close(mixed, torch.cat([plain[:1], whole[1:]]))


def test_each_frame_follows_its_own_map() -> None:
    denoiser, (_, _, told) = unet(), clip()
    beside: dict[str, ModelPart] = {"control": part(denoiser)}
    changed = hint()
    changed[:, :, 1] = hint(4)[:, :, 1]
    moved = run(denoiser, hinted(told, control=changed), beside) - run(denoiser, hinted(told, control=hint()), beside)
    assert moved[:, :, 1].abs().amax() > 1e-3
    assert_same(moved[:, :, [0, 2]], torch.zeros_like(moved[:, :, [0, 2]]))


def test_it_keeps_its_own_frames_unless_the_run_says_otherwise() -> None:
    denoiser, (z, t, told) = unet(), clip()
    made = part(denoiser)
    own = made.added(z, t, told, hint(), made.told(ForwardOptions(reach=Reach("first"))))
    alike = made.added(z, t, told, hint(), made.told(ForwardOptions()))
    reaching = made.added(z, t, told, hint(), made.told(ForwardOptions(reach=Reach("first"), reach_beside=True)))
    assert_same(own[4], alike[4])
    assert not torch.equal(own[4][:, :, 1], reaching[4][:, :, 1])
    assert_close(own[4][:, :, 0], reaching[4][:, :, 0])


def test_adding_in_place_counts_the_last_skip_at_the_middle_too() -> None:
    denoiser, (z, t, told) = unet(), clip()
    found = part(denoiser, in_place=True).added(z, t, told, hint(), ForwardOptions())
    assert_same(found[5], found[3])  # four skips, 0 to 3; the middle block's output and input are 4 and 5


def test_a_latent_hint_lies_on_the_grid_of_the_latents() -> None:
    denoiser, (_, _, told) = unet(), clip()
    made = part(denoiser, hint="latents", hint_widths=(4,))
    (port,) = made.ports
    assert (port.width, port.pixels) == (4, 0)
    map_of = torch.randn(2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(7))
    assert torch.isfinite(run(denoiser, hinted(told, control=map_of), {"control": made})).all()


def test_wrong_maps_and_wrong_models_are_one_line() -> None:
    denoiser, (_, _, told) = unet(), clip()
    with pytest.raises(InputError, match=r"expected control of shape \(2, 3, 3, 8, 8\), got \(2, 3, 3, 4, 4\)"):
        run(denoiser, hinted(told, control=hint(side=4)), {"control": part(denoiser)})
    with pytest.raises(InputError, match="copy of a U-Net's way down, and this denoiser is of kind dit"):
        part(DiT(DiTConfig(hidden_size=8, depth=1, num_heads=1, input_size=4)))
    for fields, message in (({"hint_ratio": 3}, "a power of two"), ({"hint_ratio": 4}, "at least 3 of hint_widths")):
        with pytest.raises(ValueError, match=message):
            ControlNetPartConfig(**{**PIXELS, **fields})
    other = ControlNet(ControlNetConfig(**{**SMALL, "block_out_channels": (8, 8)}, **PIXELS))
    with pytest.raises(InputError, match=r"another U-Net than the model's: block_out_channels \(8, 8\) against"):
        control_part(other, denoiser, port="control")


# --- public layouts ---

CLASS: dict[str, Any] = {
    "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "cross_attention_dim": 12,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "attention_head_dim": 2,
}  # fmt: skip
WIDTHS = {"conditioning_embedding_out_channels": (4, 6, 8, 10)}
OURS = ControlNetConfig(
    block_out_channels=(8, 16), layers_per_block=1, norm_groups=4, text_dim=12, attention_levels=(0,), num_heads=2,
    hint_widths=(4, 6, 8, 10), null="prompt",
)  # fmt: skip


@pytest.fixture(scope="module")
def classes() -> Any:
    """diffusers; its import warns of much that is not about us."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("diffusers")


def image() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    z, cond = torch.randn(2, 4, 6, 8, generator=g), torch.rand(2, 3, 48, 64, generator=g)
    return z, torch.tensor([7, 800]), torch.randn(2, 5, 12, generator=g), cond


@torch.no_grad()
def of_ours(net: ControlNet) -> list[Tensor]:
    z, t, text, cond = image()
    found = net.read(z[:, :, None], t.float(), Conditions(text=text), cond[:, :, None])
    return [found[number][:, :, 0] for number in sorted(found)]


@torch.no_grad()
def of_theirs(net: Any, scale: float = 1.0) -> list[Tensor]:
    z, t, text, cond = image()
    down, middle = net(z, t, text, cond, conditioning_scale=scale, return_dict=False)
    return [*down, middle]


@pytest.mark.slow
def test_a_folder_of_diffusers_loads_and_computes_the_same(tmp_path: Path, classes: Any) -> None:
    theirs = random(classes.ControlNetModel(**CLASS, **WIDTHS))
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path)
    assert inspect(tmp_path).format == "controlnet_diffusers" and not inspect(tmp_path).problems
    for mine, his in zip(of_ours(ours), of_theirs(theirs), strict=True):
        assert_close(mine, his, STORED)


def test_a_folder_that_we_write_computes_the_same_in_diffusers(tmp_path: Path, classes: Any) -> None:
    ours = random(ControlNet(OURS))
    save(ours, tmp_path, "controlnet_diffusers")
    theirs = classes.ControlNetModel.from_pretrained(tmp_path, low_cpu_mem_usage=False).eval()
    for mine, his in zip(of_ours(ours), of_theirs(theirs), strict=True):
        assert_close(his, mine, STORED)


def test_a_golden_file_of_diffusers_class_is_run(tmp_path: Path, classes: Any) -> None:
    net = random(classes.ControlNetModel(**CLASS, **WIDTHS))
    up = {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
    model = random(classes.UNet2DConditionModel(**CLASS, **up))
    z, t, text, cond = image()
    down, middle = net(z, t, text, cond, conditioning_scale=0.7, return_dict=False)
    with torch.no_grad():
        out = model(z, t, text, down_block_additional_residuals=down, mid_block_additional_residual=middle)[0]
    given = {f"down_{i}": v for i, v in enumerate(down)} | {"mid": middle, "out": out}
    given = {name: value.detach() for name, value in given.items()}
    inputs = {"sample": z, "timestep": t, "encoder_hidden_states": text, "cond": cond}
    weights = {f"{k}.{n}": v for k, m in (("controlnet", net), ("unet", model)) for n, v in m.state_dict().items()}
    config = {"_scale": 0.7, "unet": {**CLASS, **up}, "controlnet": {**CLASS, **WIDTHS}}
    golden_kinds.check(
        golden_kinds.write(tmp_path / "x.safetensors", "CNet", config, weights, {**inputs, **given}, tuple(given))
    )


def test_the_original_layout_comes_back_under_its_prefix(tmp_path: Path) -> None:
    from safetensors import safe_open

    ours, path = random(ControlNet(OURS)), tmp_path / "control.safetensors"
    save(ours, path, "controlnet")
    with safe_open(path, "pt") as file:
        names = set(file.keys())
    expected = (
        *("input_hint_block.0.weight", "input_hint_block.14.bias", "zero_convs.3.0.weight", "time_embed.0.weight"),
        *("input_blocks.1.1.norm.weight", "middle_block.2.out_layers.3.weight", "middle_block_out.0.weight"),
    )
    assert {f"control_model.{name}" for name in expected} <= names
    back = load(path)
    assert back.config == ours.config and inspect(path).wrappings == ("control_model.",)
    assert_same(dict(back.state_dict()), dict(ours.state_dict()))


def test_what_no_public_layout_holds_is_refused(tmp_path: Path) -> None:
    small = random(ControlNet(OURS.model_copy(update={"hint_ratio": 4})))
    with pytest.raises(InputError, match=r"halves a map at each of the 3 steps .* hint_ratio=4"):
        save(small, tmp_path / "x", "controlnet_diffusers")


def test_public_weights_beside_a_model_compute_what_they_do_alone() -> None:
    denoiser = random(Unet(UnetConfig(**{name: getattr(OURS, name) for name in (
        "block_out_channels", "layers_per_block", "norm_groups", "text_dim", "attention_levels", "num_heads", "null"
    )})))  # fmt: skip
    net, (z, t, text, cond) = random(ControlNet(OURS), 3), image()
    told, made = Conditions(text=text), control_part(net, denoiser, port="depth", scale=0.3)
    found = made.added(z[:, :, None], t.float(), told, cond[:, :, None], ForwardOptions())
    expected = net.read(z[:, :, None], t.float(), told, cond[:, :, None])
    for number, value in expected.items():
        assert_close(found[number], value, NETWORK)
