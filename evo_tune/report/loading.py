"""A saved run in a notebook: its table, best trial, Pareto front, and each chart of the report as a figure.

It locks nothing, writes nothing, and runs no code from the run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from evo_tune.errors import UsageError
from evo_tune.genome.trial import Trial
from evo_tune.report import charts, summary
from evo_tune.report.charts import Spec, as_plotly
from evo_tune.report.page import run_facts, section_html, write_report
from evo_tune.report.run_data import RunData
from evo_tune.store.places import DEFAULT_STORE, find_run
from evo_tune.store.run import Run
from evo_tune.text import count_of, printable

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure


def load(name: str | Path | None = None, *, store: str | Path = DEFAULT_STORE) -> Results:
    """Return the results of a saved run.

    Args:
        name: Name or path of the run; by default the latest one.
        store: Folder of the saved runs.

    Raises:
        StoreError: There is no such run, or it is damaged.
    """
    return Results(Run.open(find_run(Path(store), None if name is None else str(name))))


class Results:
    """The results of a saved run at the time when it was loaded; `load` creates it.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self._data = RunData(run)

    @property
    def name(self) -> str:
        """Name of the run."""
        return self._data.name

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return self._data.run.folder

    @property
    def trials(self) -> list[Trial]:
        """All recorded trials, ordered by id."""
        return list(self._data.trials)

    @property
    def best(self) -> Trial | None:
        """The recommended trial; None if no full training has a value."""
        return self._data.best

    def front(self) -> list[Trial]:
        """Return the Pareto front, best on the first objective first."""
        return summary.pareto_front(self._data.run)

    def frame(self) -> pd.DataFrame:
        """Return all recorded trials as rows, with the columns of the run's Parquet files."""
        from evo_tune.store.table import table_of

        frame: pd.DataFrame = table_of(self._data.run, self._data.trials).to_pandas()
        return frame

    @cached_property
    def plot(self) -> Plots:
        """The charts: `plot.history()`, `plot.lineage()`, …; `dir(run.plot)` lists them."""
        return Plots(self._data)

    def report(self, path: str | Path) -> Path:
        """Write the report as one file that contains everything, and return its path.

        Raises:
            StoreError: Writing failed.
        """
        return write_report([self._data.run], Path(path))

    def __repr__(self) -> str:
        best, metric = self.best, self._data.metric
        value = "no value yet" if best is None else f"best {metric} {best.outcome.metrics[metric]:.5g}"
        trial = "" if best is None else f" (trial {best.id})"
        return f"<run {self.name}: {count_of(len(self._data.trials), 'result')}, {value}{trial}>"

    def _repr_html_(self) -> str:
        """Return the verdict and what to do next, for a notebook, with every text escaped."""
        parts = {name: charts.chart_of(name).part(self._data) for name in ("verdict", "next_steps")}
        sections = Markup("").join(section_html(name, part) for name, part in parts.items() if part is not None)
        facts = " · ".join(f"{name} {printable(value)}" for name, value in run_facts(self._data).items())
        return str(Markup("<div><h3>{}</h3><p>{}</p>{}</div>").format(printable(self.name), facts, sections))


class Plots:
    """The charts of one run: each is a function that returns a plotly figure, or None without data for it.

    Args:
        material: The run.
    """

    def __init__(self, data: RunData) -> None:
        self._data = data

    def __getattr__(self, name: str) -> Callable[..., Figure | None]:
        if name.startswith("_") or name not in dir(self):
            raise AttributeError(f"there is no chart {name!r}: expected one of {', '.join(dir(self))}")
        draw: Callable[..., Spec | None] = charts.chart_of(name).draw

        def plot(*args: Any, **options: Any) -> Figure | None:
            try:
                spec = draw(self._data, *args, **options)
            except (KeyError, ValueError) as error:
                raise UsageError(f"plot.{name}: the run has no {error}") from None
            return None if spec is None else as_plotly(spec)

        plot.__name__, plot.__doc__ = name, draw.__doc__
        return plot

    def __dir__(self) -> list[str]:
        return [name for name in charts.names() if hasattr(charts.chart_of(name), "draw")]
