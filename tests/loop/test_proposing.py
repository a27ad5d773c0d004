"""A strategy that breaks, or proposes what cannot be born, stops the run, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from evo_tune.errors import RunError, UsageError
from evo_tune.loop.search import Search
from evo_tune.store.run import Run
from tests.conftest import drive, rows
from tests.loop.cases import Begin, agrees

BROKEN = """
from dataclasses import dataclass
from evo_tune import Proposal, Strategy

@dataclass(frozen=True)
class Broken(Strategy):
    '''A strategy that breaks at birth 5.'''

    def propose(self, history, rng):
        genome = history.space.sample(rng)
        {propose}
        return Proposal(genome, "random", [history.proposed_count - 1])

    def survivors(self, history):
        {survivors}
        return [trial.id for trial in history.ranked()[: self.population]]
"""


@pytest.fixture
def broken(tmp_path: Path) -> Callable[..., Path]:
    def write(propose: str = "pass", survivors: str = "pass") -> Path:
        path = tmp_path / "broken.py"
        path.write_text(BROKEN.format(propose=propose, survivors=survivors))
        return path

    return write


AT_FIVE = "if history.proposed_count == 5: "


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        ({"propose": AT_FIVE + "raise KeyError('oh')"}, r"raised KeyError in propose\(\): 'oh'"),
        ({"propose": AT_FIVE + "return {'x': 1}"}, r"TypeError in propose\(\): returned a dict, expected a Proposal"),
        ({"propose": AT_FIVE + "genome['x'] = 7.0"}, r"SpaceError in propose\(\): 7.0 is not allowed"),
        ({"propose": AT_FIVE + "del genome['x']"}, r"SpaceError in propose\(\): None is not allowed"),
        ({"propose": AT_FIVE + "genome['y'] = 1"}, r"ValueError in propose\(\): proposed .*, which is not snapped"),
        ({"propose": AT_FIVE + "genome['n'] = 5.0"}, r"ValueError in propose\(\): proposed .*, which is not snapped"),
        ({"propose": AT_FIVE + "return Proposal(genome, 'x', budget=0.0)"}, r"proposed budget=0\.0, expected more"),
        (
            {"propose": AT_FIVE + "return Proposal(genome, 'x', resumes=9)"},
            r"proposed resumes=9, which was never proposed",
        ),
        ({"survivors": "if len(history.trials) > 3: 1 / 0"}, r"raised ZeroDivisionError in survivors\(\)"),
    ],
)
def test_a_strategy_that_breaks_stops_the_run_and_nothing_is_lost(
    begin: Begin, resume: Begin, broken: Callable[..., Path], breaks: dict[str, str], message: str
) -> None:
    search = begin("run", strategy=str(broken(**breaks)), generations=2)
    with pytest.raises(
        RunError, match=f"broken.py .*{message}.*; mend it, then `evo-tune resume --accept-changes`"
    ) as caught:
        drive(search)
    assert "\n" not in str(caught.value)
    goes_on_once_mended(search, resume, broken)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("where", ["propose", "survivors"])
def test_a_strategy_that_breaks_in_a_slot_stops_the_others(
    begin: Begin, resume: Begin, broken: Callable[..., Path], where: str
) -> None:
    breaks = {where: "if len(history.trials) > 3: 1 / 0"}
    search = begin("run", strategy=str(broken(**breaks)), generations=2, slots=3)
    with pytest.raises(RunError, match=rf"broken\.py raised ZeroDivisionError in {where}\(\): division by zero"):
        search.run()
    assert search.drivers.slots == []
    goes_on_once_mended(search, resume, broken)


def goes_on_once_mended(search: Search, resume: Begin, broken: Callable[..., Path]) -> None:
    search.saved.close()
    kept = rows(Run.open(search.saved.folder))
    assert len(kept) >= 4
    broken()
    with pytest.raises(UsageError, match=r"names the strategy '.*broken\.py', which has changed .*--accept-changes"):
        resume("run")
    drive(resume("run", accept_changes=True))
    again = resume("run")
    assert [row[:4] for row in rows(again)[: len(kept)]] == [row[:4] for row in kept]
    assert rows(again)[-1][0].parents == (6,)
    assert len(again.trials) == 8
    assert agrees(again)
