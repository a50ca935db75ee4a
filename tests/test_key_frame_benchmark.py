"""The table of key frame rules, with a tiny random DP-VAE: cuts, counts, and exact compression."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import __main__ as program
from benchmarks import key_frames
from benchmarks.key_frames import AFTER, IMAGE, CutClip
from kinolab import video
from kinolab.autoencoders import DpVae, DpVaeConfig, ImageConfig
from kinolab.errors import InputError
from kinolab.layers.key_frames import KeyFrameConfig
from kinolab.metrics.reconstruction import psnr
from kinolab.models import save_autoencoder

IMAGES = ImageConfig(block_out_channels=(4, 8, 8), layers_per_block=1, norm_num_groups=2, mid_block_attention=False)


def quiet(line: str) -> None:
    """Nothing is said."""


@pytest.fixture(scope="module")
def model() -> DpVae:
    torch.manual_seed(0)
    return DpVae(DpVaeConfig(image=IMAGES, group_frames=9)).eval()


@pytest.fixture(scope="module")
def folder(model: DpVae, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("dpvae")
    save_autoencoder(model, path)
    return str(path)


def colours(lengths: tuple[int, ...], side: int = 16) -> CutClip:
    """Scenes of one colour each, with a little noise."""
    noise = torch.Generator().manual_seed(0)
    scenes = [
        (torch.full((3, n, side, side), -0.8 + 0.5 * (k % 4)) + 0.02 * torch.randn(3, n, side, side, generator=noise))
        for k, n in enumerate(lengths)
    ]
    cuts = np.cumsum(lengths)[:-1]
    return CutClip("colours", torch.cat(scenes, 1)[None].clamp(-1, 1), tuple(int(c) for c in cuts))


def test_toy_videos_are_cut_where_they_say() -> None:
    clips = key_frames.toy_videos(3, 32)
    again = key_frames.toy_videos(3, 32)
    assert all(torch.equal(a.video, b.video) and a.cuts == b.cuts for a, b in zip(clips, again, strict=True))
    assert key_frames.toy_videos(3, 32, seed=1)[0].cuts != clips[0].cuts
    for clip in clips:
        edges = np.array([0, *clip.cuts, clip.video.shape[2]])
        assert len(edges) == key_frames.SCENES + 1
        assert (np.diff(edges) >= key_frames.SHORTEST).all() and (np.diff(edges) <= key_frames.TOY_FRAMES).all()
        changes = (clip.video[0, :, 1:] - clip.video[0, :, :-1]).abs().mean((0, 2, 3))
        across = torch.tensor([cut - 1 for cut in clip.cuts])
        assert changes[across].mean() > 3 * changes.mean(), "pictures change at cuts"


def test_frames_after_a_cut_begin_with_its_own() -> None:
    assert colours((6, 9, 2)).after_cuts().nonzero().flatten().tolist() == [6, 7, 8, 9, 15, 16]
    assert AFTER == 4 and not colours((5,)).after_cuts().any()


def test_every_rule_is_the_models_own_but_for_what_it_is_about(model: DpVae) -> None:
    found = key_frames.rules(model, threshold=0.03)
    assert list(found) == ["first", "fixed", "scene", "best"] == [rule.rule for rule in found.values()]
    assert found["fixed"].period == 5 and key_frames.rules(model, 3)["fixed"].period == 3
    assert {rule.cut_threshold for rule in found.values()} == {0.03}
    assert key_frames.rules(model)["scene"].cut_threshold == model.config.key_frames.cut_threshold
    with pytest.raises(InputError, match="cut_threshold"):
        key_frames.rules(model, threshold=2.0)


@pytest.mark.slow
def test_rows_count_groups_and_every_latent(model: DpVae) -> None:
    clip = colours((6, 13, 7))
    rows = key_frames.measured(model, [clip, clip], key_frames.rules(model), quiet)
    assert [row.name for row in rows] == ["`first`", "`fixed`, every 5 frames", "`scene`", "`best`", IMAGE]
    assert [row.groups for row in rows] == [2 * 3, 2 * 6, 2 * 4, 2 * 4, 2 * 26]
    assert [row.straddling for row in rows] == [2 * 2, 2 * 2, 0, 0, 0]
    for row, lengths in zip(rows, [[9, 9, 8], [5] * 5 + [1], [6, 9, 4, 7], [6, 9, 4, 7]], strict=False):
        assert row.compression == model.compression(26, 16, 16, lengths)
    assert model.image is not None and rows[-1].compression == model.image.compression(26, 16, 16)
    assert all(row.encode_rate > 0 and row.decode_rate > 0 and row.channels == 4 for row in rows)
    assert rows[3].psnr >= rows[2].psnr - 1e-9 or rows[3].after_cuts != rows[2].after_cuts
    with torch.no_grad():
        rebuilt = model.decode_groups(model.encode_groups(clip.video, KeyFrameConfig(rule="scene")))
    expected = psnr(clip.video, rebuilt)[0]
    assert rows[2].psnr == pytest.approx(float(expected.mean()))
    assert rows[2].after_cuts == pytest.approx(float(expected[[6, 7, 8, 9, 19, 20, 21, 22]].mean()))


def test_without_cuts_or_pixels_there_is_no_number(model: DpVae) -> None:
    row = key_frames.measured(model, [colours((5,), side=8)], key_frames.rules(model), quiet)[0]
    assert row.after_cuts is None and row.ssim is None
    assert row.cells()[2] == row.cells()[3] == "-" and len(row.cells()) == len(key_frames.COLUMNS)


def test_found_cuts_are_held_against_the_true_ones() -> None:
    clip, rule = colours((6, 13, 7)), KeyFrameConfig(rule="scene")
    assert key_frames.detection([clip], rule) == (2, 2, 0)
    moved = CutClip("moved", clip.video, (6, 20, 23))
    assert key_frames.detection([clip, moved], rule) == (3, 5, 1)


@pytest.mark.wide
def test_the_command_writes_tables_and_a_picture(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = colours((6, 13, 7), side=32)
    video.write(tmp_path / "c.mkv", video.to_uint8(clip.video[0]), 12.0, lossless=True)
    page, picture = tmp_path / "page.md", tmp_path / "cut.png"
    arguments = ["key_frames", folder, str(tmp_path / "c.mkv"), "--toy", "1", "--size", "32", "--frames", "20"]
    program.main([*arguments, "--markdown", str(page), "--picture", str(picture)])
    printed, text = capsys.readouterr().out, page.read_text()
    assert text in printed and f"{picture}: toy 0, cut before frame " in text
    toy, files = text.split("## ")[1:]
    assert " of 3 true cuts (" in toy and " false ones, at 0.03." in toy
    assert "1 video, 20 frames, 2 cuts." in files and "rule scene finds at 0.08" in files
    assert all(part.count("\n| ") == 7 for part in (toy, files))
    with Image.open(picture) as image:
        width, height = image.size
    assert (width, height) == (90 + 6 * (32 + 4) + 16, 4 * (32 + 4) + 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--toy", "0"], "nothing to measure"),
        (["--toy", "-1"], "--toy: expected at least 0, got -1"),
        (["--toy", "0", "missing.mp4", "--picture", "p.png"], "--picture shows a toy video"),
        (["--size", "48x64"], "toy videos are square, 32 to 256 pixels wide, got 64x48"),
        (["--size", "33"], "33"),
        (["--size", "x"], "--size 'x': expected"),
        (["--period", "0"], "--period: expected at least 1, got 0"),
        (["--markdown", "."], "is a folder"),
        (["missing.mp4"], "missing.mp4"),
        (["--cut-threshold", "7"], "cut_threshold"),
    ],
)
def test_mistakes_are_named(folder: str, arguments: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        key_frames.main([folder, *arguments])


def test_another_autoencoder_has_no_key_frames(tmp_path: Path) -> None:
    from kinolab.autoencoders import ImageAutoencoder

    save_autoencoder(ImageAutoencoder(IMAGES), tmp_path / "image")
    with pytest.raises(InputError, match="expected an autoencoder of kind dpvae, got image"):
        key_frames.main([str(tmp_path / "image")])
