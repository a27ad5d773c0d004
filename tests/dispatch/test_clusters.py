"""What only a cluster can do: lose a machine, gain one, differ from the parent's."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

pytest.importorskip("distributed")
import dask
import distributed
from slot_helpers import alive, candidate, dask_address, dask_cluster, open_dask, open_ray, start_ray, until

from evo_tune import Minimize
from evo_tune.dispatch import open_slots
from evo_tune.dispatch.clusters import dask_cluster as dask_module
from evo_tune.dispatch.clusters import host as on_host
from evo_tune.dispatch.clusters.dask_cluster import DaskEngine
from evo_tune.dispatch.clusters.host import PackedTask
from evo_tune.dispatch.clusters.remote import Cluster
from evo_tune.dispatch.devices import CPU, Plan
from evo_tune.dispatch.slot import Slot, Task
from evo_tune.errors import OptionError, RunError, UsageError
from evo_tune.loop.search import Search
from evo_tune.plugins.command import command_evaluator
from evo_tune.plugins.find import load_function
from evo_tune.plugins.function import Reference

OK = "return {'loss': genome['x'], 'pid': os.getpid(), 'above': os.getppid()}"


def fails(*args: object, **settings: object) -> None:
    raise OSError("nobody")


@pytest.fixture
def closing() -> Iterator[list[Slot]]:
    opened: list[Slot] = []
    yield opened
    for slot in opened:
        slot.close()


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize(
    "open_one",
    [
        pytest.param(open_dask, marks=pytest.mark.xdist_group("dask"), id="dask"),
        pytest.param(open_ray, marks=pytest.mark.xdist_group("ray"), id="ray"),
    ],
)
def test_a_machine_that_is_lost_costs_nothing_but_time(open_one, task_of, closing, tmp_path):
    """The process of the engine itself is killed, as with its machine, while it evaluates."""
    count = tmp_path / "count"
    body = f"open({str(count)!r}, 'a').write('x')\ntime.sleep(1.5 if os.path.getsize({str(count)!r}) < 2 else 0)\n{OK}"
    (slot,) = open_one(task_of(body), (CPU,))
    closing.append(slot)
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(slot.run, candidate())
        assert until(count.exists, 20.0)
        pid = until(lambda: slot.pid)
        above = psutil.Process(pid).ppid()
        os.kill(above, signal.SIGKILL)
        outcome = future.result(timeout=60)
    assert (outcome.status, outcome.metrics["loss"]) == ("ok", 0.5)
    assert outcome.metrics["above"] != above
    assert count.read_text() == "xx"
    assert until(lambda: not alive(pid)), "the training does not outlive the engine's process"


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize(
    ("open_one", "kinds"),
    [
        pytest.param(open_dask, (0, 1), marks=pytest.mark.xdist_group("dask"), id="dask"),
        pytest.param(open_ray, (1,), marks=pytest.mark.xdist_group("ray"), id="ray"),
        pytest.param(open_ray, (0,), marks=[pytest.mark.xdist_group("ray"), pytest.mark.proof], id="ray, commands"),
    ],
)
def test_commands_and_functions_are_evaluators_there_too(open_one, kinds, closing, tmp_path):
    (tmp_path / "script.py").write_text("import sys\nprint('loss=' + sys.argv[1])\n")
    (tmp_path / "mine.py").write_text("def train(genome, context):\n    return {'loss': 2 * genome['x']}\n")
    command = command_evaluator(f"{sys.executable} {tmp_path}/script.py {{x}}")
    function = load_function(tmp_path / "mine.py", Reference("train", "", str(tmp_path / "mine.py")))
    both = ((command, {"metric": "loss"}, 0.5), (function, {}, 1.0))
    for evaluator, options, loss in (both[kind] for kind in kinds):
        task = Task.of(evaluator.bind(options), [Minimize("loss")], tmp_path / evaluator.name)
        (slot,) = open_one(task, (CPU,))
        closing.append(slot)
        outcome = slot.run(candidate())
        assert (outcome.error, outcome.metrics) == (None, {"loss": loss})
        slot.close()


@pytest.mark.cluster
@pytest.mark.xdist_group("dask")
def test_an_interrupt_leaves_nothing_behind_in_dasks_client(task_of, monkeypatch):
    """It comes when the client's own thread has just made a coroutine: one that nobody awaits is an error in tests."""
    result = distributed.Future._result

    def interrupting(*args: object) -> object:
        made = result(*args)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        return made

    monkeypatch.setattr(distributed.Future, "_result", interrupting)
    task, cluster = task_of("time.sleep(600)"), Cluster("dask", dask_address(), slots=1)
    engine = DaskEngine(task, cluster, None, 0)
    seat = until(engine.take_seat, 20.0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):  # it may come before the wait
        seat.wait(seat.begin(vars(candidate()), None), 60.0)
    signal.signal(signal.SIGINT, before)
    seat.kill()
    engine.close()


@pytest.mark.cluster
@pytest.mark.xdist_group("dask")
def test_workers_may_come_and_go(task_of, closing):
    with dask_cluster(0) as cluster:
        address = str(cluster.scheduler_address)
        with pytest.raises(OptionError, match="has no workers: start some, or say --slots N"):
            open_slots(task_of(OK), Plan((CPU,), 1), cluster=Cluster("dask", address))
        slots = open_slots(task_of(OK), Plan((CPU,), 1), cluster=Cluster("dask", address, slots=2))
        closing += slots
        assert not any(slot.available for slot in slots)
        cluster.scale(1)
        assert until(lambda: slots[0].available, 30.0)
        assert slots[0].run(candidate()).status == "ok"
        assert not slots[1].available
        cluster.scale(2)
        assert until(lambda: slots[1].available, 30.0)
        assert slots[1].run(candidate(1)).status == "ok"
        for slot in slots:
            slot.close()


@pytest.mark.cluster
@pytest.mark.xdist_group("dask")
def test_a_gpu_that_the_clusters_worker_was_given_is_the_trainings(task_of, closing):
    """As dask-cuda does it: CUDA_VISIBLE_DEVICES in the worker's environment."""
    body = "assert os.environ['CUDA_VISIBLE_DEVICES'] == 'GPU-7' and context.device == 'cuda:0'\n" + OK
    with dask_cluster(1, env={"CUDA_VISIBLE_DEVICES": "GPU-7"}) as cluster:
        where = Cluster("dask", str(cluster.scheduler_address), per_device=2)
        slots = open_slots(task_of(body), Plan((CPU,), 1), cluster=where)
        assert len(slots) == 2, "two share the GPU"
        with ThreadPoolExecutor(2) as threads:
            outcomes = list(threads.map(lambda slot, id: slot.run(candidate(id)), slots, (0, 1)))
        for slot in slots:
            slot.close()
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert {outcome.device.rpartition("/")[2] for outcome in outcomes} == {"cuda:GPU-7"}


@pytest.mark.cluster
@pytest.mark.xdist_group("dask")
def test_what_a_killed_parent_left_is_killed_by_the_next_session(task_of, tmp_path):
    """And if there is no next session, by the lease."""
    task = task_of(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)\n{OK}")
    script = textwrap.dedent(f"""
        from evo_tune.dispatch import open_slots
        from evo_tune.dispatch.clusters.remote import Cluster
        from evo_tune.dispatch.devices import CPU, Plan
        from evo_tune.dispatch.slot import Task
        from evo_tune.genome.trial import Candidate
        task = Task(**{dataclasses.asdict(task)!r})
        (slot,) = open_slots(task, Plan((CPU,), 1), cluster=Cluster("dask", {dask_address()!r}, slots=1, run="r"))
        slot.run(Candidate(**{vars(candidate())!r}))
    """)
    parent = subprocess.Popen([sys.executable, "-c", script])
    assert until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), 20.0)
    pid = int((tmp_path / "pid").read_text())
    parent.kill()
    parent.wait()
    assert alive(pid)
    (other,) = open_slots(task, Plan((CPU,), 1), cluster=Cluster("dask", dask_address(), slots=1))
    other.close()
    time.sleep(0.5)
    assert alive(pid), "another run of the same path leaves it alone"
    (slot,) = open_slots(task, Plan((CPU,), 1), cluster=Cluster("dask", dask_address(), slots=1, run="r"))
    slot.close()
    assert until(lambda: not alive(pid))


def test_a_training_that_nobody_waits_for_is_killed(task_of, monkeypatch, tmp_path):
    monkeypatch.setattr(on_host, "LEASE", 0.5)
    task = task_of("time.sleep(60)\n" + OK)
    host = on_host.SlotServer(PackedTask.of(task), "slot 0", CPU)
    began = time.monotonic()
    assert host.run(vars(candidate()), None) is None
    assert time.monotonic() - began < 10


def test_an_evaluator_that_the_machine_lacks_is_shipped_with_what_it_imports(task_of, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "helper.py").write_text("VALUE = 0.125\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "__init__.py").write_text("")
    (tmp_path / "deep" / "more.py").write_text("OTHER = 1.0\n")
    task = task_of("import helper\nfrom deep.more import OTHER\nreturn {'loss': helper.VALUE + OTHER}")
    parcel = PackedTask.of(task)
    far = dataclasses.replace(parcel, task=dataclasses.replace(task, path="/nowhere/evaluator.py"))
    there = far.unpack()
    assert Path(there.path).is_file()
    assert there.path != task.path
    assert far.unpack() == there
    assert parcel.unpack() == task, "a shared folder needs no copy"
    code = (
        "import sys; from evo_tune.plugins.find import load_evaluator; from pathlib import Path; "
        "e = load_evaluator(Path(sys.argv[1]), 'x', 'file'); print(e.module.evaluate({'x': 0}, None))"
    )
    ran = subprocess.run([sys.executable, "-c", code, there.path], capture_output=True, text=True, cwd="/")
    assert ran.stdout.strip() == "{'loss': 1.125}", ran.stderr


@pytest.mark.parametrize("taken", ["open", "link", "file"])
def test_code_is_shipped_only_into_a_folder_of_our_own(task_of, tmp_path, monkeypatch, taken):
    """Anyone may write to the temporary folder, and knows where we would go; what is there already is run by nobody."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    parcel = PackedTask.of(task_of(OK))
    far = dataclasses.replace(parcel, task=dataclasses.replace(parcel.task, path="/nowhere/evaluator.py"))
    first = Path(far.unpack().path)
    assert first.parent.stat().st_mode & 0o777 == 0o700
    assert Path(far.unpack().path) == first, "the next slot finds it"
    shutil.rmtree(first.parent)
    (tmp_path / "theirs").mkdir(mode=0o777)
    makers = {
        "open": lambda: (first.parent.mkdir(), first.parent.chmod(0o777)),
        "link": lambda: first.parent.symlink_to(tmp_path / "theirs"),
        "file": lambda: first.parent.write_text(""),
    }
    makers[taken]()
    second = Path(far.unpack().path)
    assert second.parent != first.parent
    assert second.parent.stat().st_mode & 0o777 == 0o700
    assert not any((tmp_path / "theirs").iterdir())
    assert second.read_bytes() == Path(parcel.task.path).read_bytes()


@pytest.mark.parametrize("package", ["torch", "python", "evo-tune"])
def test_another_version_is_an_error_that_names_both(task_of, package):
    parcel = PackedTask.of(task_of(OK))
    mine = re.escape(parcel.versions[package])
    other = dataclasses.replace(parcel, versions={**parcel.versions, package: "0.0.7"})
    with pytest.raises(RunError, match=rf"has {package} {mine}, the run's own machine 0.0.7"):
        other.unpack()


@pytest.mark.cluster
@pytest.mark.xdist_group("dask")
def test_a_machine_that_is_not_fit_is_set_aside_and_told(task_of, monkeypatch):
    monkeypatch.setattr(on_host, "versions", lambda: {"torch": "0.0.7"})
    (slot,) = open_dask(task_of(OK), (CPU,))
    with pytest.warns(UserWarning, match="set aside: .* has torch"), pytest.raises(RunError, match=r"0\.0\.7"):
        slot.run(candidate())
    slot.close()


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        (Cluster("dask", "tcp://127.0.0.1:9"), "--address tcp://127.0.0.1:9: no Dask scheduler answers there"),
        (Cluster("dask", "nonsense://x"), "--address nonsense://x: no Dask scheduler answers there"),
    ],
)
def test_an_address_where_nobody_is(task_of, cluster, message, monkeypatch):
    monkeypatch.setattr("evo_tune.dispatch.clusters.dask_cluster.CONNECT_TIMEOUT", 1.0)
    with pytest.raises(OptionError, match=message):
        open_slots(task_of(OK), Plan((CPU,), 1), cluster=cluster)


@pytest.mark.parametrize(
    "content",
    [b"", b"[1]", b'{"address": 3}', b"[" * 100_000, b'{"address": "tcp://\\u001b[31m"}', b" " * (1 << 21), None],
)
def test_a_file_that_no_scheduler_wrote_is_an_error_in_one_line(content, task_of, tmp_path, monkeypatch):
    monkeypatch.setattr("evo_tune.dispatch.clusters.dask_cluster.FILE_TIMEOUT", 0.0)
    path = tmp_path / "scheduler.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(OptionError, match=f"--scheduler-file {path}: no Dask scheduler answers there") as error:
        open_slots(task_of(OK), Plan((CPU,), 1), cluster=Cluster("dask", scheduler_file=str(path)))
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500


def test_a_scheduler_file_may_be_stale_at_first(tmp_path, monkeypatch):
    """A requeued job finds the file of its first scheduler, which is gone, until the new one has written its own."""
    monkeypatch.setattr("evo_tune.dispatch.clusters.dask_cluster.LOOK_EVERY", 0.01)
    path, asked = tmp_path / "scheduler.json", []
    path.write_text('{"address": "tcp://old:1"}')

    def client(address: str, **settings: object) -> str:
        asked.append(address)
        path.write_text('{"address": "tcp://new:2"}')
        if address == "tcp://old:1":
            raise TimeoutError
        return "client"

    found = dask_module._connect(SimpleNamespace(Client=client), Cluster("dask", scheduler_file=str(path)))
    assert (found, asked) == ("client", ["tcp://old:1", "tcp://new:2"])


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.xdist_group("dask")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_worker_that_a_batch_system_ends_costs_its_training_at_most(number, task_of, closing, tmp_path):
    """SIGTERM goes to all processes of the job at once. Three such workers are no crash; three that die are one."""
    file, begun = tmp_path / "scheduler.json", tmp_path / "begun"
    body = f"open({str(begun)!r}, 'a').write('x')\ntime.sleep(100 if os.path.getsize({str(begun)!r}) < 4 else 0)\n{OK}"
    program = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file), "--no-nanny"]
    program += ["--no-dashboard", "--nthreads", "1", "--local-directory", str(tmp_path)]

    started = []

    def worker() -> psutil.Process:
        started.append(subprocess.Popen(program, stderr=subprocess.DEVNULL))
        return psutil.Process(started[-1].pid)

    with distributed.LocalCluster(n_workers=0, dashboard_address=None, silence_logs=50) as cluster:
        with ThreadPoolExecutor(1) as threads:
            current = worker()
            opening = threads.submit(
                open_slots, task_of(body), Plan((CPU,), 1), cluster=Cluster("dask", slots=1, scheduler_file=str(file))
            )
            file.write_text(f'{{"address": "{cluster.scheduler_address}"}}')
            (slot,) = opening.result(60)
            closing.append(slot)
            future = threads.submit(slot.run, candidate())
            for count in range(3):
                assert until(
                    lambda count=count: future.done() or (begun.exists() and len(begun.read_text()) > count), 60.0
                )
                processes, current = [current, *current.children(recursive=True)], worker()
                for process in processes:
                    process.send_signal(number)
            outcome = future.result(timeout=100)
            slot.close()
        current.kill()
    for process in started:
        process.wait(30)
    assert outcome.status == ("ok" if number == signal.SIGTERM else "crashed")
    assert begun.read_text() == ("xxxx" if number == signal.SIGTERM else "xxx")


def test_a_cluster_with_tls_needs_a_certificate(task_of, tmp_path, monkeypatch):
    address, name = "tls://127.0.0.1:9", "DASK_DISTRIBUTED__COMM__TLS__CA_FILE"
    with pytest.raises(OptionError, match=rf"needs a certificate \(none is configured\): set {name}, "):
        open_slots(task_of(OK), Plan((CPU,), 1), cluster=Cluster("dask", address))
    with (
        dask.config.set(
            {f"distributed.comm.tls.{one}": str(tmp_path / "none.pem") for one in ("ca-file", "client.cert")}
        ),
        pytest.raises(OptionError, match=r"needs a certificate .*No such file"),
    ):
        open_slots(task_of(OK), Plan((CPU,), 1), cluster=Cluster("dask", address))


def test_a_run_that_finds_no_cluster_leaves_no_folder(quick, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", SimpleNamespace(Client=fails))
    search = Search(str(quick), store=tmp_path / "store", backend="dask", address="tcp://127.0.0.1:9")
    with pytest.raises(OptionError, match="no Dask scheduler answers there"):
        search.run()
    assert not any((tmp_path / "store").iterdir())


def test_a_run_that_has_begun_is_kept_though_its_cluster_is_gone(quick, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", SimpleNamespace(Client=fails))
    search = Search(str(quick), store=tmp_path / "store", name="begun", backend="dask", address="tcp://127.0.0.1:9")
    search.tell(search.ask(), {"loss": 1.0, "cost": 1.0})
    with pytest.raises(OptionError):
        search.run()
    assert len(Search.resume("begun", store=tmp_path / "store").trials) == 1


def test_a_backend_without_a_cluster_names_the_flag(task_of, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False))
    for backend in ("dask", "ray"):
        with pytest.raises(OptionError, match=f"--backend {backend} needs a cluster: give --address"):
            open_slots(task_of(OK), Plan((CPU,), 1), cluster=Cluster(backend))


@pytest.mark.parametrize(("backend", "module"), [("dask", "distributed"), ("ray", "ray")])
def test_an_extra_that_is_not_installed_names_the_command(task_of, monkeypatch, backend, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"pip install 'evo-tune\[{backend}\]'"):
        open_slots(task_of(OK), Plan((CPU,), 1), cluster=Cluster(backend))


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.xdist_group("ray")
def test_a_run_moves_from_joblib_to_dask_to_ray_and_its_table_is_the_same(quick, tmp_path):
    start_ray()
    settings = {"order": "proposal", "seed": 3, "store": tmp_path / "store", "slots": 2, "final_seeds": 0}
    alone = Search(str(quick), trials=12, name="alone", **settings).run().frame()
    Search(str(quick), trials=4, name="moving", **settings).run()
    for trials, backend in ((8, "dask"), (12, "ray")):
        address = dask_address() if backend == "dask" else None  # `start_ray` has started Ray in this process
        again = {"trials": trials, "backend": backend, "address": address, "final_seeds": 0}
        search = Search.resume("moving", store=tmp_path / "store", **again).run()
        assert search.saved.sessions[-1].backend == backend
    taken = ["seconds", "device"]
    assert search.frame().drop(columns=taken).equals(alone.drop(columns=taken))


def test_a_clusters_flags_need_a_cluster(quick, tmp_path):
    for flag in ({"address": "tcp://127.0.0.1:9"}, {"max_slots": 3}):
        with pytest.raises(OptionError, match="is for clusters: give --backend dask or --backend ray"):
            Search(str(quick), store=tmp_path, **flag)
    for flag in ({"backend": "ray"}, {}, {"backend": "dask", "address": "tcp://127.0.0.1:9"}):
        with pytest.raises(OptionError, match="--scheduler-file is for --backend dask without --address"):
            Search(str(quick), store=tmp_path, scheduler_file="here", **flag)
    with pytest.raises(OptionError, match="--backend slurm: expected joblib or dask or ray"):
        Search(str(quick), store=tmp_path, backend="slurm")
    assert not list(tmp_path.glob("*/_run.json"))
