"""Changes of text encoders: of a CLIP and of SD3's three, by the plain equation on transformers' own classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from kinolab.checkpoints.adapters import AdapterUse, put_on, read_adapter
from kinolab.checkpoints.adapters.text import encoders_of, put_on_text
from kinolab.conditioning.text.clip import ClipText, ClipTextConfig
from kinolab.conditioning.text.sd3 import Sd3Text, Sd3TextConfig
from kinolab.errors import InputError
from tests.closeness import assert_close, assert_same
from tests.conditioning.text.tiny_text import TOKENS, make_clip, make_t5
from tests.tiny_model import tiny_model

pytest.importorskip("transformers")
pytestmark = pytest.mark.slow  # it imports transformers
LAYERS = ("self_attn.q_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")


def write_kohya(path: Path, model: Any, start: str = "lora_te", alpha: float = 1.0) -> dict[str, Tensor]:
    """A random adapter of rank 2 of a CLIP in kohya's form, and the changes of its weights by transformers' names."""
    tensors: dict[str, Tensor] = {}
    changes: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if name.endswith(LAYERS):
            out, inner = module.weight.shape
            down, up = torch.randn(2, inner), torch.randn(out, 2)
            flat = f"{start}_text_model_{name.removeprefix('text_model.').replace('.', '_')}"
            tensors |= {
                f"{flat}.lora_down.weight": down,
                f"{flat}.lora_up.weight": up,
                f"{flat}.alpha": torch.tensor(alpha),
            }
            changes[name] = alpha / 2 * up @ down
    save_file(tensors, path)
    return changes


def test_a_clip_is_changed_by_the_plain_equation(tmp_path: Path) -> None:
    theirs, path = make_clip(tmp_path / "clip"), tmp_path / "style.safetensors"
    ours = ClipText(ClipTextConfig(folder=tmp_path / "clip", max_tokens=TOKENS))
    before = ours.encode(["a red"]).states
    changes = write_kohya(path, theirs)
    assert len(changes) == 12
    made = put_on_text(ours, read_adapter(path), 0.5)
    with torch.no_grad():
        for name, change in changes.items():
            theirs.get_submodule(name).weight.add_(0.5 * change)
    theirs.save_pretrained(tmp_path / "clip")
    expected = ClipText(ClipTextConfig(folder=tmp_path / "clip", max_tokens=TOKENS)).encode(["a red"])
    assert_close(made.encode(["a red"]).states, expected.states)
    assert_same(ours.encode(["a red"]).states, before)
    assert (expected.states - before).abs().max() > 0.1


def test_of_sd3s_three_each_is_meant_by_its_number(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "text_encoder", tokenizer="tokenizer")
    make_clip(tmp_path / "text_encoder_2", width=12, tokenizer="tokenizer_2")
    make_t5(tmp_path / "text_encoder_3", tokenizer="tokenizer_3")
    sd3 = Sd3Text(Sd3TextConfig(folder=tmp_path, clip_tokens=TOKENS, t5_tokens=8))
    assert list(encoders_of(sd3)) == [1, 2, 3] and encoders_of(None) == {}
    write_kohya(tmp_path / "first.safetensors", clip, "lora_te1")
    write_kohya(tmp_path / "second.safetensors", clip, "lora_te2")
    adapter = read_adapter(tmp_path / "first.safetensors")
    assert list(adapter.text) == [1] and not adapter.layers
    made = put_on_text(sd3, adapter, 1.0)
    assert (made.encode(["a red"]).states - sd3.encode(["a red"]).states)[..., :8].abs().max() > 0.1
    with pytest.raises(
        InputError, match="12 of its 12 layers are not in encoder 2, or of another shape: text_model_enc"
    ):
        put_on_text(sd3, read_adapter(tmp_path / "second.safetensors"), 1.0)
    alone = ClipText(ClipTextConfig(folder=tmp_path / "text_encoder", max_tokens=TOKENS))
    with pytest.raises(InputError, match="changes text encoder 2, and the model has 1 of them"):
        put_on_text(alone, read_adapter(tmp_path / "second.safetensors"), 1.0)


def test_a_model_gets_both_and_the_given_one_stays(tmp_path: Path) -> None:
    clip, path = make_clip(tmp_path / "clip"), tmp_path / "style.safetensors"
    write_kohya(path, clip)
    model = tiny_model(text=False)
    model.text_encoder = ClipText(ClipTextConfig(folder=tmp_path / "clip", max_tokens=TOKENS))
    before = model.text_encoder.encode(["a red"]).states
    made = put_on(model, [AdapterUse(path=path, weight=1.0)])
    assert made.text_encoder is not None and model.text_encoder is not made.text_encoder
    assert (made.text_encoder.encode(["a red"]).states - before).abs().max() > 0.1
    assert_same(model.text_encoder.encode(["a red"]).states, before)
