"""TAESD's two layouts: two files of numbered layers, and diffusers' AutoencoderTiny; in, out, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kinolab.autoencoders import Taesd, TaesdConfig
from kinolab.checkpoints import inspect, load, save
from kinolab.errors import InputError
from tests.closeness import NETWORK, assert_close, assert_same

FOUR: dict[str, Any] = {"width": 8, "decoder_widths": (8, 8, 8, 8), "latent_channels": 4}
FAMILY: dict[str, dict[str, Any]] = {
    "4 channels": FOUR,
    "16 channels": FOUR | {"latent_channels": 16},
    "32 channels, global part": FOUR | {"latent_channels": 32, "global_part": True},
    "32 channels, ratio 32": {
        "width": 8, "latent_channels": 32, "stem": (4, 8), "decoder_widths": (16, 12, 8, 8, 8, 8),
        "decoder_blocks": (3, 3, 3, 3, 3, 1),
    },
}  # fmt: skip
FILES = ("taesd_encoder.safetensors", "taesd_decoder.safetensors")


def tiny(name: str = "4 channels", **fields: Any) -> Taesd:
    """A narrow one with random weights."""
    torch.manual_seed(0)
    model = Taesd(TaesdConfig.model_validate(FAMILY[name] | fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def equal(ours: Taesd, theirs: Taesd) -> bool:
    assert_same(ours.state_dict(), theirs.state_dict())
    return ours.config == theirs.config


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILY)
def test_the_two_files_tell_every_member_of_the_family(tmp_path: Path, name: str) -> None:
    ours = tiny(name)
    save(ours, tmp_path / "two", "taesd")
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == sorted(FILES)
    for file in FILES:  # as their makers write them: by torch.save, without our header
        torch.save(load_file(tmp_path / "two" / file), tmp_path / f"{Path(file).stem}.pth")
    encoder, decoder = (tmp_path / f"{Path(file).stem}.pth" for file in FILES)
    for order in ([encoder, decoder], [decoder, encoder], [tmp_path / "two"]):
        assert equal(load(order), ours)
    whole = {f"{p.stem.split('_')[1]}.{k}": v for p in (encoder, decoder) for k, v in torch.load(p).items()}
    torch.save({"state_dict": whole}, tmp_path / "whole.pth")
    assert equal(load(tmp_path / "whole.pth"), ours)


def test_the_names_are_the_public_ones(tmp_path: Path) -> None:
    save(tiny("32 channels, global part"), tmp_path, "taesd")
    encoder, decoder = (load_file(tmp_path / file) for file in FILES)
    assert len(encoder) == len(decoder) == 79
    wide: dict[str, tuple[int, ...]] = {
        "11.pool.0.weight": (32, 8, 1, 1),
        "13.pool.3.weight": (8, 32, 1, 1),
        "14.weight": (32, 8, 3, 3),
    }
    assert {k: tuple(encoder[k].shape) for k in wide} == wide and "10.bias" not in encoder
    wide = {"1.weight": (8, 32, 3, 3), "3.pool.1.bias": (32,), "17.weight": (8, 8, 3, 3), "19.weight": (3, 8, 3, 3)}
    assert {k: tuple(decoder[k].shape) for k in wide} == wide and "17.bias" not in decoder


def reference(**fields: Any) -> Any:
    """diffusers' class with random weights."""
    pytest.importorskip("diffusers")
    from diffusers import AutoencoderTiny

    torch.manual_seed(1)
    widths: dict[str, Any] = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    model: Any = AutoencoderTiny(**(widths | fields))
    return model.eval()


def compare(ours: Taesd, theirs: Any, shift: float = 0.0, scale: float = 1.0) -> None:
    """Equal latents (ours normalised) and images for a clip of two frames; latents beyond the clamp too."""
    frames = torch.rand(2, 3, 16, 24) * 2 - 1
    raw = theirs.encode(frames).latents
    mean = ours.encode(frames.transpose(0, 1)[None]).mean
    assert_close(mean[0].transpose(0, 1), (raw - shift) * scale, within=NETWORK)
    far = 4 * torch.randn_like(raw)
    video = ours.decode(((far - shift) * scale).transpose(0, 1)[None])[0].transpose(0, 1)
    assert_close(video, theirs.decode(far).sample, within=NETWORK)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"latent_channels": 16, "scaling_factor": 0.5, "shift_factor": 0.25},
        {"num_encoder_blocks": (1, 2, 1), "num_decoder_blocks": (2, 1, 3), "encoder_block_out_channels": (8,) * 3,
         "decoder_block_out_channels": (12,) * 3},
    ],
    ids=["4 channels", "16 channels, scaled", "ratio 4"],
)  # fmt: skip
@torch.no_grad()
def test_what_diffusers_saved_gives_its_outputs(tmp_path: Path, fields: dict[str, Any]) -> None:
    theirs = reference(**fields)
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path)
    compare(ours, theirs, fields.get("shift_factor", 0.0), fields.get("scaling_factor", 1.0))
    assert inspect(tmp_path).format == "taesd_diffusers"


@pytest.mark.parametrize("name", ["4 channels", "16 channels"])
@torch.no_grad()
def test_diffusers_loads_what_we_write(tmp_path: Path, name: str) -> None:
    pytest.importorskip("diffusers")
    from diffusers import AutoencoderTiny

    ours = tiny(name, latent_scale=0.5)
    save(ours, tmp_path / "vae", "taesd_diffusers")
    theirs, report = AutoencoderTiny.from_pretrained(tmp_path / "vae", output_loading_info=True)
    assert not any(report.values())
    compare(ours, theirs.eval(), scale=0.5)
    assert equal(load(tmp_path / "vae"), ours)


def written(folder: Path, tensors: dict[str, Tensor], name: str = "x.safetensors") -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / name)
    return folder / name


def test_half_a_model_is_named(tmp_path: Path) -> None:
    save(tiny(), tmp_path / "two", "taesd")
    encoder, decoder = (tmp_path / "two" / file for file in FILES)
    assert inspect(encoder).title.startswith("the encoder of a TAESD")
    with pytest.raises(InputError, match=r"taesd_encoder.*the encoder alone of a TAESD.*the file of its decoder too"):
        load(encoder)
    with pytest.raises(InputError, match=r"taesd_decoder.*the decoder alone of a TAESD.*the file of its encoder too"):
        load([decoder])
    with pytest.raises(InputError, match=r"an encoder, as is .*expected an encoder and a decoder"):
        load([encoder, encoder])
    other = written(tmp_path / "other", {"conv.weight": torch.zeros(3, 3)})
    with pytest.raises(InputError, match=r"x\.safetensors: neither an encoder nor a decoder of TAESD"):
        load([encoder, other])


def test_halves_of_two_models_do_not_go_together(tmp_path: Path) -> None:
    for name, folder in (("4 channels", "a"), ("16 channels", "b"), ("32 channels, global part", "c")):
        save(tiny(name), tmp_path / folder, "taesd")
    with pytest.raises(InputError, match="an encoder of 4 latent channels and a decoder of 16: they are of different"):
        load([tmp_path / "a" / FILES[0], tmp_path / "b" / FILES[1]])
    plain = {k: v for k, v in load_file(tmp_path / "c" / FILES[1]).items() if ".pool." not in k}
    with pytest.raises(InputError, match=r"does not fit TAESD.*12 missing: decoder\.3\.pool"):
        load([tmp_path / "c" / FILES[0], written(tmp_path / "plain", plain)])


def test_what_public_classes_lack_is_not_written(tmp_path: Path) -> None:
    for name, said in (("32 channels, global part", "the global part"), ("32 channels, ratio 32", "a strided stem")):
        with pytest.raises(InputError, match=f"AutoencoderTiny has not {said}; use --to public"):
            save(tiny(name), tmp_path / "vae", "taesd_diffusers")
    video = tiny(variant="outer2d", temporal_ratio=4)
    for layout in ("taesd", "taesd_diffusers"):
        with pytest.raises(InputError, match=r"of images, and this is a video autoencoder \(outer2d\)"):
            save(video, tmp_path / "vae", layout)
    with pytest.raises(InputError, match=r"two files in a folder; leave out '\.safetensors'"):
        save(tiny(), tmp_path / "x.safetensors", "taesd")
    scaled = tiny()
    scaled.set_scaling(torch.zeros(4), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    with pytest.raises(InputError, match="one scale for all latent channels"):
        save(scaled, tmp_path / "vae", "taesd_diffusers")
    assert not (tmp_path / "vae").exists()


def test_settings_without_a_counterpart_are_refused(tmp_path: Path) -> None:
    save(tiny(), tmp_path, "taesd_diffusers")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"act_fn": "silu"}))
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file(load_file(file), file)  # as another program would write it
    with pytest.raises(InputError, match=r"act_fn 'silu' is not supported, expected 'relu'; diffusers itself"):
        load(tmp_path)
