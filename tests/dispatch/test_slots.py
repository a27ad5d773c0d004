"""The contract of a slot, over every kind of slot: whatever an evaluation does, an Outcome comes back."""

from __future__ import annotations

import gc
import os
import signal
import textwrap
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest
from slot_helpers import FIRST_LINE, alive, candidate, until

from evo_tune.dispatch.devices import CPU, Device
from evo_tune.dispatch.slot import SlotClosed, SlotInterrupted
from evo_tune.dispatch.worker import Worker

OK = "return {'loss': genome['x']}"


def test_an_outcome_comes_back_and_no_folder_is_left(open_one, trials):
    slot = open_one("context.report(0.5, loss=1.0)\ntime.sleep(0.02)\nreturn {'loss': genome['x'], 'params': 3}")
    outcome = slot.run(candidate())
    assert (outcome.status, outcome.metrics, outcome.error) == ("ok", {"loss": 0.5, "params": 3.0}, None)
    assert outcome.curve == ((0.5, {"loss": 1.0}),)
    assert 0.02 <= outcome.seconds < 1.0
    assert outcome.device == slot.device
    assert outcome.device.endswith("cpu")
    slot.close()
    assert not trials.exists()


def test_the_worker_starts_with_the_first_candidate_and_stays(open_one):
    slot = open_one(f"{OK[:-1]}, 'pid': os.getpid()}}")
    assert slot.pid is None
    pids = {slot.run(candidate(i)).metrics["pid"] for i in range(5)}
    assert pids == {slot.pid}


def test_an_exception_is_one_line_that_names_file_and_line(open_one, trials):
    slot = open_one("x = 1\nraise ValueError('no luck\\nat all')")
    outcome = slot.run(candidate(3))
    assert outcome.status == "failed"
    assert outcome.error == f"ValueError: no luck at all (evaluator.py:{FIRST_LINE + 1})"
    text = (trials / "000003" / "error.txt").read_text()
    assert text.startswith("Traceback")
    assert "no luck\nat all" in text
    assert slot.run(candidate(4)).status == "failed", "the worker goes on"


def test_the_line_is_the_evaluators_own(open_one):
    outcome = open_one("import json\njson.loads('{')").run(candidate())
    assert outcome.error.startswith("JSONDecodeError: ")
    assert outcome.error.endswith(f"(evaluator.py:{FIRST_LINE + 1})")


def one_of(bodies: Iterable[str]) -> str:
    """Return a body that does the one whose number is eight times the gene: one worker for all."""
    cases = (f"if genome['x'] == {i / 8}:\n{textwrap.indent(body, '    ')}" for i, body in enumerate(bodies))
    return "\n".join(cases)


def test_other_ways_to_fail(open_one):
    errors = {
        "sys.exit(3)": "SystemExit: 3",
        "raise KeyboardInterrupt": "KeyboardInterrupt",
        "input()": "EOFError: EOF when reading a line",
        "class Odd(Exception):\n    def __str__(self): raise OSError\nraise Odd": "Odd: (its text cannot be read",
    }
    slot = open_one(one_of(errors))
    for i, (body, error) in enumerate(errors.items()):
        outcome = slot.run(candidate(i, genome={"x": i / 8}))
        assert outcome.status == "failed", body
        assert outcome.error.startswith(error)


def test_what_is_returned_is_judged(open_one, trials):
    judged = {
        "return 3": ("failed", "evaluate returned a int"),
        "return {'other': 1.0}": ("failed", "evaluate returned no 'loss'"),
        "return {'loss': 'low'}": ("failed", "evaluate returned loss='low'"),
        "return {'loss': float('nan')}": ("diverged", "loss is nan"),
    }
    slot = open_one(one_of(judged))
    for i, (body, (status, error)) in enumerate(judged.items()):
        outcome = slot.run(candidate(i, genome={"x": i / 8}))
        assert (outcome.status, outcome.metrics) == (status, {}), body
        assert outcome.error.startswith(error)
        assert not (trials / f"{i:06}").exists()


def test_an_exception_may_bring_its_status(open_one, trials):
    slot = open_one("context.report(0.5, loss=9.0)\nraise Diverged('loss is nan at step 4')", top=DIVERGED)
    outcome = slot.run(candidate())
    assert outcome.status == "diverged"
    assert outcome.error == f"loss is nan at step 4 (evaluator.py:{FIRST_LINE + 4})"
    assert outcome.curve == ((0.5, {"loss": 9.0}),)
    assert not (trials / "000000").exists()


DIVERGED = "\nclass Diverged(Exception):\n    status = 'diverged'\n"


def test_an_exceptions_unknown_status_means_nothing(open_one):
    top = DIVERGED.replace("'diverged'", "404")
    assert open_one("raise Diverged('not found')", top=top).run(candidate()).status == "failed"


def test_too_little_memory(open_one):
    bodies = [
        "raise MemoryError",
        "raise RuntimeError('[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes')",
        "class OutOfMemoryError(RuntimeError): pass\nraise OutOfMemoryError('CUDA out of memory. Tried to')",
        "import resource\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20), resource.RLIM_INFINITY))\n"
        "return {'loss': len(bytearray(1 << 30))}",
    ]
    slot = open_one(one_of(bodies))
    for i, body in enumerate(bodies):
        outcome = slot.run(candidate(i, genome={"x": i / 8}))
        assert outcome.status == "out_of_memory", body
        assert "evaluator.py:" in outcome.error


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("os._exit(3)", "worker died: exit code 3"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "worker died: killed by signal 9"),
        ("print('last words')\nimport ctypes\nctypes.string_at(0)", "worker died: killed by signal 11"),
    ],
)
def test_a_death_is_an_outcome_and_the_slot_goes_on(open_one, trials, body, error):
    slot = open_one("if genome['x'] == 0.5:\n" + "".join(f"    {line}\n" for line in body.splitlines()) + OK)
    outcome = slot.run(candidate(5))
    assert (outcome.status, outcome.error) == ("crashed", error)
    assert slot.run(candidate(6, genome={"x": 0.75})).metrics == {"loss": 0.75}
    if "ctypes" in body:
        log = (trials / "000005" / "log.txt").read_text()
        assert log.startswith("last words\nFatal Python error: Segmentation fault")
        assert "evaluator.py" in log
    else:
        assert not (trials / "000005").exists()
    assert not [name for name in os.listdir(trials) if name.startswith(".worker") and str(slot.pid) not in name]


def test_a_worker_killed_from_outside(open_one):
    slot = open_one("time.sleep(60)")
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(slot.run, candidate())
        pid = until(lambda: slot.pid)
        time.sleep(0.3)
        os.kill(pid, signal.SIGKILL)
        outcome = future.result(timeout=2)
    assert (outcome.status, outcome.error) == ("crashed", "worker died: killed by signal 9")


def test_a_worker_that_died_idle_is_replaced_at_no_candidates_cost(open_one):
    slot = open_one(OK)
    slot.run(candidate())
    first = slot.pid
    os.kill(first, signal.SIGKILL)
    assert until(lambda: slot.pid is None)
    assert slot.run(candidate(1)).status == "ok"
    assert slot.pid != first


def test_a_hang_is_killed(open_one):
    slot = open_one("time.sleep(60 * (genome['x'] == 0.5))\n" + OK, timeout=0.7)
    slot.run(candidate(genome={"x": 0.75}))
    pid, began = slot.pid, time.monotonic()
    outcome = slot.run(candidate(1))
    assert 0.7 <= time.monotonic() - began < 4.0
    assert (outcome.status, outcome.error) == ("timeout", "no result within 0.7 s: killed")
    assert not alive(pid)
    assert slot.run(candidate(2, genome={"x": 0.25})).status == "ok"


def test_importing_the_evaluator_does_not_count_as_hanging(open_one):
    assert open_one(OK, top="\ntime.sleep(0.9)\n", timeout=0.5).run(candidate()).status == "ok"


@pytest.mark.parametrize(
    ("end", "status"), [("os._exit(1)", "crashed"), ("time.sleep(60)", "timeout"), ("return {'loss': 0.0}", "ok")]
)
def test_subprocesses_die_with_their_worker(open_one, trials, end, status):
    slot = open_one(
        f"""
        child = subprocess.Popen(["sleep", "600"])
        forked = os.fork()
        if not forked:
            time.sleep(600)
        (context.folder / "pids").write_text(f"{{child.pid}} {{forked}}")
        {end}
        """,
        timeout=0.7 if status == "timeout" else None,
    )
    assert slot.run(candidate()).status == status  # although the fork keeps the connection open
    slot.close()
    pids = [int(pid) for pid in (trials / "000000" / "pids").read_text().split()]
    assert until(lambda: not any(alive(pid) for pid in pids), 2.0)


@pytest.mark.slow
def test_a_crash_is_retried_and_only_the_last_outcome_returned(open_one, tmp_path):
    count = tmp_path / "count"
    body = f"""
        with open({str(count)!r}, "a") as file:
            file.write("x")
        assert not os.path.exists(context._folder), "the folder was emptied"
        (context.folder / "half").write_text("done")
        if os.path.getsize({str(count)!r}) < 3:
            os._exit(7)
        return {{"loss": 0.0}}
        """
    assert open_one(body, retries=1).run(candidate()).error == "worker died: exit code 7"
    assert count.read_text() == "xx"
    count.unlink()
    assert open_one(body, retries=9).run(candidate()).status == "ok"
    assert count.read_text() == "xxx"


@pytest.mark.parametrize("end", ["raise ValueError", "time.sleep(60)"])
def test_nothing_else_is_retried(open_one, tmp_path, end):
    count = tmp_path / "count"
    slot = open_one(f"open({str(count)!r}, 'a').write('x')\n{end}", retries=5, timeout=0.5)
    assert slot.run(candidate()).status in ("failed", "timeout")
    assert count.read_text() == "x"


def test_output_of_every_kind_is_in_the_log(open_one, trials):
    slot = open_one(
        """
        if genome["x"] == 0.5:
            print("python")
            print("complaint", file=sys.stderr)
            os.write(1, b"descriptor\\n")
            subprocess.run(["echo", "subprocess"])
        return {"loss": 0.0}
        """
    )
    for i, x in enumerate((0.5, 0.75, 0.5)):
        assert slot.run(candidate(i, genome={"x": x})).status == "ok"
    for name in ("000000", "000002"):
        assert (trials / name / "log.txt").read_text() == "python\ncomplaint\ndescriptor\nsubprocess\n"
    assert not (trials / "000001").exists()


def test_the_log_can_be_read_while_it_grows(open_one, trials):
    slot = open_one("print('step 1')\ntime.sleep(60)")
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(slot.run, candidate())
        assert until(lambda: (trials / "000000" / "log.txt").exists())
        assert (trials / "000000" / "log.txt").read_text() == "step 1\n"
        slot.kill()
        with pytest.raises(SlotClosed):
            future.result(timeout=1)


def test_what_a_candidate_says_arrives_and_so_does_what_came_of_it(open_one, trials):
    slot = open_one(
        """
        assert (genome, note, context.threads) == ({"x": 0.25}, "hello", 2), (genome, note, context.threads)
        assert context.device == "cpu", context.device
        assert not os.path.exists(context._folder)
        resumed = (context.resume_folder / "state").read_text() if context.resume_folder else "0"
        (context.folder / "state").write_text(str(context.seed))
        for i in range(1, 11): context.report(i / 10 * context.budget, loss=float(i))
        return {"loss": float(resumed), "params": 3}
        """,
        threads=2,
        note="hello",
    )
    first = slot.run(candidate(0, genome={"x": 0.25}, seed=11, budget=0.5))
    assert (first.status, first.metrics, first.error) == ("ok", {"loss": 0.0, "params": 3.0}, None)
    assert first.curve == tuple((i / 20, {"loss": float(i)}) for i in range(1, 11))
    assert first.device == slot.device
    assert first.device.endswith("cpu")
    assert slot.run(candidate(0, genome={"x": 0.25}, seed=12)).metrics["loss"] == 0.0, "a rerun finds its folder empty"
    assert slot.run(candidate(1, genome={"x": 0.25}, resumes=0), folder="a/b").metrics["loss"] == 12.0
    lost = slot.run(candidate(4, genome={"x": 0.25}, resumes=77))
    assert lost.metrics["loss"] == 0.0, "a missing checkpoint means from scratch"
    assert (trials / "a" / "b" / "state").exists()
    pruned = slot.run(candidate(2, genome={"x": 0.25}, stop_if=((0.4, "loss", 3.5),)))
    assert (pruned.status, pruned.metrics, len(pruned.curve)) == ("pruned", {}, 4)
    assert pruned.error == "loss=4 at 40% is beyond its bound"
    failed = slot.run(candidate(3))
    assert failed.status == "failed"
    assert failed.error.startswith("AssertionError: ({'x': 0.5}, 'hello', 2) (evaluator.py:")


@pytest.mark.slow
def test_other_slots_are_undisturbed(open_all):
    one, other = open_all("if genome['x'] == 0.5: os._exit(1)\ntime.sleep(0.6)\n" + OK, devices=(CPU, CPU))
    with ThreadPoolExecutor(2) as threads:  # both workers start at once
        good = threads.submit(other.run, candidate(0, genome={"x": 0.75}))
        pid = until(lambda: other.pid)
        bad = [threads.submit(one.run, candidate(i)).result().status for i in (1, 2)]
        assert bad == ["crashed", "crashed"]
        assert good.result().status == "ok"
    assert other.pid == pid


@pytest.mark.parametrize("open_all", ["local"], indirect=True)  # a cluster's machines say themselves what they have
def test_the_device_is_pinned(open_all):
    body = """
        assert os.environ["CUDA_VISIBLE_DEVICES"] == note, os.environ["CUDA_VISIBLE_DEVICES"]
        assert context.device == ("cuda:0" if note else "cpu"), context.device
        return {"loss": 0.0}
        """
    (gpu,) = open_all(body, devices=(Device("cuda:4", "GPU-4"),), note="GPU-4")
    outcome = gpu.run(candidate())
    assert (outcome.error, outcome.device, gpu.device) == (None, "cuda:4", "cuda:4")
    assert open_all(body)[0].run(candidate()).error is None


@pytest.mark.slow
def test_threads_reach_libraries_and_torch(open_one):
    slot = open_one(
        """
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        assert [os.environ[name] for name in names] == ["2"] * 3
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        return {"loss": float(threads), "draw": float(torch.rand(1))}
        """,
        top="\nimport torch\n",
        threads=2,
    )
    first, second = (slot.run(candidate(i)).metrics for i in range(2))
    assert first["loss"] == second["loss"] == 2.0
    assert first["draw"] == second["draw"], "the global generator is seeded"


def test_an_evaluation_leaves_no_trace_on_the_next(open_all, tmp_path):
    body = """
        import random
        import numpy as np
        here = os.getcwd()
        os.chdir("/")
        order = [hash(word) % 1000 for word in "abc"]
        return {"loss": float(here == note), "draw": random.random() + np.random.rand() + sum(order)}
        """
    slots = open_all(body, devices=(CPU, CPU), note=os.getcwd())
    outcomes = [slots[i].run(candidate(n)) for n, i in enumerate((0, 0, 1))]
    assert [outcome.metrics["loss"] for outcome in outcomes] == [1.0, 1.0, 1.0]
    assert len({outcome.metrics["draw"] for outcome in outcomes}) == 1


def test_an_evaluator_that_cannot_be_imported(open_one, tmp_path):
    outcome = open_one(OK, top="\nimport nowhere_to_be_found\n").run(candidate())
    assert outcome.status == "failed"
    path = tmp_path / "evaluator.py"
    assert outcome.error.startswith(f"{path}:5: ModuleNotFoundError: No module named 'nowhere_to_be_found'")


@pytest.mark.parametrize("body", ["raise RuntimeError('CUDA error: device-side assert triggered')"])
def test_a_poisoned_worker_is_replaced(open_one, body):
    slot = open_one(f"if genome['x'] == 0.5:\n    {body}\nreturn {{'loss': float(os.getpid())}}")
    first = slot.run(candidate(0, genome={"x": 0.75})).metrics["loss"]
    outcome = slot.run(candidate(1))
    assert outcome.status == "crashed"
    assert outcome.error == f"RuntimeError: CUDA error: device-side assert triggered (evaluator.py:{FIRST_LINE + 1})"
    assert slot.run(candidate(2, genome={"x": 0.75})).metrics["loss"] != first


def test_a_long_curve_comes_back_whole(open_one):
    outcome = open_one("for i in range(1, 20001): context.report(i / 20000, loss=1 / i)\n" + OK).run(candidate())
    assert len(outcome.curve) == 20000


@pytest.mark.parametrize("wait", [0.0, 0.05, 0.6])
def test_kill_ends_a_run_at_once(open_one, wait):
    slot = open_one("time.sleep(60)")
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(slot.run, candidate())
        time.sleep(wait)
        began = time.monotonic()
        slot.kill()
        with pytest.raises(SlotClosed):
            future.result(timeout=2)
        assert time.monotonic() - began < 1.0
    with pytest.raises(SlotClosed):
        slot.run(candidate())


def test_an_interrupt_ends_a_training_and_the_slot_goes_on(open_one):
    slot = open_one(f"if genome['x'] == 0.5:\n    time.sleep(60)\n{OK}")
    slot.interrupt()  # nothing is running
    assert slot.run(candidate(genome={"x": 0.75})).status == "ok"
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(slot.run, candidate())
        while not future.done():
            slot.interrupt()
            time.sleep(0.2)
        with pytest.raises(SlotInterrupted):
            future.result(timeout=2)
    assert slot.run(candidate(1, genome={"x": 0.75})).status == "ok"


def test_close_is_final_and_may_be_repeated(open_one, tmp_path):
    left = tmp_path / "left"
    slot = open_one(OK, top=f"\nimport atexit\natexit.register(lambda: open({str(left)!r}, 'w').close())\n")
    slot.close()
    with pytest.raises(SlotClosed, match="slot 0 is closed"):
        slot.run(candidate())
    slot = open_one(OK, top=f"\nimport atexit\natexit.register(lambda: open({str(left)!r}, 'w').close())\n")
    slot.run(candidate())
    slot.close()
    assert left.exists(), "exit handlers ran"
    slot.close()
    slot.kill()
    assert slot.pid is None


def test_an_idle_worker_that_will_not_leave_is_killed(open_one, monkeypatch):
    monkeypatch.setattr("evo_tune.dispatch.local.GRACE", 0.3)
    slot = open_one("import threading\nthreading.Thread(target=time.sleep, args=(600,)).start()\n" + OK)
    slot.run(candidate())
    began = time.monotonic()
    slot.close()
    assert time.monotonic() - began < 6.0


def test_an_interrupted_run_leaves_no_worker_behind(open_one, tmp_path):
    begun = tmp_path / "begun"
    slot = open_one(f"if genome['x'] == 0.5:\n    open({str(begun)!r}, 'w').close()\n    time.sleep(60)\n{OK}")
    slot.run(candidate(0, genome={"x": 0.75}))
    pid = slot.pid

    def interrupt() -> None:
        until(begun.exists, 30.0)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    gc.disable()  # dask listens to it: an interrupt in what it does then is lost
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        slot.run(candidate(1))
    thread.join()
    gc.enable()
    signal.signal(signal.SIGINT, before)
    assert until(lambda: not alive(pid))
    assert slot.run(candidate(2, genome={"x": 0.75})).status == "ok"


def test_a_worker_costs_little(task_of):
    worker = Worker(task_of(OK), "cpu")
    worker.work(candidate())
    began = time.perf_counter()
    for i in range(200):
        worker.work(candidate(i))
    assert (time.perf_counter() - began) / 200 < 0.5e-3
