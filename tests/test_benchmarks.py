"""The benchmarks at tiny sizes: that they compare what they say, not how fast it is."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import __main__ as program
from benchmarks import latte, mmdit, odvae, step_cache, taesd, toy_clip, unet, vdt
from benchmarks.measure import Aim, Entrant, Result, Timing, closer, compared, difference, faster, race
from kinolab import video
from kinolab.autoencoders import ImageAutoencoder, ImageConfig, OdVaeConfig, Taesd, TaesdConfig
from kinolab.checkpoints import save
from kinolab.denoisers import Latte, LatteConfig
from kinolab.diffusion import SamplerConfig
from kinolab.models import ModelConfig, VideoModel
from kinolab.runtime import precision
from tests.tiny_model import tiny_model

CASE = latte.Case(width=24, heads=2, depth=2, frames=3, side=8, text_dim=8, tokens=4)
ODVAE = OdVaeConfig(hidden_size=8, hidden_size_mult=(1, 1, 1), num_res_blocks=1, norm_num_groups=4)


def quiet(line: str) -> None:
    """Nothing is said."""


def test_entrants_run_in_turns_and_are_held_against_the_first() -> None:
    order: list[str] = []

    def entrant(name: str, value: float) -> Entrant:
        def run() -> Tensor:
            order.append(name)
            return torch.full((4,), value)

        return Entrant(name, run, lambda: order.append(f"warm {name}"))

    timings = race([entrant("a", 2.0), entrant("b", 2.5)], 2)
    assert order == ["warm a", "warm b", "a", "b", "a", "b"]
    assert [len(t.seconds) for t in timings] == [2, 2]
    assert (timings[0].error, timings[1].error, timings[1].largest) == (0.0, 0.25, 0.25)


def test_the_difference_is_relative_to_the_reference() -> None:
    error, largest = difference(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0]))
    assert error == pytest.approx(0.5 / 5) and largest == pytest.approx(0.5 / 4)


def test_aims_are_judged_by_medians() -> None:
    a, b = Timing("a", [3.0, 9.0, 6.0], [1.0], 0.0, 0.0, 0.0), Timing("b", [2.0, 2.0, 50.0], [1.0], 0.0, 0.02, 0.02)
    timings = [a, b]
    assert faster(timings, "b", 3.0) == Aim("b: at least 3 times as fast as a", 3.0, True)
    assert not faster(timings, "b", 3.1).met
    assert not closer(timings, "b", 0.01).met and closer(timings, "b", 0.03).met
    assert [row[2] for row in compared("n", "t", "s", timings).rows] == ["1.00 x", "3.00 x"]


@pytest.fixture
def _uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compilation has its own test, and takes too long for more."""
    for system in (latte, vdt, mmdit):
        monkeypatch.setattr(system, "compile_for_inference", lambda module, dtype: module)


@pytest.fixture
def _bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor on which `auto` is bfloat16, so that its rows have an error."""
    gains = precision.Measurement(3.0, 1.0, 3.0, 1.0, onednn_error=1.0)
    monkeypatch.setattr(precision, "measure", lambda: gains)


@pytest.fixture
def _diffusers() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("diffusers")


@pytest.mark.slow
@pytest.mark.usefixtures("_uncompiled", "_diffusers", "_bfloat16")
@pytest.mark.filterwarnings("ignore")  # diffusers' own
def test_mmdit_computes_what_diffusers_does_and_every_mode_begins_at_the_image_model() -> None:
    case = mmdit.Case(width=24, heads=2, depth=2, side=8, text_dim=10, pooled_dim=7, tokens=4)
    one = mmdit.forward(case, 1, quiet)
    assert one.details[mmdit.FLOAT32]["error"] < 1e-4 and 0 < one.details[mmdit.AUTO]["error"] < 0.05
    clip = mmdit.modes(replace(case, frames=3), 1, quiet)
    assert list(clip.details) == list(mmdit.MODES)
    assert clip.details["2d+3d"]["error"] < 1e-6 < clip.details["3d"]["error"]


@pytest.mark.slow
def test_the_unet_computes_what_diffusers_does() -> None:
    pytest.importorskip("diffusers")
    case = unet.Case((32, 64), layers=1, side=8, text_dim=8, tokens=4)
    assert unet.forward(case, 1, quiet).details[unet.FLOAT32]["error"] < 1e-4
    for who in (unet.THEIRS, unet.FLOAT32):
        found = unet.forward_alone(json.dumps({"case": vars(case), "who": who}))
        assert found["peak"] > 0 and found["forward"] >= 0


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.wide("compiler", "diffusers"))])
@pytest.mark.usefixtures("_diffusers", "_bfloat16")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch's compiler, of torch
def test_latte_computes_what_diffusers_does(compiled: bool, request: pytest.FixtureRequest) -> None:
    if not compiled:
        request.getfixturevalue("_uncompiled")
    one = latte.forward(CASE, 1, quiet)
    many = latte.sampling(CASE, 1, quiet, steps=5)
    for result in (one, many):
        assert list(result.details) == [latte.THEIRS, latte.FLOAT32, latte.AUTO, latte.COMPILED]
        assert result.details[latte.FLOAT32]["error"] < 1e-4
        assert 0 < result.details[latte.AUTO]["error"] < 0.05


@pytest.mark.usefixtures("_bfloat16")
@pytest.mark.parametrize("name", ["encode", "decode"])
def test_odvae_codes_the_same_in_every_precision(name: str) -> None:
    result = odvae.coding(name, ODVAE, (5, 16, 16), 1, quiet)
    assert list(result.details) == [odvae.PLAIN, odvae.AUTO]
    assert 0 < result.details[odvae.AUTO]["error"] < 0.05


def test_the_peak_of_memory_is_this_processs_own() -> None:
    before = odvae.peak_memory()
    block = torch.ones(32 * 2**20)  # 134 MB
    assert odvae.peak_memory() >= block.nbytes / 1e6 and odvae.peak_memory() >= before


def test_memory_is_that_of_a_fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def run(command: list[str], **kwargs: Any) -> Any:
        assert command[1:3] == ["-m", "benchmarks.odvae"]
        asked.append(json.loads(command[3])["frames"])
        answer = odvae.decode_stream_alone(command[3])
        return type("Done", (), {"stdout": json.dumps(answer)})

    monkeypatch.setattr(odvae.subprocess, "run", run)
    measured = iter([100.0, 110.0, 100.0, 121.0])
    monkeypatch.setattr(odvae, "peak_memory", lambda: next(measured))
    result = odvae.memory(ODVAE, 16, quiet, (5, 13))
    assert asked == [5, 13] and result.aims[0].reached == pytest.approx(1.1)
    assert [p["decoding"] for p in result.details["peaks"]] == [10.0, 21.0]


def test_a_toy_clip_is_timed_with_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    autoencoder = ImageConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4)
    denoiser = LatteConfig(hidden_size=16, depth=2, num_heads=2, input_size=8, num_frames=2)
    config = ModelConfig(autoencoder=autoencoder, denoiser=denoiser, frames=2, size=(16, 16))
    model = VideoModel(config, ImageAutoencoder(autoencoder), Latte(denoiser))
    steps: list[int] = []

    def generate(prompt: str, sampler: SamplerConfig) -> Tensor:
        assert prompt == toy_clip.PROMPT
        steps.append(sampler.steps)
        return torch.ones(1, 3, 2, 16, 16)

    monkeypatch.setattr(model, "generate", generate)
    result = toy_clip.clip(1, quiet, 3, (model, "a tiny model"))
    assert result.setup.startswith("a tiny model: 2 frames of 16 x 16, 3 steps of ddim")
    assert steps == [1, 1, 3, 3] and result.aims[0].met


def test_the_model_that_stands_in_for_the_shipped_one_has_its_recipes_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy_clip, "shipped_models", dict)
    model, which = toy_clip.toy_model()
    assert "random weights" in which
    latents = model.autoencoder.spec.latent_shape(model.config.frames, *model.config.size)
    assert latents[0] == model.denoiser.spec.channels


def test_the_program_prints_tables_and_writes_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = Result("n", "A title", "a setup", ["", "median"], [["a", "1 s"]], [Aim("an aim", 0.5, False)])
    monkeypatch.setattr(program, "FULL", {"one": [lambda say: result]})
    program.main(["one", "--out", str(tmp_path / "results.json")])
    printed = capsys.readouterr().out
    assert "A title" in printed and "MISSED   an aim: 0.5" in printed and "1 s" in printed
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["results"][0]["aims"] == [{"what": "an aim", "reached": 0.5, "met": False}]
    assert {"processor", "torch", "precision", "threads"} <= set(record["machine"]) and not record["quick"]
    with pytest.raises(SystemExit):
        program.main(["two"])


def test_quick_and_full_name_the_same_comparisons() -> None:
    assert list(program.QUICK) == list(program.FULL)
    assert [len(v) for v in program.QUICK.values()] == [len(v) for v in program.FULL.values()]


@pytest.mark.usefixtures("_uncompiled")
def test_the_plain_vdt_computes_what_vdt_does() -> None:
    result = vdt.forward(vdt.Case(width=24, heads=2, depth=2, frames=3, side=8), 1, quiet)
    errors = [timing["error"] for timing in result.details.values()]
    assert errors[0] == 0 and errors[1] < 1e-5 and max(errors) < 0.05
    assert [aim.what.split(":")[0] for aim in result.aims][:2] == [vdt.FLOAT32, vdt.COMPILED]


@pytest.mark.slow
def test_the_step_cache_is_timed_with_its_drift_beside_it() -> None:
    result = step_cache.sampling(1, quiet, 6, (tiny_model(text=False), "a tiny model"))
    assert result.columns == ["", "median", "faster", "PSNR", "worst", "reused"]
    assert [row[0] for row in result.rows] == [step_cache.ALL, *step_cache.CACHES, "3 steps", "2 steps"]
    assert all(len(row) == 6 for row in result.rows) and result.rows[0][3:] == ["", "", ""]
    assert {row[0]: row[5] for row in result.rows}["blocks every 2nd step"] == "33%", "steps 1 and 3 of 6"
    assert result.details[step_cache.ALL]["psnr"] == [100.0] * 4


@pytest.mark.parametrize("what", ["encode", "decode"])
def test_taesd_is_held_against_diffusers(what: str) -> None:
    pytest.importorskip("diffusers")
    tiny = TaesdConfig(width=8, encoder_blocks=(1, 1), decoder_widths=(8, 8), decoder_blocks=(1, 1))
    found = taesd.coding(what, tiny, (2, 8, 8), 1, quiet)
    assert [row[0] for row in found.rows] == ["diffusers", "Kinolab"] and found.aims[1].met


def test_released_weights_are_measured_on_clips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = TaesdConfig(width=8, encoder_blocks=(1, 1), decoder_widths=(8, 8), decoder_blocks=(1, 1))
    save(Taesd(tiny), tmp_path / "files", "taesd")
    rising = np.arange(0, 240, 40, dtype=np.uint8)[:, None, None, None]  # frames that are alike would be joined
    video.write(tmp_path / "clip.webp", np.tile(rising, (1, 32, 48, 3)), fps=8, lossless=True)
    assert taesd.first_frames(tmp_path / "clip.webp").shape == (1, 3, 4, 256, 256)
    files = [str(tmp_path / "files" / f"taesd_{part}.safetensors") for part in ("encoder", "decoder")]
    program.main(["taesd_clips", *files, str(tmp_path / "clip.webp")])
    assert re.fullmatch(r"clip\.webp  \d+\.\d\d dB\n", capsys.readouterr().out)
