"""Documents joined or masked: loss at equal steps and at equal time, and processor time of a training.

    python benchmarks/documents.py --seeds 3

The text is the paragraphs of Python's own documentation, each a document. Both kinds are trained and judged on the same
documents, with one byte between two of them. The third row of a context trains with a mask on fewer tokens, in the time
of joined documents.
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
from evo_tune.training.recipe import python_paragraphs


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
        print(f"{'context':>8} {'documents':>17} {'val_bpb':>8} {'± error':>8} {'CPU s':>8}   each seed")
        for context in given.context:
            took: dict[str, float] = {}
            for documents in ("join", "mask", "mask, equal time"):
                tokens = round(given.tokens * (took["join"] / took["mask"] if "time" in documents else 1.0))
                options = {"size": "small", "context": context, "tokens": tokens, "position": "rope"}
                options |= {"data": str(text), "documents": documents[:4], "precision": given.precision}
                bound = evaluator.bind({**options, "evaluations": 1})
                losses, seconds = [], []
                for seed in range(given.seeds):
                    began = time.process_time()
                    metrics = bound.evaluate(bound.space.default(), Context(seed=seed, folder=Path(folder) / "trial"))
                    losses.append(metrics["val_bpb"])
                    seconds.append(time.process_time() - began)
                took[documents] = fmean(seconds)
                error = stdev(losses) / len(losses) ** 0.5 if len(losses) > 1 else float("nan")
                row = f"{context:8} {documents:>17} {fmean(losses):8.4f} {error:8.4f} {took[documents]:8.1f}"
                print(f"{row}   {' '.join(f'{loss:.4f}' for loss in losses)}", flush=True)


if __name__ == "__main__":
    main()
