"""What packs gain a run: the time of its calibration with and without, by turns on the same machine.

    python benchmarks/pack_run.py                     the calibration of a default run's best two, and its default
    python benchmarks/pack_run.py --pack 8 --rounds 3
    python benchmarks/pack_run.py -o tokens=20000     of shorter trainings

A run is made once, without a calibration. Then it is copied for each round and way, and its race is run to the end on
one slot: with each training alone, and in packs of up to `--pack`. What is given is the ratio of the wall times, that
of the processor's seconds (of the worker, its start among them: what a machine that others use still tells), and how
far the values are apart, which rounding alone moves.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil

from evo_tune.loop.search import Search
from evo_tune.store.calibration import read_calibration
from evo_tune.store.manifest import read_manifest, write_manifest


def main() -> None:
    given = _arguments()
    options = dict(text.split("=", 1) for text in given.option)
    store = Path(tempfile.mkdtemp(prefix="evo-tune-"))
    begun = Search(
        given.evaluator, store=store, name="base", options=options, trials=given.trials, calibrate=0, slots=1,
        strategy="random", pack=given.pack, seed=given.seed,
    )  # fmt: skip
    most = begun.saved.manifest.pack
    begun.run()
    print(f"{given.evaluator} {options}, {given.trials} trials, --pack {given.pack}: packs of up to {most}")
    ratios = []
    for number in range(given.rounds):
        found = {}
        for pack in (1, most) if number % 2 else (most, 1):
            found[pack] = _calibrated(store, f"round-{number}-{pack}", pack, given.calibrate)
        alone, packed = found[1], found[most]
        ratios.append(alone["seconds"] / packed["seconds"])
        same = alone["values"].keys() & packed["values"].keys()
        apart = max((abs(alone["values"][key] - packed["values"][key]) for key in same), default=0.0)
        one, several = (f"{way['seconds']:.1f} s ({len(way['values'])} trainings)" for way in (alone, packed))
        print(f"  round {number}: alone {one}, in packs of {packed['packs']} {several}: {ratios[-1]:.2f} times as fast")
        cpu = alone["cpu"], packed["cpu"]
        print(
            f"           by the processor's seconds {cpu[0]:.1f} and {cpu[1]:.1f}: {cpu[0] / cpu[1]:.2f} times as fast"
        )
        print(f"           the values are {apart:.2g} apart at most")
    print(f"median of the ratios: {statistics.median(ratios):.2f}")


def _calibrated(store: Path, name: str, pack: int, seeds: int) -> dict[str, Any]:
    """Return the seconds of a copy's calibration, its values by genome and seed, and how large its packs were."""
    with Search.resume("base", store=store, copy_as=name) as copy:
        folder = copy.saved.folder
    write_manifest(folder, msgspec.structs.replace(read_manifest(folder), pack=pack))
    search = Search.resume(name, store=store, calibrate=seeds, calibrate_best=2)
    began: list[float] = []
    spent = [0.0]

    def watch(search: Search) -> None:
        if not began and any("calibration" in one.what for one in list(search.drivers.working.values())):
            began.append(time.monotonic())
        pids = [slot.pid for slot in search.drivers.slots if slot.pid is not None]
        with contextlib.suppress(psutil.Error):
            spent[0] = max(spent[0], sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids))

    search.run(watch)
    if search.stopping:
        raise SystemExit("interrupted: nothing can be said")
    ended = time.monotonic()
    trials = read_calibration(search.saved)
    return {
        "seconds": ended - began[0],
        "cpu": spent[0],
        "values": {(trial.id, trial.candidate.seed): trial.losses[0] for trial in trials if trial.losses},
        "packs": sorted({trial.outcome.packed for trial in trials}),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluator", nargs="?", default="language_model")
    parser.add_argument("-o", "--option", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--pack", default="4", help="as `evo-tune run` takes it")
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--calibrate", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
