"""Which layer of a module the name of a layer in an adapter means.

Adapters name layers as the public layouts of a model do, of which `kinolab.checkpoints` has a format each; so a
format's own names are the table, and what it joins or turns around in weights is joined and turned in their changes. A
model is found under its own names too, which is how variants without a public layout are named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kinolab.checkpoints.adapters.files import Adapter, LowRank
from kinolab.checkpoints.adapters.forms import FormName
from kinolab.checkpoints.base import Format
from kinolab.checkpoints.formats import FORMATS, find_format
from kinolab.denoisers import Denoiser
from kinolab.errors import InputError
from kinolab.layers.lora import Change, joined, weight_of
from kinolab.runtime.modules import without_memory

OWN = "kinolab"
"""What the layout of a module's own names is called."""
SHOWN = 6
"""Names that an error lists."""
WEIGHT = ".weight"


@dataclass(frozen=True)
class Place:
    """The layer of a module that a name means: all of its weight, or one of `count` equal pieces of its rows."""

    layer: str
    index: int = 0
    count: int = 1


@dataclass(frozen=True)
class Layout:
    """The layers of a module by the names that they have in one layout, in the module's order.

    shapes: of the weights, by the module's own names.
    flat: names with underscores for dots -> names, but for those that two layers would share.
    """

    name: str
    format: Format | None
    module: Denoiser
    places: dict[str, Place]
    shapes: dict[str, tuple[int, ...]]
    flat: dict[str, str]

    def find(self, name: str) -> str | None:
        """The name, as the layout has it, that an adapter's name means."""
        return name if name in self.places else self.flat.get(name)

    def turned(self, layer: str, value: Tensor) -> Tensor:
        """Rows of a layer's weight as the layout has them, and the other way round."""
        if self.format is None:
            return value
        return self.format.rearrange(f"{layer}{WEIGHT}", value, self.module.config)


def layouts(module: Denoiser) -> list[Layout]:
    """Every layout that a denoiser's layers have names in; its own names come last."""
    formats = [f for f in map(find_format, FORMATS) if isinstance(module, f.module_class)]
    return [_layout(f.name, f, module) for f in formats] + [_layout(OWN, None, module)]


def layout_of(module: Denoiser, name: str) -> Layout:
    """The layout of a name.

    Raises:
        InputError: for one that the denoiser has no names in; lists those that it has.
    """
    found = layouts(module)
    for layout in found:
        if layout.name == name:
            return layout
    known = ", ".join(layout.name for layout in found)
    raise InputError(f"{name}: no layout of a {type(module).__name__}; expected one of {known}")


def usual_layout(module: Denoiser, form: FormName) -> Layout:
    """The layout in which other programs expect the names of a form: diffusers' where it has a class that can hold the
    model, and kohya's form of SD3 the original one; a model that no public class can hold has its own names."""
    found = []
    for layout in layouts(module):
        with suppress(InputError):
            if layout.format is not None:
                layout.format.check_writable(module)
            found.append(layout)
    order = ("sd3",) if form == "kohya" else ()
    return min(found, key=lambda x: (x.name not in order, not x.name.endswith("_diffusers"), x.format is None))


def part_of(module: Denoiser) -> str:
    """What a pipeline of diffusers calls a denoiser: unet or transformer."""
    return "unet" if any(layout.name.startswith("unet") for layout in layouts(module)) else "transformer"


def _layout(name: str, format: Format | None, module: Denoiser) -> Layout:
    places: dict[str, Place] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    config: Any = module.config
    for layer, child in module.named_modules():
        weight = None if "parametrizations" in layer else weight_of(child)
        if weight is None or weight.ndim < 2 or isinstance(child, nn.Embedding):
            continue
        native, shapes[layer] = f"{layer}{WEIGHT}", tuple(weight.shape)
        names = () if format is None else format.parts(native, config) or format.file_names(native, config)[:1]
        for index, public in enumerate(names or (native,)):
            places[public.removesuffix(WEIGHT)] = Place(layer, index, max(1, len(names)))
    flat: dict[str, str] = {}
    for public in places:
        key = public.replace(".", "_")
        flat[key] = "" if key in flat else public  # two layers of one name: neither is meant
    return Layout(name, format, module, places, shapes, {key: public for key, public in flat.items() if public})


def best_layout(module: Denoiser, adapter: Adapter) -> tuple[Layout, dict[str, str]]:
    """The layout in which most of an adapter's names are layers, and those names -> the layout's."""
    found = []
    for layout in layouts(module):
        names = {name: layout.find(name) for name in adapter.layers}
        found.append((layout, {name: public for name, public in names.items() if public is not None}))
    return max(found, key=lambda pair: len(pair[1]))


def misfits(module: Denoiser, adapter: Adapter) -> list[str]:
    """Why an adapter can't be put on a denoiser, a line each; empty where it can."""
    layout, names = best_layout(module, adapter)
    if not adapter.layers:
        return [] if adapter.text else ["it changes no layer"]
    if not names:
        first = ", ".join(list(adapter.layers)[:SHOWN])
        return [f"none of its {len(adapter.layers)} layers is one of this {type(module).__name__}: {first}"]
    problems = [f"{len(adapter.unexpected)} tensors of no form: {_listed(adapter.unexpected)}"] * bool(
        adapter.unexpected
    )
    unknown = [name for name in adapter.layers if name not in names]
    if unknown:
        listed = _listed(unknown)
        problems.append(f"{len(unknown)} of its {len(adapter.layers)} layers are not in this model: {listed}")
    wrong = [f"{n} {got}, expected {want}" for n, got, want in _shapes(layout, adapter, names) if got != want]
    if wrong:
        problems.append(f"{len(wrong)} changes of another shape: {_listed(wrong)}")
    return problems


def _shapes(layout: Layout, adapter: Adapter, names: Mapping[str, str]) -> list[tuple[str, tuple[int, ...], Any]]:
    """(name, shape of the change, shape of the weight) of each layer; sides of 1 at the end count nothing."""
    found = []
    for name, public in names.items():
        place, change = layout.places[public], adapter.layers[name]
        out, *rest = layout.shapes[place.layer]
        got = (len(change.up), *change.down.shape[1:])
        want = (out // place.count, *rest)
        found.append((name, _plain(got), _plain(want)))
    return found


def _plain(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(out, in, k, k), without kernels of 1, which linear layers and convolutions have in common."""
    kernel = [side for side in shape[2:] if side != 1]
    return (*shape[:2], *kernel)


def _listed(names: Sequence[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def native_changes(module: Denoiser, adapter: Adapter) -> dict[str, Change]:
    """What an adapter changes, by the names of a denoiser's own layers, in the shapes of their weights.

    Raises:
        InputError: where it doesn't fit the denoiser; says all that doesn't.
    """
    problems = misfits(module, adapter)
    if problems:
        raise InputError(f"{adapter.path}: an adapter for another model: {'; '.join(problems)}")
    layout, names = best_layout(module, adapter)
    pieces: dict[str, list[Change | None]] = {}
    for name, public in names.items():
        place = layout.places[public]
        pieces.setdefault(place.layer, [None] * place.count)[place.index] = adapter.layers[name].change
    changes = {}
    for layer, listed in pieces.items():
        change = joined(listed, layout.shapes[layer])
        changes[layer] = Change(change.down, layout.turned(layer, change.up))
    return changes


def public_changes(layout: Layout, changes: Mapping[str, Change]) -> dict[str, LowRank]:
    """The same by the names of a layout: what `native_changes` makes of it again.

    A piece of a weight takes the columns of `up` in which it has values, so that what was joined comes apart.
    """
    found = {}
    for public, place in layout.places.items():
        change = changes.get(place.layer)
        if change is None:
            continue
        up = layout.turned(place.layer, change.up).chunk(place.count)[place.index]
        apart = place.count > 1 and bool(change.up.any())
        used = up.ne(0).any(0) if apart else up.new_ones(up.shape[1]).bool()
        if bool(used.any()):
            down = change.down[used]
            found[public] = LowRank(down, up[:, used], float(len(down)))
    return found


NUMBER = re.compile(r"\d+")


def likely_formats(adapter: Adapter) -> list[Format]:
    """The public formats whose models' layers an adapter's names are most like, whatever the numbers in them.

    It takes no model: they are compared with those of a model of the format's default sizes. Empty where none is alike.
    """
    alike: dict[int, list[Format]] = {0: []}
    for format in map(find_format, FORMATS):
        if issubclass(format.module_class, Denoiser):
            with without_memory():
                module: Any = format.build(format.config_class())
            layout = _layout(format.name, format, module)
            known = {NUMBER.sub("#", name) for name in (*layout.places, *layout.flat)}
            alike.setdefault(sum(NUMBER.sub("#", name) in known for name in adapter.layers), []).append(format)
    return alike[max(alike)] if max(alike) else []
