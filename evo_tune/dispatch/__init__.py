"""Slots: places that evaluate candidates. Each kind of slot is one file here (see `slot.Slot`).

`devices.plan` returns the slots of this machine, and `open_slots` opens them. Importing this package starts nothing
and loads neither joblib nor torch.
"""

from evo_tune.dispatch.clusters.remote import Cluster, RemoteSlot
from evo_tune.dispatch.devices import Plan, check_system
from evo_tune.dispatch.local import LocalSlot
from evo_tune.dispatch.packing import Card, MemoryForecast, SharedSlot
from evo_tune.dispatch.slot import Slot, Task
from evo_tune.errors import OptionError


def open_slots(
    task: Task,
    plan: Plan,
    timeout: float | None = None,
    retries: int = 0,
    cluster: Cluster | None = None,
    forecast: MemoryForecast | None = None,
) -> list[Slot]:
    """Open the slots of a plan; the worker of each starts with its first candidate.

    Args:
        task: Settings common to all candidates.
        plan: Slots of this machine.
        timeout: Seconds after which an evaluation is killed (> 0); None means no limit.
        retries: Number of times that a crashed evaluation is repeated (≥ 0).
        cluster: Cluster to open the slots on instead.
        forecast: Memory forecast for slots that share a GPU, used if the plan has memory to share.

    Raises:
        OptionError: The cluster cannot be used, or the system is not supported.
    """
    check_system()
    if cluster is not None:
        if cluster.backend == "dask":
            from evo_tune.dispatch.clusters.dask_cluster import DaskEngine as ClusterEngine
        else:
            from evo_tune.dispatch.clusters.ray_cluster import RayEngine as ClusterEngine  # type: ignore[assignment]
        engine = ClusterEngine(task, cluster, timeout, retries)
        count = engine.seats_at_start if cluster.slots is None else cluster.slots
        if not count:
            engine.close()
            raise OptionError(f"the cluster at {engine.place} has no workers: start some, or say --slots N to wait")
        return [RemoteSlot(f"slot {i}", engine, timeout) for i in range(count)]
    settings = [(f"slot {i}", device, task, timeout, retries) for i, device in enumerate(plan.slots)]
    if forecast is None or not plan.memory:
        return [LocalSlot(*slot_settings) for slot_settings in settings]
    cards = {device: Card(plan.memory[device.visible]) for device in set(plan.slots)}
    return [SharedSlot(cards[slot_settings[1]], forecast, *slot_settings) for slot_settings in settings]
