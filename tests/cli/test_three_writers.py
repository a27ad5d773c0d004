"""A person, a script and an agent propose genomes to one running search: none is lost, and none is trained twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from evo_tune.store.inbox import INBOX
from evo_tune.store.run import Run
from tests.cli.conftest import Typed, type_in
from tests.cli.test_mcp import call, using

pytestmark = pytest.mark.slow

SEARCH = """
import sys
import threading
from pathlib import Path

from evo_tune import Search
from evo_tune.errors import SpaceError


def main():
    if Path("populations/busy/_run.json").exists():
        search = Search.resume("busy")
    else:
        options = {"sleep": float(sys.argv[1])}
        search = Search(
            "quick.py", name="busy", options=options, trials=1_000_000, slots=4, strategy="random", seed=1
        )

    def propose():
        Path("enqueued").touch()
        enqueued = Path("enqueued").read_text().split()
        for number in range(1, 201):
            if str(number) in enqueued:
                continue
            try:
                search.enqueue({"x": number / 1000, "depth": 2})
            except SpaceError as error:  # it was killed before it noted this one
                assert "has this genome already" in str(error)
            with open("enqueued", "a") as file:
                file.write(f"{number}\\n")

    thread = threading.Thread(target=propose)
    thread.start()
    search.run()
    thread.join()


if __name__ == "__main__":
    main()
"""

PERSON, AGENT = [-number / 1000 for number in range(1, 5)], [-number / 1000 for number in range(501, 505)]
SCRIPT = [number / 1000 for number in range(1, 201)]


def begin(folder: Path, sleep: float) -> subprocess.Popen[bytes]:
    (folder / "search.py").write_text(SEARCH)
    with (folder / "search.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "search.py", str(sleep)], cwd=folder, stdout=log, stderr=log, start_new_session=True
        )


def wait_until(reached: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 200
    while not reached():
        assert process.poll() in (None, 0)
        assert time.monotonic() < deadline
        time.sleep(0.1)


def submitted(folder: Path) -> list[tuple[float, str]]:
    run = Run.open(folder / "populations" / "busy")
    return [(float(run.candidates[id].genome["x"]), row.source) for id, row in run.submissions.items()]


def has_taken(folder: Path, count: int) -> bool:
    return (folder / "populations" / "busy" / "_run.json").exists() and len(submitted(folder)) >= count


@pytest.mark.timeout(600)
def test_three_writers_at_once_lose_nothing(folder: Path) -> None:
    process = begin(folder, 0.0)
    try:
        wait_until(lambda: (folder / "enqueued").exists(), process)

        async def propose_as_agent(client: object) -> None:
            for x in AGENT:
                await call(client, "propose", run="busy", genomes=[{"x": x}])

        persons = [
            subprocess.Popen([sys.executable, "-m", "evo_tune", "propose", "busy", f"x={x}"], cwd=folder)
            for x in PERSON
        ]
        using(folder, propose_as_agent)
        assert [person.wait() for person in persons] == [0] * len(PERSON)
        wait_until(partial(has_taken, folder, 208), process)
        process.send_signal(signal.SIGINT)
        assert process.wait(100) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    expected = [(x, "python") for x in SCRIPT] + [(x, "person") for x in PERSON] + [(x, "agent") for x in AGENT]
    assert Counter(submitted(folder)) == Counter(expected)
    assert os.listdir(folder / "populations" / "busy" / INBOX) == []
    verified = type_in(folder, "verify", "busy", "--format", "json")
    assert json.loads(verified.out)["disagreements"] == [], verified
    assert verified.code == 0


@pytest.mark.extended
@pytest.mark.timeout(3000)
def test_killed_twenty_times_it_loses_nothing(folder: Path, process: Typed) -> None:
    rng, kills, persons, kills_in_the_middle = random.Random(0), 0, list(PERSON), 0
    while kills < 20:
        search = begin(folder, 0.5)
        # Until it has taken some more, at most all that the script proposes.
        seen = len(submitted(folder)) if kills else 0
        wait_until(partial(has_taken, folder, min(seen + rng.randint(1, 9), 200)), search)
        if persons and kills % 5 == 0:
            assert process("propose", "busy", f"x={persons.pop()}").code == 0
        os.killpg(search.pid, signal.SIGKILL)
        search.wait()
        kills += 1
        kills_in_the_middle += len(submitted(folder)) < 200
    assert kills_in_the_middle >= 5  # on a busy machine it takes many proposals before it is killed
    search = begin(folder, 0.5)
    wait_until(partial(has_taken, folder, 204), search)
    search.send_signal(signal.SIGINT)
    assert search.wait(100) == 0
    expected = [(x, "python") for x in SCRIPT] + [(x, "person") for x in PERSON]
    assert Counter(submitted(folder)) == Counter(expected)
    assert process("verify", "busy").code == 0
