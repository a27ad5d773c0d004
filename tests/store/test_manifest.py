"""The manifest: whatever a hostile or damaged one may hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo_tune.errors import StoreError
from evo_tune.loop.search import Search
from evo_tune.settings import RunSettings
from evo_tune.store.manifest import FORMAT, Manifest, read_manifest, write_manifest
from evo_tune.store.run import Run

Begin = Callable[..., Search]
NOTHING = f'{{"format_version": {FORMAT}}}'


def begun(begin: Begin) -> Path:
    """Return the folder of a run that has begun."""
    run = begin("mine").saved
    run.close()
    return run.folder


def one_line(error: pytest.ExceptionInfo[BaseException]) -> bool:
    return "\n" not in str(error.value)


def test_a_run_of_another_format_is_refused(begin: Begin) -> None:
    folder = begun(begin)
    manifest = json.loads((folder / "_run.json").read_text())
    (folder / "_run.json").write_text(json.dumps({**manifest, "format_version": FORMAT + 1, "old_field": 1}))
    with pytest.raises(
        StoreError, match=rf"_run\.json is of format {FORMAT + 1}, and this .* reads format {FORMAT} only"
    ):
        Run.open(folder)
    del manifest["format_version"]
    (folder / "_run.json").write_text(json.dumps(manifest))
    with pytest.raises(
        StoreError, match=rf"is of an unreleased format, .* reads format {FORMAT} only: begin a new run"
    ):
        Run.open(folder)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", NOTHING, "{", "[" * 100_000, "\udc80", NOTHING.replace("}", ', "evil": 1}')],
    ids=["empty", "list", "null", "bare", "cut", "deep", "bytes", "field"],
)
def test_a_damaged_manifest_is_refused(begin: Begin, text: str) -> None:
    folder = begun(begin)
    (folder / "_run.json").write_text(text, errors="surrogateescape")
    with pytest.raises(StoreError, match=r"_run\.json is damaged \(.*\); restore it from a copy") as caught:
        Run.open(folder, write=True)
    assert one_line(caught)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("settings.seed", "1"),
        ("settings.seed", -1),
        ("settings.lag", None),
        ("settings.order", "sideways"),
        ("settings.evil", 1),
        ("settings", None),
        ("settings", []),
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
        ("format_version", True),
        ("settings.seed", True),
        ("threads", 1.5),
        ("settings.seeds_per_trial", 10**30),
        ("settings.fidelity", "0.5"),
        ("settings.fidelity", True),
        ("settings.fidelity", "nan,1"),
        ("settings.prune", 1),
    ],
)
def test_a_hostile_manifest_is_refused(begin: Begin, field: str, value: Any) -> None:
    folder = begun(begin)
    manifest = json.loads((folder / "_run.json").read_text())
    group, _, name = field.partition(".")
    manifest[group] = {**manifest[group], name: value} if name else value
    (folder / "_run.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match=r"_run\.json is (damaged|of format True)") as caught:
        Run.open(folder)
    assert one_line(caught)


def test_an_unknown_field_is_named(begin: Begin) -> None:
    folder = begun(begin)
    manifest = json.loads((folder / "_run.json").read_text())
    (folder / "_run.json").write_text(json.dumps({**manifest, "evil": 1}))
    with pytest.raises(StoreError, match=r"is damaged \(ValidationError: Object contains unknown field `evil`\)"):
        read_manifest(folder)


@given(
    options=st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text(), max_size=3),
    seed=st.integers(0),
    lag=st.integers(0, 10**9),
    low=st.floats(0, 1, exclude_min=True, exclude_max=True),
    prune=st.booleans(),
    evaluator=st.text(st.characters()),
)
def test_a_manifest_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, low: float, seed: int, lag: int, prune: bool, **fields: Any
) -> None:
    made = Manifest(
        evaluator_hash="",
        fingerprint="",
        space={"n": {"kind": "int", "low": 1, "high": 4}},
        objectives=["loss:min"],
        strategy="ga",
        strategy_options={"population": 4},
        settings=RunSettings(order="proposal", fidelity=f"{low!r},1", seed=seed, lag=lag, prune=prune),
        threads=1,
        **fields,
    )
    folder = tmp_path_factory.mktemp("run")
    write_manifest(folder, made)
    assert read_manifest(folder) == made
