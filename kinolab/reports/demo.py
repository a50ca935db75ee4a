"""The main job in one go, on a shipped model: generate videos, check them from their pixels, show them on a page."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from kinolab import video
from kinolab.contracts.events import Listener, advance, events_of
from kinolab.diffusion import SamplerConfig
from kinolab.evaluation.world_report import CHECKS
from kinolab.generation.generate import generate
from kinolab.generation.matching import world_of
from kinolab.generation.provenance import model_hash, provenance_path
from kinolab.generation.reconstruct import enlarged, reconstruct
from kinolab.generation.reconstruct_report import ReconstructConfig, ReconstructReport
from kinolab.generation.request import GenerateConfig
from kinolab.metrics.physics import AtPlace, TrueObject, at_places
from kinolab.models import VideoModel, find_model, load_autoencoder, read_model_config
from kinolab.reports.blocks import Card, Gallery, Report, Section
from kinolab.reports.render import write_report
from kinolab.reports.sheet import Strip, write_sheet
from kinolab.runtime import files
from kinolab.tasks.request import GivenConfig
from kinolab.toyworld.clips import make_clip, parse_caption
from kinolab.toyworld.reader import check, read_world
from kinolab.toyworld.scenes import FRAME
from kinolab.toyworld.source import HELDOUT_SEEDS

PROMPTS = (
    "a red ball falls to the floor",
    "a blue box is thrown to the right",
    "a green ball bounces on the floor",
    "a yellow ball rolls to the right and hits a purple box",
    "an orange box slides down a ramp to the left",
    "a pink ball floats up",
    "two balls, one cyan and one red, float to the left",
    "a purple box, a yellow ball and a green ball fall",
)
"""What the demo asks for: every scenario of the toy world, one to three objects."""
SHOWN_SIDE = 256
"""The shorter side, about, of the videos on the page: small ones are enlarged, so that every pixel can be seen."""
FIRST_CLIP = HELDOUT_SEEDS + 100_000
"""Seed of the first clip to reconstruct: trained on by no recipe, and not among the requests of `evaluate world`."""
FIRST_PREDICTED = HELDOUT_SEEDS + 200_000
"""Seed of the first clip to predict, which is as new."""
PREDICTED = ("throw", "collide")
"""What happens in the clips to predict."""
GIVEN = 8
"""Frames of them that are given."""
GREEN = (46, 160, 67)


@dataclass(frozen=True)
class DemoVideo:
    """A generated video: its file (beside which stands its record), and what its pixels show."""

    prompt: str
    seed: int
    path: Path
    seconds: float
    frames: np.ndarray
    checks: dict[str, bool]
    command: str


@dataclass(frozen=True)
class DemoReconstruction:
    """A clip of the toy world (`source`) put through the autoencoder (`path`: original, reconstruction, error)."""

    caption: str
    source: Path
    path: Path
    report: ReconstructReport
    command: str


@dataclass(frozen=True)
class DemoPrediction:
    """A clip of the toy world (`source`) predicted from its first frames (`path`), and both side by side (`view`).

    `matched`: what shows at the places of the clip's objects in the frames ahead.
    """

    caption: str
    source: Path
    path: Path
    view: Path
    matched: AtPlace
    command: str


@dataclass(frozen=True)
class DemoResult:
    """What the demo made. `seconds`: wall time of everything, without starting Python."""

    page: Path
    sheet: Path
    videos: tuple[DemoVideo, ...]
    reconstructions: tuple[DemoReconstruction, ...]
    seconds: float
    predictions: tuple[DemoPrediction, ...] = ()


def run_demo(
    out: Path,
    model: str,
    *,
    prompts: Sequence[str] = PROMPTS,
    seed: int = 0,
    steps: int | None = None,
    clips: int = 2,
    device: torch.device | str = "auto",
    events: Listener = None,
) -> DemoResult:
    """Generate a video for each prompt, predict and reconstruct a few clips, and write index.html and demo.png.

    The clips are held out; a model that was trained on no task predicts none.

    Args:
        out: a folder; files of an earlier demo are replaced.
        model: a model folder, or the name of a shipped model; it must take prompts.
        prompts: sentences of the toy world, so that the pixels can be checked against them.
        seed: the first video's; the others follow.
        steps: of the sampler; none = the model's own.
        clips: how many clips to reconstruct, and of `PREDICTED` to predict.
        device: where the networks compute.
        events: a note for each thing done.

    Raises:
        InputError: for a prompt outside the toy world's grammar, or a model that takes none.
    """
    began = time.perf_counter()
    told, videos = events_of(events), []
    loaded = VideoModel.load(model, device=device)
    predicted = PREDICTED[:clips] if loaded.config.tasks is not None else ()
    total = len(prompts) + len(predicted) + clips
    for k, prompt in enumerate(prompts):
        videos.append(make_video(out, model, loaded, prompt, seed + k, k + 1, steps))
        missing = [name for name, ok in videos[-1].checks.items() if not ok]
        found = f"not as asked: {', '.join(missing)}" if missing else "as asked"
        told.note(f"{k + 1}/{len(prompts)}  {videos[-1].seconds:4.1f} s  {prompt} ({found})")
        advance(told, k + 1, total)
    ahead = []
    for k, scenario in enumerate(predicted):
        ahead.append(make_prediction(out, model, loaded, scenario, k + 1, seed, steps))
        kept, there = ahead[-1].matched.kept[:, -1].sum(), ahead[-1].matched.there[:, -1].sum()
        told.note(
            f"predicted {ahead[-1].caption!r}: in the last frame {there} of {len(ahead[-1].matched.kept)} objects at "
            f"their places, {kept} of them in their own colour and shape"
        )
        advance(told, len(prompts) + k + 1, total)
    sheet = out / "demo.png"
    write_sheet([Strip(v.prompt, v.frames, v.checks) for v in videos], sheet)
    rebuilt = []
    for k in range(clips):
        rebuilt.append(make_reconstruction(out, model, k + 1, loaded.device))
        told.note(f"reconstructed {rebuilt[-1].caption!r}: PSNR {rebuilt[-1].report.psnr.value:.1f} dB")
        advance(told, total - clips + k + 1, total)
    seconds = time.perf_counter() - began
    page = out / "index.html"
    write_report(describe_page(out, model, videos, rebuilt, seconds, ahead), page)
    return DemoResult(page, sheet, tuple(videos), tuple(rebuilt), seconds, tuple(ahead))


def make_video(
    out: Path, model: str, loaded: VideoModel, prompt: str, seed: int, number: int, steps: int | None
) -> DemoVideo:
    """Generate one video, with an enlarged copy and a poster for the page, and check what it shows."""
    request, sampler = parse_caption(prompt), _sampler(model, steps)
    path = out / "videos" / f"{number:02d}-{_slug(prompt)}.mp4"
    began = time.perf_counter()
    generate(GenerateConfig(model=model, prompts=(prompt,), seed=seed, sampler=sampler), path, model=loaded)
    seconds = time.perf_counter() - began
    clip = video.read(path)  # the file itself is judged, as anyone can do again
    result = check(request, read_world(clip.frames))
    checks = {name: bool(getattr(result, name)) for name in CHECKS}
    large = enlarged(clip.frames, _factor(clip.frames))
    video.write(out / "view" / path.name, large, clip.fps, quality=90)
    _write_image(large[len(large) // 2], out / "view" / path.with_suffix(".png").name)
    words = ["kinolab", "generate", prompt, "--model", model, "--seed", str(seed)]
    words += [] if steps is None else ["--steps", str(steps)]
    return DemoVideo(prompt, seed, path, seconds, clip.frames, checks, shlex.join([*words, "--out", str(path)]))


def make_prediction(
    out: Path, model: str, loaded: VideoModel, scenario: str, number: int, seed: int, steps: int | None
) -> DemoPrediction:
    """Predict a new clip of the toy world from its first frames, and put the truth beside it."""
    world, _ = world_of(read_model_config(find_model(model)), loaded.output.autoencoder.spec)
    clip = make_clip(world.model_copy(update={"scenarios": {scenario: 1.0}}), FIRST_PREDICTED + number - 1)
    source, path = (out / "predictions" / f"{number}-{scenario}{end}" for end in (".mkv", "-predicted.mkv"))
    video.write(source, clip.frames, clip.fps, lossless=True)
    given = GivenConfig(task="predict", video=source, given=GIVEN)
    generate(GenerateConfig(model=model, given=given, seed=seed, sampler=_sampler(model, steps)), path, model=loaded)
    made = video.read(path).frames
    pair = np.concatenate([enlarged(frames, _factor(frames)) for frames in (clip.frames, made)], axis=2)
    edge = max(2, len(pair[0]) // 64)
    for side in (pair[:, :edge], pair[:, -edge:], pair[:, :, :edge], pair[:, :, -edge:]):
        side[:GIVEN] = GREEN
    view = out / "view" / f"predicted-{number}.mp4"
    video.write(view, pair, clip.fps, quality=90)
    _write_image(pair[-1], view.with_suffix(".png"))
    scale = FRAME / min(clip.frames.shape[1:3])
    objects = [TrueObject(o.colour, o.shape, o.position * scale, 0.0) for o in clip.state]
    words = ["kinolab", "predict", str(source), "--given", str(GIVEN), "--model", model, "--seed", str(seed)]
    words += [] if steps is None else ["--steps", str(steps)]
    command = shlex.join([*words, "--out", str(path)])
    return DemoPrediction(clip.caption, source, path, view, at_places(made, objects, GIVEN), command)


def make_reconstruction(out: Path, model: str, number: int, device: torch.device) -> DemoReconstruction:
    """Put a new clip of the toy world through the autoencoder; it is stored without loss, not to measure a codec."""
    autoencoder = load_autoencoder(model, device=device)
    world, _ = world_of(read_model_config(find_model(model)), autoencoder.spec)
    world = world.model_copy(update={"frames": autoencoder.spec.snap_frames(world.frames)})
    clip = make_clip(world, FIRST_CLIP + number - 1)
    source = out / "clips" / f"clip-{number}.mkv"
    target = out / "clips" / f"clip-{number}-reconstruction.mp4"
    video.write(source, clip.frames, clip.fps, lossless=True)
    config = ReconstructConfig(autoencoder=model, upscale=_factor(clip.frames))
    report = reconstruct(source, target, autoencoder, config)
    middle = list(video.iter_frames(target))[report.frames // 2]
    _write_image(middle.image, target.with_suffix(".png"))
    words = ["kinolab", "reconstruct", str(source), "--autoencoder", model]
    words += ["--upscale", str(config.upscale)] if config.upscale > 1 else []
    return DemoReconstruction(clip.caption, source, target, report, shlex.join([*words, "--out", str(target)]))


def describe_page(
    out: Path,
    model: str,
    videos: Sequence[DemoVideo],
    rebuilt: Sequence[DemoReconstruction],
    seconds: float,
    predicted: Sequence[DemoPrediction] = (),
) -> Report:
    """The page about everything that was made."""
    passed = sum(all(v.checks.values()) for v in videos)
    mean = sum(v.seconds for v in videos) / max(len(videos), 1)
    facts = {
        "show all that was asked": f"{passed} of {len(videos)}",
        "per generated video": f"{mean:.1f} s",
        "in all": f"{seconds:.0f} s",
    }
    if rebuilt:
        psnr = sum(r.report.psnr.value for r in rebuilt) / len(rebuilt)
        facts |= {
            "reconstruction PSNR": f"{psnr:.1f} dB",
            "fewer values in latents": f"{rebuilt[0].report.ratio:.0f} x",
        }
    generated = Section(
        "Generated from text",
        "Each video was made from the sentence below it and a seed. No learned judge looked at them: a reader of "
        "pixels finds the objects in the file and compares what they do with what was asked.",
        (Gallery(tuple(_video_card(out, v) for v in videos)),),
    )
    ahead = Section(
        "Predicted",
        "New clips of the toy world: on the left what the simulator makes happen, on the right what the model makes of "
        f"the first {GIVEN} frames (green edges), told nothing else.",
        (Gallery(tuple(_prediction_card(out, p) for p in predicted)),),
    )
    reconstructed = Section(
        "Reconstructed",
        "New clips of the toy world, which no training saw, through the autoencoder and back.",
        (Gallery(tuple(_reconstruction_card(out, r) for r in rebuilt)),),
    )
    return Report(
        title="Kinolab: a small video diffusion model at work",
        text=f"Made on this machine, offline, by the model {model!r}. Everything on this page can be made again: "
        "run the command below a video, or kinolab rerun on its file.",
        sections=(generated, *([ahead] if predicted else []), *([reconstructed] if rebuilt else [])),
        facts=facts,
        footer=f"Weights sha256 {model_hash(model)}. Videos are enlarged without smoothing; the files as generated, "
        "with the record that makes each of them again, are linked.",
    )


def _video_card(out: Path, v: DemoVideo) -> Card:
    return Card(
        title=v.prompt,
        video=f"view/{v.path.name}",
        poster=f"view/{v.path.with_suffix('.png').name}",
        checks=v.checks,
        facts={"seed": str(v.seed), "time": f"{v.seconds:.1f} s", "size": _size(v.frames)},
        command=v.command,
        links={"video": _relative(out, v.path), "record": _relative(out, provenance_path(v.path))},
    )


def _prediction_card(out: Path, p: DemoPrediction) -> Card:
    last, count = p.matched, len(p.matched.kept)
    off = last.distance[last.there]
    return Card(
        title=p.caption,
        video=_relative(out, p.view),
        poster=_relative(out, p.view.with_suffix(".png")),
        wide=True,
        captions=("what happens", f"predicted from {GIVEN} frames"),
        facts={
            "at their places in the last frame": f"{last.there[:, -1].sum()} of {count}",
            "in their own colour and shape": f"{last.kept[:, -1].sum()} of {count}",
            "off, over all frames": f"{off.mean():.1f} px of 64" if len(off) else "-",
        },
        command=p.command,
        links={"clip": _relative(out, p.source), "video": _relative(out, p.path),
               "record": _relative(out, provenance_path(p.path))},
    )  # fmt: skip


def _reconstruction_card(out: Path, r: DemoReconstruction) -> Card:
    report = r.report
    return Card(
        title=r.caption,
        video=_relative(out, r.path),
        poster=_relative(out, r.path.with_suffix(".png")),
        wide=True,
        captions=("original", "reconstruction", f"error x {ReconstructConfig(autoencoder='').amplify:g}"),
        facts={
            "PSNR": f"{report.psnr.value:.2f} dB",
            "SSIM": "-" if report.ssim is None else f"{report.ssim.value:.4f}",
            "latents": f"{' x '.join(map(str, report.latent_shape))}, {report.ratio:.0f} times fewer values",
            "time": f"{report.encode_seconds + report.decode_seconds:.2f} s for {report.frames} frames",
        },
        command=r.command,
        links={"clip": _relative(out, r.source), "record": _relative(out, provenance_path(r.path))},
    )


def _relative(out: Path, path: Path) -> str:
    return path.relative_to(out).as_posix()


def _size(frames: np.ndarray) -> str:
    t, h, w = frames.shape[:3]
    return f"{t} frames of {w} x {h}"


def _slug(text: str) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", text.lower()))


def _sampler(model: str, steps: int | None) -> SamplerConfig | None:
    """The model's own sampler with another number of steps; none = its own."""
    if steps is None:
        return None
    return SamplerConfig(**(read_model_config(find_model(model)).sampler.model_dump() | {"steps": steps}))


def _factor(frames: np.ndarray) -> int:
    """How many times frames (T, H, W, 3) are enlarged for the page."""
    return max(1, SHOWN_SIDE // min(frames.shape[1:3]))


def _write_image(image: np.ndarray, path: Path) -> None:
    with files.handed(path) as beside:
        Image.fromarray(image).save(beside, format="PNG", optimize=True)
