"""Valid folders of every target, `target/variant/files`: from the archive that the tests keep, and made ones."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

from fuzz import made

ARCHIVE = Path(__file__).parent.parent / "tests" / "net" / "d564d33.tar.xz"
PLAN = """
name: fuzz
data:
  clips: {kind: world}
budgets:
  small: {autoencoder: {steps: 1}, denoiser: {steps: 1}}
autoencoders:
  image:
    autoencoder:
      {kind: image, block_out_channels: [4, 4, 4], layers_per_block: 1, latent_channels: 4, norm_num_groups: 2}
denoisers:
  latte:
    denoiser: {kind: latte, hidden_size: 16, depth: 2, num_heads: 2, patch_size: 4}
seeds: [0, 1]
"""


def prepare(root: Path, targets: Iterable[str]) -> None:
    """Write the valid folders of some targets below `root`.

    Raises:
        FileNotFoundError: where the archive is not there, as in an installed package.
    """
    wanted, archive = set(targets), root / ".archive"
    with tarfile.open(ARCHIVE) as tar:
        tar.extractall(archive, filter="data")
    for name, make in MAKERS.items():
        if name in wanted:
            (root / name).mkdir(parents=True)
            make(root / name, archive)
    shutil.rmtree(archive)


def _copies(folder: Path, sources: Iterable[Path], name: str) -> None:
    """One variant for each file, under one name."""
    for k, source in enumerate(sorted(sources)):
        room = folder / f"{k:02}-{source.parent.name}-{source.stem}"
        room.mkdir()
        shutil.copyfile(source, room / name)


def _recipes(folder: Path, archive: Path) -> None:
    package = Path(made.__file__).parent.parent / "kinolab"
    _copies(folder, [*(package / "recipes").glob("*.yaml"), *(archive / "recipes").glob("*.yaml")], "recipe.yaml")


def _protocols(folder: Path, archive: Path) -> None:
    package = Path(made.__file__).parent.parent / "kinolab"
    names = [package / "protocols" / f"toy-{kind}.yaml" for kind in ("generation", "reconstruction")]
    _copies(folder, names, "protocol.yaml")
    text = (archive / "protocols" / "sets.yaml").read_text().split("video:")[0]
    (folder / "sets").mkdir()
    (folder / "sets" / "protocol.yaml").write_text(text)


def _model_configs(folder: Path, archive: Path) -> None:
    _copies(folder, archive.glob("models/*/model.yaml"), "model.yaml")


def _plans(folder: Path, archive: Path) -> None:
    (folder / "world").mkdir()
    (folder / "world" / "plan.yaml").write_text(PLAN)


def _compared(folder: Path, archive: Path) -> None:
    """The small files of a finished comparison, with the clips that it was measured on."""
    room = folder / "done"
    for path in (archive / "compared" / "cells").rglob("*"):
        if path.name.endswith((".json", ".jsonl", ".yaml")) and "shards" not in path.parts:
            place = room / "out" / path.relative_to(archive / "compared")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
    shutil.copytree(archive / "clips", room / "clips")
    shutil.copyfile(archive / "comparison.yaml", room / "plan.yaml")


def _reports(folder: Path, archive: Path) -> None:
    for path in (archive / "scores").glob("*.json"):
        room = folder / path.stem
        room.mkdir()
        text = path.read_text(encoding="utf-8")
        (room / path.name).write_text(text, encoding="utf-8")
        if path.with_suffix("").is_dir():  # its videos
            shutil.copytree(path.with_suffix(""), room / path.stem)


def _runs(folder: Path, archive: Path) -> None:
    for path in (archive / "runs").iterdir():
        room = folder / path.name / "run"
        room.mkdir(parents=True)
        for name in ("log.jsonl", "recipe.yaml"):
            shutil.copyfile(path / name, room / name)


def _caches(folder: Path, archive: Path) -> None:
    """Caches as they were written then, and the same with the sums that are written now."""
    from kinolab.runtime.weights import TensorFile, write_weights

    for path in (archive / "caches").iterdir():
        shutil.copytree(path, folder / path.name)
        now = shutil.copytree(path, folder / f"{path.name}-now")
        for shard in now.rglob("*.safetensors"):
            file = TensorFile(shard)
            found = {name: file.tensor(name, nan="allow").clone() for name in file.names}
            shard.unlink()
            write_weights(shard, found)


def _embeddings(folder: Path, archive: Path) -> None:
    made.embeddings(folder)
    shutil.copytree(archive / "caches" / "text" / "text", folder / "then" / "text")


def _models(folder: Path, archive: Path) -> None:
    for name in ("image", "odvae"):
        shutil.copytree(archive / "models" / name, folder / name)


def _only(make: Callable[[Path], None]) -> Callable[[Path, Path], None]:
    return lambda folder, archive: make(folder)


MAKERS: dict[str, Callable[[Path, Path], None]] = {
    "video": _only(made.media), "mask": _only(made.masks), "clips": _only(made.clips), "recipe": _recipes,
    "protocol": _protocols, "model-yaml": _model_configs, "plan": _plans, "compared": _compared, "report": _reports,
    "rerun": made.records, "table": _only(made.tables), "prompts": _only(made.prompts), "file": _only(made.weights),
    "model": _models, "checkpoint": _only(made.checkpoints), "state": _only(made.run_states), "log": _runs,
    "cache": _caches, "embeddings": _embeddings, "adapter": _only(made.adapters),
}  # fmt: skip


def secrets(room: Path) -> None:
    """Valid files beside the folder that is read, which nothing may read or change."""
    from kinolab.runtime.weights import write_weights

    (room / "secret.json").write_text(json.dumps({"secret": 1}))
    (room / "secret.yaml").write_text("secret: 1\n")
    (room / "secret.txt").write_text("secret\n")
    write_weights(room / "secret.safetensors", {"secret": made.tensors()["count"]})
