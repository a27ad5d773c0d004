"""`evo-tune watch`: the report as a page that follows a run, served to this machine alone, read-only.

Whoever has the address has a token; without it, or under another name than this machine's own, there is nothing. The
run's folder is read when a page asks, so the run waits for nobody and may be of another process or machine.
"""

from __future__ import annotations

import secrets
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evo_tune.errors import EvoTuneError, UsageError
from evo_tune.report import charts
from evo_tune.report.drawing import as_json
from evo_tune.report.material import Material
from evo_tune.report.now import now
from evo_tune.report.pages import library
from evo_tune.report.pages.page import Library, Section, figures_of, page, policy, section_html
from evo_tune.report.pages.writing import about, sections_of
from evo_tune.report.part import Part
from evo_tune.store.journal import JOURNAL
from evo_tune.store.run import Run

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["Following", "application", "serve"]

HOSTS = ["127.0.0.1", "localhost"]

SCRIPT = "plotly.min.js"

REST = 4.0
"""Times as long as reading and drawing took, they are not done again."""


class Following:
    """A run as it goes on: read again when its journal has grown.

    Args:
        folder: The run's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._version = ""
        self._next = 0.0
        self._sections: list[Section] = []
        self.material: Material
        self._read()

    def _read(self) -> None:
        began = time.monotonic()
        found = (self.folder / JOURNAL).lstat()
        self.material = Material(Run.open(self.folder))
        self._sections = sections_of(charts.parts(self.material))
        self._version = f"{found.st_size}-{found.st_mtime_ns}"
        self._next = time.monotonic() + REST * (time.monotonic() - began)

    def look(self) -> tuple[str, list[Section], str, Part]:
        """Return the version, the report's sections, what the run is doing in a line, and the same as a part."""
        with self._lock:
            try:
                found = (self.folder / JOURNAL).lstat()
                if f"{found.st_size}-{found.st_mtime_ns}" != self._version and time.monotonic() >= self._next:
                    self._read()
                line, part = now(self.material)
            except (OSError, EvoTuneError) as error:  # a half-written line, a shared folder that is away
                return self._version, self._sections, str(error), Part("Now", "The run cannot be read.")
            return self._version, self._sections, line, part

    def page(self) -> str:
        """Return the whole page."""
        version, sections, line, part = self.look()
        every = [Section("now", part), *sections]
        script = Library(path=SCRIPT)
        return page(self.material.name, about(self.material), every, script, follow=True, version=version, state=line)

    def changes(self, since: str) -> dict[str, Any]:
        """Return what has changed since a version: parts of the page, and the figures in them."""
        version, sections, line, part = self.look()
        changed = [Section("now", part), *(sections if version != since else [])]
        return {
            "version": version,
            "state": line,
            "order": ["now", *(section.name for section in sections)],
            "parts": {section.name: section_html(section) for section in changed},
            "figures": {id: spec for section in changed for id, spec in figures_of(section).items()},
        }


def application(following: Following, token: str) -> Starlette:
    """Return the server's application.

    Args:
        following: The run.
        token: First part of every path.

    Raises:
        UsageError: The extra `web` is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.responses import HTMLResponse, Response
        from starlette.routing import Route
    except ImportError as error:
        raise UsageError(f"watch needs a server ({error}): pip install 'evo-tune[web]'") from None

    headers = {
        "Content-Security-Policy": policy(["'self'", "'unsafe-inline'"], "'self'") + "; frame-ancestors 'none'",
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
    }

    def answered(request: Request, make: Any) -> Response:
        if not secrets.compare_digest(str(request.path_params["token"]).encode(), token.encode()):
            return Response(status_code=404)
        made: Response = make()
        return made

    def whole(request: Request) -> Response:
        return answered(request, lambda: HTMLResponse(following.page(), headers=headers))

    def changes(request: Request) -> Response:
        since = request.query_params.get("since", "")[:100]
        return answered(
            request, lambda: Response(as_json(following.changes(since)), headers=headers, media_type="application/json")
        )

    def script(request: Request) -> Response:
        kept = {**headers, "Cache-Control": "private, max-age=3600"}
        text = library.script
        return answered(request, lambda: Response(text(), headers=kept, media_type="text/javascript"))

    routes = [
        Route("/{token}/", whole, methods=["GET"]),
        Route("/{token}/changes", changes, methods=["GET"]),
        Route(f"/{{token}}/{SCRIPT}", script, methods=["GET"]),
    ]
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)])


def serve(folder: Path, port: int, tell: Any) -> None:
    """Serve a run's page on this machine until Ctrl-C.

    Args:
        folder: The run's.
        port: Where; 0 takes a free one.
        tell: Is given the address.

    Raises:
        StoreError: There is no such run, or it is damaged.
        UsageError: The port is taken, or the extra `web` is not installed.
    """
    import socket

    token = secrets.token_urlsafe(24)
    app = application(Following(folder), token)
    try:
        import uvicorn
    except ImportError as error:
        raise UsageError(f"watch needs a server ({error}): pip install 'evo-tune[web]'") from None
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen()  # whoever is told the address may ask at once
    except OSError as error:
        listening.close()
        raise UsageError(f"--port {port}: {error.strerror}; leave it out, and a free one is taken") from None
    tell(f"http://127.0.0.1:{listening.getsockname()[1]}/{token}/")
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1))
    server.run(sockets=[listening])
