"""Slots on a machine of several NUMA nodes."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from slot_helpers import candidate

from evo_tune.dispatch import cpu_count, numa, open_slots, plan
from evo_tune.dispatch.numa import nodes, spread


@pytest.fixture
def machine_of(monkeypatch, tmp_path):
    def make(*lists, allowed=None):
        for number, text in enumerate(lists):
            (tmp_path / f"node{number}").mkdir()
            (tmp_path / f"node{number}" / "cpulist").write_text(f"{text}\n")
        (tmp_path / "has_cpu").write_text("0-1\n")
        monkeypatch.setattr(numa, "NODES", tmp_path)
        if allowed is not None:
            monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(allowed))

    return make


def test_nodes_are_as_the_system_lists_them_and_as_far_as_they_are_ours(machine_of):
    machine_of("0-2,8", "4-5", "", "9-10", *["junk"] * 7, "3", allowed=range(9))
    assert nodes() == [(0, 1, 2, 8), (4, 5), (3,)], "in their order, node11 the last; no node without cores"


def test_slots_are_spread_by_the_sizes_of_nodes():
    large, small = tuple(range(6)), (6, 7)
    laid = spread(8, 1, [large, small])
    assert (laid.count(large), laid.count(small)) == (6, 2)
    assert set(spread(2, 1, [small, (8, 9)])) == {small, (8, 9)}
    assert len(spread(30, 1, [large, small])) == 30
    assert spread(8, 3, [large, small]) == (), "a slot of three threads has no room on a node of two cores"


def test_one_node_changes_nothing(machine_of):
    machine_of("0-3", allowed=range(4))
    assert plan(devices="cpu", slots=4).cores == ()


def test_a_machine_that_tells_nothing_has_no_nodes(monkeypatch, tmp_path):
    monkeypatch.setattr(numa, "NODES", tmp_path / "none")
    assert nodes() == []
    assert plan(devices="cpu", slots=2).cores == ()


@pytest.mark.skipif(cpu_count() < 2 or not nodes(), reason="one core is one node")
def test_each_worker_stays_on_its_node(machine_of, task_of):
    one, other = sorted(os.sched_getaffinity(0))[:2]
    machine_of(one, other)
    slots = open_slots(task_of("return {'loss': sum(os.sched_getaffinity(0))}"), plan(devices="cpu", slots=2))
    with ThreadPoolExecutor(2) as threads:
        outcomes = list(threads.map(lambda slot: slot.run(candidate()), slots))
    for slot in slots:
        slot.close()
    assert sorted(outcome.metrics["loss"] for outcome in outcomes) == [one, other]
