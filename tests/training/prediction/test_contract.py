"""What holds for the model of every evaluator that can export; a new evaluator fails here until it has a case."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import evo_tune
from evo_tune.plugins.find import bundled_folder, find_evaluator
from evo_tune.training.prediction.language import LanguageModel
from evo_tune.training.prediction.model import ClassifierModel
from tests.training.prediction.cases import CASES
from tests.training.prediction.conftest import Exported

pytestmark = pytest.mark.xdist_group("exported")


def predicted(exported: Exported, rows: Path, folder: Path, *flags: str) -> dict[str, object]:
    """Return what `evo-tune predict` prints in a process of its own, in another folder."""
    base = ["--base", exported.bound.options["base"]] if exported.case.options.get("method") == "adapter" else []
    words = [sys.executable, "-m", "evo_tune", "predict", str(exported.folder), str(rows), *base, "--format", "json"]
    (folder / "elsewhere").mkdir(exist_ok=True)
    env = {**os.environ, "PYTHONPATH": str(Path(evo_tune.__file__).parents[1])}
    done = subprocess.run([*words, *flags], cwd=folder / "elsewhere", env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_every_evaluator_that_can_export_has_a_case() -> None:
    names = {path.stem for path in bundled_folder().glob("*.py") if path.name[0] != "_"}
    can = {name for name in names if hasattr(find_evaluator(f"bundled:{name}").module, "export")}
    future = {"forecasting"}  # its output are new rows: tests/evaluators/test_forecasting.py has its promises
    assert can - future == {case.evaluator for case in CASES.values()}


@pytest.mark.parametrize("test", [False, True])
def test_held_out_rows_get_the_metrics_of_the_training_to_the_last_digit(
    exported: Exported, test: bool, tmp_path: Path
) -> None:
    rows, written = exported.test if test else exported.held_out, tmp_path / "o.csv"
    done = predicted(exported, rows, tmp_path, "--output", str(written))
    assert isinstance(done["metrics"], dict)
    reported = exported.notes["metrics"]
    assert reported == exported.metrics
    known = {"loss": "val_loss", "bpb": "val_bpb"}
    names = {name: f"test_{name}" if test else known.get(name, name) for name in done["metrics"]}
    assert {"loss"} < names.keys()
    expected = {name: reported[other] for name, other in names.items()}
    # Before version 3, pandas reads the last digit of a number in a CSV file otherwise than Python.
    assert done["metrics"] == (expected if pd.__version__ >= "3" else pytest.approx(expected, rel=1e-12))
    assert done["remarks"] in ([], ["only a part of the text was scored, as in training"])
    assert len(pd.read_csv(written)) == done["rows"]


def test_python_predicts_what_the_command_does(exported: Exported) -> None:
    base = exported.bound.options.get("base") if exported.case.options.get("method") == "adapter" else None
    model = evo_tune.load_model(exported.folder, base=base)
    assert repr(str(exported.folder)) in repr(model)
    if isinstance(model, LanguageModel):
        one, two = (model.generate("zo", 20, temperature=0.5, seed=seed) for seed in (1, 1))
        assert one == two == "".join(["zo", *model.stream("zo", 20, temperature=0.5, seed=1)])
        assert model.predict(["zo"], 20, temperature=0.5, seed=1) == [one.removeprefix("zo")]
        return
    parts = list(model.predictions(exported.held_out))
    data = (
        np.concatenate([part.data for part in model.reader.parts(exported.held_out, ())])
        if (exported.held_out.suffix != ".csv")
        else pd.read_csv(exported.held_out)
    )
    found = pd.concat(parts)
    assert model.predict(data).tolist() == found["prediction"].tolist()
    if isinstance(model, ClassifierModel):
        shares = model.predict_proba(data)
        assert shares.shape == (len(found), len(model.classes_))
        assert np.allclose(shares.sum(1), 1.0)
        assert np.array_equal(shares, found[[f"p({name})" for name in model.classes_]].to_numpy())
        assert (model.classes_[shares.argmax(1)] == model.predict(data)).all()
