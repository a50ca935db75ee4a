"""Strips of large pictures give what whole pictures give, in memory that does not grow with their area."""

from __future__ import annotations

import errno
import io
import os
import tempfile
from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from kinolab.autoencoders import (
    DpVae,
    DpVaeConfig,
    ImageAutoencoder,
    ImageConfig,
    OdVae,
    OdVaeConfig,
    Taesd,
    TaesdConfig,
    Tats,
    TatsConfig,
    Vqgan,
    VqganConfig,
)
from kinolab.autoencoders.base import Autoencoder
from kinolab.layers import strip_store, strips
from kinolab.layers.normalization import GroupNorm
from kinolab.layers.strip_store import Moments, Store
from kinolab.layers.strips import Step, of_video
from tests.closeness import assert_close

pytestmark = pytest.mark.slow  # many short ones, which take long together

EXACT = 1e-11
"""In float64, where rounding is far below anything that a wrong row would do."""
IMAGE = ImageConfig(block_out_channels=(4, 8, 8), layers_per_block=1, norm_num_groups=2)
ODVAE: dict[str, Any] = {
    "hidden_size": 4, "hidden_size_mult": (1, 2, 2), "num_res_blocks": 1, "norm_num_groups": 2,
}  # fmt: skip
TINY: dict[str, Any] = {
    "width": 4,
    "encoder_blocks": (1, 1, 2),
    "decoder_widths": (4, 4, 4),
    "decoder_blocks": (2, 1, 1),
}


def odvae(**fields: Any) -> OdVae:
    return OdVae(OdVaeConfig(**(ODVAE | fields)))


AUTOENCODERS = {
    "image": lambda: ImageAutoencoder(IMAGE),
    "all3d": lambda: odvae(variant="all3d"),
    "half2d": lambda: odvae(variant="half2d", mid_attention="none"),
    "outer2d": lambda: odvae(variant="outer2d"),
    "published": lambda: odvae(norm="clip", mid_attention="scrambled", upsampling="trilinear"),
    "separate": lambda: odvae(resampling="separate"),
    "residual": lambda: odvae(resampling="residual", upsampling="trilinear"),
    "dpvae": lambda: DpVae(DpVaeConfig(image=IMAGE, group_frames=5)),
    "vqgan": lambda: Vqgan(VqganConfig(ch=4, ch_mult=(1, 2, 2), num_res_blocks=1, resolution=16, attn_resolutions=(4,),
                                       z_channels=4, embed_dim=4, n_embed=8, norm_num_groups=2)),
    "taesd": lambda: Taesd(TaesdConfig(**TINY, global_part=True)),
    "taesd, stem": lambda: Taesd(TaesdConfig(width=4, stem=(3, 4), encoder_blocks=(1,), decoder_widths=(8, 6, 4),
                                             decoder_blocks=(1, 2, 1))),
    "taesd, video": lambda: Taesd(TaesdConfig(**TINY, variant="all3d", temporal_ratio=4, global_part=True)),
    "tats": lambda: Tats(TatsConfig(n_hiddens=2, downsample=(2, 4, 4), embedding_dim=4, n_codes=8)),
    "tats, groups": lambda: Tats(TatsConfig(n_hiddens=2, downsample=(8, 4, 4), embedding_dim=4, n_codes=8,
                                            norm_type="group", norm_num_groups=2)),
}  # fmt: skip


def made(name: str) -> Autoencoder:
    """A tiny autoencoder in float64 whose biases and norms are none that hide an error."""
    model = AUTOENCODERS[name]().double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return cast(Autoencoder, model)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every frame is large, every strip has four rows, and everything that waits lies in a file."""
    monkeypatch.setattr(strips, "LARGE", 0)
    monkeypatch.setattr(strips, "STRIP", 0)
    monkeypatch.setattr(strips, "LEAST_ROWS", 4)
    monkeypatch.setattr(strip_store, "IN_MEMORY", 0)


def frames_of(model: Autoencoder) -> int:
    return model.spec.pixel_frames(2) if model.spec.temporal_ratio > 1 else 2


@torch.no_grad()
@pytest.mark.parametrize("name", AUTOENCODERS)
def test_strips_equal_the_whole(name: str, request: pytest.FixtureRequest) -> None:
    """Sides of 20 x 12 leave a shorter strip at the end, at every resolution."""
    model = made(name)
    video = torch.rand(2, 3, frames_of(model), 20, 12, dtype=torch.float64) * 2 - 1
    posterior = model.encode(video)
    decoded = model.decode(posterior.mean)
    request.getfixturevalue("narrow")
    inside = model.encode(video)
    assert_close(inside.mean, posterior.mean, EXACT)
    assert_close(inside.logvar, posterior.logvar, EXACT)
    assert_close(model.decode(posterior.mean), decoded, EXACT)


@torch.no_grad()
@pytest.mark.parametrize("name", ["all3d", "outer2d", "separate", "residual", "dpvae", "taesd, video"])
def test_a_stream_in_strips_equals_the_whole_clip(name: str, request: pytest.FixtureRequest) -> None:
    model = made(name)
    video = torch.rand(1, 3, 10 if name == "dpvae" else 9, 12, 8, dtype=torch.float64) * 2 - 1
    posterior = model.encode(video)
    decoded = model.decode(posterior.mean)
    request.getfixturevalue("narrow")
    parts = list(model.encode_stream(video.split([1, 2, 3, video.shape[2] - 6], dim=2)))
    assert len(parts) < 4 or name == "dpvae", "some chunk was too short for a latent"
    assert_close(torch.cat([p.mean for p in parts], dim=2), posterior.mean, EXACT)
    pieces = list(model.decode_stream(posterior.mean.split(1, dim=2)))
    assert_close(torch.cat(pieces, dim=2), decoded, EXACT)


@torch.no_grad()
@pytest.mark.usefixtures("narrow")
def test_a_strip_without_its_neighbours_rows_would_show() -> None:
    """The equality above is no accident of weights that see one row only."""
    conv = nn.Conv3d(2, 2, 3, padding=1).double()
    x = torch.randn(1, 2, 3, 12, 5, dtype=torch.float64)
    right = strips.run([Step(of_video(conv), 2)], x)
    assert_close(right, conv(x), EXACT)
    wrong = strips.run([Step(of_video(conv), 2, halo=0)], x)
    assert float((wrong - right).abs().max()) > 0.1


def test_training_and_small_frames_are_taken_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(1, 3, 1, 1000, 1000)
    assert not strips.wanted(x, 64), "gradients go through whole pictures"
    with torch.no_grad():
        assert strips.wanted(x, 64) and strips.wanted(x[..., ::8, ::8], 64, scale=8)
        assert not strips.wanted(x, 8) and not strips.wanted(x[..., ::8, ::8], 64)


@torch.no_grad()
@pytest.mark.parametrize("scope", ["frame", "clip"])
def test_statistics_of_strips_are_those_of_the_whole(scope: Any) -> None:
    norm = GroupNorm(2, 4, scope=scope).double()
    nn.init.normal_(norm.weight)
    x = 50 + torch.randn(2, 4, 3, 10, 6, dtype=torch.float64) * torch.tensor([1, 2, 0.1, 3]).view(1, 4, 1, 1, 1)
    x[:, 2:, :, :4] = 7.0  # rows that are all alike have no variance
    moments = Moments(2)
    for part in x.split([4, 1, 5], dim=3):
        moments.add(part)
    assert_close(moments.normalise(norm, x[:, :, :, 3:9]), norm(x)[:, :, :, 3:9], EXACT)


def test_what_lies_in_a_file_comes_back_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in memory and in a file, in any type; places in the file are used again."""
    tensors = [torch.randn(2, 3, 2, 6, 5).to(dtype) for dtype in (torch.float32, torch.bfloat16, torch.float64)]
    monkeypatch.setattr(strip_store, "IN_MEMORY", 2 * 2 * 3 * 2 * 6 * 5)
    before, store = Store.in_files, Store()
    kept = [store.put(x.clone()) for x in tensors]
    assert [k.tensor is None for k in kept] == [True, False, True] and store.end == Store.in_files - before
    for x, k in zip(tensors, kept, strict=True):
        assert torch.equal(k.rows(1, 5), x[:, :, :, 1:5]) and k.rows(1, 5).dtype == x.dtype
    long = store.end
    kept[0].drop()
    assert torch.equal(store.put(tensors[0] + 1).rows(0, 6), tensors[0] + 1) and store.end == long
    del store, kept, k
    assert Store.in_files == before, "the file is gone with its store"


def test_a_full_disk_names_the_folder_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(strip_store, "IN_MEMORY", 0)
    store = Store()
    store.file = Full()
    with pytest.raises(OSError, match=r"No space left on device .*--size") as raised:
        store.put(torch.zeros(1, 1, 1, 2, 2))
    assert raised.value.filename == tempfile.gettempdir()


@torch.no_grad()
def test_memory_does_not_grow_with_the_area(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held at once is counted: pictures four times as high hold no more in strips, and four times as whole."""
    monkeypatch.setattr(strip_store, "IN_MEMORY", 2**12)
    monkeypatch.setattr(strips, "STRIP", 0)
    model = odvae(hidden_size_mult=(1, 1), variant="outer2d", temporal_ratio=2, mid_attention="none").eval()

    def most(height: int, large: int) -> int:
        monkeypatch.setattr(strips, "LARGE", large)
        video = torch.zeros(1, 3, 3, height, 8)
        with _Counted(video) as counted:
            latents = [p.mean for p in model.encode_stream([video])]
            list(model.decode_stream(latents))
        return counted.most

    row = 3 * 3 * 4 * 8  # bytes of a row of the clip itself
    low, high = most(64, 0), most(128, 0)
    assert high - low <= 4 * row * (128 - 64), "beside copies of the clip itself nothing grows"
    assert most(128, 2**60) > 1.9 * most(64, 2**60) > 1.9 * low


class _Counted(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the bytes of all tensors that are alive, and remembers the most."""

    def __init__(self, *given: Tensor) -> None:
        super().__init__()
        self.now = self.most = 0
        self.seen: dict[int, int] = {x.untyped_storage().data_ptr(): 0 for x in given}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        import weakref

        result = func(*args, **(kwargs or {}))
        for x in _tensors(result):
            storage = x.untyped_storage()
            place = storage.data_ptr()
            if place and place not in self.seen:
                self.seen[place] = storage.nbytes()
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._gone, place)
        return result

    def _gone(self, place: int) -> None:
        self.now -= self.seen.pop(place, 0)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)


@pytest.mark.parametrize("name", ["image", "half2d", "residual", "vqgan", "tats"])
@torch.no_grad()
def test_how_far_a_network_is_adds_up_to_its_frames(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "LARGE", 0)
    monkeypatch.setattr(strips, "STRIP", 0)
    model: Any = AUTOENCODERS[name]().eval()
    frames = model.spec.snap_frames(9)
    heard: dict[bool, list[float]] = {True: [], False: []}
    with strips.watched(lambda more, encodes: heard[encodes].append(more)):
        latents = model.encode(torch.rand(1, 3, frames, 64, 64)).mean
        model.decode(latents)
    assert sum(heard[True]) == pytest.approx(frames) and sum(heard[False]) == pytest.approx(latents.shape[2])
    for steps in heard.values():
        assert min(steps) > 0 and max(steps) < 0.4 * sum(steps), "many steps, none of which is most of it"
    before = {key: len(steps) for key, steps in heard.items()}
    model.encode(torch.rand(1, 3, frames, 64, 64))
    assert {key: len(steps) for key, steps in heard.items()} == before, "nobody listens any more"
