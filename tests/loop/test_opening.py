"""Slots that cannot be opened, or would wait for each other."""

from __future__ import annotations

from typing import Any

import pytest

from evo_tune.errors import OptionError
from tests.conftest import drive
from tests.loop.cases import Begin


def test_too_many_slots_for_the_lag_is_a_warning(begin: Begin) -> None:
    with pytest.warns(UserWarning, match="with --lag 0, at most 1 slots are ever at work: 2 slots will wait"):
        begin(order="birth", lag=0, slots=2, trials=3).run()


@pytest.mark.parametrize("field", [{"timeout": 0.0}, {"slots": -1}, {"devices": "cuda:77"}])
def test_a_session_that_cannot_be_opened_leaves_the_run_free(
    begin: Begin, resume: Begin, field: dict[str, Any]
) -> None:
    drive(begin("run", trials=5))
    with pytest.raises(OptionError, match=f"--{next(iter(field))}"):
        resume("run", trials=6, **field).run()
    assert len(resume("run", trials=6, timeout=None, slots=1, devices=None).run().trials) == 6
