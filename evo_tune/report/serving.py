"""`evo-tune watch`: a report that follows its run, or a page of all runs, served read-only to this machine.

The address holds a token: without it, or under another host name, the server answers nothing. It reads the run's
folder when a page asks, so the run never waits and may belong to another process or machine.
"""

import contextlib
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from msgspec import structs

from evo_tune.errors import EvoTuneError, UsageError, explain_error, require_extra
from evo_tune.report import charts, page
from evo_tune.report.charts import Part, as_json
from evo_tune.report.charts.curves import curve_metric
from evo_tune.report.data import ListedRun, run_row
from evo_tune.report.run_data import RunData
from evo_tune.report.summary import present_beat, results_in_words, state_in_words
from evo_tune.store.heartbeat import Beat, running_curves
from evo_tune.store.journal import JOURNAL
from evo_tune.store.run import Run
from evo_tune.store.run_folders import list_runs
from evo_tune.text import show_seconds, show_value

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request

HOSTS = ["127.0.0.1", "localhost"]

SCRIPT = "plotly.min.js"

# Least pause between two readings of a run, as a multiple of the time that reading and drawing took.
PAUSE = 4.0

# What a run is doing now.


def current_part(data: RunData) -> tuple[str, Part]:
    """Return what a run is doing, in one line and as a part of its page."""
    beat = present_beat(data.run)
    rows = _slot_rows(data, beat) if beat is not None and beat.alive else []
    explanation = "Each slot's current training and its progress." if rows else "No slot is working."
    state = state_in_words(data.run, beat)
    line = f"{state[:1].upper()}{state[1:]}. {results_in_words(data.run)}."
    return line, Part("Now", explanation, rows=rows, rows_title="Slots", rows_open=True)


def _slot_rows(data: RunData, beat: Beat) -> list[dict[str, Any]]:
    metric, curves, rows = curve_metric(data) or data.metric, running_curves(data.run.folder), []
    running = {f"trial {id}": curve for id, curve in curves.items() if id not in data.run.outcomes}
    for slot in beat.slots:
        curve = running.get(slot.work.split(" (")[0], ())
        value = curve[-1][1].get(metric) if curve else None
        row = {"slot": slot.slot, "device": slot.device, "training": slot.work or "none"}
        row["for"] = show_seconds(slot.seconds + beat.age) if slot.work else ""
        row["done"] = f"{curve[-1][0]:.0%}" if curve else ""
        row[f"{metric} so far"] = show_value(value) if value is not None else ""
        rows.append(row)
    columns = {name for row in rows for name, value in row.items() if value}  # scripts report nothing before they end
    return [{name: value for name, value in row.items() if name in columns} for row in rows]


# The server.


class LiveReport:
    """A run that is read again whenever its journal has grown.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._read()

    def _read(self) -> None:
        began = time.monotonic()
        version = self._version_on_disk()
        self.data = RunData(Run.open(self.folder))
        self._parts = charts.parts(self.data)
        self._version = version
        self._next_reading = time.monotonic() + PAUSE * (time.monotonic() - began)

    def _version_on_disk(self) -> str:
        journal = (self.folder / JOURNAL).lstat()
        return f"{journal.st_size}-{journal.st_mtime_ns}"

    def look(self) -> tuple[str, str, dict[str, Part]]:
        """Return the version, a line that says what the run is doing, and all parts of the page."""
        with self._lock:
            try:
                if self._version_on_disk() != self._version and time.monotonic() >= self._next_reading:
                    self._read()
                line, part = current_part(self.data)
            except (OSError, EvoTuneError) as error:  # a half-written line, a shared folder that is away
                line, part = str(error), Part("Now", "The run cannot be read.")
            beat, parts = present_beat(self.data.run), {"now": part, **self._parts}
            if beat is None or not beat.alive:
                return self._version, line, parts
            parts.pop("next_steps", None)  # it advises to continue
            return f"{self._version}-running", line, parts

    def page(self) -> str:
        """Return the whole page."""
        version, line, parts = self.look()
        facts = page.run_facts(self.data)
        return page.page(self.data.name, facts, parts, SCRIPT, follow=True, version=version, state=line)

    def changes(self, since: str) -> dict[str, Any]:
        """Return the parts of the page that changed since a version, with their figures."""
        version, line, parts = self.look()
        changed = {name: part for name, part in parts.items() if name == "now" or version != since}
        return {
            "version": version,
            "state": line,
            "order": list(parts),
            "parts": {name: page.section_html(name, part) for name, part in changed.items()},
            **page.script_data(changed),
        }


class LiveStore:
    """The saved runs of a store as a page with a link to the page of each.

    Args:
        store: Folder of the saved runs.
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._rows: dict[Path, tuple[int, ListedRun]] = {}  # with the size of the journal that was read
        self._report: LiveReport | None = None  # of the run that was looked at last

    def page(self) -> str:
        """Return the page of all runs, the latest first; it asks for itself again every few seconds."""
        with self._lock:
            rows = list(filter(None, map(self._row, list_runs(self.store))))
        rows.sort(key=lambda row: row.created, reverse=True)
        content = {"store": str(self.store), "rows": [{**structs.asdict(row), "best": row.best_text} for row in rows]}
        style = Markup(page.asset("page.css"))
        return page.templates().get_template("runs.html").render(content, style=style, policy=Markup(page.policy([])))

    def _row(self, folder: Path) -> ListedRun | None:
        """Return a run as a row, read again only if it may have changed; None if it cannot be read."""
        with contextlib.suppress(OSError, EvoTuneError):
            size = (folder / JOURNAL).lstat().st_size
            if folder not in self._rows or self._rows[folder][0] != size or self._rows[folder][1].state == "running":
                self._rows[folder] = size, run_row(Run.open(folder))
            return self._rows[folder][1]
        return None

    def report(self, name: str) -> LiveReport | None:
        """Return the report of a run; None if there is no such run, or it cannot be read."""
        with self._lock, contextlib.suppress(EvoTuneError):
            if self._report is None or self._report.folder.name != name:
                folders = [folder for folder in list_runs(self.store) if folder.name == name]
                self._report = LiveReport(folders[0]) if folders else None
            return self._report
        return None


def application(source: LiveReport | LiveStore, token: str) -> "Starlette":
    """Return the server's application.

    Args:
        source: The report of a run, or all runs of a store.
        token: First part of every path; the second names the run of a store.

    Raises:
        UsageError: The extra `web` is not installed.
    """
    with require_extra("evo-tune watch", "web"):
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.responses import HTMLResponse, Response
        from starlette.routing import Route

    headers = {
        "Content-Security-Policy": page.policy(["'self'", "'unsafe-inline'"], "'self'") + "; frame-ancestors 'none'",
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
    }

    def answer(request: "Request") -> Response:
        if not secrets.compare_digest(str(request.path_params["token"]).encode(), token.encode()):
            return Response(status_code=404)
        name, slash, file = request.path_params["file"].rpartition("/")
        if isinstance(source, LiveStore) and not name and not file:
            return HTMLResponse(source.page(), headers=headers)
        report = source.report(name) if isinstance(source, LiveStore) else None if slash else source
        if report is None:
            return Response(status_code=404)
        match file:
            case "":
                return HTMLResponse(report.page(), headers=headers)
            case "changes":
                since = request.query_params.get("since", "")[:100]
                return Response(as_json(report.changes(since)), headers=headers, media_type="application/json")
            case name if name == SCRIPT:
                cached = {**headers, "Cache-Control": "private, max-age=3600"}
                return Response(page.plotly_script(), headers=cached, media_type="text/javascript")
        return Response(status_code=404)

    routes = [Route("/{token}/{file:path}", answer, methods=["GET"])]
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)])


def serve(source: LiveReport | LiveStore, port: int, tell: Callable[[str], object]) -> None:
    """Serve the page of a run, or those of all runs of a store, on this machine until Ctrl-C.

    Args:
        source: The report of a run, or all runs of a store.
        port: Port; 0 chooses a free one.
        tell: Called with the address.

    Raises:
        UsageError: The port is taken, or the extra `web` is not installed.
    """
    token = secrets.token_urlsafe(24)
    app = application(source, token)
    with require_extra("evo-tune watch", "web"):
        import uvicorn

        from evo_tune.report.connections import BoundedConnection
    with explain_error(UsageError, f"--port {port}", "leave it out to use a free port"):
        listening = socket.create_server(("127.0.0.1", port))  # the address may be used as soon as it is printed
    tell(f"http://127.0.0.1:{listening.getsockname()[1]}/{token}/")
    settings: dict[str, Any] = {"log_level": "error", "lifespan": "off", "timeout_graceful_shutdown": 1}
    server = uvicorn.Server(uvicorn.Config(app, http=BoundedConnection, **settings))
    server.run(sockets=[listening])
