"""What one optimiser step of a recipe takes: operations, and seconds on this machine."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from kinolab.planning.counting import ATTENTION
from kinolab.runtime import devices
from kinolab.runtime.ranks import join_ranks
from kinolab.training.recipe import BaseRecipe
from kinolab.training.run import make_job
from kinolab.training.trainer import Trainer


def flops_per_step(config: BaseRecipe) -> float:
    """Floating-point operations of one optimiser step of a recipe, forward and backward, counted on a step.

    Raises:
        InputError: for data or first weights that are not there.
    """
    from torch.utils.flop_counter import FlopCounterMode

    # What is compiled can't be counted, and takes the same operations.
    plain = config.training.model_copy(update={"compile": False})
    config = config.model_copy(update={"training": plain})
    with join_ranks(config.training.device) as ranks:
        torch.manual_seed(config.training.seed)
        job = make_job(config)
        trainer = Trainer(job, config.training, Path("."), ranks)
        batch = next(job.batches(0, ranks))
        trainer.train_step(0, batch)  # the first step may also measure the processor, which does not count
        with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
            trainer.train_step(0, batch)
    return float(counter.get_total_flops())


def seconds_per_step(config: BaseRecipe, steps: int = 5) -> float:
    """Seconds of one optimiser step of a recipe on this machine, its batch included: the median of a few after one.

    Raises:
        InputError: for data or first weights that are not there.
    """
    with join_ranks(config.training.device) as ranks:
        if config.training.threads is not None:
            torch.set_num_threads(config.training.threads)
        torch.manual_seed(config.training.seed)
        job = make_job(config)
        trainer, batches = Trainer(job, config.training, Path("."), ranks), job.batches(0, ranks)
        taken = []
        for step in range(steps + 1):  # the first one is not counted: it sets up and may compile
            began = time.perf_counter()
            trainer.train_step(step, next(batches))
            devices.synchronize(ranks.device)
            taken.append(time.perf_counter() - began)
    return sorted(taken[1:])[steps // 2]
