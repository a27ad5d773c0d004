"""The contract of strategies, tested with every strategy that can be found by name.

A new strategy is under test as soon as its file exists. Each property holds over every space; the suite
holds those that a space has little to do with over few, and the others are proofs.
"""

from __future__ import annotations

import functools
import math
import random
from dataclasses import replace

import numpy as np
import pytest

from evo_tune.errors import OptionError, SpaceError
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import STATUSES, Candidate, Minimize, Objective, Outcome
from evo_tune.genome.values import Genome, genome_key
from evo_tune.genome.widening import widen_to_limits, widening_limits
from evo_tune.options.binding import options_of
from evo_tune.options.declare import union_members
from evo_tune.plugins.find import find_strategy, list_strategies, make_strategy
from evo_tune.plugins.strategy import Strategy
from evo_tune.strategies.staged import Staged
from tests.strategies.cases import (
    ENDLESS,
    SIZES,
    SMALL,
    SPACES,
    VARIANTS,
    failing,
    is_slow,
    length,
    losses,
    objectives_of,
    same_state,
    some,
    suited,
)
from tests.strategies.simulate import Born, Refused, Simulation, Told, Widened, birth_rng, rebuild

NAN, INF = float("nan"), float("inf")
PACES = (("mixed", 0), ("mixed", 2), ("tiny", 2), ("mixed", 8))
ODD = (INF, -INF, 1.7e308, -1.7e308, 0.0)


def over(*suite: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("space", some(SPACES, *suite))


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.extended if is_slow(one) else ()) for name, one in VARIANTS.items()]
)
def strategy(request: pytest.FixtureRequest) -> Strategy:
    return VARIANTS[request.param]


@pytest.fixture
def known(strategy: Strategy, space: str) -> Simulation:
    """A run with failures, three at a time, of which several tests look at one thing each; none changes it."""
    return _known(next(name for name, one in VARIANTS.items() if one is strategy), space)


@functools.cache
def _known(strategy: str, space: str) -> Simulation:
    return simulate(VARIANTS[strategy], space, 0.3, births=23, slots=3)


def simulate(strategy: Strategy, space: str, fail: float = 0.0, births: int = 40, **fields: object) -> Simulation:
    where = suited(strategy, SPACES[space])
    given = {"objectives": objectives_of(strategy), "evaluate": failing(fail, where), **fields}
    return Simulation(strategy, where, births=length(strategy, births), **given).run()  # type: ignore[arg-type]


def is_complete(run: Simulation, space: str) -> bool:
    """Whether as many different genomes were born as could be, or the strategy has ended the run by itself."""
    ended = isinstance(run.strategy, Staged) and isinstance(run.events[-1], Refused) and not run.history.pending
    wanted = min(run.births, SIZES.get(space, run.births))
    return ended or len({genome_key(candidate.genome) for candidate in run.candidates}) == wanted


def births(run: Simulation) -> list[tuple[str, tuple[int, ...], float, int]]:
    return [(genome_key(c.genome), c.parents, c.budget, c.reported_before) for c in run.candidates]


@pytest.mark.parametrize(
    ("space", "slots", "fail"),
    some(
        [(space, slots, fail) for space in SPACES for slots in (1, 5) for fail in (0.0, 0.4)],
        *[("mixed", 1, 0.0), ("tiny", 1, 0.0), *((space, 5, 0.4) for space in SPACES)],
    ),
)
def test_proposals_are_valid_and_never_repeated(strategy: Strategy, space: str, slots: int, fail: float) -> None:
    run = simulate(strategy, space, fail, slots=slots, births=40)
    for candidate in run.candidates:
        checked = run.space.check(candidate.genome)  # raises when out of bounds
        assert genome_key(checked) == genome_key(candidate.genome)
        assert genome_key(run.space.snap(run.space.encode(candidate.genome))) == genome_key(candidate.genome)
        assert candidate.operator
        assert all(parent < candidate.id for parent in candidate.parents)
        assert 0.0 < candidate.budget <= 1.0
    identities = [(genome_key(c.genome), c.budget, c.extra_seed) for c in run.candidates]
    assert len(set(identities)) == len(identities)
    assert is_complete(run, space)


@pytest.mark.parametrize("space", SIZES)
def test_an_exhausted_space_ends_the_run(strategy: Strategy, space: str) -> None:
    run = simulate(strategy, space, births=ENDLESS, slots=3)
    assert isinstance(run.events[-1], Refused)
    assert not run.history.pending
    assert is_complete(run, space)


@over("mixed", "choices")
def test_the_seed_decides(strategy: Strategy, space: str) -> None:
    first, again, other = (simulate(strategy, space, seed=seed, births=15) for seed in (1, 1, 2))
    assert births(first) == births(again)
    assert births(first) != births(other)


@pytest.mark.parametrize(
    ("status", "share"),
    some(
        [(status, share) for status in STATUSES[1:] for share in (0.5, 1.0)],
        *(("failed", 0.5), ("failed", 1.0), ("out_of_memory", 0.5), ("pruned", 0.5)),
    ),
)
def test_failures_are_survived(strategy: Strategy, status: str, share: float) -> None:
    evaluate = failing(share, SPACES["mixed"], status)
    run = simulate(strategy, "mixed", births=30, slots=2, evaluate=evaluate)
    assert is_complete(run, "mixed")
    assert len(run.history.trials) == len(run.candidates)
    bred = {parent for candidate in run.candidates for parent in candidate.parents}
    assert bred <= {trial.id for trial in run.history.trials if trial.ok}


@pytest.mark.parametrize("value", [NAN, *some(ODD, INF, 1.7e308)])
def test_infinite_and_nan_losses_are_survived(strategy: Strategy, value: float) -> None:
    def evaluate(candidate: object) -> Outcome:
        good = losses(SPACES["mixed"])(candidate)  # type: ignore[arg-type]
        odd = candidate.id % 3 == 0  # type: ignore[attr-defined]
        return replace(good, metrics=dict.fromkeys(good.metrics, value)) if odd else good

    run = simulate(strategy, "mixed", births=30, evaluate=evaluate)
    assert is_complete(run, "mixed")
    bred = {parent for candidate in run.candidates for parent in candidate.parents}
    assert np.isfinite(value) or all(id % 3 for id in bred)


@pytest.mark.parametrize("space", some(["mixed", "tiny", "one-float", "choices"], "mixed", "tiny"))
@pytest.mark.parametrize("order", ["arrival", "proposal"])
@pytest.mark.parametrize("fail", some([0.0, 0.3], 0.3))
def test_a_run_resumed_at_any_point_proposes_the_same(
    strategy: Strategy, known: Simulation, space: str, order: str, fail: float
) -> None:
    run = known
    if (order, fail) != ("arrival", 0.3):
        loop: dict[str, object] = {"slots": 3} if order == "arrival" else {"slots": 4, "order": "proposal", "lag": 2}
        run = simulate(strategy, space, fail, births=20, **loop)
    for cut, event in enumerate(run.events):
        if isinstance(event, Told) or (isinstance(event, Born) and event.candidate.id == 0):
            continue
        history = rebuild(run.space, run.objectives, run.events[:cut])
        proposal = replace(strategy).propose(history, birth_rng(run.seed, history.proposed_count))
        if isinstance(event, Refused):
            assert proposal is None
        else:
            assert proposal is not None
            assert vars(proposal).items() <= vars(event.candidate).items()


@pytest.mark.parametrize("space", ["mixed", "hints"])
def test_ranges_may_become_wider(strategy: Strategy, space: str) -> None:
    """Births use the wider ranges, are valid and not repeated, and follow from the history alone."""
    first = suited(strategy, SPACES[space])
    wide = SearchSpace(
        first.repair, **{name: widen_to_limits(gene, widening_limits(gene)) for name, gene in first.genes.items()}
    )
    given = {"evaluate": losses(wide), "wider": {8: wide}, "births": 30, "slots": 2}
    run = simulate(strategy, space, **given)
    assert any(isinstance(event, Widened) for event in run.events)
    for candidate in run.candidates[8:]:
        assert not candidate.fresh or genome_key(wide.check(candidate.genome)) == genome_key(candidate.genome)
    identities = [(genome_key(c.genome), c.budget, c.extra_seed) for c in run.candidates]
    assert len(set(identities)) == len(identities)
    if strategy.widens:
        assert any(not _is_in(first, candidate.genome) for candidate in run.candidates[8:])
    for cut, event in enumerate(run.events):
        if isinstance(event, Born) and event.candidate.id in (8, 9, 12):
            history = rebuild(run.space, run.objectives, run.events[:cut])
            proposal = replace(strategy).propose(history, birth_rng(run.seed, event.candidate.id))
            assert proposal is not None
            assert vars(proposal).items() <= vars(event.candidate).items()
    assert births(run) == births(simulate(strategy, space, **given))


def _is_in(space: SearchSpace, genome: Genome) -> bool:
    try:
        space.check(genome)
    except SpaceError:
        return False
    return True


@over("mixed", "tiny")
def test_survivors_are_the_same_in_a_rebuilt_history(strategy: Strategy, known: Simulation) -> None:
    history = rebuild(known.space, known.objectives, known.events)
    assert list(replace(strategy).survivors(history)) == list(strategy.survivors(known.history))


@over("mixed", "tiny", "hints")
def test_proposing_is_pure(strategy: Strategy, known: Simulation) -> None:
    for births_told in (0, 4, 14):
        told = [event for event in known.events if getattr(event, "id", 0) < births_told]
        history = rebuild(known.space, known.objectives, told)
        random.seed(5)
        np.random.seed(5)  # the very state that must not change
        before = random.getstate(), np.random.get_state()
        first, survivors, second = (
            strategy.propose(history, birth_rng(3, 99)),
            strategy.survivors(history),
            strategy.propose(history, birth_rng(3, 99)),
        )
        assert first == second
        assert strategy.survivors(history) == survivors
        assert random.getstate() == before[0]
        assert same_state(np.random.get_state(), before[1])  # type: ignore[arg-type]
        random.seed(6)  # the caller's state must not matter either
        assert strategy.propose(history, birth_rng(3, 99)) == first


@pytest.mark.slow
@pytest.mark.parametrize(("space", "lag"), some([(space, lag) for space in SPACES for lag in (0, 2, 8)], *PACES))
def test_in_birth_order_slots_and_speeds_do_not_matter(strategy: Strategy, space: str, lag: int) -> None:
    runs = [
        simulate(strategy, space, 0.2, births=26, slots=slots, order="proposal", lag=lag, speed=speed)
        for slots, speed in ((1, 0), (8, 3))
    ]
    assert births(runs[0]) == births(runs[1])
    assert is_complete(runs[0], space)


@over("mixed", "tiny")
def test_results_may_come_in_any_order(strategy: Strategy, space: str) -> None:
    runs = [simulate(strategy, space, 0.2, births=26, slots=6, speed=speed) for speed in (1, 2)]
    assert [e.id for e in runs[0].events if isinstance(e, Told)] != [
        e.id for e in runs[1].events if isinstance(e, Told)
    ]
    assert all(is_complete(run, space) for run in runs)


@pytest.mark.parametrize(
    ("space", "count"),
    some([(space, count) for space in SPACES for count in (3, 9)], ("mixed", 3), ("mixed", 9), ("hints", 9)),
)
def test_warm_starts_are_trials_like_others(strategy: Strategy, space: str, count: int) -> None:
    rng = np.random.default_rng(0)
    where = suited(strategy, SPACES[space])
    drawn = {genome_key(g): g for g in [where.default(), *(where.sample(rng) for _ in range(200))]}
    warm = list(drawn.values())[1 : count + 1]
    run = simulate(strategy, space, births=25, warm=warm, slots=2)
    assert [c.genome for c in run.candidates[1 : count + 1]] == warm
    assert is_complete(run, space)


def test_strategies_learn_from_warm_starts(strategy: Strategy) -> None:
    rng = np.random.default_rng(0)
    space = suited(strategy, SPACES["mixed"])
    small = {"depth": 1, "width": 32}  # on the first rung of a ladder
    warm = [space.check({**space.sample(rng), **small, "heads": 1 + n % 2}) for n in range(5)]

    def fresh_proposals(sign: float, ids: range) -> list[str]:
        def evaluate(candidate: Candidate) -> Outcome:
            good = losses(space)(candidate)
            shown = dict.fromkeys(good.metrics, sign * (10.0 + candidate.id))
            return replace(good, metrics=shown) if candidate.id in ids else good

        run = simulate(strategy, "mixed", births=22, warm=warm, evaluate=evaluate)
        return [genome_key(candidate.genome) for candidate in run.candidates if candidate.fresh]

    everything, given = range(1, 10**6), range(1, 1 + len(warm))
    if fresh_proposals(1.0, everything) == fresh_proposals(-1.0, everything):
        pytest.skip("learns from nothing")
    assert fresh_proposals(1.0, given) != fresh_proposals(-1.0, given)


@pytest.mark.parametrize("warm", some([0, 9], 9))
def test_asking_for_survivors_changes_nothing(strategy: Strategy, warm: int) -> None:
    rng = np.random.default_rng(0)
    fields = {"births": length(strategy, 25), "slots": 3, "warm": [SPACES["mixed"].sample(rng) for _ in range(warm)]}
    plain = simulate(strategy, "mixed", 0.3, **fields)

    class Curious(Simulation):
        def ask(self) -> Candidate | None:
            strategy.survivors(self.history)
            return super().ask()

    curious = Curious(strategy, plain.space, plain.objectives, plain.evaluate, **fields)  # type: ignore[arg-type]
    assert births(curious.run()) == births(plain)
    assert strategy.survivors(curious.history) == strategy.survivors(plain.history)


@over("mixed", "tiny")
def test_survivors_are_successful_completed_trials(strategy: Strategy, known: Simulation) -> None:
    for cut in range(len(known.events) + 1):
        history = rebuild(known.space, known.objectives, known.events[:cut])
        survivors = list(strategy.survivors(history))
        good = {trial.id for trial in history.trials if trial.rankable}
        assert set(survivors) <= good
        assert len(set(survivors)) == len(survivors) <= strategy.population
        assert bool(survivors) == bool(good)


def test_partly_trained_models_never_survive(strategy: Strategy) -> None:
    run = simulate(strategy, "mixed", births=3)
    default, whole, part = run.candidates[0], run.candidates[1], replace(run.candidates[2], budget=0.25)
    perfect = Outcome("ok", {"loss": -1.0, "cost": -1.0})
    events = [Born(default), Born(whole), Born(part), Told(part.id, perfect), Told(whole.id, perfect)]
    history = rebuild(run.space, run.objectives, events)
    assert list(strategy.survivors(history)) == [whole.id]


@pytest.mark.parametrize("count", [1, 3])
def test_strategies_for_several_objectives_take_any_number(strategy: Strategy, count: int) -> None:
    if not strategy.several_objectives:
        pytest.skip("optimises one objective")
    objectives: list[Objective] = [Minimize("loss"), Minimize("cost"), Minimize("third")][:count]
    good = losses(SPACES["mixed"])

    def evaluate(candidate: object) -> Outcome:
        outcome = good(candidate)  # type: ignore[arg-type]
        return replace(outcome, metrics={**outcome.metrics, "third": float(candidate.id % 5)})  # type: ignore[attr-defined]

    run = simulate(strategy, "mixed", births=30, objectives=objectives, evaluate=evaluate)
    assert is_complete(run, "mixed")
    assert strategy.survivors(run.history)


@pytest.mark.parametrize("name", [name for name, *_ in list_strategies()])
def test_each_option_has_help_and_refuses_values_outside_its_bounds(name: str) -> None:
    for option in options_of(find_strategy(name)).values():
        assert option.help.endswith(".")
        is_number = bool({int, float} & set(union_members(option.type)))
        assert is_number == bool(option.bounds)
        for value in outside(option.bounds) if is_number else ():
            message = rf"^-s {option.name}={value}: expected .* \(an option of strategy {name}\)$"
            with pytest.raises(OptionError, match=message):
                make_strategy(name, {**SMALL.get(name, {}), option.name: value})


def outside(bounds: str) -> tuple[float, ...]:
    """Return values just outside of an interval, and what is no number."""
    low, high = (float(end) for end in bounds[1:-1].split(","))
    return low - (bounds[0] == "["), high + (bounds[-1] == "]"), math.nan
