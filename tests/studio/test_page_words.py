"""What the page knows by itself, held together with what the library says."""

from __future__ import annotations

import re

from kinolab.metrics import METRICS, better_of
from tests.processes import ROOT


def test_the_page_knows_of_every_score_what_is_better() -> None:
    text = (ROOT / "studio" / "src" / "compare" / "better.ts").read_text("utf-8")
    for name, wanted in (("LOWER", "lower"), ("ONE", "one")):
        listed = re.search(rf"const {name} = \[(.*?)\];", text, re.DOTALL)
        assert listed is not None
        assert re.findall(r'"(\w+)"', listed[1]) == [each for each in METRICS if better_of(each) == wanted]
