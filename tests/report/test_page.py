"""The page: everything is escaped, its policy names what may run, and it says what it cannot draw."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import time
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from evo_tune.errors import StoreError
from evo_tune.report import charts
from evo_tune.report.charts import CaptionedFigure, Command, Part, as_json
from evo_tune.report.page import page, plotly_script, report, write_beside, write_report
from evo_tune.report.run_data import RunData
from evo_tune.store.run import Run
from tests.conftest import cut_copy
from tests.report.conftest import HOSTILE, SAMPLE, Made

EVIL = HOSTILE + "\u202e\x1b[31m"


def figure() -> CaptionedFigure:
    from evo_tune.report import charts as drawing

    trace = drawing.points([1, 2], [1, 2], drawing.escape_label(EVIL), "red", text=[drawing.escape_label(EVIL)] * 2)
    return CaptionedFigure(drawing.figure([trace], x=drawing.escape_label(EVIL)), EVIL)


def everything() -> str:
    part = Part(EVIL, EVIL, [figure()], {EVIL: EVIL}, [Command(EVIL, EVIL)], [{EVIL: EVIL, "n": 1.5}], EVIL, True, EVIL)
    return page(EVIL, {EVIL: EVIL}, {"verdict": part}, "../x.js")


def scripts(text: str) -> list[tuple[str, str]]:
    return re.findall(r"<script([^>]*)>(.*?)</script>", text, re.DOTALL)


def test_no_text_of_a_run_is_html() -> None:
    made = everything()
    assert len(scripts(made)) == 3  # the figures, the library, the page's own
    for word in ("<img", '<a href="javascript', "window.hacked=1</script><img", "\u202e", "\x1b"):
        assert word not in made
    data = next(body for attributes, body in scripts(made) if "json" in attributes)
    assert not re.search("[<>&]", data)
    assert json.loads(data)["figures"]["verdict-0"]["data"][0]["name"].startswith("&lt;/script&gt;")


def test_no_text_of_a_run_is_a_template() -> None:
    word = "{{ 7 * 7 }}{% if 1 %}{# #}{{ part.__class__.__mro__ }}"
    names = [word, "items", "keys", "values", "__class__", "__proto__", "status"]
    rows = [dict.fromkeys(names, word)]
    table = {name: [word, word] for name in names}
    part = Part(word, word, [figure()], dict.fromkeys(names, word), [Command(word, word)], rows, word, table=table)
    text = page(word, dict.fromkeys(names, word), {"verdict": part}, "../x.js")
    assert "49" not in re.sub(r"[0-9a-f]{32}|<style>.*?</style>|<script.*?</script>", "", text, flags=re.DOTALL)
    assert text.count(word) > 50
    assert "&lt;class" not in text
    for name in names[1:]:
        assert f'<th scope="col">{name}</th>' in text
        assert f"<dt>{name}</dt><dd>{word}" in text


@pytest.mark.parametrize(("count", "first"), [(3, 3), (500, 20)])
def test_without_a_script_a_table_says_how_many_rows_it_shows(count: int, first: int) -> None:
    text = page("t", {}, {"verdict": Part("t", "t", table={"status": ["ok"] * count})}, "../x.js")
    assert f"The first {first} of {count} rows." in text
    assert text.count(">ok</td>") == first


def test_no_template_trusts_a_value_that_claims_to_be_html() -> None:
    class Claims(str):
        def __html__(self) -> str:
            return "<img src=x>"

    part = Part("t", "t", facts={"fact": Claims("<i>")}, rows=[{"cell": Claims("<i>")}], note=Claims("<i>"))
    text = page(Claims("<i>"), {"about": Claims("<i>")}, {"verdict": part}, "../x.js")
    assert "<img" not in text
    assert "<i>" not in text


def test_sentences_show_commands_as_code() -> None:
    made = page("t", {}, {"verdict": Part("t", "Run `evo-tune <resume>` now.", note="`a`")}, "x")
    assert "Run <code>evo-tune &lt;resume&gt;</code> now." in made
    assert "<code>a</code>" in made


def test_the_policy_names_each_script_by_its_hash() -> None:
    made = report([Run.open(SAMPLE)])
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', made)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    allowed = re.search(r"script-src ([^;]*);", policy[1])
    assert allowed is not None
    run = [body for attributes, body in scripts(made) if "json" not in attributes]
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'" for body in run]
    assert allowed[1].split() == hashes
    assert "unsafe-eval" not in policy[1]
    assert not re.search(r"script-src[^;]*unsafe-inline", policy[1])


def test_the_library_beside_the_runs_is_named_by_a_number_of_the_page() -> None:
    one = re.findall(r"nonce-?=?\"?([0-9a-f]{32})", everything())
    other = page("x", {}, {}, "../x.js")
    assert len(one) == 2
    assert one[0] == one[1]
    assert one[0] not in other


def test_the_same_run_has_the_same_report() -> None:
    assert report([Run.open(SAMPLE)], "x") == report([Run.open(SAMPLE)], "x")


def test_nothing_is_fetched() -> None:
    made = report([Run.open(SAMPLE)], "x")
    assert not re.findall(r"(?:src|href)=\"(?!#|x\"|data:)[^\"]*\"|url\(|@import", made)


def test_a_report_lies_in_the_runs_folder_and_the_library_once_in_the_store(made: Made, tmp_path: Path) -> None:
    store = tmp_path / "store"
    folders = [cut_copy(made(), store / name, 100) for name in ("one", "two")]
    for folder in folders:
        assert write_beside(Run.open(folder)) == folder / "_report.html"
    script = next(store.glob("_plotly-*.min.js"))
    assert sorted(path.name for path in store.iterdir()) == [script.name, "one", "two"]
    script.write_text("evil()")
    write_beside(Run.open(folders[0]))
    assert script.stat().st_size > 1_000_000, "what has its name and is something else is replaced"


def test_a_link_in_a_strangers_run_is_not_written_through(made: Made, tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    folder = cut_copy(made(), tmp_path / "store" / "evil", 100)
    (folder / "_report.html").symlink_to(mine)
    (tmp_path / "store" / f"_plotly-{version('plotly')}.min.js").symlink_to(mine)
    write_beside(Run.open(folder))
    assert mine.read_text() == "mine"
    assert not (folder / "_report.html").is_symlink()


def test_a_run_is_read_as_one_table_with_its_report_in_it(made: Made, tmp_path: Path) -> None:
    import shutil

    import pandas as pd

    shutil.copytree(SAMPLE, tmp_path / "store" / "sample")
    write_beside(Run.open(tmp_path / "store" / "sample"))
    assert len(pd.read_parquet(tmp_path / "store" / "sample")) == 32


def test_what_cannot_be_written_is_told_in_a_line(made: Made, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="choose another -o FILE"):
        write_report([made()], tmp_path / "none" / "report.html")


# What it costs.


def test_a_page_takes_no_more_of_plotly_than_its_script() -> None:
    code = (
        "import sys; from pathlib import Path; from evo_tune.report import page\n"
        "from evo_tune.store.run import Run\n"
        f"page.report([Run.open(Path({str(SAMPLE)!r}))])\n"
        "sys.exit(str([name for name in sys.modules if name.startswith(('plotly.graph', '_plotly', 'plotly.io'))]))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.stderr.strip() == "[]"


def test_a_thousand_trials_are_written_in_a_second(made: Made) -> None:
    run = made(1000)
    began = time.process_time()
    report([run], "x")
    assert time.process_time() - began < 1.0


def test_the_script_is_the_librarys_but_for_a_pair_of_brackets_and_traces_without_a_chart() -> None:
    theirs = (files("plotly") / "package_data" / "plotly.min.js").read_bytes().rstrip()
    ours = plotly_script().rstrip().replace(b": this, (() => {", b": this, () => {").removesuffix(b"})));") + b"}));"
    listed = re.compile(rb"(?<=\.register\(\[)[\w$(),]*(?=\]\))")
    (every,) = listed.findall(theirs)
    assert every
    assert ours == theirs.replace(b".register([" + every + b"])", b".register([])")


def test_all_traces_of_charts_are_registered(made: Made) -> None:
    runs = [made(120), made(80, objectives=("loss:min", "params:min")), Run.open(SAMPLE)]
    figures = [drawn.figure for run in runs for part in charts.parts(RunData(run)).values() for drawn in part.figures]
    assert {trace["type"] for figure in figures for trace in figure["data"]} == {"scatter"}
    folder = Path(charts.__path__[0])
    assert (
        set(
            re.findall(
                r'"type": "(bar|heatmap|box|violin|histogram|contour|table|parcoords|pie)"',
                "".join(path.read_text() for path in folder.glob("*.py")),
            )
        )
        == set()
    )


def test_another_shape_of_the_script_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evo_tune.report.page.OPENS", b"(no such opening)")
    assert plotly_script() == (files("plotly") / "package_data" / "plotly.min.js").read_bytes()


def test_arrays_travel_whole_and_a_gap_stays_one() -> None:
    rows = {
        "whole": np.array([1, -2, 3]),
        "wide": np.array([2**40]),
        "part": np.array([0.5, np.nan]),
        "list": [1.0, float("nan"), None],
        "table": np.array([[1.0, np.inf]]),
        "one": np.float64(2.5),
        "none": np.float32("nan"),
        "words": np.array(["a"]),
    }
    assert json.loads(as_json(rows)) == {
        "whole": [1, -2, 3],
        "wide": [2**40],
        "part": [0.5, None],
        "list": [1.0, None, None],
        "table": [[1.0, None]],
        "one": 2.5,
        "none": None,
        "words": ["a"],
    }
