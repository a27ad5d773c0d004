"""Slots: where candidates are evaluated. A kind of slot is one file here (see `slot.Slot`).

`plan` says which slots this machine offers, `open_slots` opens them. Importing this starts nothing and
loads neither joblib nor torch.
"""

from __future__ import annotations

from evo_tune.dispatch.devices import CPU, Device, Plan, cpu_count, gpus, plan
from evo_tune.dispatch.local import LocalSlot
from evo_tune.dispatch.slot import Slot, SlotClosed, Task
from evo_tune.errors import OptionError

__all__ = [
    "CPU",
    "Device",
    "LocalSlot",
    "Plan",
    "Slot",
    "SlotClosed",
    "Task",
    "cpu_count",
    "gpus",
    "open_slots",
    "plan",
]


def open_slots(task: Task, plan: Plan, timeout: float | None = None, retries: int = 0) -> list[Slot]:
    """Return the slots of a plan; the worker of each starts with its first candidate.

    Args:
        task: What all candidates have in common.
        plan: Which slots.
        timeout: Seconds after which an evaluation is killed; None waits for ever.
        retries: How often a crashed evaluation is tried again.

    Raises:
        OptionError: A timeout that is not above 0, or retries below 0.
    """
    if timeout is not None and not timeout > 0:
        raise OptionError(f"--timeout {timeout:g} is not allowed: expected more than 0 seconds")
    if retries < 0:
        raise OptionError(f"--retries {retries} is not allowed: expected 0 or more")
    return [LocalSlot(f"slot {i}", device, task, timeout, retries) for i, device in enumerate(plan.slots)]
