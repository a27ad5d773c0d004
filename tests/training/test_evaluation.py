import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from evo_tune.errors import RecipeError
from evo_tune.training import (
    GPT,
    IGNORE,
    Errors,
    Evaluation,
    Precision,
    Trainer,
    evaluate,
    evaluation_windows,
    score_classifier,
)
from evo_tune.training.evaluation import evaluate_by_position
from evo_tune.training.recipe import GPTConfig

CONFIG = GPTConfig(vocab_size=16, context=8, depth=2, width=16, heads=2, dropout=0.3)


def test_the_result_does_not_depend_on_the_batch_size(text: torch.Tensor) -> None:
    model = GPT(CONFIG, seed=1)
    windows = evaluation_windows(text, context=8, count=900, block=60)  # the last window of a block is ragged
    results = [evaluate(model, windows, batch=batch) for batch in (1, 2, 7, 32, 1000)]
    assert len({result.count for result in results}) == 1
    assert [result.loss for result in results] == pytest.approx([results[0].loss] * 5, rel=1e-6)


def test_it_is_the_mean_over_targets(text: torch.Tensor) -> None:
    model = GPT(CONFIG, seed=1)
    inputs, targets = evaluation_windows(text, context=8, count=900, block=60)
    result = evaluate(model, (inputs, targets))
    with torch.inference_mode():
        expected = F.cross_entropy(model.eval()(inputs).flatten(0, 1), targets.flatten())
    assert result.loss == pytest.approx(float(expected), rel=1e-6)
    assert result.bits == pytest.approx(result.loss / math.log(2))


def test_two_evaluations_add_up(text: torch.Tensor) -> None:
    model = GPT(CONFIG, seed=1)
    inputs, targets = evaluation_windows(text, context=8, count=900, block=60)
    parts = evaluate(model, (inputs[:10], targets[:10])) + evaluate(model, (inputs[10:], targets[10:]))
    whole = evaluate(model, (inputs, targets))
    assert parts.count == whole.count
    assert parts.nll == pytest.approx(whole.nll, rel=1e-6)
    assert math.isnan(evaluate(model, (inputs[:0], targets[:0])).loss)
    assert Evaluation(0.0, 0) + whole == whole


def test_it_draws_nothing_and_puts_the_mode_back(text: torch.Tensor) -> None:
    model = GPT(CONFIG, seed=1)
    windows = evaluation_windows(text, context=8, count=200)
    state = torch.get_rng_state()
    for training in (True, False):
        model.train(training)
        assert evaluate(model, windows) == evaluate(model, windows)
        assert model.training is training
        assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_training_is_the_same_with_and_without_evaluation(
    make_trainer: Callable[..., Trainer], text: torch.Tensor
) -> None:
    windows = evaluation_windows(text, context=8, count=200)
    alone, watched = make_trainer(dropout=0.2), make_trainer(dropout=0.2)
    alone.run(20)
    for step in range(1, 21):
        watched.run(step)
        evaluate(watched.model, windows)
        torch.rand(3)  # nor would it matter if something drew
    expected = alone.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in watched.model.state_dict().items())


def test_batches_of_nothing_are_refused(text: torch.Tensor) -> None:
    with pytest.raises(RecipeError, match="batch"):
        evaluate(GPT(CONFIG), evaluation_windows(text, context=8, count=200), batch=0)


def test_losses_by_position_average_to_the_loss(text: torch.Tensor) -> None:
    model = GPT(CONFIG, seed=1).train()
    windows = evaluation_windows(text, context=8, count=900, block=60)  # 60 = 7 · 8 + 4: later positions count less
    losses = torch.tensor([place.loss for place in evaluate_by_position(model, windows, batch=7)], dtype=torch.float64)
    counts = (windows[1] != IGNORE).sum(0)
    assert model.training
    assert float((losses * counts).sum() / counts.sum()) == pytest.approx(evaluate(model, windows).loss, rel=1e-6)
    assert float(losses[0]) == pytest.approx(evaluate(model, (windows[0][:, :1], windows[1][:, :1])).loss, rel=1e-5)
    nothing = torch.full_like(windows[1], IGNORE)
    assert all(math.isnan(place.loss) for place in evaluate_by_position(model, (windows[0], nothing)))
    with pytest.raises(RecipeError, match="batch"):
        evaluate_by_position(model, windows, batch=0)


@pytest.mark.parametrize("vocabulary", [16, 1024])  # a large one's logits are computed in pieces
def test_in_bf16_the_model_computes_in_bf16_and_losses_are_summed_in_float64(
    text: torch.Tensor, vocabulary: int
) -> None:
    model = GPT(GPTConfig(vocab_size=vocabulary, context=8, depth=2, width=32, heads=2), seed=1)
    windows = evaluation_windows(text, context=8, count=900, block=60)
    low = Precision(name="bf16")
    with torch.inference_mode(), low.autocast(torch.device("cpu")):
        logits = model.eval()(windows[0])
    assert logits.dtype == torch.bfloat16
    targets = windows[1].flatten()
    exact = F.cross_entropy(logits.double().flatten(0, 1), targets, ignore_index=IGNORE, reduction="none")
    found = evaluate(model, windows, precision=low)
    assert found.nll == pytest.approx(float(exact.sum()), rel=1e-6)
    assert found.nll != evaluate(model, windows).nll
    assert found.loss == pytest.approx(evaluate(model, windows).loss, rel=1e-2)
    places = evaluate_by_position(model, windows, precision=low)
    assert [place.nll for place in places] == pytest.approx(exact.view_as(windows[1]).sum(0).tolist(), rel=1e-6)


def test_scores_of_a_classifier_are_computed_in_the_given_precision() -> None:
    model = torch.nn.Linear(8, 3)
    rng = torch.Generator().manual_seed(0)
    samples = torch.randn(50, 8, generator=rng), torch.randint(0, 3, (50,), generator=rng)
    with torch.inference_mode(), Precision(name="bf16").autocast(torch.device("cpu")):
        expected = F.cross_entropy(model(samples[0]).double(), samples[1])
    assert score_classifier(model, samples, precision=Precision(name="bf16")).loss == pytest.approx(
        float(expected), rel=1e-12
    )
    assert score_classifier(model, samples).loss != pytest.approx(float(expected), rel=1e-6)


NUMBERS = st.floats(-1e6, 1e6, width=32)


@given(pairs=st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=30), deviation=st.floats(0.01, 100.0))
def test_errors_of_numbers_are_scikit_learns(pairs: list[tuple[float, float]], deviation: float) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    predicted, truth = zip(*pairs, strict=True)
    errors = Errors.of(predicted, truth, deviation)
    assert errors.rmse == pytest.approx(metrics.root_mean_squared_error(truth, predicted))
    assert errors.mae == pytest.approx(metrics.mean_absolute_error(truth, predicted))
    assert errors.r2 == pytest.approx(metrics.r2_score(truth, predicted), rel=1e-6)
    assert errors.loss == pytest.approx((errors.rmse / deviation) ** 2)


def test_of_equal_targets_r2_says_whether_they_were_met() -> None:
    assert Errors.of([2.0, 2.0], [2.0, 2.0]).r2 == 1.0
    assert Errors.of([2.0, 3.0], [2.0, 2.0]).r2 == 0.0
