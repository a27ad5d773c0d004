import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo_tune.errors import OptionError
from evo_tune.training.recipe import python_paragraphs
from evo_tune.training.recipe.data.texts import read_text, split_text


@given(text=st.binary(max_size=800), longest=st.integers(1, 30))
def test_the_last_tenth_judges_and_tests_and_each_half_holds_a_window_or_the_text_is_refused(
    text: bytes, longest: int
) -> None:
    needed = math.ceil(20 * (longest + 2))
    if len(text) < needed:
        with pytest.raises(OptionError, match=f"-o data=here .*at least {needed}"):
            split_text(text, longest, "here")
        return
    training, validation, test = split_text(text, longest, "here")
    assert training + validation + test == text
    for part in (validation, test):
        assert abs(len(part) - len(text) / 20) <= 1.0
        assert len(part) > longest


def test_the_built_in_text_says_nothing_twice_and_holds_out_what_is_new() -> None:
    paragraphs = list(python_paragraphs())
    assert len(b"\n\n".join(text.encode() for text in paragraphs)) > 300_000
    training, *held_out = (part.decode(errors="ignore") for part in split_text(read_text(""), 1024, ""))
    for part, others in zip(held_out, (training, training + held_out[0]), strict=True):
        held = [text for text in part.split("\n\n")[1:-1] if len(text) > 80]
        assert len(held) > 20
        assert not [text for text in held if text in others]


def test_topics_that_come_first_keep_what_they_share() -> None:
    plain, turned = python_paragraphs(), python_paragraphs(first=("string", "types"))
    assert plain.keys() == turned.keys()
    topics = list(turned.values())
    assert all(topic.startswith(("string", "types")) for topic in topics[:10])
    assert sum(topic.startswith("string") for topic in topics) >= sum(t.startswith("string") for t in plain.values())
