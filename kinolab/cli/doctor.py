"""`kinolab doctor`: what this machine and this installation have, and what to do about what isn't there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from kinolab.cli.options import common, show

State = Literal["ok", "note", "broken"]
LITTLE_MEMORY = 2e9
LITTLE_DISK = 5e9
"""Bytes with less than which a training soon ends."""
LEAST_TORCH = (2, 11)
EXTRAS = {
    "text": "prompts", "train": "TensorBoard, scene cuts", "maps": "maps to control videos by",
    "eval": "optical flow, independent metrics", "interop": "models of diffusers and transformers",
    "codec": "another decoder of videos", "parquet": "Parquet files", "dist": "work by Ray's machines",
    "storage": "clips and caches in object stores", "studio": "kinolab studio",
}  # fmt: skip
"""The extras of the package, and what each is for."""


@dataclass(frozen=True)
class Finding:
    """One line of the report: what is there, and what to do where something isn't (`note`) or needed (`broken`)."""

    name: str
    says: str
    state: State = "ok"
    advice: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


@common()
def doctor(
    folder: Annotated[
        Path, typer.Argument(help="Where runs and caches are to lie: its disk and its locks are looked at.")
    ] = Path("."),
) -> None:
    """Say in a dozen lines what is there: devices, precision, codecs, disk, extras; and what to do about what isn't.

    The exit status is 1 where something that is needed is broken, else 0.
    """
    findings = examine(folder)
    broken = [f.name for f in findings if f.state == "broken"]
    lines = []
    for f in findings:
        lines.append(f"{f.name:10} {f.state if f.state != 'ok' else '':6} {f.says}")
        lines += [f"{'':10} {'do':>6} {f.advice}"] * bool(f.advice)
    notes = sum(f.state == "note" for f in findings)
    end = f"broken: {', '.join(broken)}" if broken else "all that is needed works"
    show({"ok": not broken, "checks": findings}, [*lines, f"{end}; {notes} note{'s' * (notes != 1)}"])
    if broken:
        raise typer.Exit(1)


def examine(folder: Path) -> list[Finding]:
    """Every check in turn; one that fails in a way nobody foresaw is a finding too, and the others still run."""
    checks: dict[str, Callable[[], Finding]] = {
        "kinolab": check_kinolab, "packages": check_packages, "torch": check_torch, "devices": check_devices,
        "precision": check_precision, "processor": check_processor, "memory": check_memory, "codecs": check_codecs,
        "locks": lambda: check_locks(folder), "disk": lambda: check_disk(folder), "extras": check_extras,
        "weights": check_weights,
    }  # fmt: skip
    findings = []
    for name, check in checks.items():
        try:
            findings.append(check())
        except Exception as error:
            what = " ".join(str(error).split()) or type(error).__name__
            findings.append(Finding(name, f"can't be looked at: {what}", "broken", "reinstall: pip install -e ."))
    return findings


def check_kinolab() -> Finding:
    """Versions of Kinolab and Python, and where the one is that runs."""
    import platform

    import kinolab

    place = Path(kinolab.__file__).parent
    facts = {"kinolab": kinolab.__version__, "python": platform.python_version(), "platform": platform.platform(),
             "place": str(place)}  # fmt: skip
    says = f"{kinolab.__version__} in {place}, Python {platform.python_version()} on {platform.system()}"
    return Finding("kinolab", says, facts=facts)


def check_packages() -> Finding:
    """Whether all packages are there that Kinolab can't do without, in versions that it takes."""
    problems = {name: problem for name, wanted in _required(None).items() if (problem := _problem(name, wanted))}
    if problems:
        listed = ", ".join(f"{name} ({problem})" for name, problem in problems.items())
        return Finding("packages", listed, "broken", f"pip install {' '.join(sorted(problems))}", {"wrong": problems})
    return Finding("packages", f"all {len(_required(None))} that are needed")


def check_torch() -> Finding:
    """Torch's version and what it was built for; a card in the machine that this build can't use."""
    import torch

    from kinolab.runtime import devices

    built = [devices.NAMES[kind] for kind in devices.ACCELERATORS if devices.is_built(kind)]
    facts = {"version": torch.__version__, "built_for": built}
    says = f"{torch.__version__}, built for {' and '.join(built) or 'no GPU'}"
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < LEAST_TORCH:
        return Finding("torch", says, "broken", f"pip install 'torch>={'.'.join(map(str, LEAST_TORCH))}'", facts)
    card = _unused_card(set(built))
    if card is not None:
        return Finding(
            "torch", f"{says}, but this machine has {card}", "note",
            "install a build of torch for it (https://pytorch.org/get-started/locally)", facts,
        )  # fmt: skip
    return Finding("torch", says, facts=facts)


def check_devices() -> Finding:
    """The devices that torch can use, whether each computes, and which one `auto` takes."""
    import torch

    from kinolab.runtime import devices

    taken, failed, lines = devices.choose("auto"), {}, []
    for device in devices.there():
        own = devices.memory(device)
        room = "" if own is None else f", {_size(own[0])} of {_size(own[1])} free"
        lines.append(f"{device} ({devices.name(device)}{room})")
        try:
            x = torch.eye(8, device=device)
            if float((x @ x).sum()) != 8:
                failed[str(device)] = "a product of matrices comes out wrong"
        except Exception as error:
            failed[str(device)] = " ".join(str(error).split())[:160]
    facts = {"devices": [str(d) for d in devices.there()], "auto": str(taken), "failed": failed}
    says = f"{', '.join(lines)}; auto takes {taken}"
    if failed:
        worse = any(name.startswith(str(taken)) for name in failed)
        told = "; ".join(f"{name} does not compute: {why}" for name, why in failed.items())
        advice = "install a build of torch for that device, or take another: --device cpu"
        return Finding("devices", f"{says}; {told}", "broken" if worse else "note", advice, facts)
    idle = [kind for kind in devices.ACCELERATORS if devices.is_built(kind) and not devices.count(kind)]
    if idle and taken.type == "cpu":
        return Finding("devices", f"{says}: {devices.missing(idle[0])}", "note", "look at its driver", facts)
    return Finding("devices", says, facts=facts)


def check_precision() -> Finding:
    """What `auto` computes in on the device that is taken, and why."""
    from kinolab.runtime.devices import choose
    from kinolab.runtime.precision import describe

    return Finding("precision", describe("auto", choose("auto")))


def check_processor() -> Finding:
    """Threads of torch beside the cores that this process may use."""
    import torch

    from kinolab.runtime.devices import cores

    threads, own, share = torch.get_num_threads(), cores(), _processor_share()
    facts = {"threads": threads, "cores": own, "share": share}
    says = f"torch takes {threads} of {own} cores"
    if share is not None and share < threads:
        advice = f"-s training.threads={max(1, int(share))}: threads that share a core wait for each other"
        return Finding("processor", f"{says}, and this container gets {share:g} cores' time", "note", advice, facts)
    if threads > own:
        advice = f"-s training.threads={own}: threads that share a core wait for each other"
        return Finding("processor", says, "note", advice, facts)
    return Finding("processor", says, facts=facts)


def check_memory() -> Finding:
    """Memory of the machine, or of what this process may take of it."""
    import torch

    from kinolab.runtime.machine import memory_left, memory_size

    cpu = torch.device("cpu")
    left, size = memory_left(cpu), memory_size(cpu)
    if left is None or size is None:
        return Finding("memory", "the system does not say")
    says, facts = f"{_size(left)} of {_size(size)} free", {"free": left, "size": size}
    if left < LITTLE_MEMORY:
        advice = "close other programs; `kinolab plan RECIPE` says what a run takes"
        return Finding("memory", says, "note", advice, facts)
    return Finding("memory", says, facts=facts)


def check_codecs() -> Finding:
    """Videos are written and read back in every codec that is written, and decoders are there for the others."""
    import tempfile

    from kinolab.video import codecs

    with tempfile.TemporaryDirectory() as folder:
        wrong = codecs.unwritable(Path(folder))
    unread = codecs.unreadable()
    writes = ", ".join(name for name in codecs.WRITTEN if name not in wrong) or "nothing"
    reads = ", ".join(name for name in codecs.READ if name not in unread) or "nothing"
    says = f"{codecs.version()}: writes {writes}; reads {reads}"
    facts = {"unwritable": wrong, "unreadable": unread}
    if not wrong and not unread:
        return Finding("codecs", says, facts=facts)
    told = "".join(f"; {name} fails: {why}" for name, why in wrong.items())
    told += f"; can't read {', '.join(unread)}" if unread else ""
    needed = "h264" in wrong or "h264" in unread
    advice = "pip install --force-reinstall av: its own wheel has all of them"
    return Finding("codecs", says + told, "broken" if needed else "note", advice, facts)


def check_locks(folder: Path) -> Finding:
    """Whether a file that is locked in this folder is kept from others, as a run's folder is."""
    import tempfile

    from kinolab.errors import InputError
    from kinolab.runtime.locks import held

    there = _existing(folder)
    advice = "lay runs and caches on a disk of this machine, or start one process only in each folder"
    try:
        with tempfile.TemporaryDirectory(dir=there, prefix=".kinolab-doctor-") as inside:
            lock = Path(inside) / "lock"
            with held(lock, "held"):
                try:
                    with held(lock, "held"):
                        return Finding("locks", f"do not work in {there.absolute()}", "note", advice)
                except InputError:
                    return Finding("locks", f"work in {there.absolute()}")
    except OSError as error:
        told = error.strerror or str(error)
        return Finding("locks", f"can't be tried in {there.absolute()}: {told}", "note", advice)


def check_disk(folder: Path) -> Finding:
    """Free space where runs are to lie and where temporary files do."""
    import tempfile

    from kinolab.runtime.machine import disk_left

    places = {"here": _existing(folder).absolute(), "temporary": Path(tempfile.gettempdir())}
    free = {name: disk_left(place) for name, place in places.items()}
    says = ", ".join(f"{_size(free[name])} free in {place}" for name, place in places.items())
    if min(free.values()) < LITTLE_DISK:
        advice = "make room, or name another folder by --out; `kinolab plan RECIPE` says what a run writes"
        return Finding("disk", says, "note", advice, free)
    return Finding("disk", says, facts=free)


def check_extras() -> Finding:
    """The extras of the package that are installed, with their packages' versions, and what the others are for."""
    whole, missing = {}, {}
    for extra in EXTRAS:
        wanted = _required(extra)
        wrong = {name: problem for name, needs in wanted.items() if (problem := _problem(name, needs))}
        if wrong:
            missing[extra] = wrong
        else:
            whole[extra] = {name: _version(name) for name in wanted}
    says = "; ".join(
        f"{extra}: {', '.join(f'{name} {version}' for name, version in packages.items())}"
        for extra, packages in whole.items()
    ) or "none is installed"  # fmt: skip
    if not missing:
        return Finding("extras", says, facts={"installed": whole, "missing": missing})
    told = ", ".join(f"{extra} (for {EXTRAS[extra]})" for extra in missing)
    advice = f"if you want them: pip install 'kinolab[{','.join(missing)}]'"
    return Finding("extras", f"{says}; not {told}", "note", advice, {"installed": whole, "missing": missing})


def check_weights() -> Finding:
    """Whether the weights that ship are whole, and finite."""
    from importlib import resources

    import torch

    from kinolab.errors import InputError
    from kinolab.models import read_model_config, shipped_models
    from kinolab.runtime.modules import decode, read_tensors

    folders = {**shipped_models(), "encoder": Path(str(resources.files("kinolab") / "pretrained" / "encoder"))}
    wrong = {}
    for name, folder in folders.items():
        try:
            files = ["encoder"]
            if name != "encoder":
                files = ["autoencoder", *(["denoiser"] if read_model_config(folder).denoiser is not None else [])]
            for path in (folder / f"{file}.safetensors" for file in files):
                values = decode(path, *read_tensors(path)).values()
                if not all(bool(torch.isfinite(v).all()) for v in values):
                    raise InputError(f"{path}: holds NaN or infinity")
        except (InputError, OSError) as error:
            wrong[name] = " ".join(str(error).split())
    if len(folders) == 1:
        wrong["models"] = "no shipped model is installed"
    if wrong:
        told = "; ".join(wrong.values())
        return Finding("weights", told, "broken", "get the package again: its weights are not whole", {"wrong": wrong})
    return Finding("weights", f"{', '.join(folders)}: whole")


def _required(extra: str | None) -> dict[str, str]:
    """Package -> versions that it may have, of an extra; none = what Kinolab can't do without."""
    import importlib.metadata
    import re

    found = {}
    for line in importlib.metadata.requires("kinolab") or []:
        requirement, _, marker = line.partition(";")
        named = re.search(r"extra == ['\"]([\w-]+)['\"]", marker)
        if (named.group(1) if named else None) == extra:
            name = re.match(r"[\w.-]+", requirement.strip())
            assert name is not None
            found[name.group()] = requirement.strip().removeprefix(name.group()).strip()
    return found


def _version(name: str) -> str | None:
    import importlib.metadata

    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _problem(name: str, wanted: str) -> str | None:
    """What is wrong with an installed package; none = nothing."""
    version = _version(name)
    if version is None:
        return "not installed"
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:  # without it versions are not compared
        return None
    return None if SpecifierSet(wanted).contains(version, prereleases=True) else f"{version}, expected {wanted}"


def _unused_card(built: set[str]) -> str | None:
    """A card in this machine that torch was not built for, as far as the system's files tell."""
    import platform

    cards = {"an NVIDIA card": Path("/proc/driver/nvidia/gpus"), "an AMD card": Path("/dev/kfd")}
    for card, sign in cards.items():
        if "CUDA" not in built and sign.exists():
            return card
    if "MPS" not in built and platform.system() == "Darwin" and platform.machine() == "arm64":
        return "an Apple GPU"
    return None


def _processor_share() -> float | None:
    """How many cores' time a container may take; none where nothing limits it."""
    from kinolab.runtime.reading import read_text

    try:
        quota, period = read_text(Path("/sys/fs/cgroup/cpu.max")).split()
        return int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _existing(folder: Path) -> Path:
    """A folder, or the one that it would be made in."""
    return next(p for p in (folder.absolute(), *folder.absolute().parents) if p.is_dir())


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
