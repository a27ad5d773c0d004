"""A slot that has a worker do its work in this very process: no process is started, and nothing is imported twice."""

from __future__ import annotations

from evo_tune.dispatch.slot import Slot, Task
from evo_tune.dispatch.worker import Worker
from evo_tune.genome.trial import Candidate, Outcome


class Here(Slot):
    """A slot without a process of its own: what its worker sets (threads, seeds), it sets here.

    Args:
        task: What is to be evaluated.
    """

    name, device, pid = "here", "cpu", None

    def __init__(self, task: Task) -> None:
        self.worker = Worker(task, "cpu")

    def run(self, candidate: Candidate, folder: str | None = None) -> Outcome:
        return Outcome(**self.worker.work(candidate, folder)["outcome"])

    def close(self) -> None:
        pass

    kill = interrupt = close
