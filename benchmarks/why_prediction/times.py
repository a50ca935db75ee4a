"""`python -m benchmarks.why_prediction.times`: how often training sees noise that hides what has to be decided.

docs/why-prediction/latents.json says up to which flow time a change of one object can still be told from the noisy
latents. Above it the model has to know from what it is given; this is the share of training times there, by the shift
of the noise levels.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from kinolab.diffusion import Diffusion, DiffusionConfig

SHIFTS = (1.0, 2.0, 3.0, 4.0)


def share_above(time: float, shift: float, count: int = 100_000) -> float:
    """The share of logit-normal training times, shifted, above a flow time (0 clean, 1 noise)."""
    config = DiffusionConfig(
        schedule="flow", prediction="flow", time_sampling="logit_normal", stratified=True, time_shift=shift
    )
    return float((Diffusion(config).draw_times(count) / 1000 > time).float().mean())


def main() -> None:
    """Print a row for each change."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("autoencoder", nargs="?", default="world-text")
    parser.add_argument("--latents", type=Path, default=Path("docs/why-prediction/latents.json"))
    asked = parser.parse_args()
    results = json.loads(asked.latents.read_text(encoding="utf-8"))["results"]
    found = next(r["changes"] for r in results if r["autoencoder"] == asked.autoencoder)
    print("change, told until, share of training times above it with a shift of", ", ".join(f"{s:g}" for s in SHIFTS))
    for change, numbers in found.items():
        time = float(numbers["told until flow time"])
        print(f"{change}: {time:.2f}", *(f"{share_above(time, shift):.0%}" for shift in SHIFTS))


if __name__ == "__main__":
    main()
