"""Write a run as TensorBoard event files, or as offline runs of Weights & Biases.

TensorBoard gets a folder for each trial, with its curve as scalars and its genome as HParams. The public interfaces
fail here: `tensorboard.summary.Writer` names files by time and host, so that a second session could not append to the
file of a pending trial, and it writes no HParams; `tensorboard.plugins.hparams.api` imports TensorFlow. So this module
uses the parts that they are made of: `RecordWriter`, `summary_v2`, and the messages of HParams.

W&B gets a run for each trial with a result, in a group of the run's name. It writes offline by default: nothing leaves
the machine before `wandb sync`. `WANDB_MODE=online` in the environment sends each trial when it ends, and
`WANDB_PROJECT` names the project. W&B cannot append to an offline run of an earlier process, so a trial is written
once. Its collection of program, host and load of the machine is switched off.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evo_tune.errors import UsageError
from evo_tune.genome.genes import Choice, Float, Gene, Int
from evo_tune.genome.values import Value
from evo_tune.integrations.rows import WHOLE, Row, Rows, Sink, silence_loggers
from evo_tune.store.heartbeat import Curve
from evo_tune.store.run import Run
from evo_tune.text import one_line

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary

# Name of every event file; TensorBoard looks for 'tfevents' in it.
EVENTS = "events.out.tfevents.evo-tune"

# File with the identity of a folder's run.
MARK = "evo-tune-run.txt"

# File beside an unfinished event file, with its last step.
GROWING = "growing"

# Maximum bytes read of these two files.
LONGEST = 1000


class TensorBoardFolder(Sink):
    """Folder for `tensorboard --logdir`, with a folder for each run."""

    def __init__(self, path: Path, flag: str) -> None:
        super().__init__(path, flag)
        self._written: set[int] = set()

    def update(self, run: Run, pending_curves: Mapping[int, Curve] | None = None) -> None:
        """Write the parts of a run that are missing: finished trials, and the learning curves of pending ones.

        Files only grow, because TensorBoard may be reading them. A long curve may therefore lack points that were not
        reported while it was shorter (see `Telling`). Arguments and errors are those of `Sink`.
        """
        rows = Rows(run, pending_curves)
        folder = self.path / rows.name
        self._claim(folder, rows)
        for id in sorted((run.outcomes.keys() | rows.pending_curves.keys()) - self._written):
            if id < len(rows):
                _write_trial(folder / _name(id), rows, rows.row(id))
            if id in run.outcomes:
                self._written.add(id)

    def _claim(self, folder: Path, rows: Rows) -> None:
        """Make the run's folder with the description of its HParams, or check that it belongs to this run."""
        import tensorboard.plugins.hparams.summary_v2 as hparams

        mark = f"{rows.facts['identity']}\n"
        if os.path.lexists(folder):
            with contextlib.suppress(OSError), open(folder / MARK, encoding="utf-8") as file:
                if file.read(LONGEST) == mark:
                    return
            raise UsageError(f"{self.flag}: {folder} exists and is not of this run; choose another folder")
        folder.mkdir(parents=True)
        genes = [hparams.HParam(rows.genes[name], _domain(gene)) for name, gene in rows.run.widest_genes.items()]
        if rows.parts:
            genes.append(hparams.HParam(rows.parts, hparams.RealInterval(0.0, 1.0)))
        metrics = [hparams.Metric(name) for name in rows.objectives]
        _append(folder / EVENTS, [(0.0, 0, hparams.hparams_config_pb(genes, metrics, time_created_secs=0.0))], True)
        (folder / MARK).write_text(mark, encoding="utf-8")


def _write_trial(folder: Path, rows: Rows, row: Row) -> None:
    """Append what a trial's event file lacks. The file beside it comes first, so a kill loses points, at worst."""
    path, growing = folder / EVENTS, folder / GROWING
    last_written = 0
    if path.exists():
        if not growing.exists():
            return  # complete
        digits = growing.read_bytes()[:LONGEST].strip()
        last_written = max(1, int(digits)) if digits.isdigit() else WHOLE  # a process ended while it wrote the file
    folder.mkdir(exist_ok=True)
    growing.write_text(f"{max([last_written, 1, *(step for step, _ in row.curve)])}\n", encoding="ascii")
    _append(path, _summaries(rows, row, last_written), is_new=not last_written)
    if row.state != "open":
        growing.unlink()


def _name(id: int) -> str:
    """Return the name of a trial's folder, also used by HParams; names sort in the order of ids."""
    return f"trial-{id:05}"


def _domain(gene: Gene) -> Any:
    """Return the domain of a gene for HParams."""
    import tensorboard.plugins.hparams.summary_v2 as hparams

    if isinstance(gene, Float):
        return hparams.RealInterval(gene.low, gene.high)
    if isinstance(gene, Int):
        return hparams.IntInterval(gene.low, gene.high)
    assert isinstance(gene, Choice)
    return hparams.Discrete(list(dict.fromkeys(_hparam_value(gene, value) for value in gene.values)))


def _hparam_value(gene: Gene, value: Value) -> Value:
    """Return a value for HParams: numbers as floats, and choices of several types as text."""
    kinds = {type(choice) for choice in gene.values} if isinstance(gene, Choice) else {type(value)}
    if kinds <= {int, float}:
        return float(value)
    return value if kinds == {bool} else one_line(str(value))


def _summaries(rows: Rows, row: Row, last_written: int) -> Iterator[tuple[float, int, Summary]]:
    """Yield (time in seconds since 1970, step, summary) of one trial, in order.

    Args:
        rows: Rows of the run.
        row: Row of the trial.
        last_written: Last written step; 0 if there is none.
    """
    import tensorboard.plugins.hparams.summary_v2 as hparams
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.api_pb2 import Status
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

    raw = rows.run.candidates[row.id].genome
    genome = {rows.genes[name]: _hparam_value(gene, raw[name]) for name, gene in rows.run.genes.items()}
    end = row.began if row.ended is None else row.ended
    if rows.parts:
        genome[rows.parts] = float(row.facts["budget"])
    last = row.last_step
    if not last_written:
        # HParams averages trials of equal names, so the name contains that of the run.
        name = f"{rows.name}/{_name(row.id)}"
        yield row.began, 0, hparams.hparams_pb(genome, trial_id=name, start_time_secs=row.began)
    for step, point in row.curve:
        if step > last_written:
            time_in_training = row.began + min(1.0, step / last) * (end - row.began)
            yield time.time() if row.state == "open" else time_in_training, step, _scalars(point)
    if row.state == "open":
        return
    yield end, last, _scalars(row.metrics)
    status = Status.STATUS_FAILURE if row.state == "failed" else Status.STATUS_SUCCESS
    data = HParamsPluginData(session_end_info=SessionEndInfo(status=status, end_time_secs=end))
    # TensorBoard's own function for this needs TensorFlow.
    kind, tag = metadata.create_summary_metadata(data), metadata.SESSION_END_INFO_TAG
    yield end, last, Summary(value=[Summary.Value(tag=tag, metadata=kind, tensor=metadata.NULL_TENSOR)])


def _scalars(metrics: dict[str, float]) -> Summary:
    """Return numbers as a summary, clipped to the range of 32-bit floats, which TensorBoard stores."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    values = {name: min(max(value, -3.4e38), 3.4e38) for name, value in metrics.items()}
    return Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])


def _append(path: Path, summaries: Iterable[tuple[float, int, Summary]], is_new: bool) -> None:
    """Append events to a file."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    with open(path, "ab") as file:
        records = RecordWriter(file)
        if is_new:
            records.write(Event(wall_time=0.0, file_version="brain.Event:2").SerializeToString())
        for wall_time, step, summary in summaries:
            records.write(Event(wall_time=wall_time, step=step, summary=summary).SerializeToString())


class WandbFolder(Sink):
    """Folder for the folders of trials that W&B writes; several runs may share it."""

    _written: set[int] | None = None

    def update(self, run: Run, pending_curves: Mapping[int, Curve] | None = None) -> None:
        """Write the trials that have a result and are not written yet, with their learning curves; see `Sink`."""
        rows = Rows(run)
        # The id of a trial's W&B run is the same in every session.
        prefix = run.manifest.identity[:12]
        self.path.mkdir(parents=True, exist_ok=True)
        if self._written is None:
            self._written = {id for id in run.outcomes if any(self.path.glob(f"wandb/*run-*-{prefix}-{id}"))}
        for id in sorted(run.outcomes.keys() - self._written):
            self._write(rows, rows.row(id), f"{prefix}-{id}")
            self._written.add(id)

    def _write(self, rows: Rows, row: Row, wandb_id: str) -> None:
        import wandb

        settings = wandb.Settings(
            console="off", silent=True, disable_git=True, save_code=False, host="evo-tune", program="evo-tune",
            x_disable_meta=True, x_disable_stats=True, x_disable_machine_info=True, x_save_requirements=False,
        )  # fmt: skip
        mode: Any = os.environ.get("WANDB_MODE", "offline")
        with silence_loggers():
            wandb_run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "evo-tune"),
                dir=self.path,
                mode=mode,
                id=wandb_id,
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
