"""Embeddings of captions beside the latents that they describe, in the folder of a latent cache.

    cache/text/<encoder>/<name>.safetensors    `<caption>.states` (L, D) and `<caption>.pooled` (P,), float16

<encoder> is the beginning of the text encoder's hash, <caption> the sha256 of a caption, so a changed encoder finds
nothing and captions may come and go. L counts the caption's own tokens. There is no index: a file gets its name once it
is whole on disk, and its header says what it holds, so a kill loses at most the captions not yet written and several
processes may write at once (what two of them write is the same).
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from pathlib import Path

from torch import Tensor

from kinolab.runtime.hashes import sha256
from kinolab.runtime.paths import visible
from kinolab.runtime.weights import TensorFile, write_weights

FILE_CAPTIONS = 64
FILE_BYTES = 64 * 2**20
OPEN_FILES = 64


class PromptCache:
    """The embeddings of one text encoder in the folder of one latent cache; at most 64 captions are held in memory.

    Args:
        folder: of the latent cache.
        encoder: the text encoder's hash.

    Raises:
        InputError: where a file of embeddings is damaged.
    """

    def __init__(self, folder: Path, encoder: str) -> None:
        self.folder = folder / "text" / encoder[:24]
        self._where: dict[str, Path] = {}
        self._open: OrderedDict[Path, TensorFile] = OrderedDict()
        self._new: dict[str, tuple[Tensor, Tensor]] = {}
        self._writable = True
        for file in visible(self.folder, "*.safetensors"):
            self._where |= {name.removesuffix(".states"): file for name in self._names(file)}

    def __len__(self) -> int:
        return len(self._where.keys() | self._new.keys())

    def __contains__(self, caption: str) -> bool:
        key = caption_key(caption)
        return key in self._new or key in self._where

    def get(self, caption: str) -> tuple[Tensor, Tensor] | None:
        """States (L, D) and pooled embedding (P,) of a caption, float16; None where they are not here."""
        key = caption_key(caption)
        if key in self._new:
            return self._new[key]
        file = self._where.get(key)
        if file is None:
            return None
        opened = self._opened(file)
        return opened.tensor(f"{key}.states"), opened.tensor(f"{key}.pooled")

    def put(self, caption: str, states: Tensor, pooled: Tensor) -> None:
        """Add a caption's embedding, float16 on the CPU; it is on disk after `flush`, or when enough are together."""
        self._new[caption_key(caption)] = states.clone(), pooled.clone()
        size = sum(s.nbytes + p.nbytes for s, p in self._new.values())
        if len(self._new) >= FILE_CAPTIONS or size >= FILE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was put; where the folder can't be written, it is let go with one warning."""
        if not self._new:
            return
        name = sha256("".join(sorted(self._new)))[:24] + ".safetensors"
        file = self.folder / name
        tensors = {f"{key}.states": states.contiguous() for key, (states, _) in self._new.items()}
        tensors |= {f"{key}.pooled": pooled.contiguous() for key, (_, pooled) in self._new.items()}
        keys = list(self._new)
        self._new.clear()
        if not self._writable:
            return
        try:
            write_weights(file, tensors)
        except OSError as error:
            self._writable = False
            warnings.warn(f"{self.folder}: embeddings of captions can't be kept ({error})", stacklevel=2)
            return
        self._where |= dict.fromkeys(keys, file)

    def _names(self, file: Path) -> list[str]:
        return [name for name in self._read(file).names if name.endswith(".states")]

    def _opened(self, file: Path) -> TensorFile:
        if file not in self._open:
            self._open[file] = self._read(file)
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)
        self._open.move_to_end(file)
        return self._open[file]

    @staticmethod
    def _read(file: Path) -> TensorFile:
        return TensorFile(file, "delete it, and its captions are embedded again")


def caption_key(caption: str) -> str:
    """The address of a caption within its encoder."""
    return sha256(caption)
