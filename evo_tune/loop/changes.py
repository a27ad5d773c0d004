"""What has changed since a run began: its evaluator's file, data, options and genes, before it is gone on with.

Old and new results stand in one ranking, so they must come of the same evaluator; what the strategy or this package
has changed meanwhile is `replay`'s to find.
"""

from __future__ import annotations

from typing import Any

from evo_tune.errors import OptionError, StoreError
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.plugins.find import source_hash
from evo_tune.store.run import Run

__all__ = ["check_unchanged"]


def _bound_again(run: Run, evaluator: Evaluator) -> dict[str, Any]:
    """Return a run's options as its evaluator takes them now.

    Raises:
        StoreError: The evaluator has other options or genes, so nothing that it returned or would return fits.
    """
    cause = ""
    try:
        bound = evaluator.bind(run.manifest.options)
        now = evaluator.space(bound)
        before, after = run.manifest.space.keys() - now.optional.keys(), now.genes.keys()
        if before != after:
            lost, new = sorted(before - after), sorted(after - before)
            told = [f"{', '.join(names)} {what}" for names, what in ((lost, "is gone"), (new, "is new")) if names]
            cause = f"its genes have changed ({'; '.join(told)})"
    except OptionError as error:
        cause = str(error)
    if cause:
        raise StoreError(
            f"run {run.name} cannot go on with {evaluator.path} as it is now: {cause}; change that back, or start a "
            "new run"
        )
    return bound


def check_unchanged(run: Run, evaluator: Evaluator, accept_changes: bool) -> None:
    """Refuse to go on with another evaluator or other data than the run began with.

    Args:
        run: The run, open for writing.
        evaluator: Its evaluator as it is now.
        accept_changes: Note the change in the journal instead of refusing.

    Raises:
        StoreError: Something has changed and is not accepted, or the run cannot go on with it at all.
    """
    bound = _bound_again(run, evaluator)
    now = {"evaluator_hash": source_hash(evaluator.path), "fingerprint": evaluator.fingerprint(bound)}
    changed = []
    if now["evaluator_hash"] != run.evaluator_hash:
        changed.append(f"the evaluator's file {evaluator.path} (or a module that it imports)")
    if now["fingerprint"] != run.fingerprint:
        changed.append("the evaluator's data")
    if changed and not accept_changes:
        raise StoreError(
            f"{' and '.join(changed)} has changed since run {run.name} began, so old and new results may not "
            "compare: --accept-changes goes on all the same"
        )
    if changed:
        run.write({"event": "changed", **now}, sync=True)
