"""Checkpoints of a run: all that is needed to go on exactly, each of them whole or not there at all.

Weights, optimiser and EMA go through torch.distributed.checkpoint, so a checkpoint written by two processes loads into
one or three; how they lie on the disk is `runtime.sharded`. The step number is the data position and the seed of every
draw (see `randomness`), so nothing else is needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor

from kinolab.errors import DamagedError, InputError
from kinolab.runtime import files, sets, sharded
from kinolab.runtime.hashes import Sha256, scan
from kinolab.runtime.lines import one_line
from kinolab.runtime.put_back import away
from kinolab.runtime.ranks import Ranks
from kinolab.runtime.records import read_record
from kinolab.runtime.summed import summed
from kinolab.training.ema import Ema

RECORD = "state.json"
"""The step, how many processes wrote it, and which optimisers have stepped."""
NAME = re.compile(r"step-\d+")
T = TypeVar("T")


class Abandoned(Exception):  # noqa: N818 - no error: nobody waits for it
    """A checkpoint that is given up half-written."""


@dataclass(frozen=True)
class Unsealed:
    """A checkpoint that is being written; of all processes the first one seals it, and may do so once it is written.

    seal: make a checkpoint of what is written, raises OSError; abandon: remove it.
    """

    final: Path
    writing: sharded.Writing
    seal: Callable[[], None]
    abandon: Callable[[], object]


class RunState:
    """The named modules, optimisers and averages of a run, saved and loaded together."""

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        optimizers: Mapping[str, torch.optim.Optimizer],
        averages: Mapping[str, Ema],
        ranks: Ranks,
        frozen_elsewhere: Collection[str] = (),
    ) -> None:
        """frozen_elsewhere: of the modules, those whose frozen parameters come from elsewhere: only their sums are
        saved, and compared when a checkpoint is loaded."""
        self.modules, self.optimizers, self.averages, self.ranks = modules, optimizers, averages, ranks
        self.partly = frozenset(frozen_elsewhere)
        self._frozen = {name: _sum(modules[name]) for name in modules if name in self.partly}

    def _options(self, name: str, whole: Collection[str] = ()) -> StateDictOptions:
        partly = name in self.partly and name not in whole
        return StateDictOptions(ignore_frozen_params=partly, strict=not partly)

    def _collect(self, started: Collection[str], whole: Collection[str] = ()) -> dict[str, Any]:
        """What is saved; optimisers only of the parts in `started`, as one that has not stepped has no state yet (and
        torch would make it one by a step, after which its first real step is its second). Of the modules in `whole`
        frozen parameters too."""
        state: dict[str, Any] = {}
        for name, module in self.modules.items():
            state[name] = {"weights": get_model_state_dict(module, options=self._options(name, whole))}
            if name in started:
                state[name]["optimizer"] = get_optimizer_state_dict(module, self.optimizers[name])
        for name, average in self.averages.items():
            state[f"{name}.ema"] = average.shadow
        return state

    def save(self, folder: Path, step: int, keep: int) -> Path:
        """Write `folder/step-N` (complete or not there at all); of others, only the newest `keep - 1` before it stay.

        Raises:
            OSError: where it can't be written; the checkpoints that were there stay.
        """
        final, started = folder / f"step-{step:08d}", self._started
        with ExitStack() as stack:
            room = self._room(stack, final)
            elsewhere = sharded.save(self._collect(started), room, self.ranks.size == 1, away(final))
            self._seal(room, step, started, elsewhere)
        self._leave(final, keep)
        self._barrier()
        return final

    def begin_saving(self, folder: Path, step: int, keep: int, group: Any) -> Unsealed:
        """As `save`, but written beside the steps that follow, of a copy of the state as it is now.

        group: the processes of the run in a group of their own (`sharded.save_beside`); None for one process.

        Raises:
            OSError: where no folder can be made, or there is no room for the copy.
        """
        final, started = folder / f"step-{step:08d}", self._started
        with ExitStack() as stack:
            room = self._room(stack, final)
            writing = sharded.save_beside(self._collect(started), room, group, away(final))
            folder_open = stack.pop_all()

        def seal() -> None:
            with folder_open:
                self._seal(room, step, started, writing.writer.elsewhere)
            self._leave(final, keep)

        return Unsealed(final, writing, seal, lambda: folder_open.__exit__(Abandoned, Abandoned(), None))

    @property
    def _started(self) -> list[str]:
        return [name for name, optimizer in self.optimizers.items() if optimizer.state]

    def _room(self, stack: ExitStack, final: Path) -> Path:
        """The folder that becomes `final`, which the first process makes; on other machines' disks the same name."""
        return final.parent / self.agree(lambda: stack.enter_context(files.new_folder(final)).name)

    def _seal(self, room: Path, step: int, started: Sequence[str], elsewhere: Mapping[str, sets.Entry]) -> None:
        """The first process makes a checkpoint of what all have written."""
        if self.ranks.first:
            record: dict[str, Any] = {"step": step, "processes": self.ranks.size, "optimizers": list(started)}
            record |= {"frozen": self._frozen} if self._frozen else {}
            files.write_text(room / RECORD, summed(record) + "\n")
            sharded.seal(room, elsewhere)

    def _leave(self, final: Path, keep: int) -> None:
        """The first process leaves a checkpoint and the newest `keep - 1` before it alone."""
        if self.ranks.first:
            found = checkpoints(final.parent)
            at = found.index(final)
            # What is later is of a run that went on from an older checkpoint, as those were damaged.
            for other in [*found[: at + 1][:-keep], *found[at + 1 :]]:
                files.discard(other)

    def load(self, checkpoint: Path) -> int:
        """Load a checkpoint into the modules, optimisers and averages; returns its step.

        Raises:
            DamagedError: where the checkpoint is damaged; what it was loaded into is then to be loaded anew.
            InputError: where it is another model's.
        """
        step, optimizers, frozen = self.agree(lambda: _read_record(checkpoint))
        # A run that began before frozen weights were left out of checkpoints, or that trained all of them, has them.
        whole = [name for name in self.partly if name not in frozen]
        self._check_frozen(checkpoint, {name: found for name, found in frozen.items() if name in self.partly})
        unknown = [name for name in optimizers if name not in self.optimizers]
        if unknown:
            raise InputError(f"{checkpoint}: does not fit this recipe's model (it trains no {unknown[0]})")
        for name, optimizer in self.optimizers.items():
            if name not in optimizers:  # it may have a state from a checkpoint that turned out to be damaged
                optimizer.state.clear()
        state = self._collect(optimizers, whole)
        try:
            sharded.load(state, checkpoint, alone=self.ranks.size == 1)
        except DamagedError:
            raise
        except InputError as error:
            why = one_line(str(error).removeprefix(f"{checkpoint}: "), 200)
            raise InputError(f"{checkpoint}: does not fit this recipe's model ({why})") from None
        for name, module in self.modules.items():
            set_model_state_dict(module, state[name]["weights"], options=self._options(name, whole))
            if name in optimizers:
                set_optimizer_state_dict(module, self.optimizers[name], state[name]["optimizer"])
        for name, average in self.averages.items():
            average.shadow = state[f"{name}.ema"]
        self._check_frozen(checkpoint, {name: _sum(self.modules[name]) for name in whole})
        return step

    def _check_frozen(self, checkpoint: Path, found: Mapping[str, str]) -> None:
        """Raises InputError where the frozen weights of a checkpoint, by their sums, are not those of this run."""
        other = [name for name, its in found.items() if its != self._frozen[name]]
        if other:
            raise InputError(
                f"{checkpoint}: the frozen weights of its {other[0]} were others; a run goes on from the model that it "
                "began with (initial.path)"
            )

    def load_newest(self, folder: Path, say: Callable[[str], None]) -> int | None:
        """Load the newest checkpoint in a folder that is whole: its step, or None where there is no checkpoint.

        say: is told of those that are damaged.

        Raises:
            DamagedError: where there are checkpoints and none is whole.
            InputError: where the newest whole one is another model's.
        """
        found = [folder / name for name in self.agree(lambda: [path.name for path in checkpoints(folder)])]
        return sharded.newest_whole(found, self.load, say)

    def agree(self, decide: Callable[[], T]) -> T:
        """What the first process decides, or its error, in all of them."""
        if self.ranks.size == 1:
            return decide()
        told: list[Any] = [None]
        if self.ranks.first:
            try:
                told = [(decide(), None)]
            except (InputError, OSError) as error:
                told = [(None, error)]
        dist.broadcast_object_list(told, src=0)
        decided, failure = told[0]
        if failure is not None:
            raise failure
        return cast(T, decided)

    def _barrier(self) -> None:
        if self.ranks.size > 1:
            dist.barrier()


def checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints in a folder, oldest first, be they damaged or not."""
    hidden = [p.name.removeprefix(".").removesuffix(".committed") for p in folder.glob(".step-*.committed")]
    names = {p.name for p in folder.glob("step-*")} | set(hidden)
    found = [files.standing(folder / name) for name in sorted(names) if NAME.fullmatch(name)]
    return [p for p in found if (p / RECORD).exists() or (p / sets.MANIFEST).exists()]


def _sum(module: nn.Module) -> str:
    """A sum over the frozen parameters of a module, however they are sharded; every process calls it."""
    digest = Sha256()
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
            digest.text(f"{name} {scan(whole.detach().cpu(), search=False).sum}\n")
    return digest.hex()


def _read_record(checkpoint: Path) -> tuple[int, list[str], dict[str, str]]:
    """A checkpoint's step, the names of the parts whose optimisers have stepped, and sums of frozen parameters."""
    try:
        record = read_record(checkpoint / RECORD)
        frozen = record.record("frozen", {})
        return record.integer("step", at_least=0), record.texts("optimizers"), {n: frozen.text(n) for n in frozen}
    except FileNotFoundError:
        raise DamagedError(f"{checkpoint}: {RECORD} is missing") from None
    except InputError as error:
        raise DamagedError(str(error)) from None
