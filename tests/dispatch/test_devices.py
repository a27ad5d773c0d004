"""What there is to train on, and how slots are laid over it."""

from __future__ import annotations

import os
import re

import pytest

from evo_tune.dispatch import CPU, Device, Plan, cpu_count, devices, gpus, plan
from evo_tune.errors import OptionError

SMI = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb)
  MIG 3g.20gb     Device  0: (UUID: MIG-cccc)
  MIG 3g.20gb     Device  1: (UUID: MIG-dddd)
GPU 2: NVIDIA A100-SXM4-40GB (UUID: GPU-eeee)
"""


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Make a machine of CUDA_VISIBLE_DEVICES, an nvidia-smi and a number of cores."""

    def make(visible=None, smi=None, cores=4):
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        if smi is not None:
            program = tmp_path / "nvidia-smi"
            program.write_text(f"#!/bin/sh\n{smi}\n")
            program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin" if smi is not None else str(tmp_path))
        monkeypatch.setattr(devices, "cpu_count", lambda: cores)

    return make


def listing(text):
    return f"cat <<'END'\n{text}END"


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
    assert ids(gpus()) == expected


def test_nvidia_smi_is_asked_otherwise_and_mig_instances_stand_for_themselves(machine):
    machine(smi=listing(SMI))
    assert ids(gpus()) == [
        ("cuda:0", "GPU-aaaa"),
        ("cuda:MIG-cccc", "MIG-cccc"),
        ("cuda:MIG-dddd", "MIG-dddd"),
        ("cuda:2", "GPU-eeee"),
    ]


@pytest.mark.parametrize("smi", [None, "exit 9", "echo 'No devices were found'", "exec sleep 60"])
def test_an_nvidia_smi_that_does_not_answer_means_no_gpu(machine, monkeypatch, smi):
    monkeypatch.setattr(devices, "SMI_SECONDS", 0.2)
    machine(smi=smi)
    assert gpus() == ()


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
        ({"slots": 0}, "--slots 0 is not allowed: expected 1 or more"),
        ({"per_device": 0}, "--per-device 0 is not allowed: expected 1 or more"),
        ({"threads": -1}, "--threads -1 is not allowed: expected 1 or more"),
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


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "max 100000"}, 8),
        ("0::/\n", {"cpu.max": "250000 100000"}, 3),
        ("0::/\n", {"cpu.max": "20000 100000"}, 1),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000"}, 2),
        ("0::/gone\n", {}, 8),
        ("5:cpu,cpuacct:/x\n", {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 8),
        (
            "5:cpu,cpuacct:/x\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "400000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            4,
        ),
        (None, {}, 8),
    ],
)
def test_cores_are_those_of_affinity_and_quota(monkeypatch, tmp_path, groups, files, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    proc = tmp_path / "proc"
    if groups is not None:
        proc.write_text(groups)
    for name, text in files.items():
        file = tmp_path / "mount" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    assert cpu_count(proc, tmp_path / "mount") == cores


def test_this_machine_has_a_core():
    assert cpu_count() >= 1
