"""A Ray cluster whose machines are not all fit."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from evo_tune.dispatch import CPU, Cluster, Plan, RemoteSlot, open_slots
from evo_tune.errors import RunError


class Ray:
    """As much of Ray as the engine needs: each actor answers `open` with the next of some answers."""

    def __init__(self, *answers: tuple[str, str]) -> None:
        self.answers, self.killed = list(answers), 0
        self.exceptions = SimpleNamespace(RayError=RuntimeError, GetTimeoutError=TimeoutError)

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def remote(self, kind: type) -> Ray:
        return self

    def options(self, **settings: object) -> SimpleNamespace:
        return SimpleNamespace(remote=self.actor)

    def actor(self) -> SimpleNamespace:
        answer = self.answers.pop(0) if self.answers else None
        return SimpleNamespace(open=SimpleNamespace(remote=lambda *given: answer), close=SimpleNamespace(remote=dict))

    def wait(self, pending: list[object], timeout: float) -> tuple[list[object], list[object]]:
        return [one for one in pending if one is not None], []

    def get(self, answer: object, timeout: float) -> object:
        return answer

    def kill(self, actor: object) -> None:
        self.killed += 1


@pytest.fixture
def opened(task_of, monkeypatch):
    def make(*answers: tuple[str, str]) -> tuple[Ray, RemoteSlot]:
        ray = Ray(*answers)
        monkeypatch.setitem(__import__("sys").modules, "ray", ray)
        (slot,) = open_slots(task_of("return {}"), Plan((CPU,), 1), cluster=Cluster("ray", slots=1))
        assert isinstance(slot, RemoteSlot)
        return ray, slot

    return make


def test_a_machine_that_does_not_fit_is_set_aside_and_the_next_one_is_taken(opened):
    ray, slot = opened(("node1/cpu", "node1 has torch 0.0.7"), ("node2/cpu", ""))
    with pytest.warns(UserWarning, match=r"set aside: node1 has torch 0\.0\.7"):
        assert not slot.available
    assert ray.killed == 0, "what it has reserved nobody gets again"
    assert slot.available
    assert slot.device == "node2/cpu"
    slot.close()


def test_only_where_no_machine_fits_the_run_stops(opened):
    _, slot = opened(("node1/cpu", "node1 has torch 0.0.7"), ("node1/cpu", "node1 has torch 0.0.7"))
    with pytest.warns(UserWarning, match="set aside"):
        assert not slot.available
    with pytest.warns(UserWarning, match="set aside"), pytest.raises(RunError, match="no device of the cluster can be"):
        assert slot.available
    slot.close()
