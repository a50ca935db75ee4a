"""What every training run has in common: steps, batch, optimiser, EMA, precision, and when to save, test and sample."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.distributed as dist
from pydantic import Field, model_validator
from torch import nn

from kinolab.config import Config
from kinolab.runtime.precision import resolve
from kinolab.training.mesh import MeshConfig, Parallel
from kinolab.training.muon import Muon, is_hidden_matrix


class TrainingConfig(Config):
    """Settings shared by the autoencoder's and the denoiser's training."""

    steps: int = Field(1000, ge=1)
    """Optimiser steps in the whole run."""
    batch_size: int = Field(16, ge=1)
    """Clips per optimiser step, over all processes and accumulation steps."""
    micro_batch: int | None = Field(None, ge=1)
    """Clips per forward pass and process; None = no accumulation."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon` makes the updates of weight matrices orthogonal and leaves the rest to AdamW. It takes AdamW's learning
    rates and costs some percent more per step (14% on a small autoencoder). With fsdp each matrix is gathered once more
    per step."""
    learning_rate: float = Field(1e-4, gt=0)
    """Peak learning rate."""
    warmup: int = Field(0, ge=0)
    """Steps over which the learning rate rises linearly from zero."""
    decay: Literal["constant", "cosine", "linear"] = "constant"
    """How the learning rate goes from its peak to zero at the last step."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's two moment decays."""
    clip: float = Field(1.0, gt=0)
    """Largest gradient norm; larger ones are scaled down."""
    ema: float = Field(0.999, ge=0, lt=1)
    """Decay of the weight average that is sampled and saved."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto` measures the processor once and takes bfloat16 where it is faster; weights stay float32."""
    seed: int = 0
    """Seeds the initial weights, the order of the data and every draw of noise."""
    save_every: int = Field(500, ge=1)
    """Steps between checkpoints that a run resumes from."""
    keep: int = Field(2, ge=1)
    """How many of the newest checkpoints are kept."""
    checkpoints: Literal["wait", "beside"] = "wait"
    """Whether the steps wait until a checkpoint is written, or one is copied and written beside the next ones (by
    torch.distributed.checkpoint), for as much memory again as weights, optimiser and average take."""
    evaluate_every: int = Field(500, ge=1)
    """Steps between measurements on held-out data."""
    evaluate_first: bool = False
    """Also measure before the first step: what the first weights are worth by themselves."""
    sample_every: int = Field(1000, ge=1)
    """Steps between sample videos from fixed seeds."""
    sample_first: bool = False
    """Also sample before the first step: what the first weights show, as of a model that is trained on."""
    log_every: int = Field(10, ge=1)
    """Steps between lines of the log."""
    workers: int = Field(0, ge=0)
    """Processes that prepare batches ahead; 0 = in the training process."""
    device: str = "auto"
    """Where it runs: `auto` (the first of CUDA or ROCm, XPU, MPS, CPU that is there), or one by name, as cuda:1. Each
    of torchrun's processes takes an accelerator of its own."""
    threads: int | None = Field(None, ge=1)
    """Processor threads for torch; None = torch's own choice."""
    compile: bool = False
    """Compile the model with torch.compile; pays off after some minutes."""
    parallel: Parallel = "ddp"
    """How torchrun's processes share the work: a copy each (DDP), everything sharded (FSDP2), or as a mesh of the two
    and of processes that compute a clip together, {replicate: 2, shard: 4, context: 2} (`kinolab.training.mesh`)."""
    answer_within: float | None = Field(None, gt=0)
    """Seconds that a process waits for the others before the run ends with a line that says so; None = torch's own (10
    minutes with NCCL, else 30)."""
    tensorboard: bool = True
    """Also write TensorBoard events beside the JSON lines (needs the extra `train`)."""

    @model_validator(mode="after")
    def _check_compiled(self) -> TrainingConfig:
        if self.compile and isinstance(self.parallel, MeshConfig) and self.parallel.context > 1:
            raise ValueError("compile: the exchanges of parallel.context are not compiled; set one of them")
        return self


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The learning rate of step `step` (0-based): linear warm-up, then constant, cosine or linear decay to zero."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    factor = {"constant": 1.0, "cosine": 0.5 * (1 + math.cos(math.pi * min(done, 1.0))), "linear": max(0.0, 1 - done)}
    return config.learning_rate * factor[config.decay]


def make_optimizer(module: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimiser over the trainable parameters; weight decay spares biases, norms and other vectors."""
    muon = config.optimizer == "muon"
    matrices = {
        id(p) for m in module.modules() for name, p in m.named_parameters(recurse=False) if is_hidden_matrix(m, name)
    }
    trainable = [p for p in module.parameters() if p.requires_grad]
    hidden = [p for p in trainable if muon and id(p) in matrices]
    rest = [p for p in trainable if not (muon and id(p) in matrices)]
    decay = config.weight_decay
    groups: list[dict[str, Any]] = [
        {"params": hidden, "weight_decay": decay, "orthogonal": True},
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": decay, "orthogonal": False},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0, "orthogonal": False},
    ]
    groups = [g for g in groups if g["params"]]
    if muon:
        # Processes that measured their processors by themselves must not take different steps.
        alone = not (dist.is_available() and dist.is_initialized())
        policy = config.precision if alone or config.precision != "auto" else "float32"
        dtype = resolve(policy, trainable[0].device)
        return Muon(groups, lr=config.learning_rate, betas=config.betas, dtype=dtype)
    groups = [{k: v for k, v in g.items() if k != "orthogonal"} for g in groups]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)
