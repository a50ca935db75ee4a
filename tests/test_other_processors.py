"""What this processor computes, an older one computes too: the parity tests under older instruction sets.

PyTorch, MKL and oneDNN choose their code by the processor, and each can be told to take older code. Sums then come in
another order, as they do on a machine of somebody else.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROCESSORS = {
    "with AVX2": {
        "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2",
    },
    "of 2008": {
        "ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE",
    },
}  # fmt: skip
SELECTED = [
    "tests/autoencoders", "tests/checkpoints", "tests/conditioning", "tests/denoisers", "tests/diffusion",
    "tests/layers", "tests/metrics/test_flow.py", "tests/metrics/test_reconstruction.py", "tests/test_contracts.py",
    "tests/models",
]  # fmt: skip
NOT_SLOW = "not slow and not wide"


@pytest.mark.wide("x86")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("processor", PROCESSORS)
def test_the_same_numbers_on_a_processor(processor: str) -> None:
    # Without the slow ones: they are slow because there is much of them, not because there is more in them.
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", NOT_SLOW, *SELECTED]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **PROCESSORS[processor]}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert done.stdout.count(".") > 500, "they were selected and ran"


@pytest.mark.wide("x86")
@pytest.mark.parametrize(("processor", "capability"), [("with AVX2", "AVX2|DEFAULT"), ("of 2008", "DEFAULT")])
def test_the_processor_is_what_it_is_said_to_be(processor: str, capability: str) -> None:
    code = "import torch; print(torch.backends.cpu.get_cpu_capability(), torch.randn(3, 3).matmul(torch.eye(3)).shape)"
    environment = {**os.environ, **PROCESSORS[processor]}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert re.match(rf"({capability}) ", said.stdout)
