"""LoRA adapters in the forms of peft, diffusers and kohya: read, put on a model, extracted from two, written.

forms.py        how each form names its tensors
files.py        files and folders <-> changes by the names in them
names.py        those names <-> the layers of a denoiser, by the names of its public formats
using.py        adapters on a model
extraction.py   an adapter from two models
"""

from __future__ import annotations

from kinolab.checkpoints.adapters.extraction import Extracted, Kept, extract
from kinolab.checkpoints.adapters.files import (
    Adapter,
    LowRank,
    adapter_files,
    check_target,
    is_adapter,
    read_adapter,
    write_adapter,
)
from kinolab.checkpoints.adapters.names import (
    Layout,
    best_layout,
    layout_of,
    layouts,
    likely_formats,
    misfits,
    native_changes,
    part_of,
    public_changes,
    usual_layout,
)
from kinolab.checkpoints.adapters.using import beside, files_of, folded, put_on
from kinolab.contracts.adapters import AdapterUse, parse_use

__all__ = [
    "Adapter",
    "AdapterUse",
    "Extracted",
    "Kept",
    "Layout",
    "LowRank",
    "adapter_files",
    "beside",
    "best_layout",
    "check_target",
    "extract",
    "files_of",
    "folded",
    "is_adapter",
    "layout_of",
    "layouts",
    "likely_formats",
    "misfits",
    "native_changes",
    "parse_use",
    "part_of",
    "public_changes",
    "put_on",
    "read_adapter",
    "usual_layout",
    "write_adapter",
]
