"""The server: the routes behind the rules of `safety`, the page's files, and one stream of what changed."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from kinolab.errors import InputError
from kinolab.runtime import files
from kinolab.runtime.lines import one_line
from kinolab.runtime.paths import inside, visible
from kinolab.runtime.reading import Limits, parse_json
from kinolab.runtime.records import Record
from kinolab.studio.api import routes
from kinolab.studio.api.asked import Asked, NotThereError, Studio
from kinolab.studio.api.work import snapshot, start_queue
from kinolab.studio.project import HIDDEN, Project
from kinolab.studio.safety import App, Guarded, Rules, TooLargeError

STATIC = Path(__file__).parent / "static"
KINDS = {
    ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml", ".json": "application/json", ".txt": "text/plain; charset=utf-8",
}  # fmt: skip
BODY = Limits(bytes=2**20, depth=32, values=100_000)
LOOK = 0.25
"""Seconds between two looks at the folder, while a page listens."""
BEAT = 15.0
"""Seconds after which a stream says that it is there, so that a page notices when it isn't."""


def make_app(project: Project, rules: Rules, leaving: Callable[[], bool] = lambda: False) -> App:
    """The studio of a project as an ASGI application.

    leaving: whether the server is about to end, which waits for the streams that pages listen to.
    """
    studio = Studio(project)
    limits = {path: most for path, (_, most) in routes.UPLOADS.items()}
    rules = replace(rules, uploads={**limits, **routes.LARGE, **rules.uploads})
    changes = Changes(studio, leaving)

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        watch = asyncio.create_task(changes.watch())
        try:
            yield
        finally:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
            studio.close()

    paths = [Route(path, taken(studio, take), methods=["POST"]) for path, (take, _) in routes.UPLOADS.items()]
    paths += [
        Route(path, answered(studio, answer, method, _limits(path)), methods=[method])
        for (method, path), answer in routes.ROUTES.items()
    ]
    paths += [Route("/api/stream", changes.stream)]
    paths += [Route(f"{begin}{{name:path}}", shown(studio, find)) for begin, find in routes.MEDIA.items()]
    paths.append(Route("/files/{name:path}", shown(studio, project_file)))
    paths.append(Route("/{name:path}", static, middleware=[Middleware(GZipMiddleware)]))
    return Guarded(Starlette(routes=paths, lifespan=life), rules)


def answered(studio: Studio, answer: routes.Answer, method: str, limits: Limits) -> Callable[[Request], Any]:
    """An endpoint that answers in JSON, in a thread."""

    async def endpoint(request: Request) -> Response:
        async def run() -> Any:
            body: Any = {}
            if method in ("POST", "PUT"):
                kind = request.headers.get("content-type", "").partition(";")[0]
                if kind != "application/json":
                    raise InputError(f"expected a body of application/json, got {kind or 'none'}")
                body = parse_json(await request.body(), "the request", limits)
            asked = Asked(request.path_params, request.query_params, Record(body, "the request"))
            return await run_in_threadpool(answer, studio, asked)

        return await respond(run, studio.project)

    return endpoint


def taken(studio: Studio, take: routes.Upload) -> Callable[[Request], Any]:
    """An endpoint that takes a file: streamed under a temporary name, and named by what it turns out to be."""

    async def endpoint(request: Request) -> Response:
        async def run() -> Any:
            name = request.query_params.get("name", "")
            ending = Path(name).suffix.lower()
            parts = name.split("/")
            if not all(parts) or len(parts) > 2 or "\\" in name:
                raise InputError(f"expected ?name= with the name of a video or image, got {name[:80]!r}")
            if ending not in routes.footage.CLIPS:
                raise InputError(f"{name[-80:]}: no video and no image; expected {', '.join(routes.footage.CLIPS)}")
            with files.scratch(studio.project.folder / "clips" / HIDDEN) as room:
                part = room / f"upload{ending}"
                with files.opened(part) as file:
                    async for chunk in request.stream():
                        await run_in_threadpool(file.write, chunk)
                if not part.stat().st_size:
                    raise InputError(f"{name}: empty")
                try:
                    return await run_in_threadpool(take, studio, part, name)
                except InputError as error:  # by the name that it was given, and not by where it lies meanwhile
                    raise InputError(str(error).replace(str(part), name)) from None

        return await respond(run, studio.project)

    return endpoint


def shown(studio: Studio, find: routes.Media) -> Callable[[Request], Any]:
    """An endpoint that sends a picture or a video of the project, in pieces where a player asks for them."""

    async def endpoint(request: Request) -> Response:
        try:
            path = await run_in_threadpool(find, studio, request.path_params["name"])
            kind = routes.SHOWN.get(path.suffix.lower())
            if kind is None or not path.is_file():
                return JSONResponse({"error": "no such picture or video"}, 404)
        except (InputError, OSError) as error:
            return JSONResponse({"error": one_line(error)}, 404)
        headers = {"cache-control": "private, no-cache", "content-security-policy": "sandbox; default-src 'none'"}
        return FileResponse(path, media_type=kind, headers=headers)

    return endpoint


def project_file(studio: Studio, name: str) -> Path:
    """GET /files/{path}: a picture or video of the project; what is hidden is not served."""
    path = studio.project.path(name)
    if any(part.startswith(".") for part in Path(name).parts):
        raise NotThereError("no such picture or video")
    return path


async def static(request: Request) -> Response:
    """The page and its files; their names hold their hashes, so that all but the page itself may be kept for ever."""
    name = request.path_params["name"] or "index.html"
    try:
        path = inside(STATIC, name)
    except InputError:
        return JSONResponse({"error": "not there"}, 404)
    kind = KINDS.get(path.suffix)
    if kind is None or not path.is_file():
        return JSONResponse({"error": "not there"}, 404)
    kept = "no-cache" if name == "index.html" else "private, max-age=31536000, immutable"
    return FileResponse(path, media_type=kind, headers={"cache-control": kept})


async def respond(run: Callable[[], Any], project: Project) -> Response:
    """What an answer becomes: JSON, or one line that says what is wrong, with paths as the page names them."""
    try:
        return Response(as_json(await run()), media_type="application/json", headers={"cache-control": "no-store"})
    except TooLargeError:
        return JSONResponse({"error": "larger than what may be sent here"}, 413)
    except ClientDisconnect:
        return Response(status_code=499)
    except NotThereError as error:
        return JSONResponse({"error": project.said(error)}, 404)
    except UnicodeEncodeError:
        return JSONResponse({"error": "a text with half a character, which no file can hold"}, 400)
    except (InputError, OSError) as error:
        return JSONResponse({"error": project.said(error)}, 400)


def as_json(value: Any) -> str:
    """JSON as browsers read it: NaN and infinities, as of a training that went wrong, are null; a date is text."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"), default=str)
    except ValueError:
        return json.dumps(finite(value), separators=(",", ":"), default=str)


def finite(value: Any) -> Any:
    """Plain values without NaN and infinities, which JSON of a browser doesn't know."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _limits(path: str) -> Limits:
    """What the body of a route may hold."""
    return Limits(routes.LARGE.get(path, BODY.bytes), BODY.depth, BODY.values)


class Changes:
    """What changed in the folder since a page looked, told to every page that listens.

    A page is told what changed and asks for it: `jobs` and `doing` come whole, `runs`, `clips`, `samples`, `models` by
    a mark that is another where something changed. A page that was away is told everything once, and misses nothing,
    as all of it stands in files.
    """

    def __init__(self, studio: Studio, leaving: Callable[[], bool]) -> None:
        self.studio, self.leaving = studio, leaving
        self.listening = 0
        self._state: dict[str, Any] = {}
        self._version = 0
        self._news = asyncio.Condition()
        self._slow = 0.0

    async def watch(self) -> None:
        """Look at the folder as long as the server runs: often while a page listens, and seldom else."""
        while True:
            with suppress(Exception):  # a folder that is being changed; the next look is soon
                found = await run_in_threadpool(self._look)
                if found != self._state or self.leaving():
                    async with self._news:
                        self._state, self._version = found, self._version + 1
                        self._news.notify_all()
            await asyncio.sleep(LOOK if self.listening else 4 * LOOK)

    async def _changed_since(self, version: int) -> bool:
        """Wait until something changes; whether it did, before a page should hear that the server is there."""
        async with self._news:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait_for(lambda: self._version != version), BEAT)
                return True
        return False

    def _look(self) -> dict[str, Any]:
        """The queue, and a mark of everything else; and a runner is begun where a killed one left jobs that wait."""
        project = self.studio.project
        found: dict[str, Any] = {"jobs": snapshot(project), "doing": self.studio.doing()}
        for job in found["jobs"]["jobs"]:
            job.pop("now", None)
        now = time.monotonic()
        if now - self._slow >= 1.0:
            self._slow = now
            self.studio.rest()
            start_queue(project)
            for name, patterns in WATCHED.items():
                found[name] = mark(project.folder / name, patterns)
            found["clips"] += mark(project.folder, (project.data.name,))
        else:
            found |= {name: self._state.get(name) for name in WATCHED}
        return found

    async def stream(self, request: Request) -> Response:
        """GET /api/stream: server-sent events, one kind for each of `jobs`, `doing`, `runs`, `clips` and others."""

        async def lines() -> AsyncIterator[str]:
            known: dict[str, Any] = {}
            self.listening += 1
            try:
                while not self.leaving():
                    seen = self._version
                    for name, value in self._state.items():
                        if known.get(name, ...) != value:
                            known[name] = value
                            yield f"event: {name}\ndata: {as_json(value)}\n\n"
                    if not await self._changed_since(seen):
                        yield ": here\n\n"
            finally:
                self.listening -= 1

        return StreamingResponse(lines(), media_type="text/event-stream", headers={"cache-control": "no-store"})


WATCHED = {
    "clips": ("*", "*/*"), "runs": ("*", "*/log.jsonl", "*/checkpoints", "*/samples", "*/model"), "samples": ("*",),
    "models": ("*",), "scores": ("*",),
}  # fmt: skip
"""Folder of the project -> what in it is looked at for changes."""


def mark(folder: Path, patterns: tuple[str, ...]) -> str:
    """A text that is another where a file below a folder came, went or changed."""
    count, newest, size = 0, 0, 0
    for path in (p for pattern in patterns for p in visible(folder, pattern)):
        with suppress(OSError):
            status = path.stat()
            count, newest, size = count + 1, max(newest, status.st_mtime_ns), size + status.st_size
    return f"{count}-{newest}-{size}"
