"""What a run teaches about genomes: values predicted before a training, effects of genes, and open questions.

The predicted value is that of a Gaussian process over the genomes that were trained in full. Nothing is trained here,
and no evaluator is loaded, so a genome is not repaired.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from msgspec import Struct

from evo_tune.genome.genes import Choice
from evo_tune.genome.kernel import FeatureLayout
from evo_tune.genome.process import GaussianProcess
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.values import Genome, Value
from evo_tune.report.charts import spread_indices
from evo_tune.report.charts.importances import shares
from evo_tune.report.charts.next_steps import advice
from evo_tune.report.run_data import RunData
from evo_tune.store.inbox import complete_genome
from evo_tune.store.run import Run

# Fewest genomes with a value for a prediction, and most that it uses, the best ones.
MIN_GENOMES, MOST_GENOMES = 10, 300

# Most values of a gene for which its effect is given.
MOST_VALUES = 5

# Largest predicted height above the median loss, as a logarithm: a number far beyond all losses that matter.
LARGEST = 30.0

# Standard normal deviate of the ends of an 80 % interval; on tables it has 65 % of the values (benchmarks/LOG.md).
DEVIATE = NormalDist().inv_cdf(0.9)


class Prediction(Struct, forbid_unknown_fields=True, kw_only=True):
    """The value of a genome that is predicted before its training, from the full trainings of the run.

    Args:
        genome: The genome with all genes, before the evaluator's repair.
        value: Predicted value of the first objective; null with too few results. Unit: the metric's.
        low: Lower end of the model's 80 % interval for one training. Unit: the metric's.
        high: Upper end of this interval. Unit: the metric's.
        chance: Probability that one training of it is better than the best trial so far.
    """

    genome: Genome
    value: float | None = None
    low: float | None = None
    high: float | None = None
    chance: float | None = None


class GeneEffect(Struct, forbid_unknown_fields=True, kw_only=True):
    """The effect of a gene on the first objective, by a forest.

    Args:
        share: Share of the spread that it explains by itself, over the whole space.
        low: Lower end of the 80 % interval of this share.
        high: Upper end of this interval.
        values: Some values of the gene with the predicted value, all other genes as in the best trial. Unit: the
            metric's.
    """

    share: float
    low: float
    high: float
    values: list[tuple[Value, float]]


def predict_genomes(run: Run, genomes: Sequence[Mapping[str, Any]]) -> list[Prediction]:
    """Return the predicted value of each genome.

    Args:
        run: The run.
        genomes: Values of genes by name; genes without a value have their defaults.

    Raises:
        SpaceError: A gene is unknown, or a value is neither in its range nor within the limits of the run.
    """
    data, space, predictions = RunData(run), SearchSpace(None, None, **run.genes), list[Prediction]()
    for genome in genomes:
        wider, complete = complete_genome(run, space, genome)
        space = space.with_genes(wider)
        predictions.append(Prediction(genome=complete))
    trials = [trial for trial in data.ranked_trials if trial.feasible][:MOST_GENOMES]
    if len(trials) < MIN_GENOMES or not predictions:
        return predictions
    losses = np.array([trial.losses[0] for trial in trials if trial.losses])
    middle = float(np.median(losses))
    span, layout = middle - float(losses.min()), FeatureLayout.of(space)
    if not span > 0.0:
        return predictions
    # Linear in the loss for the better half, and by its logarithm for the rest, so that outliers do not matter.
    excess = (losses - middle) / span
    heights = np.where(excess > 0.0, np.log1p(np.maximum(excess, 0.0)), excess)
    mean_height, deviation_of_heights = float(heights.mean()), float(heights.std())
    scores = (heights - mean_height) / deviation_of_heights
    points = layout.features(np.stack([space.encode(trial.genome) for trial in trials]))
    process = GaussianProcess.fit(points, scores, layout.kinds)
    means, variances = process.predict(layout.features(np.stack([space.encode(row.genome) for row in predictions])))

    def value_at(score: float) -> float:
        height = score * deviation_of_heights + mean_height
        return data.objective.value(middle + span * (math.expm1(min(height, LARGEST)) if height > 0.0 else height))

    for prediction, mean, variance in zip(predictions, means.tolist(), variances.tolist(), strict=True):
        deviation = math.sqrt(variance + process.noise)
        ends = value_at(mean - DEVIATE * deviation), value_at(mean + DEVIATE * deviation)
        prediction.value, prediction.low, prediction.high = value_at(mean), min(ends), max(ends)
        prediction.chance = NormalDist().cdf((scores.min() - mean) / deviation)
    return predictions


def gene_effects(data: RunData) -> dict[str, GeneEffect]:
    """Return the effects of genes with several values, the largest share first; none with too few results."""
    model, best = data.importance_model, data.result.best
    if model is None or best is None:
        return {}
    point, effects = data.encode_trials([best])[0], dict[str, GeneEffect]()
    for name, (share, low, high) in shares(data).items():
        index, gene = data.gene_indices[name], data.genes[name]
        losses, grid = model.predict_along(point, index)[0], model.grids[index]
        places = spread_indices(len(grid), MOST_VALUES)
        values = [(gene.decode(float(grid[place])), data.objective.value(float(losses[place]))) for place in places]
        effects[name] = GeneEffect(share=share, low=low, high=high, values=values)
    return effects


def open_questions(data: RunData) -> Iterator[str]:
    """Yield what the results of a run leave open, a sentence each: ranges, failures, values without a full training."""
    for step in advice(data, running=data.run.ended is None):
        yield f"{step.why} {step.command}".strip()
    for name, gene in data.genes.items():
        counts = Counter(trial.genome[name] for trial in data.ranked_trials)
        values = gene.values if isinstance(gene, Choice) else ()
        if untrained := [str(value) for value in values if not counts[value]]:
            yield f"No full training has a value for {name}={' or '.join(untrained)}."
