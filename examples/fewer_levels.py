"""First weights for an image autoencoder from one with a resolution more: `python examples/fewer_levels.py OUT`.

The recipe `toy-image-4` has the three finest resolutions of the image autoencoder in `world-text`. What they share
(the encoder from its beginning, the decoder from its end) is copied; the rest stays random. In training:
`kinolab train toy-image-4 -s initial.path=OUT -s initial.method=weights`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch

from kinolab.autoencoders import DpVae, build
from kinolab.models import load_autoencoder, save_autoencoder
from kinolab.training.recipe import AutoencoderRecipe, load_recipe


def main(out: Path) -> None:
    """Write the model folder."""
    torch.manual_seed(0)
    recipe, source = load_recipe("toy-image-4"), load_autoencoder("world-text")
    assert isinstance(recipe, AutoencoderRecipe) and isinstance(source, DpVae) and source.image is not None
    larger, smaller = source.image.state_dict(), build(recipe.autoencoder)
    weights, taken = smaller.state_dict(), 0
    for name, value in weights.items():
        if name.startswith("latent_"):
            continue
        # The decoder's finest block is its last: number k here is number k + 1 there.
        theirs = re.sub(r"(?<=up_blocks\.)\d", lambda m: str(int(m.group()) + 1), name)
        if theirs in larger and larger[theirs].shape == value.shape:
            weights[name], taken = larger[theirs], taken + 1
    smaller.load_state_dict(weights)
    save_autoencoder(smaller, out, trained=f"{taken} of {len(weights)} tensors of world-text", size=(64, 64))
    print(f"{out}: {taken} of {len(weights)} tensors copied")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
