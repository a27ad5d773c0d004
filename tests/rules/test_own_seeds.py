"""`--seeds own`: each genome is trained with a seed of its own, in every run that is told to, and beside all rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evo_tune.errors import OptionError
from evo_tune.genome.trial import trial_seed
from evo_tune.loop.code import strategy_with_rules
from evo_tune.loop.search import Search
from evo_tune.report import recommendation
from tests.conftest import cut_copy, rows
from tests.rules.test_rules import agree

NOISY = '''"""A bowl with noise, of which a part of the training tells nearly as much."""
import numpy as np

from evo_tune import Float, Minimize, SearchSpace

SPACE = SearchSpace(x=Float(0.0, 1.0), y=Float(0.0, 1.0))
OBJECTIVES = [Minimize("loss")]
SUPPORTS = ["budget"]


def evaluate(genome, context):
    units = [genome["x"], genome["y"]]
    noise = np.random.default_rng([context.seed, *(int(1e9 * unit) for unit in units)]).normal()
    return {"loss": sum((unit - 0.3) ** 2 for unit in units) + 0.2 * noise + 0.1 * (1.0 - context.budget)}
'''

RULES: dict[str, dict[str, Any]] = {
    "plain": {},
    "rungs": {"fidelity": "1/3,1"},
    "leader": {"seeds_per_trial": 3},
    "worth": {"seeds_per_trial": "auto"},
    "worth and rungs": {"seeds_per_trial": "auto", "fidelity": "1/3,1"},
}


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    path = tmp_path / "noisy.py"
    path.write_text(NOISY)
    return path


def run(noisy: Path, name: str, **given: Any) -> Search:
    settings = {"trials": 26, "slots": 1, "seed": 1, "seeds": "own", **given}
    return Search(str(noisy), store=noisy.parent / "store", name=name, **settings).run()


@pytest.mark.slow
@pytest.mark.parametrize("rules", RULES)
def test_each_genome_keeps_its_own_and_the_run_resumes_and_replays(noisy: Path, rules: str) -> None:
    search = run(noisy, "whole", **RULES[rules])
    trials, seeds = search.saved.trials(), {}
    for trial in trials:
        seeds.setdefault((trial.key, trial.candidate.extra_seed), set()).add(trial.candidate.seed)
    assert all(len(of) == 1 for of in seeds.values()), "a genome goes on with the seed that it began with"
    assert len({seed for of in seeds.values() for seed in of}) == len(seeds), "no two have the same"
    assert (max(trial.candidate.extra_seed for trial in trials) > 0) == ("seeds_per_trial" in RULES[rules])
    assert (min(trial.candidate.budget for trial in trials) < 1.0) == ("fidelity" in RULES[rules])
    assert agree(search.saved, search)
    copy = cut_copy(search.saved, noisy.parent / "store" / "cut", 13)
    again = Search.resume(copy.name, store=noisy.parent / "store", slots=1).run()
    assert rows(again) == rows(search)


@pytest.mark.slow
def test_by_default_all_have_the_same(noisy: Path) -> None:
    for name, given in (("shared", "shared"), ("default", None)):
        search = run(noisy, name, trials=4, seeds=given)
        assert {one.seed for one in search.saved.candidates} == {trial_seed(1, 0)}
    assert run(noisy, "auto", trials=2, seeds=None, seeds_per_trial="auto").saved.manifest.settings.own_seeds
    assert not run(noisy, "before", trials=2, seeds="shared", seeds_per_trial="auto").saved.manifest.settings.own_seeds
    again = Search.resume("default", store=noisy.parent / "store", trials=6).run()
    assert {one.seed for one in again.saved.candidates} == {trial_seed(1, 0)}
    assert agree(again.saved, again)


def test_verify_says_of_a_candidate_that_its_seed_is_not_its_own(noisy: Path) -> None:
    search = run(noisy, "own", trials=5)
    folder = search.saved.folder
    fields = json.loads((folder / "_run.json").read_text())
    (folder / "_run.json").write_text(json.dumps({**fields, "settings": {**fields["settings"], "seeds": "shared"}}))
    other = Search.resume("own", store=noisy.parent / "store", trust=True)
    assert not agree(other.saved, other)
    other.close()


@pytest.mark.slow
def test_what_is_expected_takes_no_seed_for_a_shared_one(noisy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the rule that weighs further seeds, and in what is recommended."""
    told: list[bool] = []
    plain = recommendation.predict_losses

    def record(*given: Any, shared: bool) -> Any:
        told.append(shared)
        return plain(*given, shared=shared)

    monkeypatch.setattr(recommendation, "predict_losses", record)
    for seeds in ("own", "shared"):
        search = run(noisy, seeds, seeds=seeds, seeds_per_trial="auto", trials=14)
        rules = strategy_with_rules(search.saved.manifest, search.evaluator, "saea").settings
        assert rules.own_seeds is (seeds == "own")
        told.clear()
        recommendation.MEMO.clear()
        recommendation.rank_trials(search.saved)
        assert told == [seeds == "shared"]


def test_what_is_none_of_the_two_is_refused(noisy: Path) -> None:
    with pytest.raises(OptionError, match="--seeds mine: expected own or shared"):
        run(noisy, "none", seeds="mine")
    assert not (noisy.parent / "store").exists()
