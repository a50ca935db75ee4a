"""A part: a network of its own beside a denoiser, which owns a port (a control network, an adapter).

It wraps the denoiser's forward pass, so that it may change what the denoiser sees, what its blocks add
(`ForwardOptions.residuals`), or what it gives. The denoiser is not told of the part's port.

Shapes: latents z are (B, C, T, H, W), times t (B,).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor, nn

from kinolab.contracts.conditions import Conditions, Port
from kinolab.contracts.options import AS_TRAINED, ForwardOptions
from kinolab.contracts.table import KindConfig
from kinolab.denoisers.base import Denoiser, DenoiserSpec
from kinolab.errors import InputError

Inner = Callable[[Tensor, Tensor, ForwardOptions], Tensor]
"""inner(z, t, options): what the part is beside, told of all conditions but the part's own -> its prediction."""


class ModelPart(nn.Module):
    """Base of the parts. One that was never trained leaves the prediction as it is: its last layer starts at zero."""

    Config: ClassVar[type[KindConfig]]
    ports: tuple[Port, ...]
    """What it is told, by the names of conditions; where nothing of it is told, it is not called."""
    controls: ClassVar[bool] = False
    """Whether it is a control network, whose strength a run may set (`ForwardOptions.strength`)."""

    def __init__(self, config: Any, denoiser: Denoiser) -> None:
        """A new part for a denoiser, whose weights it may copy and must not keep."""
        super().__init__()
        self.config = config

    def forward(
        self, inner: Inner, z: Tensor, t: Tensor, conditions: Conditions, options: ForwardOptions = AS_TRAINED
    ) -> Tensor:
        """The prediction (B, C or 2C, T, H, W) of `inner` with the part at work.

        `conditions` hold all that is told, the part's own too.
        """
        raise NotImplementedError


class Composed(Denoiser):
    """A denoiser that is made of others, and stands for them in training and sampling."""

    def __init__(self, denoiser: Denoiser, spec: DenoiserSpec) -> None:
        super().__init__()
        self.config, self.spec, self.reach = denoiser.config, spec, denoiser.reach
        self.balances_text = denoiser.balances_text
        self.block_lists = denoiser.block_lists  # type: ignore[misc]  # for FSDP2, which shards the denoiser's blocks

    @property
    def main(self) -> Denoiser:
        """The denoiser whose frames of tokens are this one's."""
        raise NotImplementedError

    def token_frames(self, frames: int) -> int:
        """How many frames of tokens so many latent frames make."""
        return self.main.token_frames(frames)

    @property
    def within_frames(self) -> bool:
        """As the denoiser's own."""
        return self.main.within_frames


class WithParts(Composed):
    """A denoiser and the parts beside it; the first part is innermost.

    Raises:
        InputError: where a part owns a port that the denoiser, or another part, has.
    """

    def __init__(self, denoiser: Denoiser, parts: Mapping[str, ModelPart]) -> None:
        super().__init__(denoiser, spec_with(denoiser.spec, parts))
        self.denoiser, self.beside = denoiser, nn.ModuleDict(parts)
        self.controls = tuple(port.name for part in parts.values() if part.controls for port in part.ports)

    @property
    def main(self) -> Denoiser:
        """The denoiser itself."""
        return self.denoiser

    @property
    def partly_used(self) -> bool:
        """A batch that is told nothing of a part leaves its parameters out."""
        return True

    def forward(self, z: Tensor, t: Tensor, conditions: Conditions, options: ForwardOptions | None = None) -> Tensor:
        """As the denoiser's, told of the parts' ports too."""
        self.check_inputs(z, t, conditions)
        parts: Sequence[Any] = tuple(self.beside.values())
        rest = conditions.without({port.name for part in parts for port in part.ports})

        def call(count: int, z: Tensor, t: Tensor, options: ForwardOptions) -> Tensor:
            """The prediction with the first `count` parts."""
            if not count:
                return self.denoiser(z, t, rest, options)
            part = parts[count - 1]
            inner = lambda z, t, options: call(count - 1, z, t, options)  # noqa: E731
            told = any(port.name in conditions for port in part.ports)
            return part(inner, z, t, conditions, options) if told else inner(z, t, options)

        return call(len(parts), z, t, options or AS_TRAINED)


def spec_with(spec: DenoiserSpec, parts: Mapping[str, ModelPart]) -> DenoiserSpec:
    """What a denoiser takes together with its parts.

    Raises:
        InputError: for a port that two of them own.
    """
    owners = dict.fromkeys(spec.ports, "the denoiser")
    for name, part in parts.items():
        for port in part.ports:
            if port.name in owners:
                raise InputError(f"parts.{name}: {port.name} is a port of {owners[port.name]} already; name another")
            owners[port.name] = f"parts.{name}"
    return replace(spec, more=(*spec.more, *(port for part in parts.values() for port in part.ports)))
