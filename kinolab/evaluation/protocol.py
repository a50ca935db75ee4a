"""How a score is measured, as a small YAML file with a name and a hash: two scores compare only where hashes agree.

The hash is over everything that decides the score and nothing else: not the name, not the description, and of a
network's weights their content instead of the place where they lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from kinolab.config import Config, apply_overrides, load_config, read_yaml
from kinolab.data import FolderConfig, WorldSourceConfig
from kinolab.errors import InputError
from kinolab.metrics import METRICS
from kinolab.metrics.extractors import OUTPUTS, ExtractorConfig
from kinolab.metrics.weights import LpipsConfig
from kinolab.runtime.hashes import Sha256, json_sha256
from kinolab.runtime.paths import visible
from kinolab.toyworld.clips import WorldConfig

VERSION = {"reconstruction": 2, "generation": 1}
"""Counts up when the meaning of fields or metrics changes, so that scores of before and after never mix."""


HOW_TO_NAME = {
    "video": "-s video.name=encoder",
    "image": "-s image.name=encoder",
    "classifier": "-s classifier.name=inception_torchvision -s classifier.path=FILE",
    "text": "-s text=FOLDER",
    "perceptual": "-s perceptual.features=FILE -s perceptual.heads=FILE",
}
"""The options that name the network of each role."""


class Protocol(Config):
    """All that must be equal for two scores to be comparable."""

    name: str
    """What it is called; not part of the hash."""
    kind: Literal["reconstruction", "generation"]
    """What is measured."""
    description: str = ""
    """What it follows, in words; not part of the hash."""
    metrics: tuple[str, ...] = Field(min_length=1)
    """What is measured, by name."""
    frames: int = Field(16, ge=1)
    """Frames of a clip. Of a generated video the first so many are taken."""
    interval: int = Field(1, ge=1)
    """Every n-th frame of the real clips is taken; generated videos are taken as they are."""
    fps: float | None = Field(None, gt=0)
    """Frame rate that real clips are re-timed to; none = as stored."""
    size: int | tuple[int, int] = 64
    """Side of a square, or [height, width], that clips are brought to before anything looks at them."""
    resize: Literal["crop", "pad", "stretch"] = "crop"
    """How a picture of another aspect becomes `size`."""
    resize_filter: Literal["bicubic"] = "bicubic"
    """The filter that pictures are resized with when they are read (FFmpeg's, accurate rounding)."""
    windows: Literal["all", "first", "random"] = "all"
    """Which windows of a video are clips: all that don't overlap, its first one, or one at a random place (and then
    another of each, until there are enough, as StyleGAN-V draws them)."""
    split: Literal["train", "heldout", "all"] = "all"
    """Which side of the data is the reference."""
    heldout_fraction: float = Field(0.05, ge=0, lt=1)
    """The share of a folder's files that is held out."""
    samples: int = Field(2048, ge=1)
    """Clips measured, real and generated each; where there are more, that many are drawn with the seed."""
    minimum: int = Field(16, ge=2)
    """Below so many clips a distribution is not measured at all."""
    seed: int = Field(0, ge=0)
    """Seeds the choice of clips, the noise of generated ones, and every draw of a metric."""
    video: ExtractorConfig | None = None
    """Extractor of clips, for fvd, kvd, precision and the like, and rfvd."""
    image: ExtractorConfig | None = None
    """Extractor of frames, for fid and kid."""
    classifier: ExtractorConfig | None = None
    """Extractor with classes, for the inception score."""
    text: Path | None = None
    """Folder of a text-video or CLIP model, for prompt_agreement."""
    perceptual: LpipsConfig | None = None
    """Weights for lpips."""
    latents: Literal["mean", "sample"] = "mean"
    """What of the posterior is decoded in a reconstruction."""
    chunk: int | None = Field(None, ge=1)
    """Frames of a chunk that the seam error looks at the borders of; none = those of a stream."""
    speed_frames: int | None = Field(None, ge=1)
    """Frames of the clip that encoding and decoding are timed on; none = `frames`."""
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Settings of single metrics, by name; what is not named has the metric's own default."""

    def hash(self) -> str:
        """sha256 of what decides the score, in hexadecimal.

        Raises:
            InputError: where a weights file that it names is not there.
        """
        values = self.model_dump(mode="json", exclude={"name", "description"})
        values["size"] = [self.size, self.size] if isinstance(self.size, int) else list(self.size)
        for role in ("video", "image", "classifier", "perceptual"):
            values[role] = _by_content(values[role])
        values["text"] = None if self.text is None else file_hash(self.text)
        given = {k: (settings_of(self, k), METRICS.get(k).Config()) for k in values.pop("settings")}
        settings = {k: own.model_dump(mode="json") for k, (own, usual) in given.items() if own != usual}
        if settings:  # hashes without are older than settings
            values["settings"] = settings
        return json_sha256({"version": VERSION[self.kind], **values})


def at_frames(protocol: Protocol, frames: int) -> Protocol:
    """The protocol with the frames that an autoencoder's rule left of a clip: scores of other lengths don't compare."""
    return protocol if frames == protocol.frames else protocol.model_copy(update={"frames": frames})


def _by_content(value: dict[str, Any] | None) -> dict[str, Any] | None:
    """A network's config with the hashes of the files that it names instead of their places."""
    if value is None:
        return None
    kept = {k: v for k, v in value.items() if k != "sha256"}
    if "output" in kept and kept["output"] is None:  # the same as naming the usual layer
        kept["output"] = OUTPUTS[kept["name"]][0]
    if kept.get("name") == "encoder":
        weights = shipped_encoder_file() if kept["path"] is None else _encoder_file(Path(kept["path"]))
        # The config decides as much as the weights: the size of its frames, the groups of its norms.
        return kept | {"path": [file_hash(weights), file_hash(weights.with_suffix(".yaml"))]}
    files = {k: file_hash(Path(kept[k])) for k in ("path", "features", "heads") if kept.get(k) is not None}
    return kept | files


def _encoder_file(folder: Path) -> Path:
    """The weights that `load_encoder` reads of a folder, or of a run folder."""
    run = not (folder / "encoder.yaml").is_file() and (folder / "model" / "encoder.yaml").is_file()
    return (folder / "model" if run else folder) / "encoder.safetensors"


def shipped_encoder_file() -> Path:
    """The weights of the encoder that ships."""
    return Path(str(resources.files("kinolab") / "pretrained" / "encoder" / "encoder.safetensors"))


def file_hash(path: Path) -> str:
    """sha256 of a file, or over the names and contents of a folder's files.

    Raises:
        InputError: where there is nothing.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file; the protocol names it as weights")
    digest = Sha256()
    for file in (p for p in visible(path, "**/*") if p.is_file()) if path.is_dir() else [path]:
        digest.text(file.relative_to(path).as_posix() if path.is_dir() else "").file(file)
    return digest.hex()


def shipped_protocols() -> dict[str, Path]:
    """The protocols that come with the package, by name."""
    folder = Path(str(resources.files("kinolab") / "protocols"))
    return {p.stem: p for p in sorted(folder.glob("*.yaml"))}


def load_protocol(name: str | Path, overrides: list[str] | None = None, *, kind: str | None = None) -> Protocol:
    """The protocol of a YAML file or of a shipped name, with dotted overrides (which change its hash).

    Raises:
        InputError: where there is none, a metric is not known, or one lacks the network that it needs.
    """
    protocol = load_config(Protocol, read_protocol(name, overrides or [], kind), name=str(name))
    check_protocol(protocol)
    return protocol


def read_protocol(name: str | Path, overrides: Sequence[str] = (), kind: str | None = None) -> dict[str, Any]:
    """The fields of a protocol as they are written, with overrides on top.

    Raises:
        InputError: where there is none, or it measures something else than `kind`.
    """
    path, known = Path(name), shipped_protocols()
    if not (path.suffix in (".yaml", ".yml") and path.exists()):
        if str(name) not in known:
            raise InputError(f"{name}: no such protocol; expected a YAML file or one of {', '.join(known)}")
        path = known[str(name)]
    values = apply_overrides(read_yaml(path), overrides)
    found = values.get("kind")
    if kind is not None and found != kind:
        fitting = [n for n, p in known.items() if read_yaml(p).get("kind") == kind]
        raise InputError(f"{name}: measures {found}, expected a protocol of {kind} ({', '.join(fitting)})")
    return values


def check_protocol(protocol: Protocol) -> None:
    """Raises InputError for a metric that is not known, or lacks the network that it needs."""
    try:
        metrics = {name: METRICS.get(name, protocol.kind) for name in protocol.metrics}
    except InputError as error:
        raise InputError(f"{protocol.name}: {error}") from None
    for name in protocol.settings:
        settings_of(protocol, name)
    for role in HOW_TO_NAME:
        lacking = [m for m in METRICS if m in metrics and metrics[m].weights == role]
        network = getattr(protocol, role)
        if lacking and network is None:
            raise InputError(
                f"{protocol.name}: {lacking[0]} needs `{role}`; name its network ({HOW_TO_NAME[role]}, or in a copy of "
                "the protocol), or leave the metric out"
            )
        if lacking and isinstance(network, ExtractorConfig) and network.name != "encoder" and network.path is None:
            raise InputError(
                f"{protocol.name}: {lacking[0]} needs the weights of {network.name}, which don't come with kinolab; "
                f"name your own file of them (-s {role}.path=FILE)"
            )


def settings_of(protocol: Protocol, name: str) -> Config:
    """The settings of one metric of a protocol, its own defaults filled in.

    Raises:
        InputError: for a metric that the protocol does not name, or settings that it does not have.
    """
    if name not in protocol.metrics:
        raise InputError(f"{protocol.name}: settings of {name}, which is not among its metrics")
    cls = METRICS.get(name, protocol.kind).Config
    return load_config(cls, protocol.settings.get(name, {}), name=f"{protocol.name}: settings.{name}")


def source_config(
    data: str | Path | FolderConfig | WorldSourceConfig, protocol: Protocol
) -> FolderConfig | WorldSourceConfig:
    """The real clips of a folder, or of the toy world for "world", or of a source's config, as the protocol wants them.

    The toy world's held-out side stands for `all` too, and every n-th frame of it is the world at an n-th of the rate.

    Raises:
        InputError: for a protocol that the source can't follow, such as frames that are not square of the toy world.
    """
    if isinstance(data, str | Path):
        data = WorldSourceConfig() if data == "world" else FolderConfig(path=Path(data))
    if isinstance(data, WorldSourceConfig):
        side = protocol.size if isinstance(protocol.size, int) else protocol.size[0]
        if protocol.size not in (side, (side, side)):
            raise InputError(f"the toy world is square, got a protocol of size {protocol.size}")
        fps = (protocol.fps or data.world.fps) / protocol.interval
        values = data.world.model_dump() | {"size": side, "frames": protocol.frames, "fps": fps}
        world = load_config(WorldConfig, values, name=f"the toy world under {protocol.name}")
        split: Literal["train", "heldout"] = "train" if protocol.split == "train" else "heldout"
        counts = {"count": protocol.samples, "heldout_count": protocol.samples, "split": split}
        return data.model_copy(update={"world": world, **counts})
    changes = {
        "frames": protocol.frames,
        "size": protocol.size,
        "fps": protocol.fps,
        "interval": protocol.interval,
        "stride": 1 if protocol.windows == "random" else None,
        "resize": protocol.resize,
        "split": protocol.split,
        "heldout_fraction": protocol.heldout_fraction if protocol.split != "all" else 0.0,
    }
    return load_config(FolderConfig, data.model_dump() | changes, name=f"{data.path} under {protocol.name}")
