"""What there is to train on, and how slots are laid over it."""

from __future__ import annotations

import os
import re

import pytest
from slot_helpers import SMI, answering, listing

from evo_tune.dispatch import devices
from evo_tune.dispatch.clusters.host import list_slot_devices
from evo_tune.dispatch.devices import CPU, Device, Plan, cpu_count, find_gpus, inventory, plan
from evo_tune.errors import OptionError, RunError
from evo_tune.loop.search import Search


def ids(found):
    return [(device.name, device.visible) for device in found]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("4,5", [("cuda:4", "4"), ("cuda:5", "5")]),
        ("3, 1", [("cuda:3", "3"), ("cuda:1", "1")]),
        ("2,-1,3", [("cuda:2", "2")]),
        ("GPU-ab,MIG-GPU-cd/1/0", [("cuda:GPU-ab", "GPU-ab"), ("cuda:MIG-GPU-cd/1/0", "MIG-GPU-cd/1/0")]),
    ],
)
def test_the_users_own_setting_is_taken_word_for_word(machine, visible, expected):
    machine(visible, smi=listing(SMI))
    assert ids(find_gpus()[0]) == expected


def test_nvidia_smi_is_asked_otherwise_and_mig_instances_stand_for_themselves(machine):
    machine(smi=listing(SMI))
    assert ids(find_gpus()[0]) == [
        ("cuda:0", "GPU-aaaa"),
        ("cuda:MIG-cccc", "MIG-cccc"),
        ("cuda:MIG-dddd", "MIG-dddd"),
        ("cuda:2", "GPU-eeee"),
    ]


@pytest.mark.parametrize("answer", [None, "exit 0", "echo 'No devices were found'; exit 6"])
def test_a_machine_without_a_gpu_is_no_trouble(machine, answer):
    machine(smi=answer)
    assert find_gpus()[0] == ()
    assert plan(slots=1).slots == (CPU,)


LOST = "Unable to determine the device handle for GPU1: 0000:3D:00.0: GPU is lost"


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (f"echo '{LOST}'; exit 15", f"nvidia-smi -L fails with exit code 15: {LOST}"),
        (f"echo '{LOST}' >&2; exit 15", f"nvidia-smi -L fails with exit code 15: {LOST}"),
        ("exit 9", "nvidia-smi -L fails with exit code 9: and says nothing"),
        ("exec sleep 60", "nvidia-smi -L does not answer within 0.2 s"),
    ],
)
def test_an_nvidia_smi_that_fails_makes_no_run_a_cpus_in_silence(machine, monkeypatch, answer, cause):
    monkeypatch.setattr(devices, "SMI_SECONDS", 0.2)
    machine(smi=answer)
    with pytest.warns(UserWarning, match=re.escape(f"{cause}; the run uses the CPU")):
        assert plan(slots=1).slots == (CPU,)
    with pytest.raises(OptionError, match=re.escape(f"--devices cuda: {cause}")):
        plan(devices="cuda")
    with pytest.raises(RunError, match=re.escape(cause)):
        list_slot_devices(None, 1, 2)
    assert plan(devices="cpu", slots=1).slots == (CPU,)
    assert list_slot_devices("cpu", 1, 1) == [CPU]


@pytest.mark.parametrize("end", [f"echo '{LOST}'; exit 15", "exec sleep 60"])
def test_one_broken_card_leaves_the_others_to_the_run_and_is_named(machine, monkeypatch, end):
    monkeypatch.setattr(devices, "SMI_SECONDS", 0.5)
    machine(smi=f"echo 'GPU 0: A GPU (UUID: GPU-aaaa)'\n{end}")
    with pytest.warns(UserWarning, match=r"nvidia-smi -L .*; the run uses the 1 GPU\(s\) that it lists"):
        assert ids(plan().slots) == [("cuda:0", "GPU-aaaa")]
    assert ids(plan(devices="0").slots) == [("cuda:0", "GPU-aaaa")]
    if end.startswith("exec"):
        return  # each call waits for it, and what follows knows no more than that there was no whole answer
    assert ids(list_slot_devices("0", 1, 4)) == [("cuda:0", "GPU-aaaa")]
    with pytest.raises(OptionError, match="--devices cuda: nvidia-smi -L"):
        plan(devices="cuda")
    with pytest.raises(OptionError, match=r"there is no GPU '1' \(nvidia-smi -L"):
        plan(devices="0,1")


def test_a_machine_without_gpus_has_a_slot_of_one_thread_on_each_core(machine):
    machine(cores=4)
    assert plan() == Plan((CPU,) * 4, 1)
    assert plan(slots=6, threads=3) == Plan((CPU,) * 6, 3)
    assert CPU.inside == "cpu"


def test_a_machine_with_gpus_has_a_slot_on_each(machine):
    machine("4,5")
    assert ids(plan().slots) == [("cuda:4", "4"), ("cuda:5", "5")]
    assert plan().threads == 1
    assert plan(devices="cuda") == plan()
    assert plan(devices="cpu", slots=2).slots == (CPU, CPU)
    assert Device("cuda:4", "4").inside == "cuda:0"


def test_slots_are_spread_over_the_gpus(machine):
    machine("4,5")
    assert [device.visible for device in plan(per_device=2).slots] == ["4", "5", "4", "5"]
    assert [device.visible for device in plan(per_device=2, slots=3).slots] == ["4", "5", "4"]


@pytest.mark.parametrize("given", ["2,0", "cuda:2, cuda:0", "GPU-eeee,GPU-aaaa"])
def test_gpus_may_be_named(machine, given):
    machine(smi=listing(SMI))
    assert ids(plan(devices=given).slots) == [("cuda:2", "GPU-eeee"), ("cuda:0", "GPU-aaaa")]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"devices": "0,2"}, "--devices 0,2: there is no GPU '0'; expected cpu, cuda, or some of 4, 5"),
        ({"devices": "gpu"}, "there is no GPU 'gpu'"),
        ({"devices": ""}, "there is no GPU ''"),
        ({"slots": 5, "per_device": 2}, "--slots 5 is more than 4, which is 2 GPU(s) with 2 slot(s) each"),
        ({"devices": "cpu", "per_device": 2}, "--per-device 2 needs a GPU, and this run uses none"),
    ],
)
def test_what_cannot_be_is_one_line(machine, settings, error):
    machine("4,5")
    with pytest.raises(OptionError, match=re.escape(error)) as caught:
        plan(**settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("visible", "smi", "error"),
    [
        ("", None, "--devices cuda: CUDA_VISIBLE_DEVICES='' hides every GPU; use --devices cpu"),
        (None, None, "--devices cuda: there is no nvidia-smi, so no GPU was found; use --devices cpu"),
        (None, "exit 0", "--devices cuda: nvidia-smi lists no GPU; use --devices cpu"),
    ],
)
def test_gpus_that_are_not_there(machine, visible, smi, error):
    machine(visible, smi)
    with pytest.raises(OptionError, match=re.escape(error)):
        plan(devices="cuda")


def test_cores_are_those_of_the_affinity(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 5})
    assert cpu_count() in (1, 2)  # 1 where the quota of this container is lower


@pytest.mark.parametrize(("capability", "precision"), [("8.0", "bf16"), ("10.3", "bf16"), ("7.5", "fp16"), ("", "-")])
def test_what_is_known_of_a_gpu_is_told(machine, capability, precision):
    answers = answering(**{"GPU-a": "A GPU, 10240, 9216", "GPU-b": "A GPU, 10240, 10240"})
    machine("0,GPU-b", smi=answers.replace("9.0", capability))
    known = inventory(plan())
    assert known.facts[0] == ("A GPU", 10 * 2**30, 9 * 2**30, precision)
    assert "GPUs by CUDA_VISIBLE_DEVICES=0,GPU-b" in known.why
    assert [facts.name for facts in inventory(plan(ranks=2)).facts] == ["2 x A GPU"]
    assert any("share its memory (9.0 GiB or more)" in line for line in inventory(plan(per_device="auto")).why)
    assert inventory(plan(devices="cpu", slots=2)).facts[0] == ("-", None, None, "measured later")


def test_how_each_card_is_used_is_told_with_the_reason(machine):
    """Of two cards others hold most of one."""
    two = {"GPU-a": "A GPU, 10240, 10240", "GPU-b": "A GPU, 10240, 2048"}
    machine(smi=answering(**two), cores=6)
    whole, taken = inventory(plan(per_device="auto")).cards
    assert whole == "cuda:0 (A GPU, 10.0 GiB): 3 slots in 9.0 GiB"
    assert taken == "cuda:1 (A GPU, 10.0 GiB): 3 slots in 2.0 GiB; other processes use 8.0 GiB now"
    whole, taken = inventory(plan()).cards
    assert whole == "cuda:0 (A GPU, 10.0 GiB): one training at a time"
    assert taken == "cuda:1 (A GPU, 10.0 GiB): one training at a time; other processes use 8.0 GiB now"
    assert "3 trainings at once, whatever memory each needs" in inventory(plan(per_device=3)).cards[0]
    (both,) = inventory(plan(ranks=2)).cards
    assert both.endswith("one training at a time, on all 2 GPUs")
    assert inventory(plan(devices="cpu", slots=2)).cards == ()


def test_slots_share_a_gpu_as_cores_and_memory_allow(machine):
    two = {"GPU-a": "A, 10000, 9900", "GPU-b": "A, 10000, 4000"}
    machine(smi=answering(**two), cores=6)
    found = plan(per_device="auto")
    assert [device.visible for device in found.slots] == ["GPU-a", "GPU-b"] * 3
    assert found.memory == {"GPU-a": 9000 * 2**20, "GPU-b": 4000 * 2**20}, "what others hold is theirs"
    assert len(plan(per_device="auto", threads=4).slots) == 2
    assert len(plan(per_device="auto", slots=7).slots) == 7
    machine(smi=answering(**two), cores=64)
    assert len(plan(per_device="auto").slots) == 16
    machine("1", smi=answering(**two))
    assert plan(per_device="auto").memory == {"1": 4000 * 2**20}
    assert plan(per_device=2).memory == {}


@pytest.mark.parametrize(
    ("visible", "smi"),
    [
        ("0,1", answering(**{"GPU-a": "A, 10000, 10000", "GPU-b": "B, 20000, 20000"})),
        (None, answering(**{"GPU-a": "A, [N/A], [N/A]"})),
        ("GPU-c", answering(**{"GPU-a": "A, 10000, 10000"})),
        ("0", None),
    ],
    ids=["numbers of several models", "no memory told", "another GPU", "no nvidia-smi"],
)
def test_a_gpu_whose_memory_is_not_known_is_not_shared(machine, visible, smi):
    machine(visible, smi=smi)
    found = plan(per_device="auto")
    assert len(found.slots) == len({device.visible for device in found.slots})
    assert found.memory == {}


def test_a_mig_instance_has_what_its_profile_says(machine):
    machine(smi=listing(SMI), cores=8)
    assert set(plan(devices="MIG-cccc", per_device="auto").memory.values()) == {18 * 10**9}


def test_without_a_gpu_auto_changes_nothing(machine):
    machine("")
    assert plan(per_device="auto") == plan()


def test_a_training_of_several_ranks_has_as_many_gpus_or_cores(machine):
    machine("4,5,GPU-c")
    assert ids(plan(ranks=2).slots) == [("cuda:4+5", "4,5")]
    assert ids(plan(ranks=3, per_device=2).slots) == [("cuda:4+5+GPU-c", "4,5,GPU-c")] * 2
    assert ids(plan(ranks=2, per_device="auto").slots) == [("cuda:4+5", "4,5")]
    assert ids(list_slot_devices(None, 1, 4, ranks=2)) == [("cuda:4+5", "4,5")]
    with pytest.raises(OptionError, match="ranks=4 wants 4 GPUs for each training; this run has 3: give fewer"):
        plan(ranks=4)
    with pytest.raises(OptionError, match=re.escape("--slots 2 is more than 1, which is 1 group(s) of 2 GPUs")):
        plan(slots=2, ranks=2)
    machine("", cores=5)
    assert plan(ranks=2).slots == (CPU, CPU)
    assert plan(ranks=8).slots == (CPU,)
    assert plan(slots=3, ranks=2).slots == (CPU,) * 3
    assert list_slot_devices(None, 1, 4, ranks=2) == [CPU, CPU]
    assert list_slot_devices("cpu", 1, 1, ranks=2) == [CPU]


def test_the_worker_of_several_ranks_sees_all_its_gpus(machine, tmp_path):
    machine("4,5,6")
    path = tmp_path / "several.py"
    path.write_text(
        "import os\nfrom evo_tune import Float, Minimize, SearchSpace\n"
        "SPACE, OBJECTIVES = SearchSpace(x=Float(0.0, 1.0)), [Minimize('loss')]\n"
        "def evaluate(genome, context, *, ranks: int = 1):\n"
        "    assert (os.environ['CUDA_VISIBLE_DEVICES'], context.device) == ('4,5', 'cuda:0')\n"
        "    return {'loss': genome['x']}\n"
    )
    search = Search(str(path), options={"ranks": 2}, trials=2, store=tmp_path / "store").run()
    assert [(trial.outcome.error, trial.outcome.device) for trial in search.trials] == [(None, "cuda:4+5")] * 2
    with pytest.raises(OptionError, match="ranks=4 wants 4 GPUs"):
        Search(str(path), options={"ranks": 4}, name="none", store=tmp_path / "store")
    assert not (tmp_path / "store" / "none").exists()


def test_no_training_joins_mig_instances_or_one_gpu_twice(machine):
    machine("MIG-c,4,MIG-d,5")
    assert ids(plan(ranks=2).slots) == [("cuda:4+5", "4,5")]
    machine("MIG-c,MIG-d,4")
    with pytest.raises(OptionError, match=r"this run has 1: .*MIG instances cannot join"):
        plan(ranks=2)
    machine("0,1")
    assert ids(plan(devices="1,1").slots) == [("cuda:1", "1")] * 2
    with pytest.raises(OptionError, match="ranks=2 wants 2 GPUs for each training; this run has 1: give fewer"):
        plan(devices="1,1", ranks=2)
