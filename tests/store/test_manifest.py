"""The manifest: whatever a hostile or damaged one may hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from evo_tune.errors import StoreError
from evo_tune.loop.search import Search
from evo_tune.store.run import Run
from tests.conftest import drive

Begin = Callable[..., Search]


def one_line(error: pytest.ExceptionInfo[BaseException]) -> bool:
    return "\n" not in str(error.value)


def test_a_run_of_another_format_is_refused(begin: Begin) -> None:
    folder = drive(begin("mine")).saved.folder
    manifest = json.loads((folder / "_run.json").read_text())
    (folder / "_run.json").write_text(json.dumps({**manifest, "format": 2, "new_field": 1}))
    with pytest.raises(StoreError, match=r"_run\.json has format 2: this version of evo-tune reads format 1"):
        Run.open(folder)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", '{"format": 1}', "{", "[" * 100_000, "\udc80", '{"format": 1, "evil": 1}'],
    ids=["empty", "list", "null", "bare", "cut", "deep", "bytes", "field"],
)
def test_a_damaged_manifest_is_refused(begin: Begin, text: str) -> None:
    folder = drive(begin("mine")).saved.folder
    (folder / "_run.json").write_text(text, errors="surrogateescape")
    with pytest.raises(StoreError, match=r"_run\.json is damaged \(.*\); restore it from a copy") as caught:
        Run.open(folder, write=True)
    assert one_line(caught)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", "1"),
        ("seed", -1),
        ("lag", None),
        ("order", "sideways"),
        ("objectives", []),
        ("objectives", ["loss:up"]),
        ("objectives", [7]),
        ("space", {}),
        ("space", {"x": {"kind": "evil"}}),
        ("space", {"x": 7}),
        ("space", {"x": {"kind": "float", "low": 0, "high": 1, "evil": 1}}),
        ("space", {"x": {"kind": "float", "low": "0", "high": 1}}),
        ("strategy_options", {}),
        ("strategy_options", {"population": 0}),
        ("strategy_options", {"population": "4"}),
        ("evaluator", ["a"]),
        ("warm_start", {}),
        ("units", [1]),
        ("format", True),
    ],
)
def test_a_hostile_manifest_is_refused(begin: Begin, field: str, value: Any) -> None:
    folder = drive(begin("mine")).saved.folder
    manifest = json.loads((folder / "_run.json").read_text())
    (folder / "_run.json").write_text(json.dumps({**manifest, field: value}))
    with pytest.raises(StoreError, match=r"_run\.json (is damaged|has format)") as caught:
        Run.open(folder)
    assert one_line(caught)
