"""What a slot costs and what two of them give.

Throughput of real trainings of about a second (a small network in torch): two slots of one thread, one slot of two
threads, and a plain `joblib.Parallel` loop without isolation, each over the same trainings. And the round trip
of an evaluation that returns at once, over local, Dask and Ray slots, beside the engines' own floor.

    python benchmarks/slots.py
    python benchmarks/slots.py --trainings 4 --trips 100
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from evo_tune.dispatch import open_slots
from evo_tune.dispatch.clusters.remote import Cluster
from evo_tune.dispatch.devices import CPU, Plan
from evo_tune.dispatch.slot import Slot, Task
from evo_tune.genome.trial import Candidate

TRAINER = '''"""Trains a small network for a fixed number of steps."""

from evo_tune import Float, Minimize, SearchSpace

SPACE = SearchSpace(x=Float(0.0, 1.0))
OBJECTIVES = [Minimize("loss")]


def train(seed, steps):
    import torch

    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 64))
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(steps):
        x = torch.randn(256, 64)
        loss = (model(x) - x.roll(1, 1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def evaluate(genome, context, *, steps: int = 0):
    return {"loss": train(context.seed, steps) if steps else genome["x"]}
'''


def candidate(id: int) -> Candidate:
    return Candidate(id=id, generation=0, seed=id, reported_before=0, genome={"x": 0.5}, operator="benchmark")


def task(folder: Path, steps: int, threads: int = 1) -> Task:
    path = folder / "trainer.py"
    path.write_text(TRAINER)
    return Task(str(path), "trainer", str(path), "file", {"steps": steps}, ("loss:min",), str(folder / "t"), threads)


def rate(slots: list[Slot], trainings: int) -> float:
    """Return trainings a second over slots whose workers have started."""
    with ThreadPoolExecutor(len(slots)) as threads:
        list(threads.map(lambda slot: slot.run(candidate(0)), slots))
        waiting = iter(range(1, trainings + 1))

        def drive(slot: Slot) -> None:
            for id in waiting:
                assert slot.run(candidate(id)).status == "ok"

        began = time.perf_counter()
        list(threads.map(drive, slots))
        seconds = time.perf_counter() - began
    for slot in slots:
        slot.close()
    return trainings / seconds


def joblib_rate(folder: Path, steps: int, trainings: int) -> float:
    """The same trainings in a plain joblib loop over two processes of one thread."""
    import importlib.util

    from joblib import Parallel, delayed, parallel_config

    spec = importlib.util.spec_from_file_location("trainer", folder / "trainer.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with parallel_config("loky", n_jobs=2, inner_max_num_threads=1):
        parallel = Parallel()
        parallel(delayed(module.train)(0, 1) for _ in range(2))
        began = time.perf_counter()
        parallel(delayed(module.train)(seed, steps) for seed in range(trainings))
        return trainings / (time.perf_counter() - began)


def throughput(folder: Path, trainings: int) -> None:
    steps = 50
    (alone,) = open_slots(task(folder, steps), Plan((CPU,), 1))
    steps = max(1, round(steps * rate([alone], 4)))  # about a second of one undisturbed thread
    ways: dict[str, Callable[[], float]] = {
        "two slots, one thread each": lambda: rate(open_slots(task(folder, steps), Plan((CPU, CPU), 1)), trainings),
        "one slot, two threads": lambda: rate(open_slots(task(folder, steps, 2), Plan((CPU,), 2)), trainings),
        "joblib.Parallel, two processes": lambda: joblib_rate(folder, steps, trainings),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(3):  # interleaved: the machine is shared
        for name, measure in ways.items():
            rates[name].append(measure())
    first = statistics.median(rates["two slots, one thread each"])
    print(f"{'trainings of ' + str(steps) + ' steps':<34}{'a second':>10}{'two slots to it':>17}", flush=True)
    for name, found in rates.items():
        middle = statistics.median(found)
        print(f"{name:<34}{middle:>10.2f}{first / middle:>17.2f}", flush=True)


def trips(slot: Slot, count: int) -> float:
    """Return the median round trip, ms."""
    for id in range(5):
        slot.run(candidate(id))
    times = []
    for id in range(count):
        began = time.perf_counter()
        slot.run(candidate(id))
        times.append(time.perf_counter() - began)
    slot.close()
    return 1e3 * statistics.median(times)


def dask_floor(count: int) -> float:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        return floor(lambda id: client.submit(float, id, pure=False).result(), count)


def ray_floor(count: int) -> float:
    import ray

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=50)
    actor = ray.remote(Echo).remote()
    found = floor(lambda id: ray.get(actor.echo.remote(id)), count)
    ray.shutdown()
    return found


class Echo:
    """What Ray's own floor is measured with."""

    def echo(self, x: int) -> int:
        return x


def floor(call: Callable[[int], object], count: int) -> float:
    for id in range(5):
        call(id)
    times = []
    for id in range(count):
        began = time.perf_counter()
        call(id)
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainings", type=int, default=12, help="in each way of the throughput, three times")
    parser.add_argument("--trips", type=int, default=300)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="slots-") as name:
        folder = Path(name)
        throughput(folder, given.trainings)
        print(f"\n{'round trip, ms, median':<34}{'slot':>10}{'engine alone':>17}")
        quick, plan = task(folder, 0), Plan((CPU,), 1)
        for backend, own in (("dask", dask_floor), ("ray", ray_floor)):
            bare = own(given.trips)
            (slot,) = open_slots(quick, plan, cluster=Cluster(backend))
            print(f"{backend:<34}{trips(slot, given.trips):>10.2f}{bare:>17.2f}", flush=True)
        (slot,) = open_slots(quick, plan)
        print(f"{'local (joblib)':<34}{trips(slot, given.trips):>10.2f}{'':>17}", flush=True)


if __name__ == "__main__":
    main()
