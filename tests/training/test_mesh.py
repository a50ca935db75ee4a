"""Meshes of processes: shards, copies of shards, and context ranks, each equal to one process that does all."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from kinolab import denoisers
from kinolab.errors import InputError
from kinolab.runtime.ranks import Ranks
from kinolab.training.batches import micro_positions
from kinolab.training.mesh import MeshConfig, data_ranks, layout
from kinolab.training.parallel import wrap
from kinolab.training.settings import TrainingConfig
from tests.processes import Child
from tests.training.meshes import CONFIGS, work

EQUAL = 1e-5
"""What a float32 step of several processes may differ by from one process's, relative to the spread."""
EXACT = 1e-9
"""The same in float64, of gradients."""
TWO = [(name, {"context": 2}, "float64") for name in CONFIGS]
TWO += [(name, {"context": 2}, "float32") for name in ("latte", "vdt joint", "mmdit", "unet")]
FOUR: list[tuple[str, Any, str]] = [
    ("latte", "fsdp", "float32"), ("latte", {"shard": 2}, "float32"), ("latte", {"replicate": 4}, "float32"),
    ("vdt tokens", {"replicate": 2, "shard": 2}, "float64"), ("unet", {"replicate": 2, "shard": 2}, "float32"),
    ("mmdit", {"replicate": 2, "context": 2}, "float64"), ("mmdit", {"shard": 2, "context": 2}, "float32"),
    ("latte", {"context": 4}, "float64"), ("vdt joint", {"context": 4}, "float32"),
]  # fmt: skip


def together(out: Path, size: int, cases: list[tuple[str, Any, str]]) -> dict[str, Any]:
    """What processes that share a group found."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(s.getsockname()[1]), "OMP_NUM_THREADS": "1"}
    children = [Child(work, str(out / "found.json"), rank, size, cases, environment=place) for rank in range(size)]
    ended = [child.wait() for child in children]
    assert [status for status, _ in ended] == [0] * size, "\n".join(said for _, said in ended)
    return dict(json.loads((out / "found.json").read_text()))


@pytest.mark.wide
@pytest.mark.parametrize(("size", "cases"), [(2, TWO), (4, FOUR)], ids=["two", "four"])
def test_every_mesh_equals_one_process(size: int, cases: list[tuple[str, Any, str]], tmp_path: Path) -> None:
    found = together(tmp_path, size, cases)
    said = found.pop("refused", None)
    assert len(found) == len(cases)
    for case, told in found.items():
        assert told["tracked"] and told["loss"] <= EQUAL and told["weights"] <= EQUAL, (case, told)
        assert "float32" in case or told["gradients"] <= EXACT, (case, told)
    if said is not None:
        assert "expected a divisor of the 2 heads" in said["heads"]
        assert "expected a multiple of 3 x 1 processes (replicate x shard x context), and 4 run" in said["processes"]
        assert "Linear can't be computed by several processes together" in said["kind"]


def test_a_mesh_has_as_many_processes_as_there_are() -> None:
    mesh = MeshConfig(shard=2, context=2)
    assert layout(mesh, Ranks(3, 8)) == MeshConfig(replicate=2, shard=2, context=2)
    assert layout("ddp", Ranks(0, 3)).replicate == 3 and layout("fsdp", Ranks(0, 3)).shard == 3
    assert layout(MeshConfig(replicate=7), Ranks()) == MeshConfig(replicate=1)  # one process is any mesh
    with pytest.raises(InputError, match=r"expected 4 x 2 x 2 processes .* and 8 run"):
        layout(MeshConfig(replicate=4, shard=2, context=2), Ranks(0, 8))


def test_a_denoiser_that_can_not_be_shared_says_so_before_any_group_is_made() -> None:
    small: dict[str, Any] = {"dim": 8, "dim_mults": (1, 2), "num_heads": 2, "head_dim": 4}
    model = denoisers.build(denoisers.VdmConfig(**small, spatial_head_dim=4, input_size=4, num_frames=3))
    with pytest.raises(InputError, match="context=2: Vdm can't be computed by several processes together"):
        wrap(model, Ranks(0, 2), MeshConfig(context=2))


def test_context_ranks_have_the_same_clips() -> None:
    config = TrainingConfig(batch_size=8, micro_batch=2, parallel=MeshConfig(shard=2, context=2))
    ranks = [Ranks(rank, 8) for rank in range(8)]
    assert [data_ranks(config.parallel, r).rank for r in ranks] == [0, 0, 1, 1, 2, 2, 3, 3]
    held = [micro_positions(config, r) for r in ranks]
    assert held[0] == held[1] == [[0, 1]] and held[6] == held[7] == [[6, 7]]
    with pytest.raises(InputError, match="expected a multiple of 4 groups of context processes"):
        micro_positions(config.model_copy(update={"batch_size": 6}), ranks[0])


def test_words_and_meshes_are_both_read_and_written() -> None:
    """A recipe of before says `ddp` or `fsdp`, and says it still."""
    assert TrainingConfig().model_dump(mode="json")["parallel"] == "ddp"
    config = TrainingConfig.model_validate({"parallel": {"shard": 4}})
    assert config.model_dump(mode="json")["parallel"] == {"replicate": None, "shard": 4, "context": 1}
