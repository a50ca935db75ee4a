"""`python -m benchmarks.turns A [B]`: how long two commits take for the same work, in turns on one thread.

    python -m benchmarks.turns d564d33                    # that commit and what stands here
    python -m benchmarks.turns d564d33 HEAD --only start --turns 7

Each side has a process of its own, which does a piece of work when it is its turn and says how much processor time that
took: other work on the machine then counts far less than in time by the clock. Beside the medians stands the median of
the ratios of the turns, with the lowest and the highest, which are the noise. `start` is a process from nothing to its
help, or to a clip of one step.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
STARTS = {
    "start: help": "--help",
    "start: help of generate": "generate --help",
    "start: a clip of one step": "generate --label 1 --steps 1 --precision float32 --out clip.mp4",
}
"""Commands that are started afresh in every turn."""


def works() -> dict[str, Callable[[], Any]]:
    """The pieces of work by name, in whichever version is imported; each makes its networks at its first turn."""
    import torch

    from kinolab.autoencoders import OdVae, OdVaeConfig
    from kinolab.denoisers import Conditions, Latte, LatteConfig, Mmdit, MmditConfig, Vdt, VdtConfig
    from kinolab.diffusion import Diffusion, DiffusionConfig, SamplerConfig

    def noise(*shape: int) -> Any:
        return torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def once(make: Callable[[], Callable[[], Any]]) -> Callable[[], Any]:
        made: list[Callable[[], Any]] = []

        def work() -> Any:
            made.extend([make()] if not made else [])
            with torch.no_grad():
                return made[0]()

        return work

    def vdt() -> Callable[[], Any]:
        network = Vdt(VdtConfig(hidden_size=384, num_heads=6, input_size=16, num_frames=16, num_classes=10)).eval()
        z, told = noise(1, 4, 16, 16, 16), Conditions(label=torch.tensor([3]))
        return lambda: network(z, torch.tensor([500.0]), told)

    def mmdit() -> Callable[[], Any]:
        config = MmditConfig(hidden_size=384, num_heads=6, depth=12, input_size=32, text_dim=512, pooled_dim=256)
        network = Mmdit(config).eval()
        told = Conditions(text=noise(1, 154, 512), pooled=noise(1, 256))
        z = noise(1, config.in_channels, 1, 32, 32)
        return lambda: network(z, torch.tensor([500.0]), told)

    def latte() -> Any:
        return Latte(LatteConfig(hidden_size=384, num_heads=6, input_size=16, num_frames=16, text_dim=384)).eval()

    def latte_forward() -> Callable[[], Any]:
        network, z, told = latte(), noise(1, 4, 16, 16, 16), Conditions(text=noise(1, 32, 384))
        return lambda: network(z, torch.tensor([500.0]), told)

    def latte_sampling() -> Callable[[], Any]:
        network, z, told = latte(), noise(1, 4, 16, 16, 16), Conditions(text=noise(1, 32, 384))
        diffusion, sampler = Diffusion(DiffusionConfig()), SamplerConfig(name="ddim", steps=4)
        return lambda: diffusion.sample(network, z, told, sampler=sampler)

    def odvae(decode: bool) -> Callable[[], Any]:
        network = OdVae(OdVaeConfig(hidden_size=64)).eval()
        given = noise(1, *network.spec.latent_shape(9, 32, 32)) if decode else noise(1, 3, 9, 32, 32)
        return (lambda: network.decode(given)) if decode else (lambda: network.encode(given).mean)

    def clip(cached: bool) -> Callable[[], Any]:
        from benchmarks.adapter import find, load, sampled

        model = load("world")
        how: dict[str, dict[str, Any]] = {"sampler": {"name": "euler", "steps": 10}, "guidance": {"scale": 2.0}}
        how |= {"cache": {"every": 2, "guidance_every": 2}} if cached else {}
        requests = [find("Request")(label=1, seed=k) for k in range(2)]
        return lambda: sampled(model, requests, how)

    found = {
        "vdt: forward": vdt, "mmdit: forward": mmdit, "latte: forward": latte_forward,
        "latte: 4 steps": latte_sampling, "odvae: encode": lambda: odvae(False), "odvae: decode": lambda: odvae(True),
        "toy_clip: 10 steps": lambda: clip(False), "step_cache: 10 steps": lambda: clip(True),
    }  # fmt: skip
    return {name: once(make) for name, make in found.items()}


def answer() -> None:
    """A side's process: does the work that a line names, and answers with its processor time."""
    import torch

    torch.set_num_threads(1)
    torch.backends.mkldnn.matmul.fp32_precision = "ieee"  # type: ignore[attr-defined]
    known, out = works(), sys.stdout
    sys.stdout = sys.stderr  # the answers alone
    for line in sys.stdin:
        began = time.process_time()
        known[line.strip()]()
        print(time.process_time() - began, file=out, flush=True)


class Side:
    """A commit's process."""

    def __init__(self, tree: Path, place: Path) -> None:
        self.place = place
        (place / "benchmarks").mkdir(parents=True)
        for name in ("__init__.py", "adapter.py", "turns.py"):  # beside a script they are found first
            (place / "benchmarks" / name).write_text((HERE / name).read_text(encoding="utf-8"), encoding="utf-8")
        paths = os.pathsep.join([str(place), str(tree)])
        self.environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        words = [sys.executable, "-m", "benchmarks.turns", "--answer"]
        self.process = subprocess.Popen(words, cwd=place, env=self.environment, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)  # fmt: skip

    def take(self, name: str) -> float:
        """Processor seconds of a piece of work."""
        if name in STARTS:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            words = [sys.executable, "-m", "kinolab", *STARTS[name].split()]
            subprocess.run(words, cwd=self.place, env=self.environment, check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


ROWS = ("vdt: forward", "mmdit: forward", "latte: forward", "latte: 4 steps", "odvae: encode", "odvae: decode",
        "toy_clip: 10 steps", "step_cache: 10 steps", *STARTS)  # fmt: skip


def main(arguments: list[str]) -> None:
    """Take turns, and print a row for each piece of work."""
    from benchmarks.commits import checkout

    parser = argparse.ArgumentParser(prog="python -m benchmarks.turns", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("a", metavar="A", help="a commit")
    parser.add_argument("b", metavar="B", nargs="?", default=".", help="another; default the files as they are here")
    parser.add_argument("--only", action="append", default=[], help="rows with this in their name; repeatable")
    parser.add_argument("--turns", type=int, default=5, help="turns that count, after one that does not")
    options = parser.parse_args(arguments)
    rows = [row for row in ROWS if not options.only or any(word in row for word in options.only)]
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sides = []
        for letter, commit in (("a", options.a), ("b", options.b)):
            side = Side(stack.enter_context(checkout(commit)), place / letter)
            stack.callback(side.close)
            sides.append(side)
        named = f"B / A: median (lowest to highest)  A = {options.a}, B = {options.b}"
        print(f"{'':28} {'A (s)':>8} {'B (s)':>8}  {named}", flush=True)
        for row in rows:
            turns = [[side.take(row) for side in sides] for _ in range(options.turns + 1)][1:]
            ratios = [b / a for a, b in turns]
            a, b = (statistics.median(side) for side in zip(*turns, strict=True))
            spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
            print(f"{row:28} {a:8.3f} {b:8.3f}  {spread}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["--answer"]:
        answer()
    else:
        main(sys.argv[1:])
