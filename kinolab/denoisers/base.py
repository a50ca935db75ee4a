"""What every denoiser takes and gives: noisy latents (B, C, T, H, W), times (B,), conditions -> prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import model_validator
from torch import Tensor, nn

from kinolab.contracts.causal import BlockCausal, Plan
from kinolab.contracts.conditions import Conditions as Conditions
from kinolab.contracts.conditions import Port, check_conditions
from kinolab.contracts.options import ForwardOptions
from kinolab.contracts.reach import Lists, Reach
from kinolab.contracts.table import KindConfig
from kinolab.errors import InputError
from kinolab.layers.masking import Given
from kinolab.layers.null_prompt import NullPrompt
from kinolab.layers.sharing import ContextRanks, SharedPlaces


@dataclass(frozen=True)
class DenoiserSpec:
    """What a denoiser takes: latent channels, whether it also predicts a variance, and the conditions it accepts.

    `given` says how it takes the given part of a video, `mask_channels` the channels R of that part's mask; `fps`
    whether it takes the frame rate, `joint_images` whether its last frames may be single images, `more` the ports of
    all other conditions.
    """

    channels: int
    learned_variance: bool
    num_classes: int = 0
    text_dim: int = 0
    pooled_dim: int = 0
    given: Given = "none"
    mask_channels: int = 1
    fps: bool = False
    joint_images: bool = False
    more: tuple[Port, ...] = ()

    @property
    def ports(self) -> dict[str, Port]:
        """All that the denoiser can be told, by name."""
        joint = self.joint_images
        found = [Port("label", "vector", per_image=joint)] if self.num_classes else []
        found += [Port("text", "tokens", self.text_dim, per_image=joint)] if self.text_dim else []
        found += [Port("pooled", "vector", self.pooled_dim, per_image=joint)] if self.pooled_dim else []
        found += [Port("given", "field", self.channels, self.mask_channels)] if self.given != "none" else []
        found += [Port("fps", "vector")] if self.fps else []
        return {port.name: port for port in (*found, *self.more)}

    @property
    def unlabelled(self) -> int:
        """The label of a sample that has none: the only class of a model that takes nothing else (the released VDT
        is told of that class always), and the null class otherwise."""
        only = self.num_classes == 1 and not (self.text_dim or self.pooled_dim)
        return 0 if only else self.num_classes


def told_frames(t: Tensor, conditions: Conditions, told: Callable[[Tensor, Conditions], Tensor]) -> Tensor:
    """What `told` makes of times (B,) and the vectors of conditions, (B, 1, D); of times (B, T), (B, T, D)."""
    if t.ndim == 1:
        return told(t, conditions)
    vectors = {name: value for name, value in conditions.items() if value.kind == "vector"}
    rows = Conditions.of(vectors, conditions.nulls).map(lambda v: v.repeat_interleave(t.shape[1], 0))
    return told(t.flatten(), rows).view(*t.shape, -1)


def run_blocks(
    x: Tensor,
    options: ForwardOptions | None,
    blocks: Callable[[Tensor], Tensor],
    modulated: Callable[[Tensor], Tensor],
    shared: SharedPlaces | None = None,
) -> Tensor:
    """blocks(x), or what the run's cache makes of it (`kinolab.contracts.options.BlockCache.run`).

    Where places are `shared`, the blocks get this process's of the tokens x (B, T, S, D), and all of them come back.
    """

    def run(x: Tensor) -> Tensor:
        return blocks(x) if shared is None else shared.whole(blocks(shared.own(x)))

    if options is None or options.cache is None:
        return run(x)
    return options.cache.run(x, run, modulated)


class BaseDenoiserConfig(KindConfig):
    """The config of a denoiser; its field `input_size` is the side of the latents in training, or height and width."""

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Fields of the `diffusion` that public weights of this kind were trained with, and of the `sampler` that they are
    used with, where they differ from the defaults of both."""
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """The fields of each published size, by the word that the config's field `size` has for it."""

    @model_validator(mode="before")
    @classmethod
    def _fill_size(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("size") in cls.sizes:
            return {**cls.sizes[values["size"]], **values}
        return values

    @property
    def latent_size(self) -> tuple[int, int]:
        """(height, width) of the latents in training."""
        size: int | tuple[int, int] = self.input_size  # type: ignore[attr-defined]
        return size if isinstance(size, tuple) else (size, size)

    def check_diffusion(self, schedule: str, prediction: str) -> None:
        """Raises ValueError where the network is built for another noise path or prediction than these."""

    def check_given_guidance(self, scale: float) -> None:
        """Raises ValueError for a scale towards a given part where the network is told of none."""
        if scale != 1.0 and getattr(self, "given", "none") == "none":
            raise ValueError(f"given_guidance {scale:g}: this denoiser is told of no given part (denoiser.given)")


class Denoiser(nn.Module):
    """Base of the denoisers. The output has C channels, or 2C where the variance is learned."""

    Config: ClassVar[type[BaseDenoiserConfig]]
    block_lists: ClassVar[tuple[str, ...]] = ("blocks",)
    """The names of the lists of blocks that FSDP2 shards one by one."""
    spec: DenoiserSpec
    config: Any
    """The denoiser's own config class."""
    reach: Reach | None = None
    """Which frames a frame's self-attention reads as trained; none = it can't be told to read others."""
    controls: tuple[str, ...] = ()
    """The ports of control networks beside it, whose strength a run may set."""
    balances_text: bool = False
    """Whether pictures and text share an attention, so that a run may say how much text weighs in it."""
    unlisted: Reach | None = None
    """Which it reads where it is given no lists; none = the same."""
    shares_places: ClassVar[bool] = False
    """Whether several processes can compute a clip together (`kinolab.layers.sharing`)."""
    among: ContextRanks | None = None
    """The processes that do, in training; none = this one alone."""

    def shared(self, places: int, plan: Plan | None = None) -> SharedPlaces | None:
        """How frames of so many places are shared in a call; none = not at all, as block-causal ones are not."""
        return None if self.among is None or plan is not None else SharedPlaces(self.among, places)

    def check_causal(self) -> None:
        """Raises InputError where its frames can't read block-causally: what it is and what would do."""
        raise InputError(
            f"{type(self).__name__} has no block-causal form: expected a transformer whose layers over time are "
            "attention alone: latte, mmdit or vdt"
        )

    def plan(self, frames: int, options: ForwardOptions | None) -> Plan | None:
        """What the blocks of a call of so many frames read, where its reach is block-causal; none = it is another.

        Raises:
            InputError: where this denoiser has no block-causal form.
        """
        asked = None if options is None or options.reach is None else options.reach.frames
        if options is None or not isinstance(asked, BlockCausal):
            return None
        self.check_causal()
        if options.text_beside is not None:
            raise InputError("the text of a stream weighs as it did in training: leave text_beside out")
        if options.cache is not None:
            raise InputError("a step cache leaves blocks out, whose keys later frames read: leave it out of a stream")
        return asked.plan(frames, options.kept)

    def token_frames(self, frames: int) -> int:
        """How many frames of tokens so many latent frames make."""
        return frames

    def reach_lists(self, frames: int, options: ForwardOptions | None) -> Lists | None:
        """Which of so many frames of tokens each one reads; none = as it does without lists.

        Raises:
            InputError: where another reach is asked for and the denoiser has none to change, or of other frames.
        """
        asked, unlisted = None if options is None else options.reach, self.unlisted or self.reach
        if asked is not None and isinstance(asked.frames, BlockCausal):
            return None  # told to every attention over time as a `plan`
        if asked is not None and self.reach is None:
            raise InputError("this denoiser's frames read what they were trained to read: leave reach out")
        reach = asked or self.reach
        if reach is None or unlisted is None or reach == unlisted:
            return None
        lists = reach.lists(frames)
        return None if lists == unlisted.lists(frames) else lists

    @property
    def block_count(self) -> int:
        """How many blocks there are that residuals can be added behind."""
        return len(getattr(self, self.block_lists[0]))

    def residuals(self, options: ForwardOptions | None, shared: SharedPlaces | None = None) -> Mapping[int, Tensor]:
        """What is added to the tokens behind blocks, by their number; of `shared` places this process's.

        Raises:
            InputError: for a block that is not there.
        """
        found = {} if options is None or options.residuals is None else options.residuals
        count = self.block_count if found else 0
        for number in found:
            if not 0 <= number < count:
                raise InputError(f"residuals: expected numbers of blocks from 0 to {count - 1}, got {number}")
        if shared is None:
            return found
        return {number: shared.own(added) if added.ndim else added for number, added in found.items()}

    def forward(self, z: Tensor, t: Tensor, conditions: Conditions, options: ForwardOptions | None = None) -> Tensor:
        """z (B, C, T, H, W), t (B,) in the diffusion's own time units, conditions -> (B, C or 2C, T, H, W).

        `options` is what the run asks for; none = as trained. With a block-causal reach every frame may have a time of
        its own, t (B, T).
        """
        raise NotImplementedError

    @property
    def partly_used(self) -> bool:
        """Whether clips of some lengths leave parameters out of the forward pass, so that they get no gradient."""
        return False

    def models_time(self, name: str) -> bool:
        """Whether the parameter `name` is there for time alone: an image model of the same kind has none such."""
        return False

    @property
    def within_frames(self) -> bool:
        """Whether frames are nothing to each other, as in an image model, unless a run says which ones they read."""
        alone = self.reach == Reach("own")
        return alone and not any(self.models_time(name) for name, _ in self.named_parameters())

    def check_inputs(self, z: Tensor, t: Tensor, conditions: Conditions, *, framewise: bool = False) -> None:
        """Raises InputError where shapes are wrong or a condition is given that this denoiser can't take.

        framewise: whether each frame may have a time of its own.
        """
        if conditions.image_frames and not self.spec.joint_images:
            raise InputError("this denoiser was built without joint images: leave image_frames 0")
        if z.ndim != 5 or z.shape[1] != self.spec.channels:
            raise InputError(f"expected latents (B, {self.spec.channels}, T, H, W), got {tuple(z.shape)}")
        if framewise and t.shape == (z.shape[0], z.shape[2]):
            check_conditions(conditions, self.spec.ports, z.shape)
            return
        if t.shape != z.shape[:1]:
            raise InputError(f"expected one time per sample, shape ({z.shape[0]},), got {tuple(t.shape)}")
        check_conditions(conditions, self.spec.ports, z.shape)


class NullPromptDenoiser(Denoiser):
    """One that reads prompts, and whose null condition is learned or the empty prompt's (`kinolab.layers.null_prompt`).

    Its config has `null_tokens`, the tokens of the null condition.
    """

    null_prompt: NullPrompt

    def set_null_prompt(self, text: Tensor | None = None, pooled: Tensor | None = None) -> None:
        """Make the empty prompt's embedding the null condition: text (L, P) token states, pooled (Q,).

        `config.null_tokens` becomes L: take the config from the model afterwards.

        Raises:
            InputError: for a model that learns its null condition, or another width.
        """
        self.null_prompt.set_prompt(text, pooled)
        if text is not None:
            self.config = self.config.model_copy(update={"null_tokens": len(text)})
