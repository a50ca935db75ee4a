"""Methods that are shown a clip beside their prompt: what they are asked for, and where the objects should be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from kinolab.config import load_config
from kinolab.errors import InputError
from kinolab.evaluation.shown import Shown, ShownConfig, other_looks
from kinolab.evaluation.toy_protocols import EditWay
from kinolab.evaluation.world import evaluate_world
from kinolab.models import Request, VideoModel
from kinolab.toyworld.clips import WorldConfig, make_clip
from kinolab.toyworld.source import HELDOUT_SEEDS
from kinolab.video import to_tensor
from tests.closeness import assert_same
from tests.evaluation.conftest import TinyConfig
from tests.evaluation.test_evaluate_world import Oracle

pytestmark = pytest.mark.slow  # clips are drawn and read
WORLD = WorldConfig()


class Shower(Shown):
    """Answers with the clip that is asked for, or with the one that is shown."""

    answer = "asked"

    def make(self, model: Any, clips: Any, asked: Any, requests: Any, sampling: Any, events: Any = None) -> Tensor:
        class Answering(Oracle):
            def sample_latents(self, told: Sequence[Request], **_: Any) -> Tensor:  # type: ignore[override]
                return torch.stack([to_tensor(c.frames) for c in (asked if answer == "asked" else clips)])

        answer = self.answer
        other = Shown(ShownConfig(edit=EditWay()), None)
        other._edited = lambda model, *_: model.sample_latents(requests)  # type: ignore[method-assign]
        made = other.make(Answering(model.config), clips, asked, requests, sampling, events)
        self.followed += other.followed
        return made


def test_an_edit_changes_the_looks_of_one_object_and_no_motion() -> None:
    for k in range(12):
        seed = HELDOUT_SEEDS + k
        clip = make_clip(WORLD, seed)
        looks = other_looks(clip, seed)
        changed = [a != b for a, b in zip(looks, clip.request.objects, strict=True)]
        assert sum(changed) == 1
        colours = [colour for colour, _ in looks]
        assert len(set(colours)) == len({c for c, _ in clip.request.objects}), "no colour comes twice"
        asked = Shown(ShownConfig(edit=EditWay())).asked(WORLD, seed, clip)
        assert asked.request.objects == looks and asked.caption != clip.caption
        assert_same(asked.state[0].position, clip.state[0].position)
        assert Shown(ShownConfig(map="depth")).asked(WORLD, seed, clip) is clip


def test_what_is_asked_for_passes_and_what_is_shown_keeps_the_motion_alone(tiny_config: TinyConfig) -> None:
    model, shown = Oracle(tiny_config()), Shower(ShownConfig(edit=EditWay()))
    report = evaluate_world(model, {"count": 2}, batch=2, shown=shown)
    assert report.shares()["all"].value == report.shares("true")["all"].value
    assert shown.scores()["position_error"].value < 0.3 and shown.scores()["found"].value == 1
    still = Shower(ShownConfig(edit=EditWay()))
    still.answer = "shown"
    unedited = evaluate_world(model, {"count": 3}, batch=2, shown=still)
    assert unedited.shares()["all"].value == 0
    assert still.scores()["position_error"].value < 0.3, "the motion is the same"


def test_a_map_is_told_beside_the_prompt(tiny_config: TinyConfig) -> None:
    model = Oracle(tiny_config())
    with pytest.raises(InputError, match=r"shown\.map: depth: this model has no control network that reads it; it has"):
        evaluate_world(model, {"count": 1}, shown=Shown(ShownConfig(map="depth")))
    told: list[Request] = []

    class Told(Oracle):
        @property
        def spec(self) -> Any:
            return type("Spec", (), {"ports": {"depth": None}})()

        def sample_latents(self, requests: Sequence[Request], **given: Any) -> Tensor:
            told.extend(requests)
            return super().sample_latents(requests)

    shown = Shown(ShownConfig(map="depth"))
    evaluate_world(Told(tiny_config()), {"count": 3}, batch=3, shown=shown)
    for k, request in enumerate(told):
        clip = make_clip(WORLD, HELDOUT_SEEDS + k)
        assert request.prompt == clip.caption
        assert_same(request.conditions["depth"], to_tensor(clip.frames))
    assert shown.scores()["position_error"].count == 3


def test_a_tuned_edit_is_made_once(tiny_config: TinyConfig) -> None:
    tuned: list[str] = []

    def fit(clip: Tensor, caption: str) -> VideoModel:
        tuned.append(caption)
        return Oracle(tiny_config())

    shown = Shown(ShownConfig(edit=EditWay(way="noise", strength=0.5), fit=3), fit)
    model = Oracle(tiny_config())
    evaluate_world(model, {"count": 1}, batch=2, shown=shown)
    evaluate_world(model, {"count": 2}, batch=2, shown=shown)
    assert tuned == [make_clip(WORLD, HELDOUT_SEEDS + k).caption for k in range(2)]
    with pytest.raises(InputError, match="nothing tunes a model here"):
        Shown(ShownConfig(edit=EditWay(), fit=3))
    with pytest.raises(InputError, match="this model takes no prompts"):
        evaluate_world(Oracle(tiny_config(pooled_dim=0)), {"count": 1}, shown=Shown(ShownConfig(edit=EditWay())))


@pytest.mark.parametrize(
    ("fields", "message"),
    [({}, "either `map`"), ({"map": "depth", "edit": {}}, "either `map`"), ({"map": "depth", "fit": 3}, "set edit")],
)
def test_a_clip_is_shown_in_one_way(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(ShownConfig, fields)


def test_clips_are_shown_in_this_process(tiny_config: TinyConfig) -> None:
    shown, engine = Shown(ShownConfig(map="depth")), object()
    with pytest.raises(InputError, match="leave the engine out"):
        evaluate_world(Oracle(tiny_config()), {"count": 1}, shown=shown, engine=engine)  # type: ignore[arg-type]
