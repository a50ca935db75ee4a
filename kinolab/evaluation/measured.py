"""The metrics of a protocol at work: built from the table, shown batches, asked for their scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kinolab.errors import InputError
from kinolab.evaluation.protocol import Protocol, settings_of
from kinolab.metrics import METRICS
from kinolab.metrics.base import Metric, MetricValue, Need, NotOnSuchClipsError, Setup, Shown
from kinolab.metrics.extractors.base import Extractor
from kinolab.metrics.flow import need_flow


class Measured:
    """Every metric of a protocol, and those that are given along with them; scores of one class share an object.

    protocol: names the metrics, in any order.
    networks: the extractors by role.
    lacking: what this evaluation can't show, and why; metrics that need it are left out, and `left` says so.
    known: what else is known of the clips (`fps`, `spatial_ratio`).

    Raises:
        InputError: where a library is missing, or weights can't be read.
    """

    def __init__(
        self,
        protocol: Protocol,
        networks: Mapping[str, Extractor] | None = None,
        lacking: Mapping[Need, str] | None = None,
        **known: Any,
    ) -> None:
        self.protocol, self.networks, self.known = protocol, networks or {}, known
        self.metrics: dict[str, Metric] = {}
        self.left: dict[str, str] = {}
        self._lacking = lacking or {}
        asked = [name for name in METRICS.names(protocol.kind) if name in protocol.metrics]
        for name in asked:
            self._add(name, METRICS.get(name))
        along = [other for name in asked if name not in self._absent for other in METRICS.get(name).also]
        for name in along:
            if name not in self.metrics:
                self._add(name, METRICS.get(name))
        order = METRICS.names()
        self.metrics = {name: self.metrics[name] for name in order if name in self.metrics}
        if any("flow" in metric.needs for metric in self.metrics.values()):
            need_flow()

    @property
    def _absent(self) -> list[str]:
        """The metrics that need what this evaluation can't show."""
        return [name for name, why in self.left.items() if why in self._lacking.values()]

    def _add(self, name: str, cls: type[Metric]) -> None:
        reason = next((why for need, why in self._lacking.items() if need in cls.needs), None)
        if reason is not None:
            self.left[name] = reason
            return
        shared = next((m for m in self.metrics.values() if type(m) is cls), None)
        try:
            self.metrics[name] = shared if shared is not None else cls.build(self._setup(name, cls))
        except NotOnSuchClipsError as error:
            self.left[name] = str(error)

    def _setup(self, name: str, cls: type[Metric]) -> Setup:
        p = self.protocol
        return Setup(
            minimum=p.minimum, seed=p.seed, frames=p.frames,
            size=(p.size, p.size) if isinstance(p.size, int) else p.size, networks=self.networks, text=p.text,
            perceptual=p.perceptual, **self.known,
            settings=settings_of(p, name) if name in p.metrics else cls.Config(),
        )  # fmt: skip

    def wants(self, *needs: Need) -> bool:
        """Whether any metric looks at one of these."""
        return any(metric.needs & set(needs) for metric in self.metrics.values())

    def see(self, shown: Shown, *, sets: bool) -> None:
        """Show a batch to the metrics of sets, or to all others.

        Raises:
            InputError: where one that looks at captions is shown clips without.
        """
        for metric, names in self._objects():
            if ("sets" in metric.needs) != sets:
                continue
            if "captions" in metric.needs and not (shown.captions and all(shown.captions)):
                raise InputError(f"{names[0]} needs a prompt for every clip; these have none")
            metric.see(shown)

    def values(self, notes: list[str], *, sets: bool | None = None) -> dict[str, MetricValue]:
        """Every score, or those of sets, or all others; what can't be given is said in `notes`."""
        found: dict[str, MetricValue] = {}
        for name, metric in self.metrics.items():
            if sets is not None and ("sets" in metric.needs) != sets:
                continue
            if "chunks" in metric.needs and not metric.per_clip:
                continue
            try:
                found[name] = metric.score(name)
            except InputError as error:
                notes.append(f"left out: {error}")
        for metric, names in self._objects():
            if found.keys() & set(names):
                notes += metric.notes()
        return found

    def unseen(self) -> list[str]:
        """The metrics of reconstructions in chunks that were shown none."""
        return [n for n, m in self.metrics.items() if "chunks" in m.needs and not m.per_clip]

    def per_clip(self) -> dict[str, list[float]]:
        """Every clip's own scores, of the metrics that give them."""
        return {name: m.per_clip for name, m in self.metrics.items() if "sets" not in m.needs}

    def _objects(self) -> Iterator[tuple[Metric, Sequence[str]]]:
        """Each object once, with the names of its scores."""
        names: dict[int, list[str]] = {}
        for name, metric in self.metrics.items():
            names.setdefault(id(metric), []).append(name)
        for own in names.values():
            yield self.metrics[own[0]], own
