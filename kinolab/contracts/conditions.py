"""What a denoiser may be told beside the noisy latents, and the ports by which it says what it takes.

Three kinds suffice: a *vector* joins the time's embedding (label, pooled prompt, frame rate, noise level), *tokens* are
attended to (a prompt's states), a *field* lies beside the latents and is concatenated or read by a side network (given
latents and their mask, a low-resolution clip, a control map). Each can be null row by row, by itself.

Shapes: B batch, L tokens, D width, N single images beside a clip; latents are (B, C, T, H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from kinolab.errors import InputError

Kind = Literal["vector", "tokens", "field"]
"""How a denoiser reads a condition."""
PROMPT = ("label", "text", "pooled")
"""What is asked of a clip: the conditions that guidance moves away from unless others are named. They fall together,
because a model that is trained without its prompt now and then is trained without all that says the same."""


@dataclass(frozen=True, eq=False)
class Value:
    """One condition of a batch.

    value: vector (B,) or (B, D), tokens (B, L, D), field (B, C, T, H, W).
    mask: of tokens (B, L) bool, True = a token to attend to; of a field (B, R, T, H, W), the share that is to be
    generated (`kinolab.layers.masking`).
    """

    kind: Kind
    value: Tensor
    mask: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> Value:
        """Apply a tensor function to value and mask."""
        return Value(self.kind, function(self.value), None if self.mask is None else function(self.mask))


class Conditions(Mapping[str, Value]):
    """All that a denoiser is told of a batch: a mapping from names to values, and for each name its null rows.

    The published conditions have keywords and attributes of their own, which are tensors or None where nothing is told:

    label: (B,) int64 class labels; the value `num_classes` is the null class.
    text: (B, L, D) token states of the prompt; text_mask: (B, L) bool, True = a real token.
    pooled: (B, D) pooled prompt embedding.
    null: (B,) bool; where True, label, text and pooled (`PROMPT`) are replaced by the learned null condition.
    given: (B, C, T, H, W) latents of the given part of the video, 0 where nothing is given; mask: (B, R, T, H, W), the
    share to be generated (`kinolab.layers.masking`). Both or neither.
    fps: (B,) frames per second of the clips; 0 = a still image.
    image_frames: N, how many of the last frames of the latents are single images beside the clip, in every row.

    Any other is given as a `Value` by its name.

    Raises:
        InputError: for given latents without their mask, or a mask without them.
    """

    def __init__(
        self,
        label: Tensor | None = None,
        text: Tensor | None = None,
        text_mask: Tensor | None = None,
        pooled: Tensor | None = None,
        null: Tensor | None = None,
        given: Tensor | None = None,
        mask: Tensor | None = None,
        fps: Tensor | None = None,
        image_frames: int = 0,
        **others: Value,
    ) -> None:
        if (given is None) != (mask is None):
            raise InputError("given latents and their mask go together, but one of them is missing")
        known: dict[str, tuple[Kind, Tensor | None, Tensor | None]] = {
            "label": ("vector", label, None),
            "text": ("tokens", text, text_mask),
            "pooled": ("vector", pooled, None),
            "given": ("field", given, mask),
            "fps": ("vector", fps, None),
        }
        told = {name: Value(kind, value, mask) for name, (kind, value, mask) in known.items() if value is not None}
        self._told: dict[str, Value] = told | others
        self._nulls: dict[str, Tensor] = {} if null is None else dict.fromkeys(PROMPT, null)
        self.image_frames = image_frames

    @classmethod
    def of(
        cls, told: Mapping[str, Value], nulls: Mapping[str, Tensor] | None = None, image_frames: int = 0
    ) -> Conditions:
        """Conditions of values by their names, with the null rows (B,) of some."""
        made = cls(image_frames=image_frames)
        made._told, made._nulls = dict(told), dict(nulls or {})
        return made

    def __getitem__(self, name: str) -> Value:
        return self._told[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._told)

    def __len__(self) -> int:
        return len(self._told)

    def __bool__(self) -> bool:  # nothing told is something to be told
        return True

    def __repr__(self) -> str:
        told = {name: f"{v.kind} {tuple(v.value.shape)}" for name, v in self._told.items()}
        return f"Conditions({told}, null: {sorted(self._nulls)})"

    def tensor(self, name: str) -> Tensor | None:
        """The value of a condition; None where it is not told."""
        told = self._told.get(name)
        return None if told is None else told.value

    def null_of(self, name: str) -> Tensor | None:
        """(B,) bool, the rows in which a condition is null; None = in none. Also of a condition that is not told."""
        return self._nulls.get(name)

    @property
    def rows(self) -> int | None:
        """B; none where nothing is told."""
        known = (*(told.value for told in self._told.values()), *self._nulls.values())
        return len(known[0]) if known else None

    @property
    def nulls(self) -> Mapping[str, Tensor]:
        """The null rows (B,) by name, of conditions that have some."""
        return dict(self._nulls)

    @property
    def label(self) -> Tensor | None:
        """(B,) int64 class labels, or (B, 1 + N) with joint images."""
        return self.tensor("label")

    @property
    def text(self) -> Tensor | None:
        """(B, L, D) token states of the prompt, or (B, 1 + N, L, D)."""
        return self.tensor("text")

    @property
    def text_mask(self) -> Tensor | None:
        """(B, L) bool, True = a real token; None = all are."""
        told = self._told.get("text")
        return None if told is None else told.mask

    @property
    def pooled(self) -> Tensor | None:
        """(B, D) pooled prompt embedding."""
        return self.tensor("pooled")

    @property
    def given(self) -> Tensor | None:
        """(B, C, T, H, W) latents of the given part."""
        return self.tensor("given")

    @property
    def mask(self) -> Tensor | None:
        """(B, R, T, H, W), the share of each latent that is to be generated."""
        told = self._told.get("given")
        return None if told is None else told.mask

    @property
    def fps(self) -> Tensor | None:
        """(B,) frames per second; 0 = a still image."""
        return self.tensor("fps")

    @property
    def null(self) -> Tensor | None:
        """(B,) bool, the rows in which all that is told of `PROMPT` is null; None = in none."""
        names = [name for name in PROMPT if name in self._told] or PROMPT
        rows = [self._nulls[name] for name in names if name in self._nulls]
        if not rows or len(rows) < len(names):
            return None
        together = rows[0]
        for more in rows[1:]:
            if more is not together:
                together = together & more
        return together

    def map(self, function: Callable[[Tensor], Tensor]) -> Conditions:
        """Apply a tensor function to every value, mask and null row."""
        # Null rows that several names share stay one tensor.
        made = {id(rows): function(rows) for rows in self._nulls.values()}
        nulls = {name: made[id(rows)] for name, rows in self._nulls.items()}
        return Conditions.of({name: told.map(function) for name, told in self._told.items()}, nulls, self.image_frames)

    def to(self, device: torch.device | str) -> Conditions:
        """The same conditions on another device."""
        return self.map(lambda v: v.to(device))

    def at_frames(self, frames: Sequence[int]) -> Conditions:
        """What is told of some latent frames of the clip: fields (B, C, T, H, W) cut to these, in this order.

        Raises:
            InputError: beside single images, which stand behind the clip's own frames.
        """
        if self.image_frames:
            raise InputError("single images beside a clip are told with all its frames: leave image_frames 0")
        index = list(frames)
        cut = {n: v.map(lambda x: x[:, :, index]) if v.kind == "field" else v for n, v in self._told.items()}
        return Conditions.of(cut, self._nulls)

    def replace(self, **changes: Any) -> Conditions:
        """The same conditions with some of the constructor's keywords changed; None takes one away."""
        known = {name: getattr(self, name) for name in KEYWORDS if name != "null"}
        others = {name: told for name, told in self._told.items() if name not in known}
        kept = {name: changes.pop(name, value) for name, value in known.items()}
        nulled, null = "null" in changes, changes.pop("null", None)
        images = changes.pop("image_frames", self.image_frames)
        others = {name: told for name, told in {**others, **changes}.items() if told is not None}
        made = Conditions(null=null, **kept)
        nulls = {name: rows for name, rows in self._nulls.items() if not (nulled and name in PROMPT)}
        return Conditions.of({**made, **others}, {**nulls, **made.nulls}, images)

    def told(self, more: Conditions) -> Conditions:
        """These conditions and more of other names, or new values of the same ones."""
        images = self.image_frames or more.image_frames
        return Conditions.of({**self._told, **more._told}, {**self._nulls, **more._nulls}, images)

    def without(self, names: Collection[str]) -> Conditions:
        """These conditions but for some names."""
        nulls = {name: rows for name, rows in self._nulls.items() if name not in names}
        return Conditions.of({n: v for n, v in self._told.items() if n not in names}, nulls, self.image_frames)

    def with_null(self, rows: Tensor, names: Sequence[str] | None = None) -> Conditions:
        """The same conditions with the rows where `rows` (B,) is True null too, of `names`; None = of `PROMPT`.

        Of given latents and their mask null is that nothing is given, which their values say.
        """
        nulls, joined, told = dict(self._nulls), dict[int | None, Tensor](), dict(self._told)
        for name in PROMPT if names is None else names:
            if name == "given" and name in told:
                told[name] = _nothing_given(told[name], rows)
                continue
            old = self._nulls.get(name)
            key = None if old is None else id(old)
            if key not in joined:
                joined[key] = rows if old is None else old | rows
            nulls[name] = joined[key]
        return Conditions.of(told, nulls, self.image_frames)

    def all_null(
        self, batch: int, device: torch.device | str = "cpu", names: Sequence[str] | None = None
    ) -> Conditions:
        """The counterpart that classifier-free guidance moves away from: `names` (None = `PROMPT`) null in all rows."""
        return self.with_null(torch.ones(batch, dtype=torch.bool, device=device), names)

    @staticmethod
    def cat(first: Conditions, second: Conditions) -> Conditions:
        """Stack two batches of conditions; one told in one must be told in the other.

        Raises:
            ValueError: where it is not.
        """
        if first.image_frames != second.image_frames:
            raise ValueError(f"image_frames: {first.image_frames} in one batch and {second.image_frames} in the other")
        told, nulls = {}, {}
        for name in dict.fromkeys([*first, *second]):
            a, b = first.get(name), second.get(name)
            if a is None or b is None or (a.mask is None) != (b.mask is None):
                part = name if a is None or b is None else f"{name}'s mask"
                raise ValueError(f"conditions.{part} is given in one batch and not in the other")
            mask = None if a.mask is None or b.mask is None else torch.cat([a.mask, b.mask])
            told[name] = Value(a.kind, torch.cat([a.value, b.value]), mask)
        for name in dict.fromkeys([*first.nulls, *second.nulls]):
            nulls[name] = torch.cat([_rows(first, name, second), _rows(second, name, first)])
        return Conditions.of(told, nulls, first.image_frames)


KEYWORDS = ("label", "text", "text_mask", "pooled", "null", "given", "mask", "fps")
"""The constructor's keywords that are tensors."""


def _rows(conditions: Conditions, name: str, other: Conditions) -> Tensor:
    """The null rows of a condition, as many as its batch has; where there are none, as the other batch's, False."""
    rows = conditions.null_of(name)
    if rows is not None:
        return rows
    theirs = other.null_of(name)
    assert theirs is not None
    return theirs.new_zeros(conditions.rows or len(theirs))


def _nothing_given(told: Value, rows: Tensor) -> Value:
    """Given latents with the rows (B,) in which nothing is given any more: zeros, and a mask of ones."""
    gone = rows.view(-1, *[1] * (told.value.ndim - 1))
    assert told.mask is not None
    value, mask = told.value.masked_fill(gone, 0), told.mask.masked_fill(gone, 1)
    return Value(told.kind, value, mask)


@dataclass(frozen=True)
class Port:
    """What a denoiser can be told of one name.

    name: the condition's. kind: how it is read. width: of a vector its numbers (0 = one number, shape (B,); None =
    any), of tokens D, of a field its channels. mask: channels R of a field's mask, 0 = it has none; a field that has
    one always comes with it. per_image: whether joint single images may each have their own row, (B, 1 + N, ...).
    pixels: of a field that is pixels in [0, 1] instead of latents, how many for each latent on a side.
    usual: of a number the least and the most that public models of the kind were trained on; none = not known.
    """

    name: str
    kind: Kind
    width: int | None = 0
    mask: int = 0
    per_image: bool = False
    usual: tuple[float, float] | None = None
    pixels: int = 0

    def shapes(self, told: Value, latents: Sequence[int], images: int) -> list[tuple[tuple[int, ...], ...]]:
        """The shapes of value and mask that fit latents (B, C, T, H, W) with N images: one pair, or two of `per_image`.

        Tokens may be of any number, which is taken from what is told.
        """
        batch, _, *grid = latents
        tails: tuple[tuple[int, ...], ...]
        if self.kind == "tokens":
            length = told.value.shape[-2] if told.value.ndim > 1 else 0
            tails = ((length, self.width or 0), (length,))
        elif self.kind == "field":
            if self.pixels:
                frames, *sides = grid
                grid = [frames, *(self.pixels * side for side in sides)]
            tails = ((self.width or 0, *grid), (self.mask, *grid))
        else:
            width = told.value.shape[-1:] if self.width is None else (self.width,) if self.width else ()
            tails = (tuple(width), ())
        rows = [(batch,), (batch, 1 + images)][: 2 if images and self.per_image else 1]
        return [tuple((*row, *tail) for tail in tails) for row in rows]

    def check(self, told: Value, latents: Sequence[int], images: int) -> None:
        """Raises InputError where what is told has another kind or shape."""
        if told.kind != self.kind:
            raise InputError(f"{self.name} is a {self.kind}, got a {told.kind}")
        pairs = self.shapes(told, latents, images)
        for part, got in enumerate((told.value, told.mask)):
            name = self.name if part == 0 else f"{self.name}_mask"
            allowed = [pair[part] for pair in pairs]
            if got is None:
                if self.kind == "field" and self.mask:
                    raise InputError(f"{self.name} latents and their mask go together, but one of them is missing")
            elif part == 1 and self.kind != "tokens" and not self.mask:
                raise InputError(f"{self.name} has no mask, but one was given")
            elif tuple(got.shape) not in allowed:
                raise InputError(f"expected {name} of shape {' or '.join(map(str, allowed))}, got {tuple(got.shape)}")


def check_conditions(conditions: Conditions, ports: Mapping[str, Port], latents: Sequence[int]) -> None:
    """Check all that is told against the ports of a denoiser: the only place where shapes are checked.

    Args:
        conditions: what is told of a batch.
        ports: what the denoiser takes, by name.
        latents: the shape (B, C, T, H, W) of what it denoises.

    Raises:
        InputError: for a condition without a port, or of another kind or shape; says which shape was expected.
    """
    for name in conditions:
        if name not in ports:
            raise InputError(f"this denoiser was built without {name} conditions, but some were given")
    images = conditions.image_frames
    for name, told in conditions.items():
        ports[name].check(told, latents, images)
    for name, rows in conditions.nulls.items():
        if tuple(rows.shape) != (latents[0],):
            raise InputError(f"expected null rows of {name} of shape ({latents[0]},), got {tuple(rows.shape)}")
