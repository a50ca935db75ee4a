"""What the machine has: memory and disk. None where the system does not say."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

from kinolab.errors import InputError
from kinolab.runtime import devices
from kinolab.runtime.reading import MIB, read_text
from kinolab.runtime.text import split_lines


def memory_size(device: torch.device) -> int | None:
    """All memory of a device in bytes; of the processor, what this process may use (a container's limit counts)."""
    own = devices.memory(device)
    if own is not None:
        return own[1]
    names = os.sysconf_names if hasattr(os, "sysconf_names") else {}  # not on Windows
    if "SC_PHYS_PAGES" not in names or "SC_PAGE_SIZE" not in names:
        return None
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _number(Path("/sys/fs/cgroup/memory.max"))
    return size if limit is None else min(size, limit)


def memory_left(device: torch.device) -> int | None:
    """What is not in use of a device's memory, in bytes."""
    own = devices.memory(device)
    if own is not None:
        return own[0]
    size, left = memory_size(device), []
    used = _number(Path("/sys/fs/cgroup/memory.current"))
    if _number(Path("/sys/fs/cgroup/memory.max")) is not None and size is not None and used is not None:
        left.append(max(0, size - used))
    info = Path("/proc/meminfo")
    if info.exists():
        lines = split_lines(read_text(info, MIB))
        left += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return min(left) if left else size


def disk_left(folder: Path) -> int:
    """Free bytes where a folder is or will be made."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    return shutil.disk_usage(there).free


def folder_size(folder: Path) -> int:
    """Bytes of all files in a folder; 0 where there is none."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def _number(path: Path) -> int | None:
    """The number in a file; None where there is no such file or it says something else, such as `max`."""
    try:
        text = read_text(path, MIB).strip()
    except (OSError, InputError):
        return None
    return int(text) if text.isdigit() else None
