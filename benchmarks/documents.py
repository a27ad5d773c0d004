"""Documents joined or masked: loss at equal steps, and processor time of a training.

    python benchmarks/documents.py --seeds 3

The text is the paragraphs of Python's own documentation, each a document. Both kinds are trained and judged on the same
documents, with one byte between two of them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import fmean, stdev

import torch

from evo_tune import Context
from evo_tune.plugins.find import find_evaluator
from evo_tune.recipe import python_paragraphs


def main() -> None:
    """Train each kind with each context and seed, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=400_000)
    parser.add_argument("--context", type=int, nargs="*", default=[64, 256])
    parser.add_argument("--precision", default="auto")
    given = parser.parse_args()
    torch.set_num_threads(1)
    evaluator = find_evaluator("language_model")
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text"
        text.mkdir()
        for number, paragraph in enumerate(python_paragraphs()):
            (text / f"{number:06}").write_text(paragraph, encoding="utf-8")
        print(f"{'context':>8} {'documents':>10} {'val_bpb':>8} {'± error':>8} {'CPU s':>8}")
        for context in given.context:
            for documents in ("join", "mask"):
                options = {"size": "small", "context": context, "tokens": given.tokens, "position": "rope"}
                options |= {"data": str(text), "documents": documents, "precision": given.precision, "evaluations": 1}
                bound = evaluator.bind(options)
                losses, seconds = [], []
                for seed in range(given.seeds):
                    began = time.process_time()
                    metrics = bound.evaluate(bound.space.default(), Context(seed=seed, folder=Path(folder) / "trial"))
                    losses.append(metrics["val_bpb"])
                    seconds.append(time.process_time() - began)
                error = stdev(losses) / len(losses) ** 0.5 if len(losses) > 1 else float("nan")
                print(
                    f"{context:8} {documents:>10} {fmean(losses):8.4f} {error:8.4f} {fmean(seconds):8.1f}", flush=True
                )


if __name__ == "__main__":
    main()
