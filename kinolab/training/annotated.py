"""Captions and labels of the clips that a denoiser is trained on: checked before the first step, and drawn in each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from kinolab.conditioning.text import TextEncoder
from kinolab.conditioning.text.base import shortened
from kinolab.contracts.examples import ClipRecord, Example, Source
from kinolab.denoisers import DenoiserSpec
from kinolab.errors import InputError
from kinolab.models import find_model, read_model_config
from kinolab.training.randomness import generators
from kinolab.training.recipe import DenoiserRecipe

# A word of printable ASCII is made of tokens that every encoder's vocabulary has; longer ones may be cut out whole.
PLAIN_WORD = re.compile(r"(?<!\S)(?=\S*[A-Za-z0-9])[!-~]{1,50}(?!\S)")


@dataclass(frozen=True)
class Checked:
    """What a model will call its classes, and what a person should know before training."""

    class_names: tuple[str, ...]
    notes: tuple[str, ...]


def check_annotations(
    recipe: DenoiserRecipe, spec: DenoiserSpec, sources: Sequence[Source], encoder: TextEncoder | None
) -> Checked:
    """Check that the clips have the captions and labels that a denoiser is to be told, and the samples fit it.

    Args:
        recipe: what is trained, and what is to become of clips without a caption or a label.
        spec: what the denoiser takes.
        sources: the clips to train on, and those held out.
        encoder: of captions.

    Raises:
        InputError: for a label outside of the denoiser's classes, clips without a label or a caption unless the recipe
            says what becomes of them, class names in another order than the data's, a text encoder that the denoiser
            does not listen to, and samples of what it can't take; says how many, and names the first.
    """
    takes_text = bool(spec.text_dim or spec.pooled_dim)
    if encoder is not None and not takes_text:
        raise InputError(
            f"text_encoder: {encoder.name} reads captions, and the denoiser takes none; set denoiser.text_dim="
            f"{encoder.dim}{f' and denoiser.pooled_dim={encoder.pooled_dim}' if encoder.pooled_dim else ''}"
        )
    notes: list[str] = []
    records = _by_file(sources)
    classes = tuple(sources[0].classes)
    names = _class_names(recipe, spec, classes, notes) if spec.num_classes else recipe.class_names
    if spec.num_classes and not recipe.unlabelled:
        _check_labels(recipe, spec, records, classes, notes)
    if encoder is not None and not recipe.unlabelled:
        _check_captions(recipe, records, notes)
        asked = [*recipe.samples.prompts, *(c for r in records for c in (r.caption, *r.alternatives) if c)]
        notes += unknown_captions(encoder, asked)
    _check_samples(recipe, spec, encoder)
    notes += started_classes(recipe, names) if spec.num_classes else []
    return Checked(names, tuple(notes))


def unknown_captions(encoder: TextEncoder, captions: Iterable[str]) -> list[str]:
    """What is said of captions of which the encoder knows no token."""
    distinct = dict.fromkeys(captions)
    unknown = [caption for caption in distinct if not PLAIN_WORD.search(caption) and not encoder.knows(caption)]
    if not unknown:
        return []
    return [
        f"{len(unknown)} of {len(distinct)} captions hold no token that {encoder.name} knows, so they can't be told "
        f"apart (first: {shortened(unknown[0])!r})"
    ]


def worded(examples: Sequence[Example], seed: int, step: int, positions: Sequence[int]) -> list[Example]:
    """Examples with one of their captions each, drawn for the place that an example has in the global batch."""
    if not any(example.alternatives for example in examples):
        return list(examples)
    sources = generators(seed, step, positions, "caption")
    return [drawn(example, source) for example, source in zip(examples, sources, strict=True)]


def drawn(example: Example, source: torch.Generator) -> Example:
    """An example with one of its captions, each as likely; nothing is drawn for one that has no choice."""
    if not example.alternatives:
        return example
    captions = (example.caption, *example.alternatives)
    pick = int(torch.randint(len(captions), (1,), generator=source))
    return replace(example, caption=captions[pick], alternatives=())


def _by_file(sources: Sequence[Source]) -> list[ClipRecord]:
    """One record of each file, of sources that know captions and labels before a clip is made."""
    found: dict[str, ClipRecord] = {}
    for source in {id(source): source for source in sources}.values():
        for index in range(len(source)):
            record = source.record(index)
            if not record.annotated and record.caption is None and record.label is None:
                break  # clips that are made when they are asked for; none of them lacks anything
            found.setdefault(record.source, record)
    return list(found.values())


def _check_samples(recipe: DenoiserRecipe, spec: DenoiserSpec, encoder: TextEncoder | None) -> None:
    samples = recipe.samples
    if samples.prompts and encoder is None:
        raise InputError("samples.prompts: the model takes no prompt; leave them out, or name a text_encoder")
    if samples.prompts or not samples.labels:
        return
    if not spec.num_classes:
        raise InputError("samples.labels: the denoiser takes no label; leave them out, or set denoiser.num_classes")
    wrong = [label for label in samples.labels if not 0 <= label < spec.num_classes]
    if wrong:
        raise InputError(f"samples.labels: {wrong[0]} is none of the denoiser's labels, 0 to {spec.num_classes - 1}")


def _check_labels(
    recipe: DenoiserRecipe, spec: DenoiserSpec, records: Sequence[ClipRecord], classes: Sequence[str], notes: list[str]
) -> None:
    """Raises InputError for labels outside of the denoiser's classes, and for clips without one."""
    count = spec.num_classes
    labelled = [record for record in records if record.label is not None]
    worst = max(labelled, key=lambda r: (not 0 <= _label(r) < count, abs(_label(r))), default=None)
    if worst is not None and not 0 <= _label(worst) < count:
        largest = max(_label(record) for record in labelled)
        lowest = min(_label(record) for record in labelled)
        shift = ", or count the labels from 0" if lowest == 1 and largest == count else ""
        named = f" ({', '.join(classes[:8])}{', ...' if len(classes) > 8 else ''})" if not _counted(classes) else ""
        raise InputError(
            f"denoiser.num_classes={count}: {worst.source} has the label {_label(worst)}{named}, expected 0 to "
            f"{count - 1}; set denoiser.num_classes={max(largest, _label(worst)) + 1}{shift}"
        )
    if not records and not _counted(classes) and len(classes) > count:  # labels that come with the clips
        raise InputError(
            f"denoiser.num_classes={count}: the data has {len(classes)} classes ({', '.join(classes)}); set "
            f"denoiser.num_classes={len(classes)}"
        )
    bare = [record.source for record in records if record.label is None]
    if bare and spec.unlabelled == count:  # else the only class is told of every clip
        _lacking(
            recipe.missing_labels,
            "missing_labels",
            f"label, and the denoiser has {count} classes",
            bare,
            records,
            notes,
        )


def _check_captions(recipe: DenoiserRecipe, records: Sequence[ClipRecord], notes: list[str]) -> None:
    bare = [record.source for record in records if not (record.caption or "").strip()]
    if bare:
        _lacking(recipe.missing_captions, "missing_captions", "caption, and the model takes text", bare, records, notes)


def _lacking(
    choice: str, field: str, what: str, bare: Sequence[str], records: Sequence[ClipRecord], notes: list[str]
) -> None:
    text = f"{len(bare)} of {len(records)} clips have no {what} (first: {bare[0]})"
    if choice == "error":
        raise InputError(
            f"{text}; `kinolab data check` says what was read, and {field}=unconditional trains them without"
        )
    notes.append(f"{text}; trained without, as {field} says")


def _class_names(
    recipe: DenoiserRecipe, spec: DenoiserSpec, classes: Sequence[str], notes: list[str]
) -> tuple[str, ...]:
    """The recipe's names of the classes, or the data's where those are words.

    Raises:
        InputError: where the recipe's are too many, come twice, or stand in another order than the data's.
    """
    given, theirs = recipe.class_names, () if _counted(classes) else tuple(classes)
    if not given:
        return theirs
    twice = next((name for name in given if given.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"class_names: {twice!r} is there twice; expected a name for each class")
    if len(given) > spec.num_classes:
        raise InputError(f"class_names: {len(given)} names for denoiser.num_classes={spec.num_classes}")
    for place, name in enumerate(given):
        if name in theirs and theirs.index(name) != place:
            raise InputError(
                f"class_names: {name!r} is number {place} there and {theirs.index(name)} in the data; name the classes "
                f"in the data's order, {', '.join(theirs)}, or leave the names out"
            )
    if theirs and theirs != given:
        notes.append(f"class_names: {', '.join(given)} stand for the data's classes {', '.join(theirs)}, in this order")
    return given


def started_classes(recipe: DenoiserRecipe, names: Sequence[str]) -> list[str]:
    """What is said of first weights whose classes have other numbers than those of the data."""
    if recipe.initial is None or not names:
        return []
    try:
        theirs = read_model_config(find_model(recipe.initial.path)).class_names
    except InputError:  # a file of public weights names no classes
        return []
    moved = [name for place, name in enumerate(names) if name in theirs and theirs.index(name) != place]
    if not moved:
        return []
    return [
        f"{recipe.initial.path}: its class {moved[0]!r} is number {theirs.index(moved[0])}, here it is "
        f"{list(names).index(moved[0])}; what was learned of classes begins anew"
    ]


def _counted(classes: Sequence[str]) -> bool:
    """Whether classes have no names but their numbers, 0, 1, ..."""
    return list(classes) == [str(number) for number in range(len(classes))]


def _label(record: ClipRecord) -> int:
    assert record.label is not None
    return record.label
