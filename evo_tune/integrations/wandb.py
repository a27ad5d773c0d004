"""Write a run for Weights & Biases: a W&B run for each trial with a result, in a group of the run's name.

W&B writes offline by default: nothing leaves the machine before `wandb sync`. `WANDB_MODE=online` in the environment
sends each trial when it ends, and `WANDB_PROJECT` names the project. W&B cannot append to an offline run of an earlier
process, so a trial is written once, after its result. Its collection of program, host and load of the machine is
switched off.
"""

import os
from collections.abc import Mapping
from typing import Any

from evo_tune.integrations import silence_loggers
from evo_tune.integrations.rows import Row, Rows, Sink
from evo_tune.store.heartbeat import Curve
from evo_tune.store.run import Run

# Default project.
PROJECT = "evo-tune"

# Characters of a run's identity in the ids of its W&B runs.
LONGEST = 12


class WandbFolder(Sink):
    """Folder for the folders of trials that W&B writes; several runs may share it."""

    _written: set[int] | None = None

    def update(self, run: Run, pending_curves: Mapping[int, Curve] | None = None) -> None:
        """Write the trials that have a result and are not written yet, with their learning curves; see `Sink`."""
        rows = Rows(run)
        self.path.mkdir(parents=True, exist_ok=True)
        if self._written is None:
            self._written = {id for id in run.outcomes if any(self.path.glob(f"wandb/*run-*-{_id(run, id)}"))}
        for id in sorted(run.outcomes.keys() - self._written):
            self._write(rows, rows.row(id))
            self._written.add(id)

    def _write(self, rows: Rows, row: Row) -> None:
        import wandb

        settings = wandb.Settings(
            console="off", silent=True, disable_git=True, save_code=False, host="evo-tune", program="evo-tune",
            x_disable_meta=True, x_disable_stats=True, x_disable_machine_info=True, x_save_requirements=False,
        )  # fmt: skip
        mode: Any = os.environ.get("WANDB_MODE", "offline")
        with silence_loggers():
            wandb_run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                dir=self.path,
                mode=mode,
                id=_id(rows.run, row.id),
                name=f"{rows.name} {row.id}",
                group=rows.name,
                job_type=row.state,
                config={**row.genome, "trial": {"id": row.id, **row.facts}, "run": rows.facts},
                settings=settings,
            )
            for step, metrics in row.curve:
                wandb_run.log(metrics, step=step)
            wandb_run.summary.update(row.metrics)
            wandb_run.finish(exit_code=1 if row.state == "failed" else 0)


def _id(run: Run, id: int) -> str:
    """Return the id of a trial's W&B run, which is the same in every session."""
    return f"{run.manifest.identity[:LONGEST]}-{id}"
