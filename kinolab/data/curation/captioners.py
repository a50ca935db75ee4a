"""Who says what a clip shows: a command of the user's, a server that speaks OpenAI's interface, a model on disk."""

from __future__ import annotations

import base64
import http.client
import io
import json
import shlex
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from contextlib import suppress
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from kinolab import video
from kinolab.errors import InputError, MissingExtraError
from kinolab.runtime.lines import one_line
from kinolab.runtime.paths import visible
from kinolab.runtime.reading import parse_json
from kinolab.runtime.text import first_line

PROMPT = "Describe in one sentence what this video shows and how it moves."
TRIES = 3
"""Of a question that a server could not answer now."""
WAITS = 10
"""Of a question to a server that says when to ask again."""
LONGEST_WAIT = 60.0
"""Seconds that are waited where a server says so; one that asks for more is asked again then."""
LONGEST = 2**20
"""Bytes of an answer."""


class AskError(Exception):
    """Nothing came back for one clip; gone: as the one who was asked could not be reached, or was too slow; wait:
    seconds after which it would be asked again, where it says so."""

    def __init__(self, said: str, gone: bool = False, wait: float | None = None) -> None:
        super().__init__(said)
        self.gone, self.wait = gone, wait


class Captioner(ABC):
    """One who can be asked what a clip shows."""

    many: ClassVar[bool] = True
    """Whether several clips may be asked about at once."""

    def check(self) -> None:  # noqa: B027 - a server is known to be gone when it is asked
        """Raise InputError where it can't be asked at all."""

    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """What decides its answers."""

    @abstractmethod
    def ask(self, clip: Path) -> str:
        """What it says of a clip.

        Raises:
            AskError: where nothing comes back.
            InputError: where the clip can't be read.
        """


class Command(Captioner):
    """A program of the user's, which prints the caption; `{clip}` in its words stands for the clip's path.

    It is run without a shell.
    """

    def __init__(self, text: str, seconds: float = 120.0) -> None:
        self.text, self.seconds = text, seconds
        try:
            self.words = shlex.split(text)
        except ValueError as error:
            raise InputError(f"--command {text!r}: {error}") from None
        if not self.words or not any("{clip}" in word for word in self.words):
            raise InputError(f"--command {text!r}: expected a program and its words, one of them with {{clip}}")

    def __str__(self) -> str:
        return f"--command {self.words[0]}"

    def check(self) -> None:
        """The program is there."""
        if shutil.which(self.words[0]) is None:
            raise InputError(f"--command {self.words[0]}: no such program")

    def protocol(self) -> dict[str, Any]:
        """The words."""
        return {"command": self.text}

    def ask(self, clip: Path) -> str:
        """What it prints to standard output."""
        # Absolute, so that a clip whose name begins with a dash is no option of the program.
        words = [word.replace("{clip}", str(clip.absolute())) for word in self.words]
        try:
            done = subprocess.run(words, capture_output=True, timeout=self.seconds, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            raise AskError(f"no end after {self.seconds:g} s", gone=True) from None
        except OSError as error:
            raise AskError(one_line(error, 120), gone=True) from None
        if done.returncode:
            last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise AskError(f"ended with status {done.returncode}: {one_line(last, 120)}")
        return done.stdout.decode("utf-8", "replace")


class _Staying(urllib.request.HTTPRedirectHandler):
    """Goes to no other address than the one that the user named, as the key would go there too."""

    def redirect_request(self, *told: Any) -> None:
        """None, which makes it an error."""
        return None


class Server(Captioner):
    """A server that speaks OpenAI's interface (`POST URL/chat/completions`), shown some frames as pictures."""

    def __init__(
        self,
        url: str,
        model: str,
        prompt: str = PROMPT,
        *,
        frames: int = 4,
        side: int = 512,
        key: str | None = None,
        seconds: float = 120.0,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise InputError(f"--server {url}: expected http://... or https://..., such as http://localhost:8000/v1")
        if key is not None and not (key and key.isascii() and key.isprintable()):
            raise InputError("--key-file: expected a key and nothing else: one line of letters, digits and signs")
        self.url, self.model, self.prompt = url.rstrip("/"), model, prompt
        self.frames, self.side, self.seconds, self._key = frames, side, seconds, key

    def __str__(self) -> str:
        return f"--server {self.url}"

    def protocol(self) -> dict[str, Any]:
        """The model and what it is shown; not where the server is."""
        return {"server": self.model, "prompt": self.prompt, "frames": self.frames, "side": self.side}

    def ask(self, clip: Path) -> str:
        """Its answer; asked again a little later where it is busy."""
        content: list[dict[str, Any]] = [{"type": "text", "text": self.prompt}]
        for frame in even_frames(clip, self.frames, self.side):
            content.append({"type": "image_url", "image_url": {"url": _as_jpeg(frame)}})
        message = {"role": "user", "content": content}
        body = {"model": self.model, "messages": [message], "max_tokens": 200, "temperature": 0}
        for again in range(WAITS):
            try:
                return self._answer(self._post(json.dumps(body).encode()))
            except AskError as error:
                if not error.gone or again + 1 == (TRIES if error.wait is None else WAITS):
                    raise
                time.sleep(min(LONGEST_WAIT, max(0.5 * 2 ** min(again, TRIES), error.wait or 0.0)))
        raise AssertionError("the last try raises")

    def _post(self, data: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(f"{self.url}/chat/completions", data, headers)
        try:
            with urllib.request.build_opener(_Staying).open(request, timeout=self.seconds) as reply:
                return bytes(reply.read(LONGEST))
        except urllib.error.HTTPError as error:
            gone = error.code < 400 or error.code in (401, 403, 404, 429) or error.code >= 500
            raise AskError(f"status {error.code}: {_told_by(error)}", gone=gone, wait=_asked_to_wait(error)) from None
        except (OSError, ValueError, http.client.HTTPException) as error:  # no connection, none in time, no HTTP
            cause = getattr(error, "reason", error)
            raise AskError(f"no answer ({one_line(cause, 100)})", gone=True) from None

    def _answer(self, data: bytes) -> str:
        try:
            value = parse_json(data, "the answer")
            text = value["choices"][0]["message"]["content"]
        except (InputError, KeyError, IndexError, TypeError):
            raise AskError(f"an answer of another form: {one_line(data[:80].decode('utf-8', 'replace'), 80)}") from None
        return text if isinstance(text, str) else ""


def _asked_to_wait(error: urllib.error.HTTPError) -> float | None:
    """Seconds after which a server that is busy, or limits how often it is asked, wants to be asked again."""
    if error.code not in (429, 503):
        return None
    told = error.headers.get("Retry-After", "").strip()
    return float(told) if told.isascii() and told.isdigit() and len(told) < 9 else None


def _told_by(error: urllib.error.HTTPError) -> str:
    """What a server says of an error: its words, or where it would send one to."""
    words = b""
    with suppress(OSError, http.client.HTTPException):
        words = error.read(400)
    return one_line(words.decode("utf-8", "replace") or error.headers.get("Location", ""), 160)


class Model(Captioner):
    """A model of pictures and text as transformers saves it (BLIP, GIT, LLaVA and others), shown the middle frame."""

    many: ClassVar[bool] = False

    def __init__(self, folder: Path, prompt: str | None = None, *, tokens: int = 60) -> None:
        self.folder, self.prompt, self.tokens = folder, prompt, tokens

    def __getstate__(self) -> dict[str, Any]:
        """Without the model: whom it is sent to reads it anew."""
        return {name: value for name, value in self.__dict__.items() if name != "_loaded"}

    def __str__(self) -> str:
        return f"--model-folder {self.folder}"

    def check(self) -> None:
        """The folder can be read."""
        _ = self._loaded

    def protocol(self) -> dict[str, Any]:
        """The folder's files by size and name, and what is asked."""
        files = [[f.name, f.stat().st_size] for f in visible(self.folder) if f.is_file()]
        return {"model": files, "prompt": self.prompt, "tokens": self.tokens}

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        if not (self.folder / "config.json").is_file():
            raise InputError(f"--model-folder {self.folder}: no config.json; expected a model as transformers saves it")
        try:
            import transformers
        except ImportError:
            raise MissingExtraError("transformers", "interop", "captions by a model") from None
        try:
            kind = transformers.AutoModelForImageTextToText
            # Code that lies in the folder is never run, nor is anybody asked whether it may be.
            safe = {"local_files_only": True, "trust_remote_code": False}
            model = kind.from_pretrained(self.folder, **safe)
            processor = transformers.AutoProcessor.from_pretrained(self.folder, **safe)
        except Exception as error:  # transformers raises many kinds for a folder that is not whole
            raise InputError(
                f"--model-folder {self.folder}: not a whole model of captions ({first_line(error)})"
            ) from None
        return model.eval(), processor

    def ask(self, clip: Path) -> str:
        """The most likely words, one after the other."""
        import torch

        model, processor = self._loaded
        [frame] = even_frames(clip, 1, None)
        given = {"images": Image.fromarray(frame), "return_tensors": "pt"}
        inputs = processor(**given) if self.prompt is None else processor(text=self.prompt, **given)
        with torch.no_grad():
            tokens = model.generate(**inputs, max_new_tokens=self.tokens, do_sample=False)
        text = str(processor.batch_decode(tokens, skip_special_tokens=True)[0])
        return text.removeprefix(self.prompt or "")


def even_frames(clip: Path, count: int, side: int | None) -> list[np.ndarray]:
    """Frames (H, W, 3) uint8 at even places of a clip, none at its very ends; of one frame the middle one."""
    total = video.probe(clip).frames or video.probe(clip, exact=True).frames or 1
    wanted = sorted({min(total - 1, int((k + 0.5) * total / count)) for k in range(count)})
    found = []
    for number, frame in enumerate(islice(video.iter_frames(clip, threads=1), wanted[-1] + 1)):
        if number in wanted:
            found.append(frame.image)
    if side is not None and found and min(found[0].shape[:2]) > side:
        height, width = found[0].shape[:2]
        size = (round(width * side / min(height, width)), round(height * side / min(height, width)))
        found = [np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BOX)) for f in found]
    if not found:
        raise InputError(f"{clip}: holds no frame that can be read")
    return found


def _as_jpeg(frame: np.ndarray) -> str:
    """A picture as text that a request can hold."""
    kept = io.BytesIO()
    Image.fromarray(frame).save(kept, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(kept.getvalue()).decode()
