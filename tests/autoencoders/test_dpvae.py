"""DP-VAE: the image autoencoder's answer for an image, groups and key frames, exact compression, exact streams."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from kinolab.autoencoders import DpVae, DpVaeConfig, ImageAutoencoder, ImageConfig, inflate_dpvae
from kinolab.autoencoders.base import Posterior
from kinolab.config import load_config
from kinolab.errors import InputError
from kinolab.layers.key_frames import Groups, KeyFrameConfig
from tests.closeness import NETWORK, assert_close, difference

pytestmark = pytest.mark.slow  # many short ones, which take long together

IMAGE = ImageConfig(
    block_out_channels=(4, 8, 8, 8), layers_per_block=1, norm_num_groups=2, latent_channels=5, latent_scale=1.5
)
WIDE = IMAGE.model_copy(update={"block_out_channels": (4, 4, 8, 8, 8), "latent_channels": 16})
"""Spatial ratio 16, 16 channels."""


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def image_autoencoder(config: ImageConfig = IMAGE) -> ImageAutoencoder:
    """With biases and norms away from their initial values, and a latent scale of its own."""
    torch.manual_seed(0)
    model, C = ImageAutoencoder(config), config.latent_channels
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        model.set_scaling(torch.linspace(-0.2, 0.2, C), torch.linspace(0.8, 1.2, C))
    return model.eval()


def inflated(image: ImageAutoencoder, **fields: Any) -> DpVae:
    config = load_config(DpVaeConfig, {"image": image.config.model_dump(), "group_frames": 9, **fields})
    return inflate_dpvae(image, config).eval()


def trained(image: ImageAutoencoder, **fields: Any) -> DpVae:
    """As after some training: every weight of the 3D part moved."""
    model = inflated(image, **fields)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def image() -> ImageAutoencoder:
    return image_autoencoder()


@pytest.mark.parametrize("config", [IMAGE, WIDE], ids=["spatial 8", "spatial 16, 16 channels"])
@pytest.mark.parametrize("ratio", [4, 8])
@pytest.mark.parametrize("branch", [True, False])
def test_one_frame_is_encoded_and_decoded_as_by_the_image_autoencoder(
    config: ImageConfig, ratio: int, branch: bool
) -> None:
    image = image_autoencoder(config)
    model = inflated(image, temporal_ratio=ratio, image_branch=branch)
    picture = noise(2, 3, 1, 32, 32)
    with torch.no_grad():
        ours, theirs = model.encode(picture), image.encode(picture)
        assert_close(ours.mean, theirs.mean, within=NETWORK)
        assert_close(ours.logvar, theirs.logvar, within=NETWORK)
        assert_close(model.decode(theirs.mean), image.decode(theirs.mean), within=NETWORK)


def test_after_training_an_image_still_has_exactly_the_image_autoencoders_latents(image: ImageAutoencoder) -> None:
    picture, clip = noise(2, 3, 1, 16, 16), noise(2, 3, 9, 16, 16)
    model, alone = trained(image), trained(image, image_branch=False)
    with torch.no_grad():
        theirs = image.encode(picture).mean
        assert torch.equal(model.encode(picture).mean, theirs)
        assert torch.equal(model.encode(clip).mean[:, :, :1], image.encode(clip[:, :, :1]).mean)
        assert (alone.encode(picture).mean - theirs).abs().max() > 1e-3
        assert (model.encode(clip).mean[:, :, 1:] - inflated(image).encode(clip).mean[:, :, 1:]).abs().max() > 1e-3
    assert torch.equal(model.train().encode(picture).mean, theirs)


@pytest.mark.parametrize("branch", [True, False])
def test_before_training_the_latents_of_a_clip_are_the_images_of_every_rth_frame(
    image: ImageAutoencoder, branch: bool
) -> None:
    model = inflated(image, image_branch=branch)
    clip = noise(1, 3, 9 + 5, 16, 16)
    with torch.no_grad():
        assert_close(model.encode(clip).mean, image.encode(clip[:, :, [0, 4, 8, 9, 13]]).mean, within=NETWORK)


def test_a_clip_at_rest_has_no_residual_whatever_the_weights(image: ImageAutoencoder) -> None:
    model = trained(image)
    picture = noise(1, 3, 1, 16, 16)
    with torch.no_grad():
        assert_close(
            model.encode(picture.expand(-1, -1, 9, -1, -1)).mean,
            image.encode(picture).mean.expand(-1, -1, 3, -1, -1),
            within=NETWORK,
        )


def test_the_parts_of_the_public_contract(image: ImageAutoencoder) -> None:
    model = trained(image)
    assert model.image is not None and not any(p.requires_grad for p in model.image.parameters())
    assert {id(p) for p in model.image.encoder.parameters()} <= {id(p) for p in model.encoder_parts().parameters()}
    assert model.keeps_scaling
    bare = inflated(image, image_branch=False, regularisation={
        "moments_weight": 0, "samples_weight": 0, "image_decoder_weight": 0,
    })  # fmt: skip
    assert bare.image is None and not bare.keeps_scaling


def test_random_takes_the_frozen_part_only(image: ImageAutoencoder) -> None:
    config = DpVaeConfig(image=IMAGE, group_frames=9)
    model = inflate_dpvae(image, config, "random").eval()
    picture = noise(1, 3, 1, 16, 16)
    with torch.no_grad():
        latents = model.encode(picture).mean
        assert_close(latents, image.encode(picture).mean, within=NETWORK)
        assert difference(model.decode(latents), image.decode(latents)) > 1e-2


def test_a_config_of_another_image_autoencoder_is_named(image: ImageAutoencoder) -> None:
    with pytest.raises(InputError, match=r"image\.latent_channels: expected 5, got 16"):
        inflate_dpvae(image, DpVaeConfig(image=WIDE))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"group_frames": 16}, r"group_frames = 1 \+ 4\*n with n >= 1, got 16; use 13"),
        ({"group_frames": 1}, r"group_frames = 1 \+ 4\*n with n >= 1, got 1; use 5"),
        ({"temporal_ratio": 8, "image": {"block_out_channels": [32, 32]}}, "at most the image's spatial ratio 2"),
        ({"key_frames": {"rule": "fixed"}}, "rule fixed needs a period"),
        ({"key_frames": {"rule": "first", "period": 3}}, "period belongs to rule fixed"),
        ({"key_frames": {"rule": "scene", "cuts": "none"}}, "without cuts it is rule first"),
    ],
)
def test_a_wrong_config_says_what_to_use(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(DpVaeConfig, fields)


@pytest.mark.parametrize("ratio", [4, 8])
@pytest.mark.parametrize("spatial", [8, 16])
def test_compression_counts_every_key_frame(ratio: int, spatial: int) -> None:
    config = IMAGE if spatial == 8 else WIDE
    with torch.device("meta"):
        model = DpVae(DpVaeConfig(image=config, temporal_ratio=ratio, group_frames=17))
    n, C = 16 // ratio, config.latent_channels
    for groups, rest in [(0, 1), (1, 0), (3, 0), (2, 1 + ratio)]:
        frames, latents = 17 * groups + rest, groups * (1 + n) + (0 if rest == 0 else 1 + rest // ratio)
        expected = Fraction(3 * frames * spatial**2, C * latents)
        assert model.compression(frames, 32, 48) == expected
        lengths = [17] * groups + [rest] * bool(rest)
        assert model.compression(frames, 32, 48, groups=lengths) == expected
        assert model.spec.latent_shape(frames, 32, 48) == (C, latents, 32 // spatial, 48 // spatial)
        assert model.spec.pixel_frames(latents) == frames
    # groups of any length: one latent for the key frame, and one for every ratio frames begun
    assert model.compression(12, 32, 32, groups=[10, 2]) == Fraction(3 * 12 * spatial**2, C * (1 + -(-9 // ratio) + 2))
    with pytest.raises(InputError, match="groups of 12 frames in all"):
        model.compression(12, 32, 32, groups=[5, 5])


def test_groups_are_coded_by_themselves(image: ImageAutoencoder) -> None:
    model, clip = trained(image), noise(2, 3, 9 + 9 + 5, 16, 16)
    parts = clip.split(9, dim=2)
    with torch.no_grad():
        whole = model.encode(clip)
        assert_close(whole.mean, torch.cat([model.encode(part).mean for part in parts], dim=2), within=NETWORK)
        assert_close(
            model.decode(whole.mean),
            torch.cat([model.decode(model.encode(p).mean) for p in parts], dim=2),
            within=NETWORK,
        )
    with pytest.raises(InputError, match=r"9\*m or 9\*m \+ 1 \+ 4\*k frames, got 11; use 10 or 14"):
        model.encode(noise(1, 3, 11, 16, 16))


@pytest.mark.parametrize("branch", [True, False])
@pytest.mark.parametrize("lengths", [[1], [2], [3, 7], [11], [23]], ids=str)
def test_streams_equal_the_whole_clip(image: ImageAutoencoder, branch: bool, lengths: list[int]) -> None:
    model, clip = trained(image, image_branch=branch), noise(1, 3, 9 + 9 + 5, 16, 16)

    def cut(x: Tensor) -> list[Tensor]:
        edges, turn = [0], 0
        while edges[-1] < x.shape[2]:
            edges.append(edges[-1] + lengths[turn % len(lengths)])
            turn += 1
        return [x[:, :, a:b] for a, b in pairwise(edges)]

    with torch.no_grad():
        whole = model.encode(clip)
        parts = list(model.encode_stream(cut(clip)))
        assert_close(torch.cat([p.mean for p in parts], dim=2), whole.mean, within=NETWORK)
        assert_close(torch.cat([p.logvar for p in parts], dim=2), whole.logvar, within=NETWORK)
        assert_close(
            torch.cat(list(model.decode_stream(cut(whole.mean))), dim=2), model.decode(whole.mean), within=NETWORK
        )


def test_a_stream_gives_latents_as_soon_as_it_can_and_names_a_wrong_length(image: ImageAutoencoder) -> None:
    model = trained(image)
    with torch.no_grad():
        chunks = list(noise(1, 3, 14, 16, 16).split(1, dim=2))
        taken = 0

        def frames() -> Any:
            nonlocal taken
            for chunk in chunks:
                taken += 1
                yield chunk

        assert [taken for _ in model.encode_stream(frames())] == [1, 5, 9, 10, 14]
        with pytest.raises(InputError, match="got 11; use 10 or 14"):
            list(model.encode_stream(chunks[:11]))
        assert list(model.encode_stream([])) == [] == list(model.decode_stream([]))


SCENES = (5, 1, 2, 12)
"""Frames of the scenes of `clip_with_cuts`; with groups of at most 9 frames: 5, 1, 2, 9, 3."""


def clip_with_cuts(scenes: tuple[int, ...] = SCENES) -> Tensor:
    """Scenes of one colour each and a little noise."""
    colours = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -1]])
    parts = [colours[k % 4].view(1, 3, 1, 1, 1).expand(1, 3, n, 16, 16) for k, n in enumerate(scenes)]
    clip = torch.cat(parts, dim=2)
    return (0.9 * clip + 0.02 * noise(*clip.shape)).clamp(-1, 1)


def lengths(groups: Groups) -> list[int]:
    return [group.frames for group in groups.groups]


def rule(**fields: Any) -> KeyFrameConfig:
    return KeyFrameConfig(**fields)


@torch.no_grad()
def test_no_group_straddles_a_cut(image: ImageAutoencoder) -> None:
    model, clip = trained(image), clip_with_cuts()
    groups = model.encode_groups(clip, rule(rule="scene"))
    assert groups.boundaries == [0, 5, 6, 8, 17] == groups.key_frames
    assert lengths(groups) == [5, 1, 2, 9, 3]
    assert [g.latents.shape[2] for g in groups.groups] == [2, 1, 2, 3, 2] and groups.latent_frames == 10
    rebuilt = model.decode_groups(groups)
    assert rebuilt.shape == clip.shape and groups.frames == 20
    assert model.compression(20, 16, 16, lengths(groups)) == Fraction(3 * 20 * 64, 5 * 10)
    # what follows a cut does not touch what stands before it, and the other way round
    other = clip.clone()
    other[:, :, 8:] = noise(1, 3, 12, 16, 16, seed=3) * 0.1
    again = model.decode_groups(model.encode_groups(other, rule(rule="scene"), cuts=(5, 6, 8)))
    assert_close(again[:, :, :8], rebuilt[:, :, :8], within=NETWORK)
    # a scene by itself is coded as within its clip
    assert_close(
        model.decode_groups(model.encode_groups(clip[:, :, 5:6], rule(rule="scene"))),
        rebuilt[:, :, 5:6],
        within=NETWORK,
    )
    assert model.encode_groups(clip, rule(rule="first")).boundaries == [0, 9, 18]


@torch.no_grad()
def test_cuts_in_every_frame_make_images(image: ImageAutoencoder) -> None:
    model, clip = trained(image), clip_with_cuts((1,) * 6)
    groups = model.encode_groups(clip, rule(rule="scene"))
    assert lengths(groups) == [1] * 6
    assert_close(torch.cat([g.latents for g in groups.groups], dim=2), image.encode(clip).mean, within=NETWORK)
    assert model.compression(6, 16, 16, lengths(groups)) == model.compression(1, 16, 16) == Fraction(3 * 64, 5)


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 2, 5, 7])
@pytest.mark.parametrize("kind", ["first", "scene", "best"])
def test_a_clip_shorter_than_a_group_is_one_group_of_any_length(
    image: ImageAutoencoder, kind: str, frames: int
) -> None:
    model, clip = trained(image), noise(1, 3, frames, 16, 16)
    groups = model.encode_groups(clip, rule(rule=kind, cut_threshold=0.9))
    assert lengths(groups) == [frames]
    assert groups.latent_frames == 1 + -(-(frames - 1) // 4)
    assert model.decode_groups(groups).shape == clip.shape


@torch.no_grad()
def test_fixed_key_frames_come_by_their_period(image: ImageAutoencoder) -> None:
    model, clip = trained(image), noise(1, 3, 14, 16, 16)
    groups = model.encode_groups(clip, rule(rule="fixed", period=6))
    assert groups.key_frames == [0, 6, 12] and lengths(groups) == [6, 6, 2]
    keys = torch.cat([g.latents[:, :, :1] for g in groups.groups], dim=2)
    assert_close(keys, image.encode(clip[:, :, [0, 6, 12]]).mean, within=NETWORK)
    regular = model.encode_groups(clip[:, :, :10], rule(rule="fixed", period=9))
    assert_close(
        torch.cat([g.latents for g in regular.groups], dim=2), model.encode(clip[:, :, :10]).mean, within=NETWORK
    )


@torch.no_grad()
def test_the_best_key_frame_is_the_one_with_the_least_error(image: ImageAutoencoder) -> None:
    model = trained(image)
    frames = [scale * noise(1, 3, 1, 16, 16, seed=seed) for seed, scale in ((0, 1.0), (1, 0.3), (2, 0.6))]
    clip = torch.cat([frames[0], frames[1].expand(-1, -1, 6, -1, -1), frames[2].expand(-1, -1, 2, -1, -1)], dim=2)
    errors = {}
    for key in (0, 4, 8):
        latents = model.encode_group(clip, key)
        assert latents.shape[2] == 3  # a key frame further in costs nothing
        assert_close(latents[:, :, key // 4], image.encode(clip[:, :, key : key + 1]).mean[:, :, 0], within=NETWORK)
        [group] = model.encode_groups(clip, rule(rule="fixed", period=9)).groups
        rebuilt = model.decode_group(type(group)(0, 9, key, latents))
        assert rebuilt.shape == clip.shape
        errors[key] = float((rebuilt - clip).square().mean())
    best = min(errors, key=lambda key: errors[key])
    groups = model.encode_groups(clip, rule(rule="best", cuts="none"))
    least, second, _ = sorted(errors.values())
    assert groups.key_frames == [best] and second > 1.001 * least, "one is best by more than rounding"
    assert float((model.decode_groups(groups) - clip).square().mean()) == pytest.approx(errors[best], rel=1e-4)
    assert model.encode_groups(clip, rule(rule="best", cuts="none", candidates=1)).key_frames == [0]


@torch.no_grad()
def test_a_key_frame_inside_its_group_is_coded_to_both_sides(image: ImageAutoencoder) -> None:
    """Before training the latents are those of the key frame and of every r-th frame to both sides."""
    model, clip = inflated(image), noise(1, 3, 9, 16, 16)
    assert_close(model.encode_group(clip, 4), image.encode(clip[:, :, [0, 4, 8]]).mean, within=NETWORK)
    turned = model.encode_group(clip.flip(2), 8)
    assert_close(turned, model.encode_group(clip, 0).flip(2), within=NETWORK)
    with pytest.raises(InputError, match=r"key frame out of \[0, 4, 8\], got 3"):
        model.encode_group(clip, 3)


@torch.no_grad()
def test_groups_that_arrive_in_chunks_are_the_same(image: ImageAutoencoder) -> None:
    model, clip = trained(image), clip_with_cuts()
    whole = model.encode_groups(clip, rule(rule="scene"))
    arrived = list(model.group_stream(clip.split(7, dim=2), rule(rule="scene")))
    assert [(g.start, g.frames, g.key) for g in arrived] == [(g.start, g.frames, g.key) for g in whole.groups]
    for a, b in zip(arrived, whole.groups, strict=True):
        assert_close(a.latents, b.latents, within=NETWORK)
    with pytest.raises(InputError, match=r"one clip \(1, 3, T, H, W\).* got 2"):
        model.encode_groups(clip.expand(2, -1, -1, -1, -1))
    with pytest.raises(InputError, match="scenedetect needs the clip"):
        list(model.group_stream([clip], rule(rule="scene", cuts="scenedetect")))


@torch.no_grad()
def test_the_terms_are_zero_for_image_latents_and_positive_for_shifted_ones(image: ImageAutoencoder) -> None:
    model, clip = inflated(image), noise(2, 3, 9 + 5, 16, 16)
    encoded = model.encode(clip)
    terms = model.regularisation(clip, encoded)
    assert set(terms) == {"moments", "samples", "image_decoder"}
    assert {term.weight for term in terms.values()} == {0.1}
    assert float(terms["moments"].value) < 1e-9 and float(terms["samples"].value) < 1e-5
    read = image.decode(image.encode(clip[:, :, [4, 8, 13]]).mean)
    assert_close(terms["image_decoder"].value, (read - clip[:, :, [4, 8, 13]]).abs().mean(), within=NETWORK)
    for changed in (encoded.mean + 1.0, encoded.mean * 3):
        shifted = model.regularisation(clip, Posterior(changed, encoded.logvar))
        assert all(float(shifted[name].value) > float(terms[name].value) + 1e-3 for name in terms)
    moved = encoded.mean.clone()
    moved[:, :, [0, 3]] += 5  # key frames' latents are the image's own
    assert model.regularisation(clip, Posterior(moved, encoded.logvar)) == terms


def test_each_term_is_a_field(image: ImageAutoencoder) -> None:
    clip = noise(1, 3, 5, 16, 16)
    for name in ("moments", "samples", "image_decoder"):
        others = {f"{n}_weight": 0.0 for n in ("moments", "samples", "image_decoder") if n != name}
        model = inflated(image, regularisation={**others, f"{name}_weight": 0.5})
        terms = model.regularisation(clip, model.encode(clip))
        assert {key: term.weight for key, term in terms.items()} == {name: 0.5}
    model = inflated(image)
    picture = clip[:, :, :1]
    assert model.regularisation(picture, model.encode(picture)) == {}
    alone = inflated(image, image_branch=False)
    assert set(alone.regularisation(picture, alone.encode(picture))) == {"moments", "samples", "image_decoder"}


def test_no_gradient_reaches_the_image_autoencoder_and_every_other_weight_has_one(image: ImageAutoencoder) -> None:
    model = trained(image).train()
    clip = noise(1, 3, 9, 16, 16)
    encoded = model.encode(clip)
    loss = (model.decode(encoded.sample(torch.Generator().manual_seed(0))) - clip).square().mean()
    (loss + sum(term.weight * term.value for term in model.regularisation(clip, encoded).values())).backward()
    assert model.image is not None
    assert all(p.grad is None for p in model.image.parameters())
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters() if p.requires_grad)
    model.zero_grad()
    model.decode(model.encode(clip[:, :, :1]).mean).sum().backward()
    # an image trains the decoder alone, but gives every weight a gradient, as DDP expects
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert not any(p.grad.any() for p in model.encoder.parameters() if p.grad is not None)


def test_what_is_trained_on_of_a_clip_holds_no_cut(image: ImageAutoencoder) -> None:
    clip, generator = clip_with_cuts()[0], torch.Generator().manual_seed(0)
    assert torch.equal(inflated(image).training_clip(clip, generator), clip)
    scene = inflated(image, key_frames={"rule": "scene"}).training_clip(clip, generator)
    assert torch.equal(scene, clip[:, 8:18])  # 12 frames, of which 10 = 9 + 1 fit the rule
    best = inflated(image, key_frames={"rule": "best", "cuts": "none"})
    draws = [best.training_clip(clip, generator) for _ in range(12)]
    turned = [torch.equal(draw, clip.flip(1)) for draw in draws]
    assert any(turned) and not all(turned)
    assert all(torch.equal(d, clip) for d, t in zip(draws, turned, strict=True) if not t)
