"""The toy world's prompts without a package of weights: MiniLM in 8 bits, cut to the words that the world knows.

The package that ships MiniLM's weights is 88 MB; the world's captions are made of some seventy words, so most of the
table of words is never looked up. What is kept is a tenth of that.
"""

from __future__ import annotations

import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from kinolab.conditioning.text.minilm import Bert, MiniLm, MiniLmConfig
from kinolab.errors import InputError
from kinolab.runtime.modules import load_weights, save_weights
from kinolab.toyworld.words import COLOURS, SCENARIO_COUNTS, SCENARIO_DIRECTIONS, SHAPES, WorldRequest, phrasings

WORDS = re.compile(r"[a-z]+|[^\sa-z]")


class _Tokens:
    def __init__(self, ids: list[int]) -> None:
        self.ids = ids
        self.tokens = [str(i) for i in ids]  # all of them known words


class _Words:
    """A tokenizer of known words: each is what BERT's makes of it alone, as BERT's never joins words."""

    def __init__(self, words: dict[str, list[int]], marks: list[int]) -> None:
        self.words, self.marks = words, marks

    def encode(self, prompt: str, add_special_tokens: bool = True) -> _Tokens:
        found: list[int] = []
        for word in WORDS.findall(prompt.lower()):
            if word not in self.words:
                raise InputError(f"{prompt!r}: the carried text encoder knows the toy world's words only, not {word!r}")
            found += self.words[word]
        return _Tokens([self.marks[0], *found, self.marks[1]] if add_special_tokens else found)


class CarriedText(MiniLm):
    """MiniLM for the toy world's words, from a folder that `write_text` made."""

    def __init__(self, folder: Path, max_tokens: int = 22) -> None:
        super().__init__(MiniLmConfig(max_tokens=max_tokens))
        self.place = folder
        self.device = torch.device("cpu")

    @cached_property
    def content(self) -> dict[str, Any]:
        """Words and marks with their rows in the table, and the table's length."""
        try:
            found: dict[str, Any] = json.loads((self.place / "words.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"{self.place}: no text encoder was carried; prepare again with more room") from None
        return found

    @cached_property
    def bert(self) -> Bert:
        """The network with the few rows of its table of words."""
        network = Bert(vocabulary=int(self.content["rows"]))
        load_weights(network, self.place / "bert.safetensors")
        return network.eval().requires_grad_(False)

    @cached_property
    def _tokenizer(self) -> _Words:
        return _Words(self.content["words"], self.content["marks"])

    def files(self) -> list[Path]:
        """Words and weights."""
        return [self.place / "words.json", self.place / "bert.safetensors"]


def world_words() -> set[str]:
    """Every word that a caption of the toy world may hold."""
    kinds = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    words: set[str] = set()
    for scenario, counts in SCENARIO_COUNTS.items():
        for way in SCENARIO_DIRECTIONS[scenario]:
            for count in counts:
                for first in range(len(kinds)):
                    objects = tuple(kinds[(first + 2 * k) % len(kinds)] for k in range(count))
                    mixed = tuple(kinds[(first + 3 * k) % len(kinds)] for k in range(count))
                    for chosen in (objects, mixed):
                        for grouped in (False, True):
                            for caption in phrasings(WorldRequest(chosen, scenario, way), grouped):
                                words |= set(WORDS.findall(caption.lower()))
    return words


def vocabulary(tokenizer: Any) -> tuple[list[int], dict[str, Any]]:
    """The rows of the whole table of words that are kept, and `words.json`: BERT's own tokenizer's ids of every word,
    as rows of what is kept."""
    tokens = {word: tokenizer.encode(word).ids for word in sorted(world_words())}
    first = next(iter(tokens.values()))
    rows = sorted({i for ids in tokens.values() for i in ids})
    place = {number: row for row, number in enumerate(rows)}
    words = {word: [place[i] for i in ids[1:-1]] for word, ids in tokens.items()}
    return rows, {"rows": len(rows), "marks": [place[first[0]], place[first[-1]]], "words": words}


def write_text(folder: Path) -> float:
    """Write the carried encoder from the installed package; returns the largest relative error of some embeddings."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = MiniLm(MiniLmConfig(max_tokens=22))
    rows, content = vocabulary(whole._tokenizer)
    network = Bert(vocabulary=len(rows))
    state = whole.bert.state_dict()
    state["words.weight"] = state["words.weight"][rows]
    network.load_state_dict(state)
    save_weights(network, folder / "bert.safetensors", torch.int8)
    (folder / "words.json").write_text(json.dumps(content), encoding="utf-8")
    carried, worst = CarriedText(folder), 0.0
    for caption in ("a red ball falls to the floor", "someone throws a purple box to the right"):
        mine, true = carried.encode([caption]), whole.encode([caption])
        assert torch.equal(mine.mask, true.mask), caption
        for a, b in ((mine.states, true.states), (mine.pooled, true.pooled)):
            worst = max(worst, float((a - b).norm() / b.norm()))
    return worst
