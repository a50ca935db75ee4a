"""Two hosts on this machine: network namespaces with a cable (veth) between them, and processes that live on one."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

CLONE_NEWNET = 0x40000000
CABLE = "kl0"
"""What both ends of the cable are called, each on its host."""


@contextmanager
def two_hosts() -> Iterator[dict[str, str]]:
    """Names of two hosts -> their addresses on the cable between them; both are gone afterwards."""
    names = [f"kl{k}-{os.getpid()}" for k in range(2)]
    made: list[str] = []
    try:
        for name in names:
            _ip("netns", "add", name)
            made.append(name)
        _ip("link", "add", CABLE, "netns", names[0], "type", "veth", "peer", "name", CABLE, "netns", names[1])
        found = {}
        for k, name in enumerate(names):
            found[name] = f"10.213.7.{k + 1}"
            _ip("-n", name, "addr", "add", f"{found[name]}/24", "dev", CABLE)
            for link in (CABLE, "lo"):
                _ip("-n", name, "link", "set", link, "up")
        yield found
    finally:
        for name in made:
            _ip("netns", "del", name)


def move_to(host: str) -> None:
    """This process, which has one thread yet, lives on a host from here on."""
    room = os.open(Path("/var/run/netns") / host, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(room, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns to {host} failed")
    finally:
        os.close(room)


@cache
def possible() -> bool:
    """Whether hosts can be made here: Linux's ip, and the right to make namespaces."""
    if shutil.which("ip") is None or not hasattr(os, "geteuid") or os.geteuid() != 0:
        return False
    try:
        with two_hosts():
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
