"""Measuring a trained cell: an autoencoder's reconstructions, or what a denoiser in front of it generates."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from kinolab.comparison import stored
from kinolab.comparison.cells import finished_training, is_trained, model_of, training_path
from kinolab.comparison.hashes import cell_folder
from kinolab.comparison.matrix import Cell, base_of, owner_of
from kinolab.comparison.plan import ComparePlan
from kinolab.comparison.showing import shown_of, tuning_record
from kinolab.config import load_config
from kinolab.data import WorldSourceConfig
from kinolab.errors import InputError
from kinolab.evaluation.clips import ProtocolClips
from kinolab.evaluation.features import default_cache
from kinolab.evaluation.generation import ModelClips, evaluate_generated
from kinolab.evaluation.protocol import Protocol, file_hash, load_protocol
from kinolab.evaluation.reconstruction import evaluate_autoencoder
from kinolab.evaluation.shown import shown_record
from kinolab.evaluation.world import evaluate_world
from kinolab.evaluation.world_report import WorldReport
from kinolab.generation.provenance import model_hash
from kinolab.generation.request import sampling_of
from kinolab.metrics.base import MetricValue
from kinolab.models import VideoModel, find_autoencoder, load_autoencoder
from kinolab.runtime.devices import choose
from kinolab.runtime.memory import peak_memory
from kinolab.runtime.reading import parse_json, read_json
from kinolab.runtime.records import write_record


def protocol_of(plan: ComparePlan, cell: Cell) -> Protocol:
    """The protocol of a cell: the plan's, at the size and split of the cell's clips.

    Raises:
        InputError: where the plan changes it to something that is no protocol.
    """
    autoencoder = cell.kind == "autoencoder"
    name = plan.reconstruction if autoencoder else plan.generation
    changes = plan.reconstruction_changes if autoencoder else plan.generation_changes
    base = load_protocol(name, [], kind="reconstruction" if autoencoder else "generation")
    clips = plan.data[cell.data]
    own: dict[str, Any]
    if isinstance(clips, WorldSourceConfig):
        own = {"size": clips.world.size, "fps": clips.world.fps}
    else:
        own = {"size": clips.size, "fps": clips.fps, "interval": clips.interval, "resize": clips.resize,
               "heldout_fraction": clips.heldout_fraction}  # fmt: skip
    return load_config(Protocol, base.model_dump() | own | changes, name=f"{cell.id}: protocol {name}")


def scores_path(plan: ComparePlan, cell: Cell, out: Path) -> Path:
    """Where a cell's scores under the plan's protocol lie."""
    return cell_folder(plan, cell, out) / f"scores-{protocol_of(plan, cell).hash()[:8]}.json"


def read_score(plan: ComparePlan, cell: Cell, out: Path) -> dict[str, Any] | None:
    """A cell's scores under the plan's protocol; none where it is not measured, or otherwise than the plan says now.

    The sampler and the number of requests are no part of the protocol, nor of what decides the weights, so that the
    file alone does not tell.
    """
    path = scores_path(plan, cell, out)
    if not path.exists():
        return None
    record = stored.read_scores(path)
    if cell.denoiser is not None:
        facts = record["facts"]
        if not stored.same_sampling(facts, plan.sampling(cell.denoiser)):
            return None
        if facts.get("asked_frames") != plan.denoisers[cell.denoiser].frames:
            return None
        if facts.get("world_requests", 0) != _requests(plan, cell):
            return None
        if not stored.same_shown(facts, plan.denoisers[cell.denoiser].shown):
            return None
    return record


def measure_cell(
    plan: ComparePlan, cell: Cell, out: Path, cache: Path | None = None, *, device: torch.device | str = "auto"
) -> None:
    """Measure a trained cell under the plan's protocol, where that is not done yet.

    Raises:
        InputError: where it is not trained.
    """
    if read_score(plan, cell, out) is not None:
        return
    if not is_trained(plan, cell, out):
        raise InputError(f"{cell.id}: is not trained yet")
    folder = cell_folder(plan, cell, out)
    where = choose(device)
    autoencoder = cell.kind == "autoencoder"
    report = _autoencoder(plan, cell, out, where) if autoencoder else _denoiser(plan, cell, out, where, cache)
    record = parse_json(report.to_json(folder), cell.id) | {"cell": cell.id}
    record["training"] = _training(plan, cell, out, where)
    record["facts"]["peak_memory_bytes"] = peak_memory()
    write_record(scores_path(plan, cell, out), record)


def _training(plan: ComparePlan, cell: Cell, out: Path, device: torch.device) -> dict[str, Any] | None:
    """What a training says of itself: that of the cell's weights, that of a finished model's run, or a tuning on a
    clip."""
    entry = None if cell.denoiser is None else plan.denoisers[cell.denoiser]
    if entry is not None and entry.shown is not None and entry.shown.fit is not None:
        return tuning_record(plan, cell, out, load_cell(plan, cell, out, device))
    owner = owner_of(plan, cell)
    finished = None if owner.denoiser is None else plan.denoisers[owner.denoiser].path
    if finished is not None:
        found = finished_training(finished)
        return None if found is None else found[0]
    trained = training_path(plan, cell, out)
    return dict(read_json(trained, constants=True)) if trained.exists() else None


def _autoencoder(plan: ComparePlan, cell: Cell, out: Path, device: torch.device) -> Any:
    protocol, model = protocol_of(plan, cell), model_of(plan, cell, out)
    autoencoder = load_autoencoder(model, device=device)
    clips = ProtocolClips(plan.data[cell.data], protocol, autoencoder.spec, name=cell.data)
    subject = {"name": cell.autoencoder, "kind": "autoencoder", "model_sha256": file_hash(find_autoencoder(model))}
    return evaluate_autoencoder(
        autoencoder, clips, protocol, subject=subject, device=device, videos=cell_folder(plan, cell, out) / "videos",
        keep=plan.videos,
    )  # fmt: skip


def _denoiser(plan: ComparePlan, cell: Cell, out: Path, device: torch.device, cache: Path | None) -> Any:
    assert cell.task is not None and cell.denoiser is not None
    protocol, path = protocol_of(plan, cell), model_of(plan, cell, out)
    model, asked = load_cell(plan, cell, out, device), plan.sampling(cell.denoiser)
    real = ProtocolClips(plan.data[cell.data], protocol, name=cell.data)
    sampling, shown = sampling_of(model.config, asked), shown_of(plan, cell, out, model)
    made = ModelClips(
        model, str(path), real, protocol, sampling=sampling, given_frames=plan.tasks[cell.task].given_frames,
        shown=shown,
    )  # fmt: skip
    subject = {
        "name": f"{cell.denoiser} on {cell.autoencoder}", "kind": "model", "model_sha256": model_hash(str(path)),
    }  # fmt: skip
    report = evaluate_generated(
        made, real, protocol, subject=subject, cache=cache or default_cache(), device=device,
        videos=cell_folder(plan, cell, out) / "videos", keep=plan.videos,
    )  # fmt: skip
    spec = model.autoencoder.spec
    shape = (model.config.frames, *model.config.size)
    facts = (
        dict(report.facts)
        | stored.sampling_record(asked)
        | shown_record(plan.denoisers[cell.denoiser].shown)
        | {
            "asked_frames": plan.denoisers[cell.denoiser].frames,
            "parameters": sum(p.numel() for p in model.network.parameters()),
            "latents": list(spec.latent_shape(*shape)),
            "latent_channels": spec.latent_channels,
            "total_compression": float(model.autoencoder.compression(*shape)),
            "world_requests": _requests(plan, cell),
        }
    )
    metrics = dict(report.metrics)
    if facts["world_requests"]:
        if shown is not None:
            shown.followed.clear()  # of the requests alone
        world = evaluate_world(model, {"count": facts["world_requests"]}, sampling=sampling, shown=shown)
        metrics |= world_scores(world) | ({} if shown is None else shown.scores())
        # What the reader finds of the true clips: no model's clips can be expected to read better.
        facts["true_clips"] = {name: score.value for name, score in world.scores().groups["true"].items()}
    return dataclasses.replace(report, facts=facts, metrics=metrics)


def load_cell(plan: ComparePlan, cell: Cell, out: Path, device: torch.device | str) -> VideoModel:
    """The model of a trained denoiser's cell, that makes clips of as many frames as it is asked for.

    Raises:
        InputError: for a finished model with another autoencoder than that which it stands in front of.
    """
    assert cell.denoiser is not None
    model, frames = VideoModel.load(model_of(plan, cell, out), device=device), plan.denoisers[cell.denoiser].frames
    if plan.denoisers[owner_of(plan, cell).denoiser or ""].path is not None:
        ours = load_autoencoder(model_of(plan, base_of(cell), out), device="cpu").config
        if model.autoencoder.config != ours:
            raise InputError(f"denoisers.{cell.denoiser}.path: its autoencoder is not {cell.autoencoder}")
        clips = plan.data[cell.data]
        if model.config.frames == 1 and isinstance(clips, WorldSourceConfig):
            whole = {"frames": clips.world.frames, "fps": clips.world.fps}
            model.config = model.config.model_copy(update=whole)
    if frames is not None:
        model.config = model.config.model_copy(update={"frames": frames})
    return model


def _requests(plan: ComparePlan, cell: Cell) -> int:
    """The requests of the toy world that a cell's denoiser is asked: those of the plan, if it was trained there to
    generate."""
    assert cell.task is not None
    world = isinstance(plan.data[cell.data], WorldSourceConfig) and not plan.tasks[cell.task].given_frames
    return plan.world_requests if world else 0


def world_scores(report: WorldReport) -> dict[str, MetricValue]:
    """What shows in the generated clips, as scores: the shares that show what was asked (`asked_colours`, ...,
    `asked_all`), and how far their motion is from one under constant forces (`roughness`)."""
    protocol = {k: v for k, v in report.protocol.items() if isinstance(v, str | int | float | bool)}
    return {
        name: dataclasses.replace(score, protocol=protocol)
        for name, score in report.scores().metrics.items()
        if name.startswith("asked_") or name == "roughness"
    }
