"""Packages that a machine lacks, from wheels that were carried there. Imports nothing that may be missing itself."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys
import zipfile
from pathlib import Path

TOGETHER = ("annotated_types", "pydantic", "pydantic_core", "typing_extensions", "typing_inspection")
"""Packages that need each other in about the version that was carried."""


def fits(wheel: str, version: tuple[int, int] | None = None) -> bool:
    """Whether a wheel, by its name, is for this Python (or `version`) on this kind of processor."""
    match = re.fullmatch(r".+?-[^-]+(?:-\d[^-]*)?-([^-]+)-([^-]+)-([^-]+)\.whl", wheel)
    if match is None:
        return False
    pythons, abis, platforms = (part.split(".") for part in match.groups())
    major, minor = version or sys.version_info[:2]
    if f"cp{major}{minor}" not in pythons and f"py{major}" not in pythons:
        limited = [int(p[3:]) for p in pythons if p.startswith(f"cp{major}") and p[3:].isdecimal()]
        if "abi3" not in abis or not any(low <= minor for low in limited):
            return False
    machine = platform.machine()
    return any(p == "any" or p.endswith(machine) for p in platforms)


def distribution(wheel: str) -> tuple[str, str]:
    """Name and version of a wheel's package, as its name says them."""
    name, version = wheel.split("-")[:2]
    return name, version


def lacking(wheels: Path) -> list[Path]:
    """The wheels that fit and whose packages are not installed here; of `TOGETHER` also where they are older here."""
    chosen = []
    for wheel in sorted(wheels.glob("*.whl")):
        name, version = distribution(wheel.name)
        if not fits(wheel.name):
            continue
        try:
            here = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            chosen.append(wheel)
            continue
        if name in TOGETHER and numbers(here) < numbers(version):
            chosen.append(wheel)
    return chosen


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version."""
    match = re.match(r"[\d.]+", version)
    return tuple(int(n) for n in match.group().split(".") if n) if match else (0,)


def use(wheels: Path, site: Path) -> list[str]:
    """Unpack the wheels that are lacking into `site` and put it first among the places that are imported from.

    Returns the names of what was unpacked. A wheel that is unpacked there already is not unpacked again.
    """
    names = []
    for wheel in lacking(wheels):
        done = site / f".{wheel.name}"
        if not done.exists():
            site.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(site)
            done.touch()
        names.append(distribution(wheel.name)[0])
    if names and str(site) not in sys.path:
        sys.path.insert(0, str(site))
    return names
