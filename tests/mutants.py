"""Faults that the tests must catch: one line of the package made wrong at a time, in a copy of the tree.

`python -m tests.mutants` breaks each line, runs the tests that mirror its file, and says which one saw it. A fault that
no test sees is a test that is missing. `make test-wide` does the same.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Fault:
    """A line of `kinolab/<file>` (a part of it that stands there once), what is made of it, and who should notice."""

    file: str
    right: str
    wrong: str
    tests: str


FAULTS = (
    # a seed that is always the same, a hash without one of its parts
    Fault("generation/windows.py", "return seed if window == 0 else", "return seed if True else",
          "generation/test_generate.py"),
    Fault("comparison/hashes.py", '{"seed": cell.seed, "clips"', '{"clips"', "comparison/test_plan.py"),
    Fault("training/randomness.py", "sample_seed(seed, step, p, purpose)", "sample_seed(seed, p, purpose)",
          "training/test_randomness.py"),
    Fault("conditioning/text/base.py", 'f"{path.name} {file_hash(path)}\\n"', 'f"{path.name}\\n"', "conditioning"),
    # an axis, an index, a border
    Fault("data/order.py", "first = step * total + mine.start", "first = step * total", "data/test_order.py"),
    Fault("data/windows.py", "used = starts[-1] + frames", "used = starts[-1] + stride", "data/test_check.py"),
    Fault("tasks/interpolate.py", "list(range(0, frames, n))", "list(range(0, frames - 1, n))", "tasks"),
    Fault("video/picture.py", "(image.shape[0] - height) // 2, (image.shape[1] - width) // 2\n    return",
          "(image.shape[0] - height) // 2, 0\n    return", "test_video.py"),
    Fault("layers/causal_conv.py", "[x[:, :, :1]] * frames", "[x[:, :, -1:]] * frames", "layers/test_causal_conv.py"),
    Fault("layers/masking.py", "(mask <= 0).all(1, keepdim=True)", "(mask <= 0).any(1, keepdim=True)",
          "tasks"),
    Fault("models/model.py", "asked = [replace(r, frames=frames, size=size) for r in asked]",
          "asked = [replace(asked[0], frames=frames, size=size) for r in asked]", "models/test_model.py test_given.py"),
    # a sign, a factor, a term
    Fault("autoencoders/base.py", "- 1.0 - self.logvar", "- 1.0 + self.logvar",
          "autoencoders/test_base.py training/test_autoencoder_loss.py"),
    Fault("checkpoints/adapters/files.py", "return self.alpha / (math", "return 1 / (math",
          "checkpoints/adapters"),
    Fault("checkpoints/adapters/names.py", "Change(change.down, layout.turned(layer, change.up))", "change",
          "checkpoints/adapters"),
    Fault("layers/lora.py", "change if self.scale == 1 else self.scale * change", "change", "layers/test_lora.py"),
    Fault("diffusion/samplers/heun.py", "slope = 0.5 * (slope + path", "slope = 1.0 * (slope + path",
          "diffusion/test_samplers.py"),
    Fault("methods/guidance.py", "+ 1.0 - config.rescale", "+ 1.0", "methods/test_guidance.py"),
    Fault("metrics/statistics.py", "(len(values) - 1) / len(values) * np.square", "1 / len(values) * np.square",
          "metrics/test_statistics.py"),
    Fault("metrics/kernel.py", "float(np.var(values, ddof=1)) / len(values)", "float(np.var(values, ddof=1))",
          "metrics/test_kernel.py"),
    Fault("training/ema.py", "list(values), 1.0 - d)", "list(values), d)", "training/test_ema.py"),
    Fault("runtime/modules.py", "least = torch.minimum(error, least)", "least = error", "runtime/test_modules.py"),
    # a case that is left out, a unit, a default
    Fault("toyworld/motion.py", 'paths[:1] if request.scenario == "collide" else paths', "paths",
          "world"),
    Fault("checkpoints/sd3_layouts.py", "min(SIDE, side * patch)", "min(SIDE, side)", "checkpoints/test_sd3.py"),
    Fault("denoisers/base.py", "return 0 if only else self.num_classes", "return 0", "denoisers/test_dit.py"),
    Fault("models/assemble.py", "all(torch.equal(mine[k], other[k]) for k in mine)", "bool(mine)",
          "models/test_packing.py"),
    Fault("cli/measuring.py", '{"sampler": {"name": sampler, "steps": steps},', '{"sampler": {"name": sampler},',
          "cli/test_evaluate.py"),
    Fault("config.py", "result = _deep_copy(values)", "result = dict(values)", "test_config.py"),
    Fault("evaluation/scores.py", "if len(v) == len(names)}", "}", "evaluation/test_scores.py"),
    Fault("contracts/request.py", "not self.prompt.strip()", "not self.prompt", "contracts/test_request.py"),
)  # fmt: skip


@contextmanager
def copied() -> Iterator[Path]:
    """A copy of what the tests need, so that a fault never stands in the tree itself."""
    with tempfile.TemporaryDirectory(prefix="kinolab-mutants-") as folder:
        ignored = shutil.ignore_patterns("__pycache__", ".*")
        for name in ("kinolab", "tests", "benchmarks", "examples", "docs"):
            shutil.copytree(ROOT / name, Path(folder) / name, ignore=ignored)
        for name in ("pyproject.toml", "README.md", "constraints.txt"):
            shutil.copy(ROOT / name, Path(folder) / name)
        yield Path(folder)


@contextmanager
def broken(tree: Path, fault: Fault) -> Iterator[None]:
    """The fault in the copy, for a while."""
    path = tree / "kinolab" / fault.file
    text = path.read_text(encoding="utf-8")
    assert text.count(fault.right) == 1, (
        f"kinolab/{fault.file}: expected once, found {text.count(fault.right)} times: {fault.right}"
    )
    path.write_text(text.replace(fault.right, fault.wrong), encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(text, encoding="utf-8")


def caught(tree: Path, fault: Fault) -> str:
    """The test that sees the fault; empty where none does."""
    with broken(tree, fault):
        given = [f"tests/{name}" for name in fault.tests.split() if (tree / "tests" / name).exists()]
        command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=no", *given]
        environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), (
        f"the tests of {fault.file} did not run: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    )
    seen = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.M)
    assert (seen is None) == (done.returncode == 0), done.stdout[-2000:]
    return seen.group(1) if seen else ""


def main() -> int:
    """Print a line for every fault; the number of those that nothing saw."""
    survived = 0
    with copied() as tree:
        for fault in FAULTS:
            by = caught(tree, fault)
            survived += not by
            print(f"{fault.file}: {fault.right.strip()!r} -> {fault.wrong.strip()!r}: {by or 'SURVIVED'}", flush=True)
    return survived


if __name__ == "__main__":
    sys.exit(main())
