"""How much of the slots' time is spent in evaluations whose durations are uneven, 1 to 10.

The evaluator sleeps for 0.1 to 1 s, according to its genome. The genetic algorithm as it is (no slot
ever waits for another) against its generational form (a barrier after each generation, here 12), on 2
and on 4 slots. Two figures: of the whole run, in which workers start and the last evaluations run out;
and of the time in between, while there is still something to begin.

    python benchmarks/utilisation.py
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from evo_tune import Search

EVALUATOR = '''"""Sleeps for 0.1 to 1 s, according to its genome."""

import hashlib
import json
import time

from evo_tune import Float, Int, Minimize, SearchSpace

SPACE = SearchSpace(x=Float(-1.0, 1.0), y=Float(-1.0, 1.0), n=Int(1, 64))
OBJECTIVES = [Minimize("loss")]


def evaluate(genome, context):
    digest = hashlib.sha256(json.dumps(genome, sort_keys=True).encode()).digest()
    time.sleep(0.1 + 0.9 * int.from_bytes(digest[:4], "big") / 2**32)
    return {"loss": genome["x"] ** 2 + genome["y"] ** 2 + genome["n"] / 64}
'''


def shares(journal: Path, slots: int) -> tuple[float, float]:
    """Return the share of slot time in evaluations, of the whole run and while there was work to begin."""
    events = [json.loads(line) for line in journal.read_bytes().splitlines()]
    born = [event["time"] for event in events if event["event"] == "proposed"]
    results = [event for event in events if event["event"] == "recorded"]
    spans = [(event["time"] - event["outcome"]["seconds"], event["time"]) for event in results]

    def share(start: float, end: float) -> float:
        busy = sum(max(0.0, min(end, to) - max(start, since)) for since, to in spans)
        return busy / (slots * (end - start))

    return share(born[0], spans[-1][1]), share(spans[0][1], born[-1])


def measure(folder: Path, slots: int, generational: bool, evaluations: int) -> tuple[float, float]:
    search = Search(
        str(folder / "sleeper.py"),
        strategy="ga",
        strategy_options={"generational": generational},
        population=12,
        store=folder,
        trials=evaluations,
        slots=slots,
    )
    search.run()
    return shares(search.saved.journal.path, slots)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, default=240, help="in each run")
    given = parser.parse_args()
    print(f"{'share of slot time in evaluations':<36}{'slots':>6}{'whole run':>12}{'in between':>12}", flush=True)
    with tempfile.TemporaryDirectory(prefix="utilisation-") as name:
        folder = Path(name)
        (folder / "sleeper.py").write_text(EVALUATOR)
        for slots in (2, 4):
            for generational in (False, True):
                whole, between = measure(folder, slots, generational, given.evaluations)
                what = "ga, generational=true" if generational else "ga"
                print(f"{what:<36}{slots:>6}{whole:>12.1%}{between:>12.1%}", flush=True)


if __name__ == "__main__":
    main()
