"""A saved run in a notebook: its table, its best, its front, and each chart of the report as a figure. Read-only.

Nothing is locked, nothing is written, and no code of the run's is executed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evo_tune.errors import UsageError
from evo_tune.genome.trial import Trial
from evo_tune.report import charts, summary
from evo_tune.report.drawing import Spec, as_plotly
from evo_tune.report.material import Material
from evo_tune.report.page import about, section_html, text, write_report
from evo_tune.store.places import STORE, find_run
from evo_tune.store.run import Run

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

__all__ = ["Plots", "Results", "load"]


def load(name: str | Path | None = None, *, store: str | Path = STORE) -> Results:
    """Return a saved run, to look at.

    Args:
        name: Its name or path; the latest one if left out.
        store: Folder of the saved runs.

    Raises:
        StoreError: There is no such run, or it is damaged.
    """
    return Results(Run.open(find_run(Path(store), None if name is None else str(name))))


class Results:
    """What a saved run holds, as it was when it was loaded; `load` makes it.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self._material = Material(run)

    @property
    def name(self) -> str:
        """The run's name."""
        return self._material.name

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self._material.run.folder

    @property
    def trials(self) -> list[Trial]:
        """Every recorded trial, by id."""
        return list(self._material.trials)

    @property
    def best(self) -> Trial | None:
        """The trial to recommend; None if no full training has a value."""
        return self._material.best

    def front(self) -> list[Trial]:
        """Return the Pareto front, the best on the first objective first."""
        return summary.front(self._material.run)

    def frame(self) -> pd.DataFrame:
        """Return every recorded trial as a row, with the columns of the run's Parquet files."""
        from evo_tune.store.files import table_of

        frame: pd.DataFrame = table_of(self._material.run, self._material.trials).to_pandas()
        return frame

    @cached_property
    def plot(self) -> Plots:
        """The charts: `plot.course()`, `plot.lineage()`, …; `dir(run.plot)` lists them."""
        return Plots(self._material)

    def report(self, path: str | Path) -> Path:
        """Write the whole report as a page that stands alone, and return where it is.

        Raises:
            StoreError: The disk refuses.
        """
        return write_report([self._material.run], Path(path))

    def __repr__(self) -> str:
        best = self.best
        metric = self._material.metric
        told = "no value yet" if best is None else f"best {metric} {best.outcome.metrics[metric]:.5g} (trial {best.id})"
        return f"<run {self.name}: {len(self._material.trials)} results, {told}>"

    def _repr_html_(self) -> str:
        """Return the verdict and what to do next, for a notebook; every text in it is escaped, and nothing runs."""
        found = {name: charts.chart_of(name).part(self._material) for name in ("verdict", "next_steps")}
        parts = {name: part for name, part in found.items() if part is not None}
        facts = " · ".join(f"{text(name)} {text(value)}" for name, value in about(self._material).items())
        sections = "".join(section_html(name, part) for name, part in parts.items())
        return f"<div><h3>{text(self.name)}</h3><p>{facts}</p>{sections}</div>"


class Plots:
    """The charts of one run, each a function that returns plotly's figure, or None where it has nothing to show.

    Args:
        material: The run.
    """

    def __init__(self, material: Material) -> None:
        self._material = material

    def __getattr__(self, name: str) -> Callable[..., Figure | None]:
        if name.startswith("_") or name not in self._names():
            known = ", ".join(self._names())
            raise AttributeError(f"there is no chart {name!r}: expected one of {known}")
        draw: Callable[..., Spec | None] = charts.chart_of(name).draw

        def drawn(*args: Any, **options: Any) -> Figure | None:
            try:
                spec = draw(self._material, *args, **options)
            except (KeyError, ValueError) as error:
                raise UsageError(f"plot.{name} cannot be drawn: there is no {error}") from None
            return None if spec is None else as_plotly(spec)

        drawn.__name__, drawn.__doc__ = name, draw.__doc__
        return drawn

    def __dir__(self) -> list[str]:
        return self._names()

    @staticmethod
    def _names() -> list[str]:
        return [name for name in charts.names() if hasattr(charts.chart_of(name), "draw")]
