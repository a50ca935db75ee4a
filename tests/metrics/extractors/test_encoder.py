"""The small video encoder: what it gives, what it can't see, and its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kinolab.config import load_config
from kinolab.errors import InputError
from kinolab.metrics.extractors.encoder import (
    Stage,
    VideoEncoder,
    VideoEncoderConfig,
    VideoEncoderExtractor,
    _change,
    load_encoder,
    save_encoder,
    shipped_encoder,
)
from tests.closeness import FLOAT32, assert_close, assert_small, difference

CONFIG = VideoEncoderConfig(widths=(8, 16), embedding=12, size=32)


@pytest.fixture
def encoder() -> VideoEncoder:
    return VideoEncoder(CONFIG).eval()


def clips(count: int = 2, frames: int = 5, side: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, frames, side, side) * 2 - 1


@pytest.mark.parametrize("frames", [1, 2, 5, 16])
def test_one_vector_per_clip_of_any_length(frames: int, encoder: VideoEncoder) -> None:
    found = encoder(clips(3, frames))
    assert found.shape == (3, 12) and bool(torch.isfinite(found).all())


def test_frames_are_clips_of_one_frame(encoder: VideoEncoder) -> None:
    video = clips(2, 4)
    found = VideoEncoderExtractor(encoder, "s", per_frame=True)(video)
    assert found.shape == (8, 12)
    assert_close(found[5:6], encoder(video[1:, :, 1:2]))


def test_any_size_and_range_is_brought_to_its_own(encoder: VideoEncoder) -> None:
    extractor = VideoEncoderExtractor(encoder, "s")
    assert extractor(clips(side=48)).shape == (2, 12) and extractor.spec.size == (32, 32)
    video = clips()
    assert_close(extractor(3 * video), extractor((3 * video).clamp(-1, 1)))
    with pytest.raises(InputError, match="not finite"):
        extractor(video.fill_(torch.nan))


def test_a_clip_does_not_depend_on_its_batch(encoder: VideoEncoder) -> None:
    video = clips(4)
    order = torch.tensor([2, 0, 3, 1])
    assert_close(encoder(video[order]), encoder(video)[order])
    assert_close(encoder(video[1:2]), encoder(video)[1:2])


def test_a_frozen_clip_has_no_change_in_time(encoder: VideoEncoder) -> None:
    frozen = clips(2, 1).expand(-1, -1, 6, -1, -1)
    x = frozen
    for stage in encoder.stages:
        x = stage(x)
        assert_small(_change(x), beside=x)
    moving = encoder.stages[0](clips(2, 6))
    assert bool((_change(moving) > 1e-3).all())
    assert bool((_change(moving[:, :, :1]) == 0).all()), "one frame does not change"


def test_a_frozen_clip_is_the_same_at_every_length(encoder: VideoEncoder) -> None:
    frame = clips(1, 1)
    assert_close(encoder(frame.expand(-1, -1, 3, -1, -1)), encoder(frame.expand(-1, -1, 9, -1, -1)))  # fmt: skip


def test_the_order_of_frames_is_seen(encoder: VideoEncoder) -> None:
    video = clips(1, 6).cumsum(2).clamp(-1, 1)
    assert difference(encoder(video[:, :, [3, 0, 5, 1, 4, 2]]), encoder(video)) > 1e-3


def test_change_is_its_formula() -> None:
    x = torch.arange(4.0).square().view(1, 1, 4, 1, 1).expand(1, 2, 4, 3, 3)  # 0 1 4 9
    assert_close(_change(x), torch.full((1, 2), 3.0))


def test_a_stage_halves_the_picture_and_keeps_the_frames() -> None:
    assert Stage(3, 8, 4)(clips(1, 5, 32)).shape == (1, 8, 5, 16, 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_folder_gives_the_encoder_back(dtype: torch.dtype, encoder: VideoEncoder, tmp_path: Path) -> None:
    save_encoder(encoder, tmp_path / "new", dtype=dtype)
    assert {p.name for p in (tmp_path / "new").iterdir()} == {"encoder.yaml", "encoder.safetensors"}
    assert {v.dtype for v in load_file(tmp_path / "new" / "encoder.safetensors").values()} == {dtype}
    loaded, video = load_encoder(tmp_path / "new"), clips()
    assert loaded.encoder.config == CONFIG and not loaded.encoder.training
    assert {p.dtype for p in loaded.parameters()} == {torch.float32} and not any(
        p.requires_grad for p in loaded.parameters()
    )
    tolerance = FLOAT32 if dtype == torch.float32 else 5e-3
    assert_close(loaded(video), encoder(video).detach(), within=tolerance)
    again = load_encoder(tmp_path / "new", per_frame=True)
    assert again.spec.sha256 == loaded.spec.sha256 and (again.spec.unit, loaded.spec.unit) == ("frame", "clip")


def test_weights_decide_the_hash_and_a_run_folder_is_read(encoder: VideoEncoder, tmp_path: Path) -> None:
    save_encoder(encoder, tmp_path / "run" / "model")
    save_encoder(VideoEncoder(CONFIG), tmp_path / "other")
    run, other = load_encoder(tmp_path / "run"), load_encoder(tmp_path / "other")
    assert run.spec.sha256 != other.spec.sha256 and run.spec.protocol() != other.spec.protocol()


def test_the_encoder_that_ships_does_clips_and_frames() -> None:
    clip, frame = shipped_encoder(), shipped_encoder(per_frame=True)
    assert clip is shipped_encoder() and clip.spec.sha256 == frame.spec.sha256
    video = clips(1, 3, clip.spec.size[0])
    assert clip(video).shape == (1, clip.spec.width) and frame(video).shape == (3, clip.spec.width)


def test_a_wrong_folder_is_one_line(encoder: VideoEncoder, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"encoder\.yaml: missing; expected a folder that `kinolab train video-encoder`"
    ):
        load_encoder(tmp_path)
    save_encoder(encoder, tmp_path)
    weights = tmp_path / "encoder.safetensors"
    whole = load_file(weights)
    save_file({k: v for k, v in whole.items() if k != "head.bias"} | {"extra": torch.zeros(1)}, weights)
    with pytest.raises(InputError, match=r"does not fit encoder\.yaml: extra, head\.bias$"):
        load_encoder(tmp_path)
    save_file(whole | {"head.bias": torch.zeros(3)}, weights)
    with pytest.raises(InputError, match=r"does not fit encoder\.yaml: head\.bias$"):
        load_encoder(tmp_path)
    for content in (b"", b"<html>not found</html>"):
        weights.write_bytes(content)
        with pytest.raises(
            InputError, match=r"encoder\.safetensors: (the file is empty|not a safetensors file)"
        ) as caught:
            load_encoder(tmp_path)
        assert "\n" not in str(caught.value)
    weights.unlink()
    with pytest.raises(InputError, match=r"encoder\.safetensors: missing"):
        load_encoder(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"widths": []}, "widths: .* at least 1 item"),
        ({"widths": [8, 12]}, r"multiples of the 8 groups, got \(8, 12\)"),
        ({"widths": [0]}, "multiples of the 8 groups"),
        ({"size": 8}, "size: "),
    ],
)
def test_a_network_that_cannot_be_built_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(VideoEncoderConfig, values)
