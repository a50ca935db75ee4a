"""What training draws is what requests ask for, by the weights, from the generator alone."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from pydantic import ValidationError

from kinolab.config import load_config
from kinolab.errors import InputError
from kinolab.tasks import TasksConfig, draw_mask, keyframe_mask, outside_training, past_mask, predict_mask
from kinolab.tasks.draw import kinds

ALL = TasksConfig(unconditional=1, predict=1, past=1, interpolate=1, animate=1, complete=1)


def test_every_draw_is_a_mask_of_its_task() -> None:
    generator = torch.Generator().manual_seed(0)
    seen: Counter[str] = Counter()
    for _ in range(600):
        name, mask = draw_mask(ALL, 9, 16, 12, generator)
        assert mask.shape == (9, 16, 12) and bool(((mask == 0) | (mask == 1)).all())
        seen[name] += 1
        if name == "unconditional":
            assert bool((mask == 1).all())
            continue
        assert 0 < float(mask.mean()) < 1, name
        found, _ = kinds(mask)
        # A random set of keyframes may by chance be the first ones, and a box may cover whole frames of a short clip.
        assert name in found or (name == "interpolate" and found & {"predict", "past", "animate"}), (name, found)
    assert len(seen) == 6 and min(seen.values()) > 60


def test_weights_and_the_range_of_given_frames() -> None:
    generator = torch.Generator().manual_seed(1)
    config = TasksConfig(unconditional=3, predict=1, predict_frames=(2, 4))
    drawn = [draw_mask(config, 9, 8, 8, generator) for _ in range(800)]
    share = sum(name == "unconditional" for name, _ in drawn) / len(drawn)
    assert abs(share - 0.75) < 0.05
    given = {int((m[:, 0, 0] == 0).sum()) for name, m in drawn if name == "predict"}
    assert given == {2, 3, 4}
    anything = {int((draw_mask(TasksConfig(), 5, 8, 8, generator)[1][:, 0, 0] == 0).sum()) for _ in range(100)}
    assert anything == {1, 2, 3, 4}


def test_draws_depend_on_the_generator_alone() -> None:
    draws = [draw_mask(ALL, 9, 8, 8, torch.Generator().manual_seed(k))[1] for k in (5, 5, 6)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_a_single_frame_can_only_be_made_or_completed() -> None:
    generator = torch.Generator().manual_seed(2)
    names = {draw_mask(ALL, 1, 8, 8, generator)[0] for _ in range(100)}
    assert names == {"unconditional", "complete"}


def test_what_lies_outside_the_training_is_said() -> None:
    tasks = TasksConfig(predict=1, interpolate=1, predict_frames=(2, 4))
    assert outside_training(tasks, predict_mask(9, 8, 8, 3)) is None
    assert "from 2 to 4 given frames, got 6" in str(outside_training(tasks, predict_mask(9, 8, 8, 6)))
    assert "not trained on the task past" in str(outside_training(tasks, past_mask(9, 8, 8, 3)))
    assert outside_training(tasks, keyframe_mask(9, 8, 8, [0, 4, 8])) is None
    assert outside_training(TasksConfig(predict=0, animate=1), keyframe_mask(9, 8, 8, [0])) is None
    assert "means nothing" in str(outside_training(None, predict_mask(9, 8, 8, 3)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"predict": 0}, "above 0"),
        ({"predict": float("inf")}, "finite"),
        ({"predict_frames": [3, 2]}, "fewest <= most"),
        ({"predict": -1}, "predict"),
        ({"future": 1}, "future"),
    ],
)
def test_bad_weights_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(TasksConfig, values)


def test_interpolation_may_be_between_every_fourth_frame_alone() -> None:
    tasks = TasksConfig(predict=0, interpolate=1, interpolate_every=4)
    for seed in range(5):
        name, mask = draw_mask(tasks, 17, 4, 4, torch.Generator().manual_seed(seed))
        assert name == "interpolate" and mask.flatten(1).amin(1).nonzero().flatten().tolist() == [
            k for k in range(17) if k % 4
        ]
    assert outside_training(tasks, mask) is None
    said = outside_training(tasks, keyframe_mask(17, 4, 4, [0, 8, 16]))
    assert said is not None and "between every 4th frame" in said
    assert not tasks.draws_as(tasks.model_copy(update={"interpolate_every": None}))
    for wrong in (1, (1, 3), (4, 3)):
        with pytest.raises(ValidationError, match="interpolate_every"):
            TasksConfig(interpolate_every=wrong)


def test_the_step_between_given_frames_may_be_drawn() -> None:
    tasks = load_config(TasksConfig, {"predict": 0, "interpolate": 1, "interpolate_every": [2, 5]})
    found = set()
    for seed in range(40):
        _, mask = draw_mask(tasks, 17, 2, 2, torch.Generator().manual_seed(seed))
        given = (mask.flatten(1).amax(1) == 0).nonzero().flatten().tolist()
        found.add(given[1])
        assert given == list(range(0, 17, given[1])) and outside_training(tasks, mask) is None
    assert found == {2, 3, 4, 5}
    said = outside_training(tasks, keyframe_mask(17, 2, 2, [0, 6, 12]))
    assert said is not None and "between every 2th or 3th or 4th or 5th frame" in said
