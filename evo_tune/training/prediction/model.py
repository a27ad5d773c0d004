"""An exported model, its predictions for data in memory or in files, and their writing; common to all kinds of models.

Predictions are made in passes of the size that judged the training, with its number of threads and its precision. So
the same rows, alone and in the same order, get the same numbers to the last digit.
"""

from __future__ import annotations

import json
import math
import os
import sys
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evo_tune.errors import StoreError, UsageError
from evo_tune.text import to_csv_cell
from evo_tune.training import Errors, Precision, Scores, model_outputs, reproducible
from evo_tune.training.optim.losses import cross_entropy_sum
from evo_tune.training.prediction.about import TrainingFacts
from evo_tune.training.prediction.memory import InputSize, MemoryLimit, pass_bytes

if TYPE_CHECKING:
    import pandas as pd

# Samples in a pass, as in the evaluations of a training.
PASS = 256

# Passes whose samples are read and predicted at once.
PASSES = 16


@dataclass(frozen=True)
class Part:
    """Some samples of an input.

    Args:
        data: Samples, as `Reader.encode` takes them.
        size: Number of samples.
        keys: Columns that identify the samples in the output, by name.
        truth: Targets, None where one is missing; None if the input has none.
    """

    data: Any
    size: int
    keys: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    truth: Sequence[Any] | None = None


class Reader(ABC):
    """Data of one kind, read from files and turned into a model's inputs as in training.

    Args:
        about: The training of the model.
    """

    # Kind of data in the names of tasks: 'tabular', 'image', 'text'.
    kind: ClassVar[str]

    # Column of a table with the targets; '': none.
    target = ""

    def __init__(self, about: TrainingFacts) -> None:
        self.about = about
        # What differs from the training data, each in one line, by a name that is given once.
        self.remarks: dict[str, str] = {}
        # Samples per pass.
        self.batch = PASS

    @property
    def part(self) -> int:
        """Samples that are read and predicted at once."""
        return PASSES * self.batch

    @abstractmethod
    def size(self, data: Any) -> InputSize:
        """Return the size of data in memory, before it is read or turned into inputs."""

    @abstractmethod
    def encode(self, data: Any) -> Tensor:
        """Return inputs of the model, (samples, …), for data in memory.

        Raises:
            UsageError: The data does not fit the model.
        """

    @abstractmethod
    def parts(self, path: Path, keep: Sequence[str]) -> Iterator[Part]:
        """Yield the samples of a file or a folder, in parts of `part` samples.

        Args:
            path: File or folder.
            keep: Columns of a table to copy to the output.

        Raises:
            UsageError: The input cannot be read, or does not fit the model.
        """

    def truth(self, data: Any) -> Sequence[Any] | None:
        """Return the targets that data in memory has; None: it has none."""
        return list(data[self.target]) if hasattr(data, "keys") and self.target in list(data.keys()) else None


R = TypeVar("R", bound=Reader)


class Model(ABC):
    """An exported model.

    Args:
        folder: Its folder.
        network: The network, in eval mode.
        about: Its training.
        device: Device of the network.
        threads: CPU threads; None: as in training, which gives the same digits.
        limit: Memory that it may take.
    """

    # Name of the task, as Hugging Face names it: 'tabular-classification'.
    task: str

    def __init__(
        self,
        folder: Path,
        network: nn.Module,
        about: TrainingFacts,
        device: str = "cpu",
        threads: int | None = None,
        limit: MemoryLimit | None = None,
    ) -> None:
        self.folder, self.network, self.about, self.device = folder, network, about, device
        self.limit = limit or MemoryLimit(device)
        self.reader: Any  # set by each kind of model
        self.threads = threads or min(about.evaluated.threads, os.cpu_count() or 1)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.task}, {str(self.folder)!r}>"

    @abstractmethod
    def predict(self, data: Any) -> Any:
        """Return the prediction for each sample."""

    @abstractmethod
    def evaluate(self, data: Any) -> dict[str, float]:
        """Return metrics of the predictions, by the names that the training reports, without 'val_' and 'test_'."""

    @property
    def remarks(self) -> list[str]:
        """Differences from the training data and from a complete score, each in one line."""
        return list(self.reader.remarks.values())

    def predictions(self, path: Path | str, keep: Sequence[str] = ()) -> Predictions:
        """Return the predictions for a file or a folder, in parts."""
        return Predictions(self, Path(path).expanduser(), keep)

    @contextmanager
    def computing(self) -> Iterator[dict[str, Any]]:
        """Set threads and precision, and yield the keywords of functions of `training.evaluation`."""
        trained, kind = self.about.evaluated, torch.device(self.device).type
        precision = Precision(name=trained.precision if trained.device == kind else "fp32")
        with reproducible(self.threads, self.device):
            yield {"device": self.device, "precision": precision}


class SampleModel(Model, Generic[R]):
    """A model that predicts one target for each sample.

    Args:
        reader: Kind of data.
        batch: Samples per pass; another number may change the last digits.
        more: See `Model`.
    """

    # 'classification' or 'regression'.
    kind: ClassVar[str]

    def __init__(self, reader: R, *model_arguments: Any, batch: int = PASS, **settings: Any) -> None:
        super().__init__(*model_arguments, **settings)
        self.reader = reader
        self.reader.batch = batch
        self.task = f"{reader.kind}-{self.kind}"

    def outputs(self, data: Any) -> NDArray[np.float64]:
        """Return the network's outputs, (samples, outputs), float64."""
        self.require_memory(self.reader.size(data))
        inputs = self.reader.encode(data)
        if not len(inputs):
            shape: Any = self.network.config
            return np.empty((0, shape.outputs))
        with self.computing() as how:
            return model_outputs(self.network, (inputs, inputs), batch=self.reader.batch, **how).double().numpy()

    def require_memory(self, size: InputSize) -> None:
        """Refuse an input whose prediction would take more memory than is allowed.

        Raises:
            UsageError: It would.
        """
        config: Any = self.network.config
        largest = min(self.reader.batch, size.samples)

        def predict_bytes(batch: int) -> float:
            return pass_bytes(config, InputSize(-(-size.samples * batch // max(1, largest)), size.values), batch)

        self.limit.require_pass(predict_bytes, largest)

    def evaluate(self, data: Any, truth: Sequence[Any] | None = None) -> dict[str, float]:
        """Return metrics of the predictions for samples with targets.

        Args:
            data: See `predict`.
            truth: Targets of the samples; None: those in the data.

        Raises:
            UsageError: There are no targets, or as many as samples.
        """
        truth = self.reader.truth(data) if truth is None else list(truth)
        outputs = self.outputs(data)
        if truth is None or len(truth) != len(outputs):
            count = "none" if truth is None else len(truth)
            raise UsageError(f"evaluate: {len(outputs)} samples with {count} targets: expected one for each")
        return self.metrics(outputs, self.targets(truth))

    @abstractmethod
    def columns(self, outputs: NDArray[np.float64]) -> dict[str, Any]:
        """Return the columns of the predictions, by name."""

    def targets(self, truth: Sequence[Any]) -> NDArray[np.float64]:
        """Return targets as numbers, (samples,); NaN for one that is missing or unknown."""
        raise AssertionError(f"the data of {type(self).__name__} have no targets")

    def metrics(self, outputs: NDArray[np.float64], targets: NDArray[np.float64]) -> dict[str, float]:
        """Return metrics over the samples whose targets are known; without any, none."""
        has_target = ~np.isnan(targets)
        if not has_target.all():
            omission = f"{int((~has_target).sum())} of {len(has_target)} samples have no target that the model knows"
            self.reader.remarks["targets"] = f"{omission}: they are left out of the metrics"
        if not has_target.any():
            return {}
        metrics = self._metrics(outputs[has_target], targets[has_target])
        return {name: value for name, value in metrics.items() if not math.isnan(value)}

    def _metrics(self, outputs: NDArray[np.float64], targets: NDArray[np.float64]) -> dict[str, float]:
        """Return metrics, without missing targets."""
        raise AssertionError(f"the data of {type(self).__name__} have no targets")


class ClassifierModel(SampleModel[R]):
    """A classifier, used as one of scikit-learn: `classes_`, `predict`, `predict_proba`."""

    kind = "classification"

    @property
    def classes_(self) -> NDArray[np.str_]:
        """Names of the classes in the order of the probabilities, shape (classes,)."""
        return np.array(self.network.labels)

    def predict(self, data: Any) -> NDArray[np.str_]:
        """Return the name of the most likely class of each sample, (samples,).

        Args:
            data: A table (DataFrame, mapping of column names to values, array), images (array, list of paths) or a
                list of texts, by the kind of model.

        Raises:
            UsageError: The data does not fit the model.
        """
        return np.asarray(self.classes_[self.outputs(data).argmax(1)])

    def predict_proba(self, data: Any) -> NDArray[np.float64]:
        """Return the probability of each class, (samples, classes), in the order of `classes_`.

        Args:
            data: See `predict`.

        Raises:
            UsageError: The data does not fit the model.
        """
        return _softmax(self.outputs(data))

    def columns(self, outputs: NDArray[np.float64]) -> dict[str, Any]:
        shares = _softmax(outputs)
        names = self.classes_
        return {
            "prediction": names[outputs.argmax(1)],
            **{f"p({name})": shares[:, place] for place, name in enumerate(names)},
        }

    def targets(self, truth: Sequence[Any]) -> NDArray[np.float64]:
        return CategoryIndex(self.classes_.tolist(), first=0).of(truth)

    def _metrics(self, outputs: NDArray[np.float64], targets: NDArray[np.float64]) -> dict[str, float]:
        classes = targets.astype(np.int64)
        loss = float(cross_entropy_sum(torch.from_numpy(outputs), torch.from_numpy(classes))) / len(classes)
        return dict(vars(Scores.of(_softmax(outputs), classes, loss)))


class RegressionModel(SampleModel[R]):
    """A model that predicts one number for each sample, used as one of scikit-learn: `predict`."""

    kind = "regression"

    @property
    def scale(self) -> tuple[float, float]:
        """Mean and standard deviation of the training targets."""
        return self.network.scale  # type: ignore[return-value]

    def predict(self, data: Any) -> NDArray[np.float64]:
        """Return the predicted number of each sample, (samples,), in the target's unit; see `ClassifierModel.predict`.

        Raises:
            UsageError: The data does not fit the model.
        """
        return self._values(self.outputs(data))

    def _values(self, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
        mean, deviation = self.scale
        return mean + deviation * outputs[:, 0]

    def columns(self, outputs: NDArray[np.float64]) -> dict[str, Any]:
        return {"prediction": self._values(outputs)}

    def targets(self, truth: Sequence[Any]) -> NDArray[np.float64]:
        return np.array([_number(value) for value in truth], np.float64)

    def _metrics(self, outputs: NDArray[np.float64], targets: NDArray[np.float64]) -> dict[str, float]:
        return dict(vars(Errors.of(self._values(outputs), targets, self.scale[1])))


class CategoryIndex:
    """Positions of known texts. A number may be written in another way than in training: 1 or 1.0, true or True.

    pandas reads a column of whole numbers as 1.0 where a cell is missing, so one category may have two names.

    Args:
        known: Known texts, in order.
        first: Position of the first of them.
    """

    def __init__(self, texts: Sequence[str], first: int) -> None:
        self._exact = {text: place for place, text in enumerate(texts, first)}
        self._alike: dict[str, int] = {}
        for text, place in self._exact.items():
            self._alike.setdefault(_canonical(text), place)

    def of(self, values: Sequence[Any]) -> NDArray[np.float64]:
        """Return the position of each value, (values,); NaN if it is missing or unknown."""
        places = np.full(len(values), math.nan)
        for row, value in enumerate(values):
            if not is_missing(value):
                places[row] = self._exact.get(str(value), self._alike.get(_canonical(str(value)), math.nan))
        return places


def is_missing(value: Any) -> bool:
    """Return whether a value is None, NaN or pandas' NA or NaT."""
    return value is None or str(value) in ("<NA>", "NaT") or (isinstance(value, float) and math.isnan(value))


def _canonical(text: str) -> str:
    if (low := text.strip().lower()) in ("true", "false"):
        return low
    number = _number(text)
    return text.strip() if math.isnan(number) else repr(number)


def _number(value: Any) -> float:
    try:
        return math.nan if is_missing(value) else float(value)
    except (TypeError, ValueError):
        return math.nan


def _softmax(outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(torch.from_numpy(outputs).softmax(-1).numpy())


class Predictions:
    """The predictions for a file or a folder: an iterator over tables, so that the input need not fit into memory.

    Args:
        model: The model.
        path: File or folder.
        keep: Columns of a table to copy to the output.
    """

    def __init__(self, model: SampleModel[Any] | Any, path: Path, keep: Sequence[str] = ()) -> None:
        self._model, self._path, self._keep = model, path, keep
        self._judged: list[tuple[Any, Any]] = []
        # Number of samples so far.
        self.rows = 0

    def __iter__(self) -> Iterator[pd.DataFrame]:
        import pandas as pd

        model = self._model
        for part in model.reader.parts(self._path, self._keep):
            outputs = model.outputs(part.data)
            self.rows += part.size
            if part.truth is not None:
                self._judged.append((outputs, model.targets(part.truth)))
            yield pd.DataFrame({**part.keys, **model.columns(outputs)})

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the samples so far that have targets, by name; empty without any."""
        if not self._judged:
            return {}
        outputs, targets = map(np.concatenate, zip(*self._judged, strict=True))
        return dict(self._model.metrics(outputs, targets))

    @property
    def remarks(self) -> list[str]:
        """Differences from the training data, or that there are none, each in one line."""
        data = self._model.about.options.get("data")
        with suppress(OSError, ValueError):  # no such file any more, or no path at all
            if data and isinstance(data, str) and os.path.samefile(Path(data).expanduser(), self._path):
                trained = f"{self._path} is the data of the training: the model has seen these rows"
                return [f"{trained}, and predicts new ones less well", *self._model.remarks]
        return list(self._model.remarks)


# Endings of files of predictions.
FORMATS = (".csv", ".parquet", ".jsonl")


class Writer:
    """A file of predictions, or standard output as CSV.

    The rows go into `part`, a new file beside it, which becomes the file at the end: a killed process leaves no file
    that looks complete.

    Args:
        path: The file, which must be new; its ending says the format. None: standard output.

    Raises:
        UsageError: The file exists, or has another ending.
        StoreError: The disk refuses.
    """

    def __init__(self, path: Path | None) -> None:
        self.path, self.part, self.rows = path, path, 0
        self._stack, self._text = ExitStack(), sys.stdout
        self._table: Any = None
        if path is None:
            return
        if path.suffix not in FORMATS:
            raise UsageError(f"--output {path}: expected a name that ends with {', '.join(FORMATS)}")
        if os.path.lexists(path):
            raise UsageError(f"--output {path} exists: choose another name, or remove it")
        self.part = part = path.with_name(f"{path.stem}.{uuid.uuid4().hex[:12]}.part{path.suffix}")
        try:
            if path.suffix != ".parquet":
                self._text = self._stack.enter_context(part.open("x", encoding="utf-8", newline=""))
            else:
                part.open("xb").close()
        except OSError as error:
            raise StoreError(f"--output {path}: cannot write it ({error.strerror}); choose another place") from None

    def write(self, frame: pd.DataFrame) -> None:
        """Add rows; all parts have the same columns.

        Raises:
            StoreError: The disk refuses.
        """
        try:
            if self.path is not None and self.path.suffix == ".parquet":
                import pyarrow as pa
                import pyarrow.parquet as pq

                schema = None if self._table is None else self._table.schema
                table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
                if self._table is None:
                    self._table = self._stack.enter_context(pq.ParquetWriter(self.part, table.schema))
                self._table.write_table(table)
            elif self.path is not None and self.path.suffix == ".jsonl":
                self._text.writelines(json.dumps(row) + "\n" for row in plain_rows(frame))
            else:
                safe = frame.rename(columns=lambda name: to_csv_cell(str(name)))
                for name in safe.select_dtypes(["object", "string"]).columns:
                    safe[name] = safe[name].map(to_csv_cell)
                safe.to_csv(self._text, index=False, header=self.rows == 0, lineterminator="\n")
        except OSError as error:
            if self.path is None:  # such as a closed pipe
                raise
            raise StoreError(f"--output {self.path}: cannot write it ({error.strerror})") from None
        self.rows += len(frame)

    @contextmanager
    def keep_complete(self) -> Iterator[Writer]:
        """Complete the file at the end; after an error `part` has all rows so far, or is removed if there are none."""
        try:
            with self._stack:
                yield self
            if self.path is not None and self.part is not None:
                if os.path.lexists(self.path):
                    raise UsageError(f"--output {self.path} exists now: {self.part} has the predictions")
                self.part.replace(self.path)
        except BaseException:
            if self.part is not None and not self.rows:
                self.part.unlink(missing_ok=True)
            raise


def plain_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as plain data, with None for a number that is not finite."""

    def to_plain(value: Any) -> Any:
        value = value.item() if hasattr(value, "item") else value
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        return value if isinstance(value, str | int | bool | None) else str(value)

    return [{str(name): to_plain(value) for name, value in row.items()} for row in frame.to_dict("records")]
