"""Makes the folder that a run takes along: wheels, frames of clips, the toy world's words, a few of its latents.

Everything is counted: what travels is often limited. The things come in the order of their worth, and what goes over
the limit is left out and named.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.gpu.carried import distribution, fits
from benchmarks.gpu.frames import FramesOf, write_frames
from kinolab import data, video
from kinolab.checkpoints import load
from kinolab.checkpoints.files import weights_in
from kinolab.data.scan import find_clips
from kinolab.errors import InputError
from kinolab.models import load_autoencoder
from kinolab.toyworld.clips import WorldConfig

NEEDED = (
    "pydantic", "pydantic-core", "annotated-types", "typing-inspection", "typing-extensions", "PyYAML", "safetensors",
    "pillow<13",
)  # fmt: skip
"""What kinolab imports where neither the command line nor a video file is touched, in the versions it asks for."""
WORLD = ("pymunk", "aggdraw", "cffi", "pycparser")
"""What makes the toy world."""
DIFFUSERS = ("diffusers", "importlib-metadata", "zipp")
"""diffusers, without what is on every machine that has transformers."""
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")
PYTHONS = ("3.11", "3.12")
MB = 2**20


@dataclass(frozen=True)
class Wish:
    """One thing to take along: where it goes in the folder, and what makes it."""

    name: str
    place: str
    make: Callable[[Path], str]


@dataclass(frozen=True)
class Options:
    """What `prepare` was asked for; limit in MiB."""

    out: Path
    clips: Path | None
    pythons: tuple[str, ...]
    limit: float
    frames: int
    size: int
    latents: int
    without: tuple[str, ...]
    taesd: Path | None = None


def prepare(options: Options, say: Callable[[str], None]) -> dict[str, float]:
    """Make the folder and `manifest.json` in it; returns MiB of each thing that was taken.

    Raises:
        InputError: where pip can't get a wheel that is needed, or the folder of clips holds none.
    """
    options.out.mkdir(parents=True, exist_ok=True)
    taken: dict[str, float] = {}
    left_out: dict[str, str] = {}
    for wish in wishes(options):
        target = options.out / wish.place
        before = _size(options.out)
        try:
            note = wish.make(target)
        except ImportError as error:
            left_out[wish.name] = f"can't be made here: {error}"
            say(f"{wish.name}: left out, {left_out[wish.name]}")
            continue
        size = (_size(options.out) - before) / MB
        if sum(taken.values()) + size > options.limit:
            _drop(options.out, target, wish)
            left_out[wish.name] = f"{size:.1f} MiB would go over the limit of {options.limit:g} MiB"
            say(f"{wish.name}: left out, {left_out[wish.name]}")
            continue
        taken[wish.name] = round(size, 2)
        say(f"{wish.name}: {size:.1f} MiB{', ' + note if note else ''}")
    say(f"{options.out}: {sum(taken.values()):.1f} MiB in all")
    manifest = {"mib": taken, "left_out": left_out, "pythons": options.pythons}
    (options.out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return taken


def wishes(options: Options) -> list[Wish]:
    """What to take, the most useful first."""
    there = set(map(plain_name, options.without))
    known = [name for name in (*NEEDED, *WORLD, *DIFFUSERS) if plain_name(name) not in there]
    wheels = "wheels"
    needed = [name for name in NEEDED if name in known]
    world = [name for name in WORLD if name in known]
    found = [Wish("wheels", wheels, lambda folder: download(needed, options.pythons, folder))]
    if options.clips is not None:
        clips = options.clips
        found.append(
            Wish("frames of clips", "frames.npz", lambda path: take_frames(clips, path, options.frames, options.size))
        )
    if options.taesd is not None:
        files = options.taesd
        found.append(Wish("TAESD", "taesd", lambda folder: take_weights(files, folder)))
    found.append(Wish("wheels of the toy world", wheels, lambda folder: download(world, options.pythons, folder)))
    found.append(Wish("text encoder", "text", _write_text))
    if "diffusers" in known:
        found.append(Wish("wheels of diffusers", wheels, lambda folder: download(DIFFUSERS, options.pythons, folder)))
    if options.latents:
        found.append(Wish("toy latents", "toy-latents", lambda folder: encode(folder, options.latents)))
    return found


def download(names: Sequence[str], pythons: Sequence[str], folder: Path) -> str:
    """Wheels of packages for Linux on x86-64 and each Python, by pip; those that are there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    if not names:
        return ""
    platforms = [word for name in PLATFORMS for word in ("--platform", f"{name}_x86_64")]
    for python in pythons:
        version = (int(python.split(".")[0]), int(python.split(".")[1]))
        there = {
            distribution(w.name)[0].lower().replace("_", "-") for w in folder.glob("*.whl") if fits(w.name, version)
        }
        missing = [name for name in names if plain_name(name) not in there]
        if not missing:
            continue
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
            "--only-binary=:all:", "--implementation", "cp", "--python-version", python, *platforms, "-d", str(folder),
            *missing,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
            raise InputError(f"{folder}: no wheels of {', '.join(missing)} for Python {python} ({reason})")
    return f"{len(list(folder.glob('*.whl')))} files"


def plain_name(requirement: str) -> str:
    """A package's name, of a requirement or a wheel, in one spelling."""
    return re.split(r"[<>=!~ ]", requirement)[0].lower().replace("_", "-")


def take_frames(clips: Path, path: Path, count: int, size: int) -> str:
    """The first `count` frames of every clip of a folder at 8 to 15 a second, as squares of `size` pixels."""
    names, _ = find_clips(clips)
    taken: list[FramesOf] = []
    for name in names:
        file = clips / name if clips.is_dir() else clips
        try:
            info = video.probe(file)
            rate = min(info.fps, 12.0)
            found = video.read(file, fps=rate, size=(size, size), end=(count + 0.5) / rate)
        except InputError:
            continue  # a folder of a person's own may hold anything
        if len(found.frames) > 16:
            taken.append(FramesOf(Path(name).stem, rate, np.asarray(found.frames[:count])))
    if not taken:
        raise InputError(f"{clips}: no clip of more than 16 frames; expected a folder of video files")
    write_frames(taken, path)
    return f"{sum(len(c.frames) for c in taken)} frames of {len(taken)} clips at {size} pixels"


def take_weights(files: Path, folder: Path) -> str:
    """The two weights files of a folder, as they are."""
    found = weights_in(files)
    load(files)  # refused here rather than there
    folder.mkdir(parents=True, exist_ok=True)
    for file in found:
        shutil.copyfile(file, folder / file.name)
    return f"{len(found)} files"


def encode(folder: Path, count: int) -> str:
    """A small cache of the toy world's latents by the shipped autoencoder, for a machine that can't make its clips."""
    from benchmarks.gpu.toy import SEED, SHIPPED

    autoencoder = load_autoencoder(SHIPPED)
    source = data.WorldSource(data.WorldSourceConfig(world=WorldConfig(), count=count, seed=SEED), autoencoder.spec)
    summary = data.encode_to_cache(source, autoencoder, folder, batch=8, precision="auto")
    return f"{summary.items} clips"


def _write_text(folder: Path) -> str:
    from benchmarks.gpu.text import write_text

    return f"its embeddings differ by {write_text(folder):.1%}"


def _size(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def _drop(out: Path, target: Path, wish: Wish) -> None:
    """Take away what a wish made; of wheels, its own only."""
    if wish.place != "wheels":
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
        return
    names = {"wheels of the toy world": WORLD, "wheels of diffusers": DIFFUSERS}.get(wish.name, NEEDED)
    for wheel in target.glob("*.whl"):
        if plain_name(distribution(wheel.name)[0]) in map(plain_name, names):
            wheel.unlink()
