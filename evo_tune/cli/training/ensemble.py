"""Train several models of a run, and write those that predict better together as an ensemble.

The candidates are the best genome, the best ones of other families, the next ones in the ranking, and the best genome
on fresh seeds. They are chosen by their predictions for the validation part, before a model is fitted to that part too.
The gain over the first model alone is measured on the test part, which the choice has not seen.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from evo_tune.cli import shared
from evo_tune.errors import EvoTuneError, PluginError
from evo_tune.genome.trial import Candidate
from evo_tune.genome.values import genome_key
from evo_tune.report.recommendation import fresh_seed, rank_trials
from evo_tune.store.run import Run
from evo_tune.text import one_line

if TYPE_CHECKING:
    from evo_tune.training.prediction.ensemble import Member
    from evo_tune.training.samples import PartPredictions

# Entry in SUPPORTS of an evaluator whose `export` notes predictions in its context, and gene with a model's family.
ENSEMBLE, FAMILY = "ensemble", "family"


class ModelTraining(Protocol):
    """The training of a model that is kept (`final_training.Training`)."""

    @property
    def candidate(self) -> Candidate:
        """The trial whose genome is trained."""

    @property
    def seed(self) -> int:
        """Seed of the training."""

    def export(
        self, target: Path, scratch: Path, err: bool, predictions: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Train, and write the model without its card; return the metrics."""

    def write_card(self, target: Path, metrics: Mapping[str, Any]) -> None:
        """Write the card into the folder of the model."""


@dataclass(frozen=True)
class TrainedModel:
    """A model that may become a member of an ensemble.

    Args:
        training: The training.
        folder: Folder of the model.
        seconds: Duration of the training.
        metrics: Its metrics.
        held_out: Predictions for the validation part, by a model that has not learned from it.
        test: Predictions for the test part.
        weight: Its weight in an ensemble; 0: it is no member.
    """

    training: ModelTraining
    folder: Path
    seconds: float
    metrics: dict[str, Any]
    held_out: PartPredictions
    test: PartPredictions
    weight: int = 0

    @classmethod
    def train(cls, training: ModelTraining, folder: Path, scratch: Path, err: bool) -> TrainedModel:
        """Train a model into a folder.

        Args:
            training: The training.
            folder: Folder of the model.
            scratch: Folder of the training.
            err: Whether to print on standard error.

        Raises:
            PluginError: The evaluator has noted no predictions.
        """
        began, predictions = time.monotonic(), dict[str, Any]()
        metrics = training.export(folder, scratch, err, predictions)
        if not {"held_out", "test"} <= predictions.keys():
            missing = f"the evaluator's SUPPORTS has {ENSEMBLE!r}, but its export noted no predictions"
            raise PluginError(f"{missing} in context.predictions: leave --ensemble out (`auto`: give --single)")
        return cls(training, folder, time.monotonic() - began, metrics, **predictions)


def member_candidates(run: Run, best: Candidate, count: int) -> list[Candidate]:
    """Return the candidates of an ensemble, the most useful first; they differ in genome or seed.

    Args:
        run: The run.
        best: The candidate whose model is exported without an ensemble: the first one.
        count: Number of candidates.
    """
    genomes: dict[str, Candidate] = {genome_key(best.genome): best}
    for trial in rank_trials(run):
        if trial.feasible:
            genomes.setdefault(trial.key, trial.candidate)
    best_of_families: dict[Any, Candidate] = {}
    for candidate in genomes.values():
        best_of_families.setdefault(candidate.genome.get(FAMILY), candidate)
    others = [candidate for candidate in genomes.values() if candidate not in best_of_families.values()]
    candidates = [*best_of_families.values(), *others][:count]
    seeds = [fresh_seed(run.manifest.settings.seed, number) for number in range(1, 1 + count - len(candidates))]
    return [*candidates, *(replace(best, seed=seed) for seed in seeds)]


def write_ensemble(
    trainings: Iterable[ModelTraining],
    target: Path,
    scratch: Path,
    err: bool,
    fits: Callable[[Any], bool],
    least_gain: float,
) -> dict[str, Any]:
    """Train models, and write an ensemble, or the first model where none is better; return the metrics.

    Args:
        trainings: Trainings of the candidates; the first one is that of the model without an ensemble.
        target: Folder of the result, which exists or is made.
        scratch: Folder of the trainings.
        err: Whether to print on standard error.
        fits: Returns whether there is time for one more training.
        least_gain: Share by which the validation loss of an ensemble has to be lower than that of the first model.
    """
    from evo_tune.training.prediction.ensemble import choose_members

    models: list[TrainedModel] = []
    for number, training in enumerate(trainings):
        if models and not fits(training):
            shared.echo(f"trial {training.candidate.id} is no member: no time is left for its training", err=err)
            continue
        try:
            models.append(TrainedModel.train(training, target / f"candidate-{number}", scratch / str(number), err))
        except EvoTuneError as error:
            if not models:
                raise
            shared.echo(f"trial {training.candidate.id} is no member: {error}", err=err)
    weights = choose_members([model.held_out for model in models])
    weighted = [replace(model, weight=weight) for model, weight in zip(models, weights, strict=True) if weight]
    members, first = sorted(weighted, key=lambda model: -model.weight), models[0]
    loss, single_loss = mean_predictions(members, "held_out").loss, first.held_out.loss
    if len(members) > 1 and loss < (1.0 - least_gain) * single_loss:
        metrics = _write_members(members, first, target, err)
    else:
        means = f"a mean has a validation loss of {loss:.4g}, the first one {single_loss:.4g}"
        reason = means if len(members) > 1 else "no mean of them is better than one of them"
        shared.echo(f"{len(models)} models are trained, and the first is written: {reason}", err=err)
        metrics = first.metrics
        for file in first.folder.iterdir():
            file.rename(target / file.name)
    for folder in target.glob("candidate-*"):
        shutil.rmtree(folder)
    first.training.write_card(target, metrics)
    return metrics


def mean_predictions(members: Sequence[TrainedModel], part: str) -> PartPredictions:
    """Return the weighted mean of members' predictions for a part: 'held_out' or 'test'."""
    from evo_tune.training.prediction.ensemble import combine

    return combine([getattr(member, part) for member in members], [member.weight for member in members])


def _write_members(members: Sequence[TrainedModel], first: TrainedModel, target: Path, err: bool) -> dict[str, Any]:
    """Give the members' folders their names, write the config of the ensemble, and return its metrics.

    Args:
        members: The members, whose folders are in that of the ensemble.
        first: The model without an ensemble.
        target: Folder of the ensemble.
        err: Whether to print on standard error.
    """
    from evo_tune.training.fitting import score_metrics
    from evo_tune.training.prediction.ensemble import Ensemble, member_name, sha256_of, write_config

    held_out, test = (mean_predictions(members, part) for part in ("held_out", "test"))
    metrics = score_metrics("classes" if test.deviation is None else "regression", held_out.scores, test.scores)
    entries = [_describe_member(members, number, held_out.loss) for number in range(len(members))]
    files = {}
    for number, member in enumerate(members):
        member.folder.rename(target / member_name(number))
        files[member_name(number)] = sha256_of(target / member_name(number))
    gains = first.test.losses - test.losses
    error = float(gains.std(ddof=1) / math.sqrt(len(gains))) if len(gains) > 1 else None
    ensemble = Ensemble(entries, float(gains.mean()), error, len(gains), files)
    write_config(target, ensemble, metrics)
    shared.echo(ensemble.verdict, err=err)
    return metrics


def _describe_member(members: Sequence[TrainedModel], number: int, loss: float) -> Member:
    """Return a member of an ensemble as its config.json describes it.

    Args:
        members: The members.
        number: Which of them.
        loss: Validation loss of the ensemble.
    """
    from evo_tune.training.prediction.ensemble import Member

    member, others = members[number], [*members[:number], *members[number + 1 :]]
    training, family = member.training, member.training.candidate.genome.get(FAMILY)
    return Member(
        weight=member.weight,
        trial=training.candidate.id,
        family="" if family is None else one_line(str(family), 40),
        seed=training.seed,
        loss=member.held_out.loss,
        gain=mean_predictions(others, "held_out").loss - loss,
        training_seconds=member.seconds,
        prediction_seconds=member.test.seconds / max(1, len(member.test.truth)),
        size=sum(file.stat().st_size for file in member.folder.rglob("*") if file.is_file()),
    )
