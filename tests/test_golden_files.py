"""Reference numbers driven by what the files say of themselves; `--golden FOLDER` runs other files of these kinds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests import golden_kinds

GOLDEN = Path(__file__).parent / "golden"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden" in metafunc.fixturenames:
        found = golden_kinds.files(metafunc.config.getoption("--golden") or GOLDEN)
        metafunc.parametrize("golden", found, ids=[path.stem for path in found])


@pytest.mark.slow
def test_the_public_class_gave_these_outputs(golden: Path) -> None:
    kind = golden_kinds.header(golden)["kind"]
    if kind not in golden_kinds.kinds() and golden.parent != GOLDEN:
        pytest.skip(f"no runner of kind {kind}; there are {', '.join(golden_kinds.kinds())}")
    golden_kinds.check(golden)


def test_a_wrong_output_and_one_that_nobody_gives_are_found(tmp_path: Path) -> None:
    golden = golden_kinds.read(GOLDEN / "sd15_unet_ldm.safetensors")
    path = tmp_path / "copy.safetensors"
    weights = _weights(golden.path)
    inputs = {name: value for name, value in golden.tensors.items() if name != "out"}
    wrong = golden["out"] + 2e-4 * golden["out"].std()
    golden_kinds.write(path, golden.kind, golden.config, weights, inputs | {"out": wrong})
    with pytest.raises(AssertionError, match=r"out differs by 0\.0002"):
        golden_kinds.check(path)
    golden_kinds.write(path, golden.kind, golden.config, weights, inputs | {"other": wrong}, ("other",))
    with pytest.raises(AssertionError, match="nothing gives other"):
        golden_kinds.check(path)


def _weights(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    start = golden_kinds.WEIGHTS
    return {name.removeprefix(start): value for name, value in load_file(path).items() if name.startswith(start)}
