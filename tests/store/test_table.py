"""Parquet generations: one schema for all files, read as one table, and rebuilt from the journal."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evo_tune.errors import StoreError
from evo_tune.genome.genes import Choice, Float, Gene, Int
from evo_tune.genome.trial import Candidate, Minimize, Outcome, Trial
from evo_tune.loop.search import Search
from evo_tune.store import table
from evo_tune.store.table import file_path, read_comparison
from tests.conftest import drive, evaluate, rows, survivors
from tests.journals import save_comparison

pytestmark = pytest.mark.usefixtures("small_files")

GENES: dict[str, Gene] = {
    "x": Float(0.0, 1.0),
    "n": Int(1, 8),
    "width": Choice((32, 64)),
    "rate": Choice((1, 2.5)),
    "name": Choice(("a", "b")),
    "on": Choice((False, True)),
    "mixed": Choice((1, "1", True, None.__class__.__name__)),
}
GENOME: dict[str, Any] = {"x": 0.5, "n": 3, "width": 64, "rate": 1, "name": "b", "on": True, "mixed": "1"}


def trial(id: int, outcome: Outcome, **genome: Any) -> Trial:
    candidate = Candidate(id, 0, 7, 0, {**GENOME, **genome}, "mutation", parents=(1, 2))
    return Trial.of(candidate, outcome, id, [Minimize("loss")])


def files(search: Search) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in search.saved.folder.glob("*.parquet")}


def test_types_and_units_are_those_of_the_genes() -> None:
    columns = table.trial_schema(GENES, ["loss", "cost"], {"cost": "s"})
    types = [columns.field(f"gene.{name}").type for name in GENES]
    assert types == [pa.float64(), pa.int64(), pa.int64(), pa.float64(), pa.string(), pa.bool_(), pa.string()]
    assert columns.field("metric.cost").metadata == {b"unit": b"s"}
    assert columns.field("metric.loss").metadata is None
    assert columns.field("seconds").metadata == {b"unit": b"s"}


def test_every_value_comes_back() -> None:
    columns = table.trial_schema(GENES, ["loss", "cost"], {})
    outcomes = [Outcome("ok", {"loss": 1.5, "cost": math.nan}, seconds=2.0, device="cpu"), Outcome("failed", error="é")]
    trials = [
        trial(number, outcome, mixed=value)
        for number, (outcome, value) in enumerate((o, v) for v in (1, "1", True) for o in outcomes)
    ]
    written = table.from_trials(trials, [0, 3], columns)
    assert written.schema.equals(columns, check_metadata=True)
    for row, original in zip(written.to_pylist(), trials, strict=True):
        genome = table.to_genome(row, GENES)
        assert json.dumps(genome, sort_keys=True) == json.dumps(original.genome, sort_keys=True)
        outcome = table.to_outcome(row)
        assert (outcome.status, outcome.error, outcome.seconds) == (
            original.outcome.status,
            original.outcome.error,
            original.outcome.seconds,
        )
        assert repr(outcome.metrics) == repr(original.outcome.metrics)
        assert row["survivor"] == (original.id in (0, 3))
        assert row["parents"] == [1, 2]


def test_text_that_is_no_unicode_can_be_stored() -> None:
    columns = table.trial_schema(GENES, ["loss"], {})
    written = table.from_trials([trial(0, Outcome("failed", error="cannot read caf\udce9"))], [], columns)
    assert written["error"].to_pylist() == ["cannot read caf\\udce9"]


def test_a_unit_that_is_no_unicode_can_be_stored() -> None:
    """The unit is that of a manifest, which somebody else may have written."""
    schema = table.trial_schema(GENES, ["loss"], {"loss": "\ud800"})
    assert schema.field("metric.loss").metadata == {b"unit": b"?"}


def test_a_cut_file_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = table.trial_schema(GENES, ["loss"], {})
    path = tmp_path / "trials-0000.parquet"
    table.write(path, table.from_trials([trial(0, Outcome("ok", {"loss": 1.0}))], [], columns))
    assert pq.read_table(path).num_rows == 1
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_run_is_one_table_for_pandas_and_duckdb(begin: Callable[..., Search]) -> None:
    search = begin(generations=4, options={"failing": 0.3}, seed=5)
    (search.saved.folder / "_trials" / "000001").mkdir(parents=True)
    (search.saved.folder / "_trials" / "000001" / "log.txt").write_text("so far")
    drive(search, evaluate=failing)
    save_comparison(search.saved.folder, [search.saved.trial(0)])
    folder = search.saved.folder
    assert {"_run.json", "_journal.jsonl", "_comparison.parquet", "_trials"} <= {p.name for p in folder.iterdir()}
    frame = pd.read_parquet(folder)
    assert sorted(frame["id"]) == list(range(16))
    glob = f"{folder}/trials-*.parquet"
    counted = duckdb.sql(
        f"select generation, count(*), min(\"metric.loss\") from '{glob}' group by 1 order by 1"
    ).fetchall()
    assert [(generation, count) for generation, count, _ in counted] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    best = search.best
    assert best is not None
    assert min(loss for _, _, loss in counted if loss is not None) == best.outcome.metrics["loss"]
    assert set(frame["status"]) == {"ok", "failed"}
    assert list(frame.columns) == list(search.frame().columns)
    mixed = [json.loads(text) for text in frame.sort_values("id")["gene.kind"]]
    assert [repr(value) for value in mixed] == [repr(t.genome["kind"]) for t in search.trials]


def failing(search: Search, candidate: Candidate) -> Any:
    try:
        return evaluate(search, candidate)
    except ValueError as error:
        return Outcome("failed", error=str(error))


def test_the_schema_is_the_same_where_a_column_holds_nothing_yet(begin: Callable[..., Search]) -> None:
    def first_generation_fails(search: Search, candidate: Candidate) -> Any:
        return Outcome("failed", error="no") if candidate.id < 4 else evaluate(search, candidate)

    search = drive(begin(), evaluate=first_generation_fails)
    schemas = [pq.read_schema(path) for path in sorted(search.saved.folder.glob("trials-*.parquet"))]
    assert len(schemas) == 3
    assert all(schema.equals(schemas[0], check_metadata=True) for schema in schemas)
    assert schemas[0].field("metric.cost").metadata == {b"unit": b"s"}
    assert pd.read_parquet(search.saved.folder)["metric.cost"].notna().sum() == 8


def test_a_metric_that_comes_late_widens_the_older_files(
    begin: Callable[..., Search], resume: Callable[..., Search]
) -> None:
    def late(search: Search, candidate: Candidate) -> dict[str, float]:
        metrics = evaluate(search, candidate)
        return metrics if candidate.id < 9 else {**metrics, "accuracy": 0.5}

    search = begin("late")
    for _ in range(9):
        candidate = search.ask()
        assert candidate is not None
        search.tell(candidate, late(search, candidate))
    narrow = set(files(search))
    assert "metric.accuracy" not in pd.read_parquet(search.saved.folder).columns
    candidate = search.ask()
    assert candidate is not None
    search.tell(candidate, late(search, candidate))
    assert set(files(search)) == narrow
    frame = pd.read_parquet(search.saved.folder)
    assert len(frame) == 8
    assert frame["metric.accuracy"].isna().all()
    drive(search, evaluate=late)
    assert pd.read_parquet(search.saved.folder)["metric.accuracy"].notna().sum() == 3


def test_a_death_before_the_older_files_were_widened_is_mended(
    begin: Callable[..., Search], resume: Callable[..., Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    search = begin("late")
    for _ in range(6):
        candidate = search.ask()
        assert candidate is not None
        search.tell(candidate, evaluate(search, candidate))
    search.close()  # leaves an unfinished second generation
    again = resume("late")
    candidate = again.ask()
    assert candidate is not None
    with monkeypatch.context() as patch:
        patch.setattr(table, "write", lambda path, rows: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            again.tell(candidate, {**evaluate(again, candidate), "accuracy": 0.5})
    again.saved.close()
    last = resume("late")
    assert pd.read_parquet(last.saved.folder)["metric.accuracy"].notna().sum() == 1
    assert len(pd.read_parquet(last.saved.folder)) == 7


def test_a_metric_of_the_final_comparison_alone_changes_no_generation(
    begin: Callable[..., Search], resume: Callable[..., Search]
) -> None:
    search = begin("compared")
    for _ in range(5):
        candidate = search.ask()
        assert candidate is not None
        search.tell(candidate, evaluate(search, candidate))
    one = search.saved.trial(0)
    other = replace(one, outcome=replace(one.outcome, metrics={**one.outcome.metrics, "extra": 1.0}))
    search.close()
    save_comparison(search.saved.folder, [one, other])
    assert "metric.extra" not in pd.read_parquet(search.saved.folder).columns
    back = read_comparison(resume("compared").saved)
    assert [trial.outcome.metrics for trial in back] == [one.outcome.metrics, other.outcome.metrics]


@pytest.mark.parametrize("damage", ["lost", "cut", "garbage", "older"])
def test_generation_files_are_rebuilt(begin: Callable[..., Search], resume: Callable[..., Search], damage: str) -> None:
    search = begin("run", strategy_options={"generational": True}, trials=11)
    drive(search)
    folder, before = search.saved.folder, files(search)
    marked = survivors(folder)
    assert sorted(before) == ["trials-0000.parquet", "trials-0001.parquet", "trials-0002.parquet"]
    for name, data in before.items():
        path = folder / name
        if damage == "lost":
            path.unlink()
        elif damage == "cut":
            path.write_bytes(data[: len(data) // 2])
        elif damage == "garbage":
            path.write_bytes(b"PAR1")
        else:
            pq.write_table(pq.read_table(path, partitioning=None).drop_columns("metric.cost"), path)
    again = resume("run")
    again.close()
    assert files(again) == before
    assert survivors(folder) == marked


def test_an_unfinished_generation_is_replaced(begin: Callable[..., Search], resume: Callable[..., Search]) -> None:
    search = drive(begin("run", trials=6))
    assert len(pd.read_parquet(search.saved.folder)) == 6
    assert len(pq.read_table(file_path(search.saved, 1), partitioning=None)) == 2
    drive(resume("run", trials=12))
    whole = drive(begin("whole", trials=12))
    assert len(pq.read_table(file_path(search.saved, 1), partitioning=None)) == 4
    assert rows(whole) == rows(resume("run"))
    assert survivors(search.saved.folder) == survivors(whole.saved.folder)


def test_files_that_the_journal_knows_nothing_of_are_set_aside(
    begin: Callable[..., Search], resume: Callable[..., Search]
) -> None:
    search = drive(begin("run"))
    journal = search.saved.journal.path
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:17]))  # by hand: five results are left
    with (
        pytest.warns(UserWarning, match="knows nothing of .*trials-0002.parquet: renamed"),
        pytest.warns(UserWarning, match="_journal.jsonl is not as this machine left it: see `evo-tune verify`"),
    ):
        again = resume("run")
    assert len(pd.read_parquet(again.saved.folder)) == len(again.trials) == 5
    assert (again.saved.folder / "_trials-0002.parquet.aside").exists()
    drive(again)
    assert rows(again) == rows(drive(begin("whole")))


def test_a_disk_that_refuses_a_generation_loses_nothing(
    begin: Callable[..., Search], resume: Callable[..., Search]
) -> None:
    search = begin("run")
    blocked = file_path(search.saved, 1)
    blocked.mkdir()  # a folder there: the rename is refused
    with pytest.raises(StoreError, match=r"cannot write .*trials-0001\.parquet: Is a directory"):
        drive(search)
    search.saved.close()
    blocked.rmdir()
    again = resume("run")
    assert len(again.trials) == 8
    assert rows(drive(again)) == rows(drive(begin("whole")))
    assert survivors(again.saved.folder) == survivors(search.saved.folder.with_name("whole"))
