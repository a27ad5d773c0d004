import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo_tune.errors import OptionError
from evo_tune.training import split_text


@given(text=st.binary(max_size=400), longest=st.integers(1, 30))
def test_the_last_tenth_is_held_out_and_holds_a_window_or_the_text_is_refused(text: bytes, longest: int) -> None:
    needed = math.ceil(10 * (longest + 2))
    if len(text) < needed:
        with pytest.raises(OptionError, match=f"-o data=here .*at least {needed}"):
            split_text(text, longest, "here")
        return
    training, held_out = split_text(text, longest, "here")
    assert training + held_out == text
    assert abs(len(held_out) - len(text) / 10) <= 0.5
    assert len(held_out) > longest
