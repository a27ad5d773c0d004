from types import SimpleNamespace

import pytest

from evo_tune.training import Evaluation
from evo_tune.training.reading import LanguageResult


@pytest.mark.parametrize(("context", "gain"), [(256, 0.5), (64, None)])
def test_the_gain_of_long_windows_is_the_loss_of_short_ones_minus_theirs(context: int, gain: float | None) -> None:
    judged = object.__new__(LanguageResult)
    first, now = (SimpleNamespace(config=SimpleNamespace(context=length)) for length in (64, context))
    judged.reading = SimpleNamespace(  # type: ignore[assignment]
        phases=[first],
        phase_of=lambda trainer: now,
        testing=False,
        material=SimpleNamespace(held_out=lambda length, testing: length),
        evaluate=lambda trainer, blocks: Evaluation(2.5 * blocks, blocks),
    )
    judged.trainer, judged.scores = None, Evaluation(2.0, 1)  # type: ignore[assignment]
    assert judged.context_gain == gain
