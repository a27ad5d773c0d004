"""`evo-tune predict`: predict with an exported model, or continue a prompt."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command
from evo_tune.errors import EvoTuneError, StoreError, UsageError

if TYPE_CHECKING:
    from evo_tune.training.prediction.model import Model

# Most rows in the JSON on standard output.
MAX_JSON_ROWS = 10_000


@cli_command(
    "predict",
    "evo-tune predict model new.csv --output predicted.csv",
    "evo-tune predict model new.csv --keep id  # to standard output, with column id",
    "cat new.csv | evo-tune predict model -",
    "evo-tune predict model --prompt 'The ' --length 500  # a language model writes",
    order=125,
    formats=("csv", "json"),
)
@click.argument("model", metavar="MODEL", type=click.Path(file_okay=False))
@click.argument("data", metavar="[INPUT]", required=False, type=click.Path())
@click.option("--output", metavar="FILE", help="New file to write: .csv, .parquet or .jsonl.  [default: print CSV]")
@click.option("--keep", metavar="COLUMNS", help="Columns of INPUT to copy to the output, with commas between them.")
@click.option("--prompt", help="Text that a language model continues.")
@click.option("--length", type=shared.NOT_NEGATIVE, metavar="N", help="Tokens to add to the prompt.  [default: 200]")
@click.option("--temperature", type=click.FloatRange(min=0), help="Randomness; 0: the likeliest text.  [default: 0.8]")
@click.option("--top-k", type=shared.COUNT, metavar="K", help="Sample from the K likeliest tokens only.")
@click.option("--seed", type=shared.NOT_NEGATIVE, help="Seed of the text.  [default: 0]")
@click.option("--base", metavar="DIR", help="Folder of the base model, for an adapter that was exported without it.")
@click.option("--device", default="cpu", show_default=True, metavar="NAME", help="Device: 'cpu', 'cuda:0'.")
@click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads.  [default: those of the training]")
@click.option("--batch", type=shared.COUNT, metavar="N", help="Samples in a pass of the model.  [default: 256]")
@click.option(
    "--memory",
    type=click.FloatRange(min=0, min_open=True),
    metavar="GIB",
    help="Most memory that the model and its predictions may take.  [default: 80 % of the free memory]",
)
def command(
    model: str,
    data: str | None,
    output: str | None,
    keep: str | None,
    prompt: str | None,
    output_format: str,
    **flags: Any,
) -> None:
    """Predict with the model in the folder MODEL.

    A model of tables takes a CSV or Parquet file or JSON lines as INPUT, and CSV or JSON lines from standard input if
    INPUT is -. A model of texts also takes a text file or a folder of text files. A model of images takes an image, a
    folder of images or an .npz file. A language model continues --prompt, or scores the texts of INPUT. If INPUT has
    the targets, the metrics are printed too. MODEL may come from a stranger: nothing in it is executed.
    """
    sampling = {name: flags.pop(name) for name in ("length", "temperature", "top_k", "seed")}
    sampling = {name: value for name, value in sampling.items() if value is not None}
    if (data is None) == (prompt is None):
        raise UsageError("expected INPUT or --prompt TEXT: evo-tune predict MODEL INPUT")
    if prompt is None and sampling:
        raise UsageError(f"--{next(iter(sampling)).replace('_', '-')} belongs to --prompt: leave it out")
    import torch

    from evo_tune.training.prediction.loading import load_model

    try:
        torch.empty(0, device=flags["device"])
    except (RuntimeError, AssertionError) as error:
        problem = f"--device {flags['device']}: {str(error).splitlines()[0]}"
        raise UsageError(f"{problem}; `evo-tune devices` lists those of this machine") from None
    loaded = load_model(model, **flags)
    if prompt is not None:
        if output or keep:
            raise UsageError("--output and --keep belong to INPUT: leave them out")
        _write_text(loaded, prompt, sampling, output_format)
        return
    columns = [name for name in (keep or "").split(",") if name]
    with _input_path(str(data)) as path:
        _predict(loaded, path, None if output is None else Path(output).expanduser(), columns, output_format)


@contextmanager
def _input_path(data: str) -> Iterator[str]:
    """Yield the path of INPUT, for `-` that of a private file with what standard input has: CSV or JSON lines."""
    if data != "-":
        yield data
        return
    with tempfile.TemporaryDirectory(prefix="evo-tune-") as folder:
        if not (first := sys.stdin.buffer.read(1)):
            raise UsageError("INPUT -: standard input is empty: expected CSV with a header, or JSON lines")
        path = Path(folder) / ("input.jsonl" if first == b"{" else "input.csv")
        with path.open("wb") as file:
            file.write(first)
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield str(path)


def _predict(model: Model, data: str, output: Path | None, keep: list[str], output_format: str) -> None:
    from evo_tune.training.prediction.model import Writer, plain_rows

    began, predictions = time.monotonic(), model.predictions(data, keep)
    rows: list[dict[str, Any]] | None = [] if output_format == "json" and output is None else None
    with Writer(output).keep_complete() as writer:
        try:
            for frame in predictions:
                if rows is None:
                    writer.write(frame)
                elif len(rows) + len(frame) > MAX_JSON_ROWS:
                    raise UsageError(f"INPUT has more than {MAX_JSON_ROWS} rows: give --output FILE as well")
                else:
                    rows += plain_rows(frame)
        except EvoTuneError as error:
            if not writer.rows or writer.part is None:
                raise
            raise StoreError(f"{error}; {writer.part} has the first {writer.rows} predictions") from None
        metrics = predictions.metrics
    shared.echo(*predictions.remarks, err=True)
    if output_format == "json":
        file = None if output is None else str(output)
        results = {"output": file, "predictions": rows, "metrics": metrics, "remarks": predictions.remarks}
        _print_json(model, predictions.rows, text=None, **results)
        return
    shared.echo(*shared.metric_lines(metrics), err=True)
    if output is not None:
        duration = shared.show_seconds(time.monotonic() - began)
        shared.echo(f"wrote {output}: {predictions.rows} predictions in {duration}", err=True)


def _print_json(model: Model, rows: int, **results: Any) -> None:
    from evo_tune.cli.formats import Predicted

    shared.print_json(Predicted(model=str(model.folder), task=model.task, rows=rows, **results))


def _write_text(model: Model, prompt: str, sampling: dict[str, Any], output_format: str) -> None:
    """Print the continuation of a prompt as it is sampled."""
    from evo_tune.training.prediction.language import LanguageModel

    if not isinstance(model, LanguageModel):
        kind = f"{model.folder} is a model of {model.task}"
        raise UsageError(f"--prompt is for language models, and {kind}: give INPUT instead")
    pieces = model.stream(prompt, **sampling)
    if output_format == "json":
        _print_json(model, 1, output=None, predictions=None, metrics={}, remarks=[], text="".join(pieces))
        return
    for piece in chain([prompt], pieces):
        shared.echo_piece(piece)
    shared.echo("")
