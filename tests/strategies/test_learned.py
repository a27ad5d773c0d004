"""What is learned of trainings in part: how far they can be trusted, and what each genome would come to."""

from __future__ import annotations

import numpy as np
import pytest

from evo_tune.plugins.strategy import Seen
from evo_tune.rules.ruled import Rules
from evo_tune.strategies import saea
from evo_tune.strategies.saea import SAEA
from evo_tune.strategies.surrogate.learned import PAIRS, POINTS, Learned, _selected
from evo_tune.strategies.surrogate.process import Process
from tests.rules.test_ruled import LOSS, RUNGS, SPACE, honest, ruled, trained
from tests.strategies.simulate import Simulation

SIZES = np.zeros(2, dtype=int)


def seen(count: int, ended: int, likeness: float, smooth: bool = True) -> tuple[Seen, np.ndarray]:
    """Return a run of which the first genomes were trained in full, and the losses of all of them in the end."""
    rng = np.random.default_rng(0)
    units = rng.random((count, 2))
    losses = units.sum(axis=1) if smooth else rng.random(count)
    early = likeness * losses + (1.0 - likeness) * rng.random(count)
    places = np.full((count, 3), np.nan)
    places[:, 0] = early.argsort().argsort() + 1.0
    places[:ended, 2] = (losses[:ended].argsort().argsort() + 1.0) * count / ended
    return Seen(RUNGS, places, np.arange(count), list(units)), losses


@pytest.mark.parametrize("count", [20, 60, 400])
def test_it_learns_from_a_bounded_number_of_results_with_pairs_among_them(count: int) -> None:
    given, _ = seen(count, count // 2, 1.0)
    used = _selected(given.places)
    assert used.sum() == min(POINTS, count + count // 2)
    assert not np.isnan(given.places[used]).any()
    best = np.argsort(given.places[: count // 2, 2])[:PAIRS]
    assert used[best][:, [0, 2]].all()


def test_expectations_follow_early_results_as_far_as_these_were_right() -> None:
    right, losses = seen(40, 14, 1.0)
    waiting = np.arange(14, 40)
    learned = Learned.of(right, SIZES)
    assert learned.trust(1 / 9) > 0.8
    assert np.corrcoef(learned.worth(waiting), -losses[waiting])[0, 1] > 0.95
    wrong = Learned.of(seen(40, 14, 0.0)[0], SIZES)
    assert wrong.trust(1 / 9) < learned.trust(1 / 9) - 0.1


def test_a_result_that_the_process_did_not_learn_from_counts_all_the_same() -> None:
    given, _ = seen(400, 40, 1.0, smooth=False)  # genes tell nothing
    left = int(np.flatnonzero(~_selected(given.places)[:, 0] & np.isnan(given.places[:, 2]))[0])
    learned, worth = Learned.of(given, SIZES), []
    for place in (1.0, 400.0):
        learned.seen.places[left, 0] = place  # after it has learned: only the genome's own
        worth.append(float(learned.worth(np.array([left]))[0]))
    assert worth[0] > worth[1] + 1.0


def test_scores_of_what_was_trained_in_full_are_its_own() -> None:
    given, _ = seen(30, 10, 0.3)
    learned = Learned.of(given, SIZES)
    scores = learned.scores(np.arange(30))
    assert (np.argsort(-scores[:10]) == np.argsort(given.places[:10, 2])).all()
    assert scores[:10].max() == learned.best
    assert np.abs(scores[10:]).max() < 3.0


def test_of_two_that_are_expected_to_end_alike_the_less_known_one_goes_on() -> None:
    learned = Learned.of(seen(30, 10, 1.0, smooth=False)[0], SIZES)
    mean, variance = learned._believed(np.arange(30))
    assert np.allclose(learned.worth(np.arange(30)) - mean, np.sqrt(variance))
    assert variance[10:].mean() > variance[:10].mean()


def test_births_are_those_of_which_most_is_expected_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    merits = saea.SAEA._learned_merits
    monkeypatch.setattr(saea.SAEA, "_learned_merits", lambda *given: asked.append(1) or merits(*given))
    monkeypatch.setattr(saea, "another_chance", lambda *given: pytest.fail("results in part are no chance"))
    strategy = ruled("saea", Rules(RUNGS))
    run = Simulation(strategy, SPACE, objectives=LOSS, evaluate=trained(honest), births=30).run()
    assert isinstance(strategy.inner, SAEA)
    assert len(asked) == 30 - strategy.inner.first
    early = [trial.losses[0] for trial in run.history.trials if trial.candidate.fresh and trial.losses]
    assert np.mean(early[15:]) < np.mean(early[:6]) - 0.2


def test_births_are_judged_by_the_process_that_learned_and_not_by_one_made_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    aged = []
    fit = Process.fit

    def noted(*given: np.ndarray) -> Process:
        aged.append(len(given) == 4)
        return fit(*given)

    monkeypatch.setattr(Process, "fit", noted)
    Simulation(ruled("saea", Rules(RUNGS)), SPACE, objectives=LOSS, evaluate=trained(honest), births=16).run()
    assert aged
    assert all(aged), "no process was made of results without the shares of a training that they are of"
