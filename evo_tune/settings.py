"""Settings of a run and of a session, each declared once: type, default, bounds, unit and help.

`RunSettings` stay as they are for the whole run and are saved in its manifest. `SessionSettings` may differ from one
`run` or `resume` to the next and are saved in the journal. From these fields follow the flags of the command line, the
keywords of `Search`, what is saved, and the table in docs/settings.md. The docstring of a base class below is the
heading of its options in the help and in that table. This module does not know what acts on the settings.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, TypeVar

from evo_tune.errors import OptionError
from evo_tune.options.binding import bind_options
from evo_tune.options.declare import AUTO, Options, dataclass_options, dropped_options, option, without_dropped

# Settings that end a session. New limits replace all earlier ones.
LIMITS = ("trials", "generations", "budget", "hours")

# Limit in generations of a run without any limit.
DEFAULT_GENERATIONS = 5

# Maximum number of seeds per genome with `--seeds-per-trial auto`.
MAX_AUTOMATIC_SEEDS = 4

SettingsT = TypeVar("SettingsT", bound=Options)


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class _Training(Options):
    """Search."""

    seed: int = option(0, bounds="[0, inf)", help="Seed of the run.")
    order: Literal["arrival", "proposal"] = option(
        "arrival", help="Order in which the strategy sees results; proposal: the same run for any number of slots."
    )
    lag: int = option(
        8, bounds="[0, 1000000000]", unit="trials", help="With --order proposal: trials proposed ahead of results."
    )
    fidelity: str = option(
        AUTO, unit="FRACTIONS", help="Rungs, shares of a training: 1/9,1/3,1; the best are promoted; auto: if they pay."
    )
    prune: bool = option(False, help="Stop a training whose learning curve is hopeless; begins after 5 full trainings.")
    widen: bool = option(
        True, help="Widen ranges of bundled evaluators, and those with `widest`, at whose end the best trials are."
    )
    for_scale: str = option(
        "", unit="DEPTHxWIDTH", help="Search with smaller models for a larger one: 24x1024, or 24x1024x1e9 with tokens."
    )

    def check(self) -> None:
        if self.fidelity != AUTO:
            parse_rungs(self.fidelity)

    @property
    def rungs(self) -> tuple[float, ...]:
        """Budgets of the trials of a genome, increasing to 1.

        Only 1 for `fidelity` auto: a new run saves the fractions that it chooses in its place in the manifest.
        """
        return (1.0,) if self.fidelity == AUTO else parse_rungs(self.fidelity)


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class _Seeds(Options):
    """Evaluation."""

    # None: the user gave none, and a new run chooses 1 or auto by its limits.
    seeds_per_trial: int | Literal["auto"] | None = option(
        1,
        bounds="[1, 1000000]",
        help="Number of seeds of the leading genomes; auto: extra seeds while they are worth more than new genomes; "
        "`evo-tune run` uses auto with --hours or --budget.",
    )
    seeds: Literal["own", "shared"] | None = option(
        None,
        help="Seeds of the genomes: own, different for each; shared, the same for all; by default own with "
        "--seeds-per-trial auto.",
    )

    @property
    def seeds_are_automatic(self) -> bool:
        """Whether a genome gets an extra seed while that is worth more than a new genome."""
        return self.seeds_per_trial == AUTO

    @property
    def most_seeds(self) -> int:
        """Maximum number of seeds of a genome."""
        return MAX_AUTOMATIC_SEEDS if isinstance(self.seeds_per_trial, str) else self.seeds_per_trial or 1

    @property
    def own_seeds(self) -> bool:
        """Whether each genome has seeds of its own."""
        return self.seeds == "own" or (self.seeds is None and self.seeds_are_automatic)


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class _Processor(Options):
    """Devices."""

    threads: int | None = option(None, bounds="[1, 1000000]", help="CPU threads of one training; by default 1 on CPUs.")


# Minimum number of fully trained genomes with a learning curve before any curve is pruned.
MIN_CURVES = 5


@dataclass(frozen=True, kw_only=True)
class RunSettings(_Processor, _Seeds, _Training):
    """Settings of a run, the same in all of its sessions."""

    @property
    def genomes_have_several_trials(self) -> bool:
        """Whether a genome can have further trials: at larger budgets, or with other seeds."""
        return len(self.rungs) > 1 or self.most_seeds > 1


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class _Limits(Options):
    """Limits."""

    generations: int | None = option(
        None, bounds="[1, 1000000000]", help="Maximum number of generations; 5 without any limit."
    )
    trials: int | None = option(None, bounds="[1, 1000000000]", help="Maximum number of trials.")
    budget: float | None = option(
        None, bounds="(0, inf)", unit="full trainings", help="Maximum amount of training, in full trainings."
    )
    hours: float | None = option(
        None, bounds="(0, inf)", unit="hours", help="Maximum number of hours, final comparison included."
    )
    stop_when_done: bool = option(False, help="Stop when further improvement is likely to be smaller than seed noise.")
    timeout: float | None = option(
        None, bounds="(0, inf)", unit="seconds", help="Time limit of one evaluation, in seconds."
    )
    retries: int = option(0, bounds="[0, 10000]", help="Number of retries after a worker crash.")
    give_up_after: int = option(
        3, bounds="[0, 10000]", help="Stop if the first N trials fail alike, or a generation has no value; 0: never."
    )


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class _DeviceSettings(Options):
    """Devices."""

    slots: int | None = option(
        None, bounds="[1, 10000]", help="Trainings at the same time; by default one per GPU, else one per core."
    )
    devices: str | None = option(None, unit="LIST", help="Devices: cpu, cuda, or GPUs by number: 0,2.")
    per_device: int | Literal["auto"] = option(
        1, bounds="[1, 1000]", help="Slots per GPU; auto: as many as fit into its memory."
    )
    backend: Literal["joblib", "dask", "ray"] = option(
        "joblib", help="Where trainings run: processes on this machine (joblib), or a cluster."
    )
    address: str | None = option(None, unit="URL", help="Address of a running cluster: tls://HOST:8786.")
    scheduler_file: str | None = option(
        None, unit="PATH", help="File with the address of a Dask scheduler: that of `dask scheduler --scheduler-file`."
    )
    max_slots: int | None = option(None, bounds="[1, 10000]", help="Maximum number of slots on a cluster that grows.")


# Settings that say where trainings run; those of a run folder from someone else are not used.
DEVICE_SETTINGS = tuple(dataclass_options(_DeviceSettings))


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class _Comparison(Options):
    """Evaluation."""

    final_seeds: int = option(
        0, bounds="[0, 1000]", help="Fresh seeds in the final comparison, which may use twice as many; 0: none."
    )
    baseline: bool = option(True, help="Train the evaluator's baseline once, and compare the best trial with it.")
    finalists: int = option(1, bounds="[1, 1000]", help="Number of finalists of the final comparison.")


@dataclass(frozen=True, kw_only=True)
class SessionSettings(_Comparison, _DeviceSettings, _Limits):
    """Settings of one `run` or `resume`; its limits are totals over all sessions."""

    def check(self) -> None:
        for name in ("address", "max_slots"):
            if self.backend == "joblib" and getattr(self, name) is not None:
                flag = name.replace("_", "-")
                raise OptionError(f"--{flag} is for clusters: give --backend dask or --backend ray with it")
        if self.scheduler_file is not None and (self.backend != "dask" or self.address is not None):
            raise OptionError("--scheduler-file is for --backend dask without --address: give it with that alone")
        if self.backend != "joblib" and not isinstance(self.per_device, int):
            raise OptionError(f"--per-device {self.per_device} is for GPUs of this machine: expected a number")

    @property
    def has_limits(self) -> bool:
        """Whether any limit is set."""
        return any(getattr(self, name) is not None for name in LIMITS)

    def with_default_limit(self) -> "SessionSettings":
        """Return the settings with the default limit if none is set."""
        return self if self.has_limits else self.with_changes(generations=DEFAULT_GENERATIONS)

    def with_changes(self, **changes: Any) -> "SessionSettings":
        """Return the settings with some of them changed.

        Args:
            changes: Values by name, as a user gives them.

        Raises:
            OptionError: A setting is unknown, of the wrong type or out of its bounds.
        """
        values = {**self.to_json(), **changes}
        return SessionSettings(**bind_options(values, dataclass_options(SessionSettings), owner="a session", flag="--"))

    def max_genomes(self, population: int) -> float:
        """Return the maximum number of genomes by `trials` and `generations`; infinity if neither is set.

        Args:
            population: Number of genomes per generation (int ≥ 1).
        """
        by_generation = math.inf if self.generations is None else self.generations * population
        return min(by_generation, math.inf if self.trials is None else self.trials)


def parse_settings(values: Mapping[str, Any]) -> tuple[RunSettings, SessionSettings]:
    """Return the settings of a new run from the values that a user gave.

    Args:
        values: Values by name. `fidelity` may also be a number or a sequence.

    Raises:
        OptionError: A setting is unknown, of the wrong type or out of its bounds.
    """
    fidelity = values.get("fidelity", AUTO)
    if not isinstance(fidelity, str):
        parts = fidelity if isinstance(fidelity, Sequence) else [fidelity]
        values = {**values, "fidelity": ",".join(map(str, parts))}
    bound = bind_options(
        values, {**dataclass_options(RunSettings), **dataclass_options(SessionSettings)}, owner="Search", flag="--"
    )
    run_values = {setting.name: bound[setting.name] for setting in fields(RunSettings)}
    session_values = {setting.name: bound[setting.name] for setting in fields(SessionSettings)}
    return RunSettings(**run_values), SessionSettings(**session_values)


def read_settings(kind: type[SettingsT], saved: Mapping[str, Any]) -> tuple[SettingsT, dict[str, Any]]:
    """Return settings from saved plain data, and the values of dropped settings that had an effect, by name.

    A setting that is not there has its default.

    Raises:
        ValueError: A setting is unknown.
        UsageError: A value has the wrong type or is out of its bounds (raised by `Options`).
    """
    present, gone = dataclass_options(kind), dropped_options(kind)
    unknown = sorted(saved.keys() - present.keys() - gone.keys())
    if unknown:
        raise ValueError(f"unknown setting {unknown[0]!r}")
    kept = {name: value for name, value in saved.items() if name in present}
    return kind(**kept), {name: saved[name] for name in without_dropped(kind, saved).keys() & gone.keys()}


@lru_cache(maxsize=64)  # asked for at each proposal
def parse_rungs(text: str) -> tuple[float, ...]:
    """Return the rungs of `--fidelity`: (1/9, 1/3, 1.0) for '1/9,1/3,1'.

    Raises:
        OptionError: The text is not a list of increasing fractions that ends in 1.
    """
    from fractions import Fraction  # takes 3 ms, which the help of the command line does not need

    try:
        rungs = tuple(float(Fraction(part.strip())) for part in text.split(","))
    except (ValueError, OverflowError, ZeroDivisionError):
        expected = "auto, or fractions of a full training, such as 1/9,1/3,1"
        raise OptionError(f"--fidelity {text}: expected {expected}") from None
    if rungs[-1] > 1.0 or not all(low < high for low, high in pairwise((0.0, *rungs))):
        expected = "increasing fractions above 0 and at most 1, such as 1/9,1/3,1"
        raise OptionError(f"--fidelity {text}: expected {expected}")
    if rungs[-1] != 1.0:
        raise OptionError(f"--fidelity {text}: expected 1, the full training, as the last one, such as 1/9,1/3,1")
    return rungs
