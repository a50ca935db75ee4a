"""A Gradio page on Kinolab's library calls: `pip install gradio`, then `python examples/gradio_app.py [PORT]`.

For a Space or a demo. It keeps nothing; the studio (`kinolab studio`) has queue, training, masks and comparison.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from kinolab.errors import InputError
from kinolab.generation import warm
from kinolab.generation.generate import generate
from kinolab.generation.provenance import embedded
from kinolab.generation.request import default_model

GIVEN = {"what comes next": {"task": "predict"}, "what lies between": {"task": "interpolate", "insert": 1}}
"""What is made of a clip -> fields of `GivenConfig`."""


def make(gr: Any, values: dict[str, Any], progress: Any) -> tuple[str, dict[str, Any]]:
    """A video and the request that made it; what a person got wrong is shown as one line."""
    try:
        out = Path(tempfile.mkdtemp(prefix="kinolab-")) / "video.mp4"
        (path,) = generate(values, out, events=lambda done, total: progress((done, total)))
        return str(path), dict(embedded(path)["request"])
    except InputError as error:
        raise gr.Error(str(error)) from None


def build(gr: Any) -> Any:
    """The page: a video from words, and one from a clip."""

    def from_text(prompt: str, seed: float, steps: float, scale: float, progress: Any = gr.Progress()) -> Any:
        how = {"sampler": {"steps": int(steps)}, "guidance": {"scale": scale}, "seed": int(seed)}
        return make(gr, {"model": default_model(), "prompts": [prompt], **how}, progress)

    def from_clip(clip: str, what: str, seed: float, progress: Any = gr.Progress()) -> Any:
        return make(gr, {"seed": int(seed), "given": {**GIVEN[what], "video": clip}}, progress)

    def made() -> list[Any]:
        return [gr.Video(autoplay=True, loop=True), gr.JSON(label="Settings")]

    first, seeds = next(iter(GIVEN)), [gr.Number(0, label="Seed", precision=0) for _ in range(2)]
    steps, scale = gr.Slider(1, 100, 20, step=1, label="Steps"), gr.Slider(1, 10, 3, label="Guidance")
    text = [gr.Textbox("a red ball bounces on the floor", label="Prompt"), seeds[0], steps, scale]
    clip = [gr.Video(label="Clip"), gr.Radio([*GIVEN], value=first, label="Make"), seeds[1]]
    tabs = [gr.Interface(from_text, text, made()), gr.Interface(from_clip, clip, made())]
    return gr.TabbedInterface(tabs, ["From words", "From a clip"], title="Kinolab")


if __name__ == "__main__":
    import gradio

    warm.keep()  # the model stays in memory from one request to the next
    build(gradio).queue(max_size=16).launch(server_port=int(sys.argv[1]) if sys.argv[1:] else None)
