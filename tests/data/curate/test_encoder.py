"""A tiny random CLIP as the encoder that a person names: the same cosines as the metric's, and a head over them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kinolab import video
from kinolab.data.curate.encoder import Encoder, EncoderConfig, layers_of
from kinolab.data.curate.faces import Faces, FacesConfig
from kinolab.data.curate.frames import Part, Trace, View
from kinolab.errors import InputError
from kinolab.metrics.text import PromptAgreement
from kinolab.runtime.weights import write_weights
from tests.closeness import assert_close
from tests.metrics.test_text import SIZE, make

pytestmark = pytest.mark.slow  # transformers, which takes seconds to import
FRAMES = np.random.default_rng(3).integers(0, 255, (4, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    place = tmp_path_factory.mktemp("models") / "clip"
    make(place, "clip")
    return place


def traced(signal: Encoder) -> Trace:
    watcher = signal.watch()
    for k, frame in enumerate(FRAMES):
        watcher.see(View(float(k), frame))
    return watcher.trace()


def test_agreement_is_the_metric_of_that_name(folder: Path) -> None:
    signal, metric = Encoder(EncoderConfig(model=folder)), PromptAgreement(folder)
    found = signal.score(traced(signal), Part(0, 4, "a red ball"))
    metric.update(video.to_tensor(FRAMES)[None], ["a red ball"])
    assert found["agreement"] is not None
    assert_close([found["agreement"]], metric.per_clip)
    assert found["aesthetic"] is None and found["looks"] is not None and 0 < found["looks"] < 1
    assert signal.score(traced(signal), Part(0, 4))["agreement"] is None
    assert signal.score(traced(signal), Part(9, 10)) == dict.fromkeys(Encoder.scores)


def test_a_head_decides_a_number_and_reads_no_frame(folder: Path, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "layers.0.weight": torch.randn(3, 6, generator=generator), "layers.0.bias": torch.randn(3, generator=generator),
        "layers.10.weight": torch.randn(1, 3, generator=generator),
    }  # fmt: skip
    write_weights(tmp_path / "head.safetensors", tensors)
    plain, headed = (Encoder(EncoderConfig(model=folder, head=h)) for h in (None, tmp_path / "head.safetensors"))
    headed.check()
    assert plain.trace_hash() == headed.trace_hash() and plain.hash() != headed.hash()
    trace = traced(headed)
    x = torch.from_numpy(trace["embedding"])
    expected = (x @ tensors["layers.0.weight"].T + tensors["layers.0.bias"]) @ tensors["layers.10.weight"].T
    assert_close([headed.score(trace, Part(0, 4))["aesthetic"] or 0.0], [float(expected.mean())])
    write_weights(tmp_path / "wide.safetensors", {"weight": torch.randn(1, 7)})
    wide = Encoder(EncoderConfig(model=folder, head=tmp_path / "wide.safetensors"))
    with pytest.raises(InputError, match="takes 7 numbers, and the model gives 6"):
        wide.score(trace, Part(0, 4))
    write_weights(tmp_path / "two.safetensors", {"weight": torch.randn(2, 6)})
    with pytest.raises(InputError, match="expected linear layers that end in one number"):
        layers_of(tmp_path / "two.safetensors")


def test_where_the_model_lies_decides_nothing_and_what_is_no_model_is_said(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "moved").symlink_to(folder)
    assert Encoder(EncoderConfig(model=tmp_path / "moved")).hash() == Encoder(EncoderConfig(model=folder)).hash()
    with pytest.raises(InputError, match=r"signals\.encoder\.model: .*no \.safetensors in it"):
        Encoder(EncoderConfig(model=tmp_path)).check()
    with pytest.raises(InputError, match=r"signals\.faces\.model: .*no such file"):
        pytest.importorskip("cv2")
        Faces(FacesConfig(model=tmp_path / "none.onnx")).check()
