"""`evo-tune mcp`: a real client starts, watches, stops and reads runs, and cannot leave the named folders."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from evo_tune import __version__
from evo_tune.cli.agents import Workplace, server
from evo_tune.errors import EvoTuneError, UsageError
from evo_tune.store.manifest import MANIFEST
from evo_tune.store.run import Run
from tests.cli.conftest import Typed
from tests.extras import need

SCRIPT = "import sys, time; time.sleep(float(sys.argv[2])); print('training'); print('val_loss:', float(sys.argv[1]))\n"
GIVEN = {"genes": ["lr=log(1e-4,1e-2)"], "objectives": ["val_loss:min"], "slots": 1}


def using(folder: Path, do: Callable[[Any], Awaitable[None]]) -> None:
    """Use the tools of a server of one folder, which is a process of its own."""
    need("mcp")
    import anyio
    from mcp import Client, StdioServerParameters, stdio_client

    async def run() -> None:
        words = ["-m", "evo_tune", "mcp", str(folder)]
        async with Client(stdio_client(StdioServerParameters(command=sys.executable, args=words))) as client:
            await do(client)

    anyio.run(run)


async def call(client: Any, tool: str, **given: Any) -> str:
    found = await client.call_tool(tool, given)
    text = str(found.content[0].text)
    assert not found.is_error, text
    return text


async def until(client: Any, name: str, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + 100
    while True:
        state = dict(json.loads(await call(client, "status", run=name)))
        if reached(state):
            return state
        assert time.monotonic() < deadline, state


def ended(state: dict[str, Any]) -> bool:
    return str(state["state"]).startswith("ended")


@pytest.mark.slow
def test_a_client_starts_watches_reads_and_continues_a_run(folder: Path) -> None:
    (folder / "train.py").write_text(SCRIPT)

    async def do(client: Any) -> None:
        names = [tool.name for tool in (await client.list_tools()).tools]
        assert names == ["start", "resume", "propose", "status", "results", "runs", "log", "stop"]
        await call(client, "start", run="mine", evaluator="python train.py {lr} 0", trials=3, **GIVEN)
        state = await until(client, "mine", ended)
        assert state["results"] == 3
        assert len(json.loads(await call(client, "results", run="mine", top=2))["best"]) == 2
        assert [row["run"] for row in json.loads(await call(client, "runs"))] == ["mine"]
        assert "training" in await call(client, "log", run="mine", trial=1)
        proposed = json.loads(await call(client, "propose", run="mine", genomes=[{"lr": 0.003}]))
        assert (proposed["source"], proposed["running"], proposed["waiting"]) == ("agent", False, 1)
        refused = await client.call_tool("propose", {"run": "mine", "genomes": [{"lr": "/etc/passwd"}]})
        assert refused.is_error
        assert "gene lr: '/etc/passwd' is not allowed" in refused.content[0].text
        await call(client, "resume", run="mine", trials=5)
        await until(client, "mine", lambda state: state["results"] == 5 and ended(state))
        assert json.loads(await call(client, "status"))["run"] == "mine"  # the latest
        found = await client.call_tool("status", {"run": "mime"})
        assert found.is_error
        assert found.content[0].text.endswith(f"there is no run 'mime' in {folder}: it holds mine")
        assert client.server_info.version == __version__

    using(folder, do)
    run = Run.open(folder / "populations" / "mine")
    assert len(run.outcomes) == 5
    assert run.ended is not None
    assert (run.candidates[3].genome, run.candidates[3].operator) == ({"lr": 0.003}, "proposed by agent")


def test_all_that_a_run_has_learned_is_one_call(folder: Path, small_run: str, typed: Typed) -> None:
    assert typed("propose", small_run, "x=0.25").code == 0
    learned = json.loads(Workplace([str(folder)]).tools["results"](genomes=[{"x": 0.5, "depth": 2}]))
    assert learned["run"] == small_run
    assert learned["waiting"] == 1
    assert learned["predictions"][0]["genome"] == {"x": 0.5, "depth": 2, "kind": "a"}
    assert {"best", "effects", "questions", "importances", "statuses"} <= learned.keys()


@pytest.mark.slow
def test_a_run_is_stopped_as_by_ctrl_c_and_only_where_it_was_started(folder: Path) -> None:
    (folder / "train.py").write_text(SCRIPT)

    async def do(client: Any) -> None:
        await call(client, "start", run="long", evaluator="python train.py {lr} 0.3", trials=500, **GIVEN)
        await until(client, "long", lambda state: state["results"] >= 2)
        assert "is stopping" in await call(client, "stop", run="long")
        assert (await until(client, "long", ended))["state"] == "ended: interrupted"

    async def other(client: Any) -> None:
        found = await client.call_tool("stop", {"run": "long"})
        assert found.is_error
        assert "was not started here" in found.content[0].text

    using(folder, do)
    using(folder, other)


@pytest.fixture
def place(folder: Path, small_run: str) -> Workplace:
    """A folder with a script, and with links to a run and to files outside of it."""
    mine, outside = folder / "mine", folder / "outside"
    (mine / "populations").mkdir(parents=True)
    outside.mkdir()
    (outside / "train.py").write_text(SCRIPT)
    (mine / "train.py").write_text(SCRIPT)
    (mine / "linked.py").symlink_to(outside / "train.py")
    (mine / "data").symlink_to(outside)
    (mine / "-c").write_text("")
    shutil.move(folder / "populations" / small_run, outside / "hers")
    (mine / "populations" / "hers").symlink_to(outside / "hers")
    return Workplace([str(mine)])


@pytest.mark.parametrize(
    ("tool", "given"),
    [
        ("start", {"run": "a", "evaluator": "../outside/train.py"}),
        ("start", {"run": "a", "evaluator": "linked.py"}),
        ("start", {"run": "a", "evaluator": "data/train.py"}),
        ("start", {"run": "a", "evaluator": "python linked.py {lr}"}),
        ("start", {"run": "a", "evaluator": "python -c 'print({lr})'"}),
        ("start", {"run": "a", "evaluator": "sh train.py {lr}"}),
        ("start", {"run": "a", "evaluator": "python train.py {lr} --data=/etc/passwd"}),
        ("start", {"run": "a", "options": {"data": "/etc/passwd"}}),
        ("start", {"run": "a", "options": {"data": "../outside/train.py"}}),
        ("start", {"run": "a", "options": {"data": "data"}}),
        ("start", {"run": "a", "options": {"data": "~"}}),
        ("start", {"run": "a", "evaluator": "python train.py {lr} {k}", "genes": ["lr=1|2", "k=a|/etc/passwd"]}),
        ("start", {"run": "a", "evaluator": "python train.py {lr} {k}", "genes": ["lr=1|2", "k=/etc/passwd|a"]}),
        *(
            ("start", {"run": "a", "evaluator": f"python train.py {words}", "genes": ["lr=1|2", *genes]})
            for words, *genes in (
                ("{k}", "k=choice(/etc/passwd,a)"),
                ("{k}", "k=choice(a,../outside/train.py)"),
                ("{k}", "k=choice(a,b) @ /etc/passwd"),
                ("{k}", "k=choice(../outside,b) when lr=1"),
                ("{lr?/etc/passwd:no}",),
                ("{k}/outside/train.py", "k=choice(..,a)"),
                ("da{k}", "k=choice(ta,a)"),
                ("{lr} -d/etc/passwd",),
                ("{lr} file:/etc/passwd",),
                ("{lr} train.py,/etc/passwd",),
                *((f"{{lr}} {shlex.quote(f'a{sign}/etc/passwd')}",) for sign in "+<!'>&$#%^`\"[]"),
                ("{lr} +data/train.py",),
                ("{lr} a+../outside/train.py",),
            )
        ),
        ("start", {"run": "a", "evaluator": "python train.py {lr}; touch a", "options": {"shell": True}}),
        ("start", {"run": "a", "evaluator": "python train.py {lr}", "options": {"judge": "touch a"}}),
        ("start", {"run": "a", "options": {"data=/etc/passwd": ""}}),
        ("start", {"run": "a", "options": {"": "data=x"}}),
        ("start", {"run": "a", "evaluator": "python -c {lr}", "genes": ["lr=1|2"]}),
        ("start", {"run": "../a"}),
        ("start", {"run": "--help"}),
        ("start", {"run": "hers"}),
        ("start", {"run": "a", "folder": ".."}),
        ("resume", {"run": "hers", "trials": 9}),
        ("propose", {"run": "hers", "genomes": [{"x": 0.5}]}),
        ("propose", {"run": "../outside/hers", "genomes": [{"x": 0.5}]}),
        ("status", {}),
        ("results", {}),
        ("status", {"run": "hers"}),
        ("status", {"run": "../outside/hers"}),
        ("results", {"run": "hers"}),
        ("results", {"run": "/etc"}),
        ("log", {"run": "hers", "trial": 0}),
        ("stop", {"run": "hers"}),
    ],
)
def test_nothing_outside_of_the_folders_is_used(place: Workplace, tool: str, given: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        place.tools[tool](**given)


def test_a_store_that_is_a_link_is_not_used(place: Workplace, folder: Path) -> None:
    (folder / "mine" / "populations").rename(folder / "elsewhere")
    (folder / "mine" / "populations").symlink_to(folder / "elsewhere")
    for use in (place.tools["runs"], lambda: place.tools["start"]("a", "python train.py {lr}", genes=["lr=1|2"])):
        with pytest.raises(UsageError, match="it is a link"):
            use()


def test_the_extra_and_the_folders_are_named(folder: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "none is no folder: expected existing folders" in typed("mcp", "none").err
    monkeypatch.setitem(sys.modules, "mcp.server", None)
    with pytest.raises(UsageError, match=r"pip install 'evo-tune\[mcp\]'"):
        server(Workplace([str(folder)]))


@pytest.mark.slow
def test_an_agent_proposes_patches_one_of_them_broken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder / "home"))  # a client passes no XDG_STATE_HOME on to the server
    monkeypatch.delenv("XDG_STATE_HOME")
    (folder / "train.py").write_text("import sys\n\nloss = float(sys.argv[1])\n# end\nprint('val_loss:', loss)\n")
    common = ["--gene", "lr=float(0.1,1)", "--objective", "val_loss:min", "--final-seeds", "0", "--slots", "1"]

    def typed(*words: str) -> str:
        command = [sys.executable, "-m", "evo_tune", *words]
        return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout

    words = ["run", "python train.py {lr}", *common, "--trials", "3", "--quiet"]
    typed(*words, "--name", "mine", "--allow-patches")

    def patch(line: str, context: str = "loss = float(sys.argv[1])") -> str:
        hunk = f"@@ -3,3 +3,3 @@\n {context}\n-# end\n+{line}\n print('val_loss:', loss)\n"
        return f"--- a/train.py\n+++ b/train.py\n{hunk}"

    async def do(client: Any) -> None:
        good = {"half": patch("loss *= {factor=float(0.4,0.6)}"), "crash": patch("raise ValueError('no')")}
        proposed = json.loads(await call(client, "propose", run="mine", patches=good))
        assert (proposed["patches"], proposed["waiting"]) == (["half", "crash"], 4)
        broken = await client.call_tool("propose", {"run": "mine", "patches": {"broken": patch("x = 1", "lost = 1")}})
        assert broken.is_error
        assert "patch broken: the hunk at line 3 does not apply to train.py:3" in broken.content[0].text
        for name in ("../up", "a/b", "", "-x"):
            refused = await client.call_tool("propose", {"run": "mine", "patches": {name: patch("x = 1")}})
            assert refused.is_error
        await call(client, "resume", run="mine", trials=6)
        await until(client, "mine", lambda state: ended(state) and state["results"] >= 6)
        rows = {row["name"]: row for row in json.loads(await call(client, "results", run="mine"))["patches"]}
        assert rows["half"]["trials"] >= 1
        assert rows["half"]["conflicts"] == ["crash"]
        assert (rows["crash"]["failures"], rows["crash"]["error"]) == (1, "ValueError: no (exit code 1)")

    using(folder, do)
    assert typed("verify", "mine").startswith("mine: all 6 proposals agree with the recorded ones\n")
    (command,) = re.findall(r"^train it: (.*)$", typed("best", "mine"), re.MULTILINE)
    assert command.startswith("evo-tune export mine mine-")
    assert command.count(" && ") == 2  # the project with the patch first


def test_a_run_that_was_not_started_for_patches_of_agents_takes_none(folder: Path, small_run: str) -> None:
    with pytest.raises(EvoTuneError, match="has no patches: start one with --patches FOLDER or --allow-patches"):
        Workplace([str(folder)]).propose(small_run, patches={"x": "--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\n"})


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("runs", {"folder": "\0"}),
        ("start", {"run": "new", "evaluator": "python 'x"}),
        ("start", {"run": "new", "evaluator": "x\0.py"}),
        ("propose", {"run": "new", "patches": {"p": "\ud800"}}),
    ],
)
def test_text_that_no_process_can_be_given_is_an_error_of_one_line(
    folder: Path, tool: str, arguments: dict[str, Any]
) -> None:
    need("mcp")
    import anyio
    from mcp.server.mcpserver.exceptions import ToolError

    (folder / "populations" / "new").mkdir(parents=True)
    (folder / "populations" / "new" / MANIFEST).touch()
    tools = server(Workplace([str(folder)]))

    async def do() -> None:
        await tools.call_tool(tool, arguments)

    with pytest.raises(ToolError) as error:
        anyio.run(do)
    assert "\n" not in str(error.value)
    assert isinstance(error.value.__cause__, ToolError), "a ValueError would be the cause"
