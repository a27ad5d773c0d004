"""The report in a real browser: what is drawn is counted, the console is silent, and no request leaves the page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from evo_tune import Choice, Float, Outcome, SearchSpace
from evo_tune.report.charts import MOST_MARKS
from evo_tune.report.page import report, write_beside, write_report
from evo_tune.report.recommendation import fresh_values
from evo_tune.report.run_data import RunData
from evo_tune.store.run import Run
from tests.conftest import cut_copy
from tests.report.conftest import HOSTILE, SAMPLE, Made, Open, Opened, hostile_space, opened_in

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.extended]

LARGE = 1_300
"""Trials of a run of which not every result is drawn."""


@pytest.fixture
def alone(tmp_path: Path) -> Any:
    """Return a function that writes runs' report as a page that stands alone."""
    return lambda *runs: write_report(runs, tmp_path / "alone.html")


@pytest.fixture(scope="module")
def kept_open(chromium: Any, made: Made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """The report of 80 trials: opened once, since that takes most of a test's time."""
    with chromium.new_context(viewport={"width": 1280, "height": 900}) as context:
        yield opened_in(context, write_report([made()], tmp_path_factory.mktemp("kept") / "alone.html"))


@pytest.fixture(scope="module")
def sample(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Opened, Path]]:
    """The sample's report, opened once, and where it lies."""
    path = write_report([Run.open(SAMPLE)], tmp_path_factory.mktemp("sample") / "alone.html")
    with chromium.new_context(viewport={"width": 1400, "height": 900}) as context:
        yield opened_in(context, path), path


@pytest.fixture(scope="module")
def large(chromium: Any, made: Made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Opened, float]]:
    """The report of so many trials, opened for all tests, and the seconds that it takes to be drawn again."""
    path = write_report([made(LARGE)], tmp_path_factory.mktemp("large") / "alone.html")
    with chromium.new_context(viewport={"width": 1280, "height": 900}) as context:
        opened = opened_in(context, path, wait=False)
        metrics = context.new_cdp_session(opened.page)
        metrics.send("Performance.enable", {"timeDomain": "threadTicks"})  # of the processor: others' work is not ours
        opened.page.reload()
        opened.page.wait_for_selector("html[data-drawn]", state="attached", timeout=60_000)
        took = {row["name"]: row["value"] for row in metrics.send("Performance.getMetrics")["metrics"]}
        yield opened, took["TaskDuration"]


@pytest.fixture
def plain(kept_open: Opened) -> Opened:
    """The page that is kept open, as if it had been opened just now, whatever was done with it."""
    page = kept_open.page
    page.emulate_media(media="screen", color_scheme="light")
    page.evaluate("window.scrollTo(0, 0)")
    page.mouse.click(1, 1)  # from there TAB goes on
    return kept_open


def test_the_samples_report_is_drawn_whole_and_in_silence(sample: tuple[Opened, Path]) -> None:
    opened, path = sample
    assert opened.said == []
    assert opened.asked == [path.resolve().as_uri()]
    material = RunData(Run.open(SAMPLE))
    count = len(material.ranked_trials)
    for chart in ("history-0", "history-1", "history-2"):
        assert opened.marks(chart) == len(material.trials) + 1  # failures too; the recommended trial has a second mark
    assert opened.marks("slices-0") >= count + 1
    assert opened.marks("importances-0") == len(material.genes)
    titles = opened.page.locator("h2").all_inner_texts()
    assert material.result.best is not None
    assert titles[:4] == [
        f"Trial {material.result.best.id} beats the default",
        "What to do next",
        "History",
        "Gene by gene",
    ]
    mean = next(row.mean for row in fresh_values(material.run) if row.id == material.result.best.id)
    assert f"{mean:.5f}" in opened.page.locator("#verdict").inner_text()


def test_failures_rungs_and_pruned_trainings_are_drawn(browse: Open, alone: Any, made: Made) -> None:
    run = made(90, seed=4, fidelity=(1 / 9, 1 / 3, 1.0))
    opened = browse(alone(run))
    failed = [id for id, outcome in run.outcomes.items() if outcome.status not in ("ok", "pruned")]
    assert failed
    assert opened.count("#history-0 .trace.scatter:nth-of-type(2) .point") == len(failed)
    assert opened.count("#curves-0 .shapelayer path") == 2  # the rungs below the full training
    pruned = [outcome for outcome in run.outcomes.values() if outcome.status == "pruned"]
    assert pruned
    assert "trainedpruned" in opened.page.locator("#curves-0").text_content()


def test_two_objectives_have_their_front(browse: Open, alone: Any, made: Made) -> None:
    run = made(90, seed=4, objectives=("loss:min", "params:min"))
    opened = browse(alone(run))
    from evo_tune.report.summary import pareto_front

    drawn = opened.count("#front-0 .trace.scatter:nth-of-type(2) .point")
    assert drawn == len(pareto_front(run)) > 1
    assert opened.page.locator("h2").first.inner_text() == f"{drawn} trials on the Pareto front"


def test_several_runs_are_drawn_side_by_side(browse: Open, alone: Any, made: Made) -> None:
    opened = browse(alone(made(80), made(80, seed=3)))
    assert opened.said == []
    for chart in ("history-0", "history-1", "history-2"):
        assert opened.count(f"#{chart} .scatterlayer .js-line") == 2
    assert opened.count("#settings thead th") == 3  # a column for each run beside the names of the settings


def test_a_run_without_any_value_has_a_report(browse: Open, alone: Any, made: Made, tmp_path: Path) -> None:
    opened = browse(alone(Run.open(cut_copy(made(), tmp_path / "begun", 3))))
    assert opened.said == []
    assert opened.page.locator("h2").first.inner_text() == "No full training has a value yet"
    assert "evo-tune resume begun" in opened.page.locator("#next_steps").inner_text()


def test_long_values_of_a_gene_leave_its_title_free_and_stay_in_the_chart(browse: Open, alone: Any, made: Made) -> None:
    values = ("adamw-with-a-long-name", "sgd-with-nesterov-momentum", "another-optimizer-that-goes-on")
    space = SearchSpace(optimizer=Choice(values), lr=Float(1e-4, 1e-2, log=True))
    opened = browse(alone(made(40, space=space)))
    crossing = opened.value(
        """[...document.querySelectorAll("#slices .chart")].flatMap((chart) => {
          const box = (one) => one.getBoundingClientRect();
          const whole = box(chart), found = [];
          for (const axis of ["x", "y"]) {
            const title = box(chart.querySelector(`.${axis}title`));
            for (const label of chart.querySelectorAll(`.${axis}tick text`)) {
              const { left, right, top, bottom } = box(label);
              const apart = right <= title.left || left >= title.right || bottom <= title.top || top >= title.bottom;
              if (!apart || left < whole.left - 1 || bottom > whole.bottom + 1) found.push(label.textContent);
            }
          }
          return found;
        })"""
    )
    assert opened.count("#slices .xtick text") > 2
    assert crossing == []


# The table of trials.


def column(opened: Opened, name: str) -> list[str]:
    """Return the cells of a column of the table of trials, as they are shown."""
    place = opened.page.locator("#trials-table th").all_inner_texts().index(name) + 1
    return list(opened.page.locator(f"#trials-table tbody td:nth-child({place})").all_inner_texts())


def test_trials_are_sorted_filtered_and_paged(browse: Open, alone: Any, made: Made) -> None:
    run = made()
    opened = browse(alone(run))
    table = opened.page.locator("#trials-table")
    rows, said = table.locator("tbody tr"), table.locator('[data-part="said"]')
    assert column(opened, "trial") == [str(id) for id in range(20)]
    table.get_by_role("button", name="Next").click()
    assert column(opened, "trial") == [str(id) for id in range(20, 40)]
    table.get_by_role("button", name="loss", exact=True).click()
    losses = sorted(one.metrics["loss"] for one in run.outcomes.values() if "loss" in one.metrics)
    assert [float(value) for value in column(opened, "loss")] == pytest.approx(losses[:20], rel=1e-4)
    table.get_by_role("button", name="loss", exact=True).click()
    assert [float(value) for value in column(opened, "loss")] == pytest.approx(losses[:-21:-1], rel=1e-4)
    failed = sum(one.status == "diverged" for one in run.outcomes.values())
    table.locator("select").select_option("diverged")
    assert rows.count() == failed > 0
    table.locator("select").select_option("")
    table.locator("input").fill(f"loss<{(losses[4] + losses[5]) / 2} ok")
    assert rows.count() == 5
    assert said.inner_text() == f"1 to 5 of 5 matching rows, {len(run.candidates)} in all"
    table.locator("input").fill("no such thing")
    assert said.inner_text() == f"No row of {len(run.candidates)} matches."
    assert opened.said == []


def test_a_trial_links_to_its_log_only_in_the_runs_folder(browse: Open, alone: Any, made: Made, tmp_path: Path) -> None:
    folder = cut_copy(made(), tmp_path / "store" / "logs", 60)
    (folder / "_trials" / "000002").mkdir(parents=True)
    (folder / "_trials" / "000002" / "error.txt").write_text("what went wrong")
    opened = browse(write_beside(Run.open(folder)))
    opened.page.locator("#trials-table a").click()
    assert opened.page.locator("body").inner_text() == "what went wrong"
    opened = browse(alone(Run.open(folder)))
    assert opened.count("#trials-table a") == 0
    assert "_trials/000002/error.txt" in column(opened, "log")


# Strangers.


def test_hostile_text_is_text(browse: Open, alone: Any, made: Made) -> None:
    run = made(60, space=hostile_space())
    for id, outcome in run.outcomes.items():
        if outcome.error:
            run.outcomes[id] = Outcome(outcome.status, {}, outcome.curve, 1.0, HOSTILE, HOSTILE)
    run.manifest = msgspec.structs.replace(run.manifest, evaluator=HOSTILE, strategy=HOSTILE)
    run.ended = HOSTILE
    opened = browse(alone(run))
    opened.page.mouse.move(600, 400)
    for chart in ("history-0", "slices-0"):
        for mark in opened.page.locator(f"#{chart} .point").all()[:6]:
            mark.hover(force=True)
    assert opened.value("window.hacked") is None
    assert opened.said == []
    assert len(opened.asked) == 1
    assert opened.count("main img, header img, iframe, object, embed") == 0
    links = opened.page.locator("a").evaluate_all("all => all.map(one => one.getAttribute('href') || '')")
    assert all(link.startswith("#") for link in links), links
    assert opened.value("({}).polluted") is None
    assert "<script>window.hacked=1</script>" in opened.page.locator("header").inner_text()


def test_the_policy_stops_what_would_get_past_the_escapes(browse: Open, tmp_path: Path, made: Made) -> None:
    page = report([made(20)])
    evil = (
        '<script>window.hacked=1</script><img src="x" onerror="window.hacked=1">'
        '<img src="https://example.org/a.png"><iframe src="https://example.org"></iframe>'
        '<style>@import "https://example.org/a.css";</style><a id="j" href="javascript:window.hacked=1">a</a>'
    )
    path = tmp_path / "evil.html"
    path.write_text(page.replace('<main id="main">', f'<main id="main">{evil}'))
    opened = browse(path)
    opened.page.locator("#j").evaluate("one => one.click()")
    opened.page.wait_for_timeout(200)
    assert opened.value("window.hacked") is None
    refused = [(path.parent / "x").resolve().as_uri(), "https://example.org/a.css", "https://example.org/a.png"]
    assert sorted(opened.refused) == refused
    assert opened.said  # the browser tells what it has stopped


def test_the_library_lies_once_beside_the_runs(browse: Open, tmp_path: Path, made: Made) -> None:
    folders = []
    for seed in (0, 3):
        run = made(80, **({"seed": seed} if seed else {}))
        shutil.copytree(run.folder, tmp_path / "store" / run.name)
        folders.append(tmp_path / "store" / run.name)
    paths = [write_beside(Run.open(folder)) for folder in folders]
    scripts = list((tmp_path / "store").glob("_plotly-*.js"))
    assert len(scripts) == 1
    assert all(path.stat().st_size < 600_000 for path in paths)
    opened = browse(paths[0])
    assert opened.said == []
    assert opened.asked == [paths[0].resolve().as_uri(), scripts[0].resolve().as_uri()]
    scripts[0].unlink()
    opened = browse(paths[1], wait=False)
    assert opened.asked == [paths[1].resolve().as_uri(), scripts[0].resolve().as_uri()]
    assert opened.page.locator("#missing").is_visible()
    assert opened.page.locator("#verdict table").is_visible()


# Whoever reads it.


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours as a browser writes them (WCAG 2.2)."""

    def luminance(color: str) -> float:
        parts = [float(part) / 255 for part in color.strip("rgba()").split(",")[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_in_dark(plain: Opened, scheme: str) -> None:
    opened = plain
    opened.page.emulate_media(color_scheme=scheme)
    paper = opened.value("getComputedStyle(document.body).backgroundColor")
    assert contrast(paper, "rgb(255, 255, 255)" if scheme == "light" else "rgb(0, 0, 0)") < 1.3
    for selector in ("h1", ".reads", ".note", "summary", "nav a", "td", "pre code"):
        color = opened.page.locator(selector).first.evaluate("one => getComputedStyle(one).color")
        assert contrast(paper, color) >= 4.5, selector
    for selector in (".xtick text", ".ytick text", ".g-xtitle text", ".legendtext"):
        color = opened.page.locator(selector).first.evaluate("one => getComputedStyle(one).fill")
        assert contrast(paper, color) >= 4.5, selector


def test_a_phone_shows_it_without_scrolling_sideways(browse: Open, alone: Any, made: Made) -> None:
    opened = browse(alone(made()), viewport={"width": 390, "height": 800}, has_touch=True)
    assert opened.value("document.scrollingElement.scrollWidth") <= 390
    widths = opened.page.locator(".chart").evaluate_all("all => all.map(one => one.clientWidth)")
    assert all(250 <= width <= 390 for width in widths), widths


def test_the_keyboard_reaches_everything(plain: Opened) -> None:
    opened = plain
    seen = []
    for _ in range(40):
        opened.page.keyboard.press("Tab")
        seen.append(
            opened.value(
                "document.activeElement.tagName + ' ' + (document.activeElement.textContent || '').slice(0, 30)"
            )
        )
    assert seen[0] == "A To the report"
    assert "A What to do next" in seen
    assert [one for one in seen if one.startswith("SUMMARY Each improvement")]
    charts = opened.count(".chart")
    assert opened.count('.chart[role="img"][aria-label^="Chart: "]') == charts


def test_paper_gets_charts_of_its_own_width(plain: Opened) -> None:
    opened = plain
    width = "document.getElementById('{}')._fullLayout.width"
    before = opened.value(width.format("importances-0"))
    opened.value("window.dispatchEvent(new Event('beforeprint'))")
    opened.until(width.format("importances-0") + " === 660")
    opened.until(width.format("slices-0") + " < 330")
    opened.page.emulate_media(media="print", color_scheme="dark")
    assert opened.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not opened.page.locator("nav").is_visible()
    breaks = "[...new Set([...document.querySelectorAll('p')].map(one => getComputedStyle(one).breakInside))]"
    assert opened.value(breaks) == ["avoid"], "no paragraph is split across pages"
    opened.page.set_viewport_size({"width": 660, "height": 900})
    table = "document.querySelector('#trials-table .scroll')"
    assert opened.value(f"{table}.scrollWidth <= {table}.clientWidth"), "paper has no room to scroll"
    assert opened.value(f"getComputedStyle({table}.querySelector('td'), '::before').content").startswith('"trial')
    opened.page.set_viewport_size({"width": 1280, "height": 900})
    opened.page.emulate_media(media="screen", color_scheme="light")
    opened.value("window.dispatchEvent(new Event('afterprint'))")
    opened.until(f"{width.format('importances-0')} === {before}")


def test_what_is_not_seen_is_painted_once_all_is_drawn(plain: Opened) -> None:
    opened = plain
    seen = "document.querySelector('#importances-0 svg').checkVisibility({ contentVisibilityAuto: true })"
    assert opened.value(seen) is True  # a picture of the whole page has every chart
    opened.value("document.documentElement.removeAttribute('data-drawn')")
    opened.until(f"!{seen}")
    opened.value("document.documentElement.setAttribute('data-drawn', '')")


def test_a_thousand_trials_are_drawn_in_two_seconds(large: tuple[Opened, float]) -> None:
    assert 0.1 < large[1] < 2.0
    assert large[0].count("*") < 16_000  # seconds depend on the machine, elements do not


@pytest.mark.slow
def test_thousands_of_trials_stay_usable(large: tuple[Opened, float], made: Made) -> None:
    usable(large[0], made(LARGE))


@pytest.mark.proof
def test_ten_thousand_trials_stay_usable(browse: Open, alone: Any, made: Made) -> None:
    run = made(10_000)
    usable(browse(alone(run)), run)


def usable(opened: Opened, run: Run) -> None:
    """Check that a report is no more than a browser can hold, and that it can be filtered."""
    assert opened.said == []
    marks = opened.count(".point")
    assert marks < 10_000
    assert opened.marks("history-0") <= 2 * MOST_MARKS
    assert (
        f"{MOST_MARKS} of {len(RunData(run).ranked_trials)} results are drawn"
        in opened.page.locator("#history").inner_text()
    )
    table = opened.page.locator("#trials-table")
    table.locator("input").fill("status=ok")
    table.get_by_role("button", name="loss", exact=True).click()
    assert table.locator("tbody tr").count() == 20
    best = min(trial.losses[0] for trial in run.trials() if trial.losses)
    assert float(column(opened, "loss")[0]) == pytest.approx(best, rel=1e-4)


def test_a_button_copies_each_command(plain: Opened) -> None:
    plain.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    commands = plain.value("[...document.querySelectorAll('pre code')].map(one => one.textContent)")
    assert plain.count("pre .copy") == len(commands) > 0
    plain.page.locator("pre .copy").first.click()
    plain.until("document.querySelector('pre .copy').textContent !== 'Copy'")
    assert plain.value("navigator.clipboard.readText()") == commands[0]
