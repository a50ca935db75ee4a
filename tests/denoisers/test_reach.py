"""Which frames a frame's self-attention reads: equal to a plain loop over frames, in every family, copying no keys."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kinolab import denoisers
from kinolab.config import Config
from kinolab.contracts.options import ForwardOptions
from kinolab.contracts.reach import Lists, Reach
from kinolab.denoisers import Conditions, Denoiser, mmdit, vdm
from kinolab.errors import InputError
from kinolab.layers import attention
from kinolab.layers.attention import Beside, attend_frames
from kinolab.runtime.compiling import compile_for_inference
from tests.closeness import ALLOWED, NETWORK, assert_close, differs
from tests.tiny_unets import UNETS

SMALL: dict[str, Any] = {"hidden_size": 16, "depth": 2, "num_heads": 2, "input_size": 4, "num_classes": 5}
VIDEO: dict[str, Any] = SMALL | {"num_frames": 4}
CONFIGS: dict[str, Config] = {
    "dit": denoisers.DiTConfig(**SMALL),
    "latte": denoisers.LatteConfig(**VIDEO),
    "latte joint": denoisers.LatteConfig(**VIDEO, variant="joint_block", temporal_position="rotary"),
    "latte split": denoisers.LatteConfig(**VIDEO, variant="split_heads", injection="all_tokens"),
    "vdt": denoisers.VdtConfig(**VIDEO),
    "vdt tokens": denoisers.VdtConfig(**VIDEO, given="tokens"),
    "mmdit": denoisers.MmditConfig(
        **VIDEO | {"hidden_size": 32}, text_dim=8, spatial_position="rotary", attention="2d", temporal_position="none"
    ),
    "mmdit dual": denoisers.MmditConfig(**VIDEO, text_dim=8, attention="2d+3d", dual_attention_layers=(0,)),
    "mmdit 3d": denoisers.MmditConfig(
        **VIDEO | {"hidden_size": 32}, text_dim=8, attention="3d", spatial_position="rotary", temporal_position="rotary"
    ),
    "mmdit alone": denoisers.MmditConfig(**VIDEO, temporal_patch=1),
    **UNETS,
}
UNET: dict[str, Any] = {
    "dim": 16, "dim_mults": (1, 2), "num_heads": 2, "head_dim": 4, "spatial_head_dim": 4, "input_kernel": 3,
    "input_size": 4, "num_frames": 4, "num_classes": 5,
}  # fmt: skip
CONFIGS |= {
    "vdm": denoisers.VdmConfig(**UNET),
    "vdm full": denoisers.VdmConfig(**UNET, spatial_attention="full"),
}
RAGGED = ((0,), (0, 1), (2, 0, 1), (3, 2, 1, 0))
REACHES: list[Any] = ["own", "first", "first_previous", "all", "first_last", RAGGED, ((3, 1), (2, 0), (1, 1), (0, 3))]


def build(name: str) -> Denoiser:
    """A denoiser whose every parameter is random, so that its blocks do something."""
    torch.manual_seed(0)
    model = denoisers.build(CONFIGS[name]).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def told(name: str) -> Conditions:
    text: dict[str, Any] = {}
    if getattr(CONFIGS[name], "text_dim", 0):
        states = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(2))
        text = {"text": states, "text_mask": torch.tensor([[True, True, True], [True, False, False]])}
    return Conditions(label=torch.tensor([1, 2]), **text)


def run(model: Denoiser, name: str, reach: Any = None, z: Tensor | None = None) -> Tensor:
    z = torch.randn(2, 4, 4, 4, 4, generator=torch.Generator().manual_seed(1)) if z is None else z
    options = None if reach is None else ForwardOptions(reach=Reach(reach))
    with torch.no_grad():
        return model(z, torch.tensor([300.0, 800.0]), told(name), options)


def looped(q: Tensor, k: Tensor, v: Tensor, lists: Lists, beside: Beside | None = None) -> Tensor:
    """What `attend_frames` says, frame by frame and clip by clip, with the softmax written out."""
    clips = []
    for b in range(len(q)):
        frames = []
        for t, read in enumerate(lists):
            keys, values = torch.cat([k[b, r] for r in read]), torch.cat([v[b, r] for r in read])
            if beside is not None:
                f = min(t, beside.k.shape[1] - 1)
                there = slice(None) if beside.allowed is None else beside.allowed[b, f]
                keys, values = torch.cat([keys, beside.k[b, f][there]]), torch.cat([values, beside.v[b, f][there]])
            with torch.autocast("cpu", enabled=False):
                logits = torch.einsum("qnd,knd->nqk", q[b, t].float(), keys.float()) / math.sqrt(q.shape[-1])
                out = torch.einsum("nqk,knd->qnd", logits.softmax(-1), values.float())
            frames.append(out.flatten(1).to(q.dtype))
        clips.append(torch.stack(frames))
    return torch.stack(clips)


def test_every_denoiser_is_here() -> None:
    # Levels of this one have other numbers of frames: it refuses to be told of any (test_makeavideo.py).
    assert {name.split()[0] for name in CONFIGS} == set(denoisers.DENOISERS) - {"space_time_unet"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.slow
def test_every_reach_is_that_of_a_loop_over_frames(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(name)
    with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        made = [run(model, name, reach) for reach in REACHES]
        for module in (attention, mmdit, vdm):
            monkeypatch.setattr(module, "attend_frames", looped)
        expected = [run(model, name, reach) for reach in REACHES]
    for one, other in zip(made, expected, strict=True):
        assert_close(one, other, within=NETWORK if dtype is torch.float32 else ALLOWED[dtype])


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.slow
def test_what_it_was_trained_with_changes_nothing_and_all_else_does(name: str) -> None:
    model = build(name)
    assert model.reach is not None and isinstance(model.reach.frames, str)
    plain = run(model, name)
    assert torch.equal(run(model, name, model.reach.frames), plain)
    others = [run(model, name, reach) for reach in REACHES if reach != model.reach.frames]
    assert all(bool(differs(other, plain).any()) for other in others)


@pytest.mark.parametrize("reach", REACHES)
def test_a_frame_hears_of_the_frames_that_it_reads_and_of_no_other(reach: Any) -> None:
    """One block of DiT: nothing else joins the frames."""
    torch.manual_seed(0)
    model = denoisers.DiT(denoisers.DiTConfig(**SMALL | {"depth": 1})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    z = torch.randn(2, 4, 4, 4, 4)
    plain = run(model, "dit", reach, z)
    for frame in range(4):
        changed = z.clone()
        changed[:, :, frame] += 1.0
        moved = differs(run(model, "dit", reach, changed), plain).amax((0, 1, 3, 4))
        assert moved.tolist() == [t == frame or frame in read for t, read in enumerate(Reach(reach).lists(4))]


def test_tokens_of_a_text_read_what_their_frame_reads() -> None:
    """Two blocks of MMDiT over single frames: a frame's text carries what it has read to the next block."""
    model = build("mmdit")
    z = torch.randn(2, 4, 4, 4, 4)
    changed = z.clone()
    changed[:, :, 3] += 1.0
    plain = run(model, "mmdit", "first_previous", z)
    moved = differs(run(model, "mmdit", "first_previous", changed), plain).amax((0, 1, 3, 4))
    assert moved.tolist() == [False, False, False, True]
    changed = z.clone()
    changed[:, :, 1] += 1.0
    # The second block's frame 3 reads what the first block's frame 2 read of frame 1.
    moved = differs(run(model, "mmdit", "first_previous", changed), plain).amax((0, 1, 3, 4))
    assert moved.tolist() == [False, True, True, True]


class Allocated(TorchDispatchMode):
    """Collects the sizes, in numbers, of storages that are made."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for out in result if isinstance(result, tuple | list) else (result,):
            if isinstance(out, Tensor):
                storage = out.untyped_storage()
                if storage.data_ptr() not in self.seen:
                    self.sizes.append(storage.nbytes() // out.element_size())
                self.seen.add(storage.data_ptr())
        return result


@pytest.mark.parametrize(("reach", "copied"), [("first", 0), ("all", 0), ("first_last", 2), ("first_previous", 16)])
def test_keys_are_copied_only_where_frames_differ(reach: Any, copied: int) -> None:
    """In frames of keys; copying them for each of 8 frames takes 8, 64, 16 and 16."""
    layer, T, S, D = attention.Attention(32, 2), 8, 16, 32
    x = torch.randn(1, T, S, D)
    with torch.no_grad():
        q, k, v = layer.project(x)
        with Allocated() as made:
            made.seen |= {x.untyped_storage().data_ptr(), q.untyped_storage().data_ptr()}
            attend_frames(q, k, v, Reach(reach).lists(T))
    keys = [size for size in made.sizes if size > T * S * 2]  # not the softmax's sums
    assert sum(keys) <= T * S * D + 2 * copied * S * D, "the output, keys and values"


def test_a_reach_that_can_not_be_is_refused() -> None:
    model = build("latte")
    with pytest.raises(InputError, match="expected own, first"):
        Reach("fist")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"frame 1 reads \[2\]: expected at least one frame, from 0 to 1"):
        Reach(((0,), (2,)))
    with pytest.raises(InputError, match="lists for 2 frames, but the clip has 4"):
        run(model, "latte", ((0,), (1,)))
    images = Conditions(label=torch.tensor([1, 2]), image_frames=1)
    with pytest.raises(InputError, match="single images"):
        model(torch.zeros(2, 4, 4, 4, 4), torch.zeros(2), images, ForwardOptions(reach=Reach("all")))
    with pytest.raises(InputError, match="trained to read"):
        Denoiser().reach_lists(4, ForwardOptions(reach=Reach("all")))


def test_tubelets_and_pairs_count_as_one_frame() -> None:
    tubelets = denoisers.LatteConfig(**VIDEO, patch_embedding="compression", temporal_patch=2)
    pairs = denoisers.MmditConfig(**VIDEO, temporal_patch=2)
    assert denoisers.build(tubelets).token_frames(4) == 2 and denoisers.build(pairs).token_frames(5) == 3


@pytest.mark.wide("compiler")
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["dit", "latte", "vdt", "mmdit"])
def test_compiled_denoisers_read_the_same(name: str) -> None:
    model = build(name)
    reaches = ["first", "first_previous", RAGGED] if name == "dit" else ["first_previous"]
    eager = [run(model, name, reach) for reach in reaches]
    compile_for_inference(model, torch.float32)
    for reach, expected in zip(reaches, eager, strict=True):
        assert_close(run(model, name, reach), expected)


def test_the_signature_is_every_familys() -> None:
    for name in denoisers.DENOISERS:
        kind = denoisers.DENOISERS.get(name)
        assert [*inspect.signature(kind.forward).parameters] == ["self", "z", "t", "conditions", "options"]


@pytest.mark.parametrize("name", ["latte", "mmdit", "mmdit dual"])
def test_a_reach_of_the_config_is_what_it_is_trained_with(name: str) -> None:
    model = build(name)
    reaching = denoisers.build(CONFIGS[name].model_copy(update={"reach": "first_previous"}))  # type: ignore[arg-type]
    reaching.eval().load_state_dict(model.state_dict())
    assert reaching.reach == Reach("first_previous")
    assert torch.equal(run(reaching, name), run(model, name, "first_previous"))
    for reach in ("own", "first_previous", "all", RAGGED):
        assert torch.equal(run(reaching, name, reach), run(model, name, reach))


def test_a_model_whose_frames_read_all_takes_no_other_reach() -> None:
    with pytest.raises(ValueError, match="with attention 3d every frame reads all frames"):
        denoisers.MmditConfig(**VIDEO, attention="3d", reach="first")
