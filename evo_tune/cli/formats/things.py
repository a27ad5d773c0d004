"""What commands print of evaluators, strategies, schedules and machines."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from evo_tune.cli.formats.runs import Value


class Evaluator(Struct, forbid_unknown_fields=True, kw_only=True):
    """An evaluator that is known by name."""

    evaluator: str
    """Its name."""
    found: str
    """Where: file, entry point or bundled, and what it hides."""
    what: str
    """First line of its docstring."""
    file: str
    """Its file."""


class Objective(Struct, forbid_unknown_fields=True, kw_only=True):
    """What is optimised."""

    metric: str
    """Its metric."""
    direction: str
    """min or max."""


class Option(Struct, forbid_unknown_fields=True, kw_only=True):
    """An option, as `-o` or `-s` takes it."""

    group: str
    """Title of its group; '' for none."""
    option: str
    """Its name."""
    type: str
    """What its values are, in words."""
    required: bool
    """Whether it must be given."""
    default: Value | None
    """Its default. Unit: the option's."""
    unit: str
    """Of its values; '' for none."""
    bounds: str
    """Interval of its numbers; '' for none."""
    gene: str
    """What it is as a gene where `--gene NAME` says no more; '' if that does not work."""
    help: str
    """What it is for."""


class Declared(Evaluator, kw_only=True):
    """What one evaluator declares."""

    objectives: list[Objective]
    """What it optimises, the first first."""
    metrics: dict[str, str]
    """Units of its metrics, by name."""
    tests: dict[str, str]
    """Metrics' names on the test set."""
    supports: list[str]
    """What it can do beyond a full training."""
    options: list[Option]
    """Its options."""


class Strategy(Struct, forbid_unknown_fields=True, kw_only=True):
    """A strategy that is known by name."""

    strategy: str
    """Its name."""
    objectives: str
    """one, several, or - where it cannot be loaded."""
    what: str
    """First line of its docstring, or what is wrong with it."""
    options: list[Option]
    """Its options."""


class Written(Struct, forbid_unknown_fields=True, kw_only=True):
    """An evaluator's file that was written."""

    evaluator: str
    """Its name."""
    file: str
    """Its file."""
    genes: list[str]
    """Those that were guessed from a script; none without `--from`."""


class Step(Struct, forbid_unknown_fields=True, kw_only=True):
    """A step of a schedule."""

    step: int
    """Its number, from 0."""
    lr: float
    """The learning rate."""


class Device(Struct, forbid_unknown_fields=True, kw_only=True):
    """A slot that a run would have."""

    slot: str
    """Its name."""
    device: str
    """cpu, or a GPU's name as CUDA counts it."""
    what: str
    """The GPU's make; - on a CPU."""
    threads: int
    """CPU threads of a training."""
    memory: int | None
    """Memory of the device; null if unknown. Unit: bytes."""
    free: int | None
    """What is free of it; null if unknown. Unit: bytes."""
    precision: str
    """In which precision a training would be, or how that is found out."""


class Timings(Struct, forbid_unknown_fields=True, kw_only=True):
    """How fast a device was timed to be."""

    device: str
    """Its make."""
    products: dict[str, dict[str, float]]
    """Of square matrices, by precision and by side. Unit: FLOP/s."""
    widths: dict[str, float]
    """Of a layer, by its width. Unit: FLOP/s."""
    vocabularies: dict[str, float]
    """Of a head, by its outputs. Unit: FLOP/s."""
    head_sizes: dict[str, float]
    """Of attention, by channels of a head. Unit: FLOP/s."""
    batches: dict[str, float]
    """Of a layer, by tokens in a step. Unit: FLOP/s."""
    bandwidth: float
    """What a copy reads and writes. Unit: bytes/s."""
    launch: float
    """The smallest operation. Unit: s."""


class Wants(Struct, forbid_unknown_fields=True, kw_only=True):
    """What a device wants of a training."""

    precision: str
    """In which products are fastest."""
    width: int
    """Of what a width should be a multiple."""
    vocabulary: int
    """Of what a vocabulary should be a multiple."""
    head_sizes: list[int]
    """Channels of a head that are as good as the best."""
    batch: int
    """Below which the chip idles. Unit: tokens."""


class Probed(Struct, forbid_unknown_fields=True, kw_only=True):
    """A device that was timed."""

    name: str
    """It, as slots name it."""
    timings: Timings
    """How fast it is."""
    wants: Wants
    """What follows."""
    known: dict[str, Any] | None
    """What its maker says of it; null if it is not in the table."""


class Devices(Struct, forbid_unknown_fields=True, kw_only=True):
    """What a run would use."""

    slots: list[Device]
    """Its slots."""
    cards: list[str]
    """How each GPU would be used and why, a sentence each."""
    probed: list[Probed]
    """What was timed on each device, with --probe."""
    why: list[str]
    """Why these, a sentence each."""


class Script(Struct, forbid_unknown_fields=True, kw_only=True):
    """The script with which a shell completes."""

    shell: str
    """bash, zsh or fish."""
    script: str
    """Its text."""
