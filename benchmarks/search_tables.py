"""Tables of networks that others trained, which search.py plays on; they are no part of this project."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from problems import Instance, Problem, Result, hypervolume, regrets

from evo_tune import Choice, SearchSpace

Cells = dict[tuple[Any, ...], tuple[tuple[float, ...], tuple[float, ...]]]
"""By the values of the genes, what a search is told, and what counts."""

NMT = ("bpe", "layers", "width", "ffn", "heads", "lr")
MLP = ("learning_rate_init", "batch_size", "depth", "width", "alpha")
FCNET = ("init_lr", "batch_size", "n_units_1", "n_units_2", "dropout_1", "dropout_2")
FCNET_KINDS = ("activation_fn_1", "activation_fn_2", "lr_schedule")
NANO = ("layers", "width", "heads", "dropout", "batch_size", "block_size", "max_iters")


@dataclass(frozen=True)
class Source:
    """Where a table lies and what its columns mean.

    Args:
        file: Path below the folder of tables.
        ordered: Columns that are genes with an order.
        losses: Columns of the results that count; more than one is a problem of several objectives.
        unordered: Columns that are genes without one.
        maximised: Columns of which more is better.
        log: Columns that span powers of ten.
        told: Column that the search is told, if it is not the one that counts.
        seeds: Columns of as many seeds: each training of a genome is told the next one's.
        size: Column by which the largest 40 % of the cells fail, as if they were out of memory.
    """

    file: str
    ordered: tuple[str, ...]
    losses: tuple[str, ...]
    unordered: tuple[str, ...] = ()
    maximised: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    told: str | None = None
    seeds: tuple[str, ...] = ()
    size: str | None = None

    @property
    def group(self) -> str:
        """The problem's group."""
        if len(self.losses) > 1:
            return "fronts"
        if self.seeds:
            return "seeds" if len(self.seeds) > 1 else "one seed"
        if self.size:
            return "conditions"
        return "noisy" if self.told else "tables"

    def column(self, frame: pd.DataFrame, name: str) -> np.ndarray:
        """Return a column of results as losses."""
        values = -frame[name].to_numpy(float) if name in self.maximised else frame[name].to_numpy(float)
        return np.asarray(np.log(values) if name in self.log else values)


def _nmt(corpus: str, **told: Any) -> Source:
    return Source(f"nmthpo/{corpus}.parquet", NMT, ("dev_bleu",), maximised=("dev_bleu",), **told)


ACCURACIES = tuple(f"val_acc_seed{number}" for number in range(5))
LOSSES = tuple(f"val_loss_seed{number}" for number in range(4))


def _mlp(data: str, **told: Any) -> Source:
    columns = ("val_acc_mean", *ACCURACIES)
    return Source(f"mlp_hpobench_nn/{data}.parquet", MLP, ("val_acc_mean",), maximised=columns, **told)


def _naval(losses: tuple[str, ...] = ("val_loss_mean",), **told: Any) -> Source:
    log = ("val_loss_mean", *LOSSES, "model_size_mean")
    return Source("mlp_fcnet_hpolib/naval_propulsion.parquet", FCNET, losses, FCNET_KINDS, log=log, **told)


def _nano(**told: Any) -> Source:
    return Source("nanogpt_shakespeare128/runs.parquet", NANO, ("best_val_loss",), **told)


def _nmt_front(corpus: str) -> Source:
    maximised = ("dev_bleu",)
    return Source(f"nmthpo/{corpus}.parquet", NMT, ("dev_bleu", "num_param"), maximised=maximised, log=("num_param",))


CELL = ("gene.Op0", "gene.Op1", "gene.Op2", "gene.Op3", "gene.Op4", "gene.Op5")

SOURCES = {
    **{corpus: _nmt(corpus) for corpus in ("sw-en", "ru-en", "ja-en")},
    **{data: _mlp(data) for data in ("australian", "phoneme")},
    "naval": _naval(),
    "nanogpt": _nano(),
    "nasbench201": Source(
        "nasbench201/nasbench201_cifar10.parquet", (), ("val_acc.mean",), CELL, maximised=("val_acc.mean",)
    ),
    **{f"{data}, seed 0": _mlp(data, told="val_acc_seed0") for data in ("australian", "phoneme")},
    "naval, seed 0": _naval(told="val_loss_seed0"),
    **{f"{data}, seeds": _mlp(data, seeds=ACCURACIES) for data in ("australian", "phoneme")},
    "naval, seeds": _naval(seeds=LOSSES),
    **{f"{corpus}, one seed": _nmt(corpus, seeds=("dev_bleu",)) for corpus in ("sw-en", "ru-en", "ja-en")},
    "nanogpt, one seed": _nano(seeds=("best_val_loss",)),
    **{f"{corpus}, size": _nmt_front(corpus) for corpus in ("sw-en", "ru-en", "ja-en")},
    "sw-en, memory": _nmt("sw-en", size="num_param"),
    "naval, memory": _naval(size="model_size_mean"),
    "naval, size": _naval(losses=("val_loss_mean", "model_size_mean")),
    "nanogpt, time": Source("nanogpt_shakespeare128/runs.parquet", NANO, ("best_val_loss", "wall_s"), log=("wall_s",)),
}


def table(name: str, path: Path, source: Source) -> Problem:
    """Return a table of trained networks as a problem; a cell that it lacks is a failure. It is read when played."""
    if source.seeds:
        read = functools.cache(lambda: _cells(path, source, source.seeds))
        return Problem(name, source.group, lambda seed: _of_seeds(source, *read(), seed))

    @functools.cache
    def instance() -> Instance:
        return _instance(path, source)

    return Problem(name, source.group, lambda seed: instance())


def _cells(path: Path, source: Source, told: tuple[str, ...]) -> tuple[SearchSpace, Cells, np.ndarray, np.ndarray]:
    """Return a table's space, what each cell is told and what counts, and both again as arrays.

    Args:
        path: The file.
        source: What it means.
        told: Columns that a search is told; none: what counts.

    Returns:
        Arrays of shapes (cells, columns told) and (cells, losses).
    """
    genes = (*source.ordered, *source.unordered)
    size = (source.size,) if source.size else ()
    frame = pd.read_parquet(path, columns=list(dict.fromkeys([*genes, *source.losses, *told, *size]))).dropna()
    values = {gene: tuple(sorted(set(frame[gene].tolist()))) for gene in genes}
    space = SearchSpace(None, **{gene: Choice(values[gene], ordered=gene in source.ordered) for gene in genes})
    if source.size:
        frame = frame[frame[source.size] <= frame[source.size].quantile(0.6)]
    true = np.stack([source.column(frame, name) for name in source.losses], axis=1)
    seen = np.stack([source.column(frame, name) for name in told], axis=1) if told else true
    keys = zip(*(frame[gene].tolist() for gene in genes), strict=True)
    cells = dict(zip(keys, zip(map(tuple, seen.tolist()), map(tuple, true.tolist()), strict=True), strict=True))
    return space, cells, seen, true


def _of_seeds(
    source: Source, space: SearchSpace, cells: Cells, seen: np.ndarray, true: np.ndarray, seed: int
) -> Instance:
    """Return the instance of a run that is told one seed of a cell, and the next one when it trains the cell again.

    The first seed is another one in each run, the same for all cells; what counts is the mean over seeds of the genome
    that the search recommends.
    """
    genes, trained = (*source.ordered, *source.unordered), Counter[tuple[Any, ...]]()
    best, median, seeds = float(true.min()), float(np.median(true)), seen.shape[1]

    def evaluate(genome: dict[str, Any]) -> Result:
        key = tuple(genome[gene] for gene in genes)
        if key not in cells:
            return None, None
        trained[key] += 1
        return (cells[key][0][(seed + trained[key] - 1) % seeds],), cells[key][1]

    def regret(genome: dict[str, Any]) -> float:
        return float((cells[tuple(genome[gene] for gene in genes)][1][0] - best) / (median - best))

    return Instance(space, evaluate, lambda results: regrets(results, best, median), regret=regret)


def _instance(path: Path, source: Source) -> Instance:
    genes = (*source.ordered, *source.unordered)
    space, cells, seen, true = _cells(path, source, (source.told,) if source.told else ())

    def evaluate(genome: dict[str, Any]) -> Result:
        return cells.get(tuple(genome[gene] for gene in genes), (None, None))

    if source.group == "fronts":
        return Instance(space, evaluate, _coverage(true), 2)
    best, median = float(true.min()), float(np.median(true))
    floor = float((true[np.argmin(seen), 0] - best) / (median - best))
    return Instance(space, evaluate, lambda results: regrets(results, best, median), floor=floor)


def _coverage(true: np.ndarray) -> Callable[[Sequence[Result]], np.ndarray]:
    """Return what measures a run of two objectives: the share of the table's hypervolume that it lacks.

    Losses are scaled from the table's best (0) to its worst (1), which is the reference.

    Args:
        true: All cells of the table, shape (cells, 2).
    """
    low, high = true.min(axis=0), true.max(axis=0)
    whole = hypervolume((true - low) / (high - low))

    def course(results: Sequence[Result]) -> np.ndarray:
        points = [(np.array(true) - low) / (high - low) if true else np.ones(2) for _, true in results]
        return np.array([1.0 - hypervolume(np.array(points[: n + 1])) / whole for n in range(len(points))])

    return course


def tables(folder: Path) -> list[Problem]:
    """Return those of the tables that are there."""
    there = {name: folder / source.file for name, source in SOURCES.items() if (folder / source.file).is_file()}
    return [table(name, path, SOURCES[name]) for name, path in there.items()]
