"""Tasks: what of a video is given and what is generated, as one mask. One file per family of tasks."""

from __future__ import annotations

from kinolab.tasks.animate import place_images
from kinolab.tasks.cached import CachedDraws
from kinolab.tasks.complete import Box, box_mask, picture_mask
from kinolab.tasks.draw import TaskName, TasksConfig, draw_mask, draw_task, outside_training
from kinolab.tasks.interpolate import every_nth, keyframe_mask
from kinolab.tasks.mask import check_mask, encode_given, fill, fold, keep_exact
from kinolab.tasks.predict import past_mask, predict_mask

__all__ = [
    "Box",
    "CachedDraws",
    "TaskName",
    "TasksConfig",
    "box_mask",
    "check_mask",
    "draw_mask",
    "draw_task",
    "encode_given",
    "every_nth",
    "fill",
    "fold",
    "keep_exact",
    "keyframe_mask",
    "outside_training",
    "past_mask",
    "picture_mask",
    "place_images",
    "predict_mask",
]
