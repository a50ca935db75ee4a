"""`kinolab studio`: open a project in the browser."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import socket
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from kinolab.cli.options import common, on_error, show
from kinolab.errors import InputError, MissingExtraError

PORT = 8470
"""Where the studio is found unless another port is asked for."""


def register(app: typer.Typer) -> None:
    """Add `studio`."""
    app.command()(studio)


@common()
def studio(
    folder: Annotated[Path, typer.Argument(help="The project's folder; made where it is missing.")] = Path("studio"),
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help=f"Default: {PORT}, or the next that is free; 0 = any.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Listen here; any but 127.0.0.1 lets other machines in that know the key.")
    ] = "127.0.0.1",
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = False,
) -> None:
    """Open a project: a page for clips, training, sampling and comparing, over a folder of plain files.

    Prints an address with a key; whoever opens it may use the page, from this machine alone unless --host says
    otherwise. Jobs go on when the page or this command is closed; `kinolab studio FOLDER` shows them again.
    """
    from kinolab.runtime import files, locks
    from kinolab.studio import jobs
    from kinolab.studio.project import Project
    from kinolab.studio.safety import Rules, is_loopback

    for name in ("starlette", "uvicorn"):
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(name, "studio", "the studio")
    project = Project.open(folder)
    jobs.settings(project)  # a page of a damaged queue would show nothing
    with locks.held(project.queue / ".studio.lock", f"{folder}: is open already{_where(project)}"):
        token = kept_token(project)
        listening = listen(host, port)
        place = listening.getsockname()[1]
        rules = Rules(host, place, token)
        name = host if host not in ("0.0.0.0", "::") else socket.gethostname()
        address = f"http://{f'[{name}]' if ':' in name else name}:{place}/?token={token}"
        files.write_private(project.queue / ".address", address + "\n")
        show({"folder": project.folder, "address": address, "port": place}, [f"{project.folder}: open {address}"])
        sys.stdout.flush()
        if not is_loopback(host):
            on_error("other machines can reach it, without encryption; whoever has the address may use it")
        if open_page:
            import webbrowser

            webbrowser.open_new_tab(address)
        serve(project, rules, listening)


def serve(project: Any, rules: Any, listening: socket.socket) -> None:
    """Answer until Ctrl-C."""
    import uvicorn

    from kinolab.studio.app import make_app

    servers: list[uvicorn.Server] = []

    def leaving() -> bool:
        return any(server.should_exit for server in servers)

    config = uvicorn.Config(
        make_app(project, rules, leaving), log_level="warning", access_log=False, lifespan="on", ws="none",
        server_header=False, timeout_graceful_shutdown=1, proxy_headers=False,
    )  # fmt: skip
    # No news to a person: a page that is closed while a video is on its way, and requests that end with the server.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    logging.getLogger("uvicorn.error").addFilter(lambda record: not leaving())
    servers.append(uvicorn.Server(config))
    with suppress(KeyboardInterrupt):
        servers[0].run(sockets=[listening])
    _forget_signals()


def keys() -> Path:
    """Where the keys of projects lie: not in the projects, which may come from somebody who then knows the key."""
    return Path.home() / ".cache" / "kinolab" / "studio"


def kept_token(project: Any) -> str:
    """The key of a project, the same after a restart, so that a page that is open goes on; nobody else can read it.

    One that others can read, or that isn't this person's, is believed by nobody: there is a new one then.
    """
    from kinolab.runtime import files
    from kinolab.runtime.reading import read_text
    from kinolab.studio.safety import new_token

    path = keys() / f"{project.key}.key"
    with suppress(OSError, InputError):
        if _own(path):
            found = read_text(path, 200).strip()
            if len(found) >= 40:
                return found
    token = new_token()
    with suppress(OSError):  # without a home that can be written, a key holds until the end
        files.make_folder(path.parent)
        files.write_private(path, token + "\n")
    return token


def _where(project: Any) -> str:
    """The address of the studio that has a project open, as it left it there."""
    from kinolab.runtime.reading import read_text

    with suppress(OSError, InputError):
        if _own(project.queue / ".address"):
            return f": open {read_text(project.queue / '.address', 400).strip()}"
    return "; use the address that it printed"


def _own(path: Path) -> bool:
    """Whether a file is a plain one of this person's, which nobody else can read or write."""
    status = path.lstat()
    if not hasattr(os, "getuid"):
        return stat.S_ISREG(status.st_mode)
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077


def listen(host: str, port: int | None) -> socket.socket:
    """A socket that listens; without a port, at `PORT` or one of the next ten.

    Raises:
        InputError: where the address is not this machine's, or the port is taken.
    """
    asked = [port] if port is not None else [*range(PORT, PORT + 10), 0]
    for place in asked:
        try:
            family = socket.getaddrinfo(host, place, type=socket.SOCK_STREAM)[0]
            listening = socket.socket(family[0], family[1])
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(family[4])
            listening.listen()  # whoever opens the address before the server is up waits for it
            return listening
        except OSError as error:
            problem = error
    where, other = (f"--host {host}", "--host") if port is None else (f"--host {host} --port {port}", "--port")
    raise InputError(f"{where}: can't listen there ({problem.strerror}); choose another {other}")


def _forget_signals() -> None:
    """uvicorn sends again what it was told by; the command has ended by then."""
    with suppress(ValueError):
        signal.signal(signal.SIGINT, signal.default_int_handler)
