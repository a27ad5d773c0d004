"""`Script`: a training that is another program, called with a genome in its command line.

It needs nothing of the program but that it prints its metrics. This module imports no evaluator and knows no run.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from evo_tune.genome.values import Genome
from evo_tune.plugins.context import THREAD_VARIABLES, Context
from evo_tune.plugins.scripts.output import Reading, parse_patterns, parse_progress
from evo_tune.plugins.scripts.processes import Ended, call
from evo_tune.plugins.scripts.words import Words

__all__ = ["Script"]


class Script:
    """A training that is another program: `Script("python train.py --lr {lr}").run(genome, context)`.

    Args:
        command: The program and its arguments, split as a shell would, with placeholders: {GENE}, {seed}, {device},
            {threads}, {budget}, {budget*2000} (so many steps of a full training of 2000), {folder} (the trial's own),
            {resume} (that of the trial to go on from, or nothing), {NAME?YES:NO}. A list of words is taken as they are.
        metrics: NAME=PATTERN or NAME, a regular expression for each metric (see `parse_patterns`); none: the lines
            that are JSON objects are read.
        progress: Where a point lies on the curve: '20', 'step/2000', 'fraction' (see `parse_progress`).
        shell: Have /bin/sh run the command, with values quoted.

    Raises:
        OptionError: One of these cannot be understood.
    """

    def __init__(
        self, command: str | Sequence[str], metrics: Sequence[str] = (), progress: str = "", shell: bool = False
    ) -> None:
        self.words = Words(command if isinstance(command, str) else _joined(command), shell)
        self.patterns = parse_patterns([metrics] if isinstance(metrics, str) else metrics)
        self.place = parse_progress(progress)

    def run(self, genome: Genome, context: Context) -> dict[str, float]:
        """Run it once, and return the last value of every metric that it printed.

        It is given the seed in EVO_TUNE_SEED, and likewise DEVICE, BUDGET, FOLDER and RESUME; its GPU is the only one
        that it sees (CUDA_VISIBLE_DEVICES), its threads are the trial's (OMP_NUM_THREADS …).

        Raises:
            RunError: It ends with another code than 0, or without a metric that is an objective.
            Pruned: Its curve is beyond a bound; it is killed.
        """
        given = _given(context, self.words.names)
        reading = Reading(self.patterns, self.place, context)
        words = self.words.put({**given, **genome})
        last = call(words, {**os.environ, **_environment(context)}, self.words.shell, reading.take)
        missing = [goal.metric for goal in context.objectives if goal.metric not in reading.metrics]
        if missing and missing != ["seconds"]:
            wanted = self._expected(missing[0])
            raise Ended(f"the script printed no {missing[0]}: expected {wanted}; its last line: {last or '(none)'}")
        reading.end()
        return reading.metrics

    def _expected(self, name: str) -> str:
        if name in self.patterns:
            return "a line in which its --metric finds a number"
        if self.patterns:
            return f"--metric '{name}=PATTERN' to say where it is"
        return f"a line that is a JSON object, {{\"{name}\": 0.5}}, or --metric '{name}=PATTERN'"


def _joined(words: Sequence[str]) -> str:
    import shlex

    return shlex.join(words)


def _given(context: Context, names: Sequence[str]) -> dict[str, Any]:
    """Return what the placeholders stand for that are no genes; the trial's folder is made where it is named."""
    given: dict[str, Any] = {
        "seed": context.seed,
        "device": context.device,
        "threads": context.threads,
        "budget": context.budget,
        "resume": "" if context.resume_folder is None else os.path.abspath(context.resume_folder),
    }
    return {**given, "folder": os.path.abspath(context.folder)} if "folder" in names else given


def _environment(context: Context) -> dict[str, str]:
    found = {name: str(value) for name, value in _given(context, ()).items()}
    own = {f"EVO_TUNE_{name.upper()}": value for name, value in found.items()}
    # Lines come as they are printed, and not when a buffer is full: a curve is for stopping early.
    return {**own, **dict.fromkeys(THREAD_VARIABLES, found["threads"]), "PYTHONUNBUFFERED": "1"}
