"""What `kinolab generate` does not wait for: modules that a plain run has no use for, and that take long to load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kinolab.runtime.modules import without_memory
from tests.tiny_model import save_tiny_model

UNUSED = {
    "kinolab.checkpoints": "public formats; for adapters, and models of other programs",
    "kinolab.training": "",
    "kinolab.evaluation": "",
    "kinolab.metrics.extractors": "networks of metrics",
    "torch._dynamo": "for --compile; a normal number that is drawn on the meta device loads it too",
    "torch._inductor": "for --compile",
    "sympy": "what torch._dynamo loads",
    "torch.distributed.fsdp": "training on several devices",
    "diffusers": "", "transformers": "", "peft": "", "cv2": "", "scipy": "", "pandas": "", "matplotlib": "",
    "onnxruntime": "",
}  # fmt: skip
"""Module -> what it is for."""
CODE = """
import sys
from kinolab.cli import main
try:
    main(sys.argv[1:])
finally:
    print(sorted(sys.modules))
"""


def loaded(*arguments: str) -> list[str]:
    """The modules that a process has loaded when the command ends well."""
    done = subprocess.run([sys.executable, "-c", CODE, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: list[str] = ast.literal_eval(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_a_plain_run_loads_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "m")
    found = loaded("generate", "a ball falls", "--model", str(model), "--steps", "1", "--out", str(tmp_path / "a.mkv"))
    assert (tmp_path / "a.mkv").stat().st_size and "kinolab.generation.generate" in found
    assert not [name for name in UNUSED if name in found]


@pytest.mark.slow
def test_help_loads_nothing_that_work_is_done_with() -> None:
    found = loaded("--help")
    assert "kinolab.cli.launch" in found
    assert not {"torch", "multiprocessing", "kinolab.runtime.remote", "kinolab.runtime.processes"} & set(found)


@pytest.mark.parametrize("kind", [torch.nn.Embedding, torch.nn.Linear, torch.nn.Conv3d])
def test_modules_without_memory_are_those_of_a_file(kind: type[torch.nn.Module]) -> None:
    arguments = (4, 6, 3) if kind is torch.nn.Conv3d else (4, 6)
    torch.manual_seed(0)
    drawn = kind(*arguments)
    with without_memory():
        empty = kind(*arguments)
        weight = empty.get_parameter("weight")
        assert torch.nn.init.normal_(weight) is weight and weight.normal_() is weight
    assert {p.device.type for p in empty.parameters()} == {"meta"}
    empty.load_state_dict(drawn.state_dict(), assign=True)
    assert all(torch.equal(a, b) for a, b in zip(drawn.parameters(), empty.parameters(), strict=True))
    assert torch.nn.init.normal_(drawn.get_parameter("weight")).std() > 0  # and they are drawn again after it
