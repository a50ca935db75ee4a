"""What Make-A-Video's last networks are held against, and where a prompt gets lost on the way to a picture."""

from __future__ import annotations

import pytest
import torch

from benchmarks import embedding_use, makeavideo_stages
from benchmarks.makeavideo_stages import detail, held, mixed, of_between, of_larger
from kinolab.errors import InputError
from kinolab.layers.resizing import enlarge, shrink
from kinolab.toyworld.clips import WorldConfig, make_clip
from kinolab.video import to_tensor
from tests.closeness import assert_close, assert_same
from tests.tiny_model import save_tiny_model


def test_between_two_given_frames_is_their_mix_by_distance() -> None:
    clips = torch.arange(10.0).view(1, 1, 10, 1, 1).expand(2, 3, 10, 2, 2)
    given = [0, 4, 8]
    assert_same(mixed(clips, given)[0, 0, :9, 0, 0], torch.arange(9.0))
    assert_same(mixed(clips, given)[:, :, 9], clips[:, :, 8])
    assert held(clips, given)[0, 0, :, 0, 0].tolist() == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]
    curved = clips.square()
    assert mixed(curved, given)[0, 0, 2, 0, 0] == 8 and held(curved, given)[0, 0, 2, 0, 0] == 0


def test_scores_are_of_the_missing_frames_alone() -> None:
    clip = make_clip(WorldConfig(frames=9, fps=4, max_objects=1), 3)
    true = to_tensor(clip.frames)
    missing = [t for t in range(9) if t % 2]
    spoilt = true.clone()
    spoilt[:, ::2] = -1
    found = of_between(spoilt, clip, true, 3, missing)
    assert found["psnr"] == torch.inf and found["position"] < 0.5 and found["found"] == 1
    late = of_between(torch.roll(true, 1, 1), clip, true, 3, missing)
    assert late["position"] > found["position"] and late["psnr"] < 40


def test_an_enlarged_clip_has_less_detail_and_a_flickering_one_changes_more() -> None:
    true = to_tensor(make_clip(WorldConfig(frames=5, fps=4), 1).frames)
    small = enlarge(shrink(true[None], (32, 32), "area"), (64, 64))[0]
    assert of_larger(small, true)["detail"] < 0.9 < 1.1 < of_larger(true + 0.1 * torch.randn_like(true), true)["detail"]
    brighter = true * 0.9
    assert_close(detail(brighter), 0.81 * detail(true), 1e-4, "detail")
    blinking = true.clone()
    blinking[:, ::2] *= 0.9
    assert of_larger(blinking, true)["flicker"] > 2 * of_larger(brighter, true)["flicker"] > 0


def test_an_embedding_is_held_against_pictures_of_other_captions() -> None:
    own = torch.eye(4)
    found = embedding_use.cosines(own, own.flip(0), ["a", "b", "c", "d"])
    assert found == {"own": 0, "nearest_other": 1, "closer_to_own": 0}
    assert embedding_use.cosines(own, own, ["a", "a", "b", "b"]) == {"own": 1, "nearest_other": 0, "closer_to_own": 1}
    told = {"way": "words", "loss": 0.5, "colours": 2, "objects": 4}
    text = embedding_use.markdown({"pictures": 4, "prior": {"names": found}, "decoder": [told]})
    assert text.splitlines()[4] == "| names | 0.000 | 1.000 | 0% (0% to 49%) |"
    assert text.splitlines()[-1] == "| words | 0.5000 | 50% (15% to 85%) | 100% (51% to 100%) |"


def test_tables_and_models_that_do_something_else(tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = {"repeated": {"psnr": [20.0, 18.0, 22.0], "found": [1.0, 0.9, 1.0], "seconds_per_clip": 0.5}}
    text = makeavideo_stages.markdown({"every 2th frame given": rows})
    assert text.splitlines()[2] == "| repeated | 20.00 (18.00 to 22.00) | 100% | 0.50 |"
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny_model(folder, text=False)
    with pytest.raises(InputError, match="takes nothing of what larger gives; expected a run such as"):
        makeavideo_stages.main(["larger", str(folder)])
    with pytest.raises(InputError, match="expected an image model that is told image_embedding"):
        embedding_use.main([str(folder)])
    with pytest.raises(InputError, match="expected at least 2 pictures"):
        embedding_use.main([str(folder), "--pictures", "1"])
