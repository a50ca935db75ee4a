"""The cells of a plan: which there are, and which need which."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from kinolab.comparison.plan import ComparePlan
from kinolab.errors import InputError


@dataclass(frozen=True)
class Cell:
    """One thing that is trained and measured; without a denoiser, an autoencoder."""

    data: str
    budget: str
    seed: int
    autoencoder: str
    denoiser: str | None = None
    task: str | None = None

    @property
    def kind(self) -> Literal["autoencoder", "denoiser"]:
        """What it trains."""
        return "autoencoder" if self.denoiser is None else "denoiser"

    @property
    def id(self) -> str:
        """Its name on the command line and below `cells/`."""
        parts = [self.data, self.budget, f"seed{self.seed}", self.autoencoder]
        return "/".join([*parts, *(p for p in (self.denoiser, self.task) if p is not None)])


def cells_of(plan: ComparePlan) -> list[Cell]:
    """All cells, each after those that it needs."""
    order: list[str] = []
    for name in plan.autoencoders:
        for needed in reversed(_line(plan, name)):
            if needed not in order:
                order.append(needed)
    cells = []
    pairs = [(entry.weights_of, name) for name, entry in plan.denoisers.items()]
    denoisers = dict.fromkeys(
        name for pair in pairs for name in pair if name is not None
    )  # in the plan's order, but each after the one whose weights it has
    for data in plan.data:
        for budget in plan.budgets:
            for seed in plan.seeds:
                cells += [Cell(data, budget, seed, name) for name in order]
                cells += [
                    Cell(data, budget, seed, name, denoiser, task)
                    for name in order
                    for denoiser in denoisers
                    if name in stands_before(plan, denoiser)
                    for task in plan.tasks
                ]
    return cells


def stands_before(plan: ComparePlan, denoiser: str) -> tuple[str, ...]:
    """The autoencoders that a denoiser of the plan stands in front of; one with another's weights, those of that."""
    entry = plan.denoisers[denoiser]
    if entry.weights_of is not None and not entry.autoencoders:
        return stands_before(plan, entry.weights_of)
    return entry.autoencoders or tuple(plan.autoencoders)


def find_cell(plan: ComparePlan, id: str) -> Cell:
    """The cell of an id; raises InputError where there is none."""
    for cell in cells_of(plan):
        if cell.id == id:
            return cell
    raise InputError(f"{id}: no such cell; `kinolab compare PLAN --list` lists them")


def base_of(cell: Cell) -> Cell:
    """The autoencoder's cell that a denoiser's stands in front of."""
    return Cell(cell.data, cell.budget, cell.seed, cell.autoencoder)


def owner_of(plan: ComparePlan, cell: Cell) -> Cell:
    """The cell whose weights a cell has: itself, or that of the entry which `weights_of` names."""
    named = None if cell.denoiser is None else plan.denoisers[cell.denoiser].weights_of
    return cell if named is None else replace(cell, denoiser=named)


def needs(plan: ComparePlan, cell: Cell) -> list[Cell]:
    """The cells that have to be trained before."""
    if cell.kind == "denoiser":
        owner = owner_of(plan, cell)
        return [base_of(cell), *([owner] if owner != cell else [])]
    initial = plan.autoencoders[cell.autoencoder].initial
    return [] if initial is None else [Cell(cell.data, cell.budget, cell.seed, initial.entry)]


def _line(plan: ComparePlan, name: str) -> list[str]:
    """An autoencoder and those it starts from, itself first."""
    line = [name]
    while (initial := plan.autoencoders[line[-1]].initial) is not None:
        line.append(initial.entry)
    return line
