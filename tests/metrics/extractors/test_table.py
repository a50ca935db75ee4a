"""The table of extractors, their config, and what a person is told who gives them the wrong thing."""

import typing
from pathlib import Path

import pytest
import torch

from kinolab.config import load_config
from kinolab.errors import InputError
from kinolab.metrics.extractors import EXTRACTORS, OUTPUTS, ExtractorConfig, ExtractorName, load_extractor
from kinolab.metrics.extractors.encoder import VideoEncoder, VideoEncoderConfig, save_encoder
from kinolab.metrics.extractors.manifest import load_manifest

PUBLIC = [name for name in EXTRACTORS if name != "encoder"]


def test_every_name_has_a_reader_outputs_and_a_place_to_fetch_it_from() -> None:
    names = set(typing.get_args(ExtractorName))
    assert set(EXTRACTORS) == set(OUTPUTS) == names
    assert set(PUBLIC) <= set(load_manifest())


@pytest.mark.parametrize("name", PUBLIC)
def test_public_weights_need_a_path(name: ExtractorName, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"^{name} reads public weights from your own file: give its path"):
        load_extractor(ExtractorConfig(name=name))
    with pytest.raises(InputError, match=r"nowhere\.pt: no such file"):
        load_extractor(ExtractorConfig(name=name, path=tmp_path / "nowhere.pt"))


@pytest.mark.parametrize("name", PUBLIC)
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_a_file_that_is_no_weights_is_one_line(name: ExtractorName, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "page.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"page\.pt: (not a |.* expected a \.pth or \.safetensors file)") as caught:
        load_extractor(ExtractorConfig(name=name, path=path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", PUBLIC)
def test_weights_of_another_network_are_one_line(name: ExtractorName, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"layer1.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(InputError, match=r"other\.pth: not ") as caught:
        load_extractor(ExtractorConfig(name=name, path=path))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "i3d", "output": "fc6"}, "i3d is read out at logits or features, not fc6"),
        ({"name": "c3d", "output": "logits"}, "c3d is read out at fc6 or fc7, not logits"),
        ({"name": "i3d", "own_resize": True}, "own_resize is a setting of i3d_torchscript alone, not of i3d"),
        ({"name": "inception", "mean": [0, 0, 0]}, "mean is a setting of c3d alone, not of inception"),
        ({"name": "i3d", "sha256": "abc"}, "sha256"),
        ({"name": "vgg"}, "name"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(ExtractorConfig, values)


def test_the_encoder_describes_clips_or_frames_and_a_network_of_clips_no_frames(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_encoder(VideoEncoder(VideoEncoderConfig(widths=(8,), embedding=6, size=16)), tmp_path)
    config = ExtractorConfig(path=tmp_path)
    video = torch.rand(2, 3, 4, 16, 16) * 2 - 1
    assert load_extractor(config)(video).shape == (2, 6)
    assert load_extractor(config, "frame")(video).shape == (8, 6)
    with pytest.raises(InputError, match=f"encoder: expected sha256 {'1' * 64}"):
        load_extractor(ExtractorConfig(path=tmp_path, sha256="1" * 64))


def test_a_network_of_clips_is_refused_where_frames_are_wanted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from kinolab.metrics.extractors.i3d import I3d, I3dExtractor

    with torch.device("meta"):
        network = I3d()
    monkeypatch.setitem(EXTRACTORS, "i3d", lambda config, unit: I3dExtractor(network, "0"))
    with pytest.raises(InputError, match="i3d describes a clip, expected one of a frame: encoder, inception"):
        load_extractor(ExtractorConfig(name="i3d", path=tmp_path), "frame")
