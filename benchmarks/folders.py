"""Model folders and public weights whose values are drawn from their names, and digests of weights.

It imports nothing of the project, so that one copy of it runs with any version.
"""

from __future__ import annotations

import json
import lzma
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor


def drawn(name: str, shape: Sequence[int], dtype: str) -> Tensor:
    """A tensor's values from its name alone, the same on every processor, of a size that a network bears."""
    if not dtype.startswith(("float", "bfloat")):
        return torch.zeros(shape, dtype=getattr(torch, dtype))
    values = torch.rand(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode()))) * 2 - 1
    if len(shape) >= 2:
        values = values * math.sqrt(3 / math.prod(shape[1:]))
    elif name.endswith(("weight", "var", "scale")):
        values = 1 + values / 8
    else:
        values = values / 8
    return values.to(getattr(torch, dtype))


def unfold(source: Path, net: Path) -> None:
    """Write the folders of `tests/net/variants.json.xz` into a folder of the net, with values drawn for their weights.

    Public weights get no header of ours: few that are found elsewhere have one.
    """
    from safetensors.torch import save_file

    for folder, files in json.loads(lzma.decompress(source.read_bytes())).items():
        for name, content in files.items():
            path = net / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                path.write_text(content, encoding="utf-8")
                continue
            values = {k: drawn(k, shape, dtype) for k, (dtype, shape) in content["tensors"].items()}
            save_file(values, path, {"format": "pt"})


def digest(tensors: Mapping[str, Tensor], *, names: bool = True) -> Tensor:
    """What becomes another with any bit of any tensor, or (with `names`) any name: three whole numbers.

    They are below 2^16, which every type of number holds.
    """
    parts = []
    for name, value in tensors.items():
        bytes_ = value.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
        parts.append(f"{name if names else ''} {tuple(value.shape)} {value.dtype} {zlib.crc32(bytes_)}")
    whole = zlib.crc32("\n".join(sorted(parts)).encode())
    return torch.tensor([whole >> 16, whole & 0xFFFF, len(parts)], dtype=torch.float64)
