"""Prepare a long text for training: processor time, memory, and the time of each further worker.

    python benchmarks/long_text.py --megabytes 200

The text is the standard library's sources, repeated with the names of each copy changed. Each preparation runs in a
process of its own, with an empty cache; the second process finds the file that the first one wrote.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path

from evo_tune.training.recipe import Corpus


def write_text(path: Path, size: int) -> None:
    """Write a text of `size` bytes; each copy of the sources has other identifiers."""
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("**/*.py"))
    files = [file.read_bytes() for file in sources if "site-packages" not in file.parts]
    copy = 0
    with path.open("wb") as out:
        while True:
            for text in files:
                changed = re.sub(rb"\b([a-z]+_[a-z]+)\b", rb"\1_%d" % copy, text) if copy else text
                out.write(changed[: size - out.tell()])
                if out.tell() == size:
                    return
            copy += 1


class Memory:
    """Peak memory of this process: all of it, and the part that is not a mapped file."""

    def __init__(self) -> None:
        self.peaks = {"VmRSS": 0, "RssAnon": 0}
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            for line in Path("/proc/self/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in self.peaks:
                    self.peaks[name] = max(self.peaks[name], int(value.split()[0]))
            time.sleep(0.02)


def prepare(data: str, vocab: int) -> None:
    """Prepare a text in this process and print what it took."""
    memory, began = Memory(), time.process_time()
    corpus = Corpus(data, vocab, 1024)
    corpus.fingerprint()
    tokens, took = len(corpus.prepared.training), time.process_time() - began
    time.sleep(0.1)
    peaks = {name: kilobytes / 1e3 for name, kilobytes in memory.peaks.items()}
    size = Path(data).stat().st_size / 1e6
    print(
        f"{vocab:6} {size:6.0f} MB {tokens / 1e6:7.1f} M tokens {took:7.1f} s {size / took:7.1f} MB/s"
        f"   peak {peaks['VmRSS']:6.0f} MB, of it {peaks['RssAnon']:6.0f} MB not a mapped file",
        flush=True,
    )


def main() -> None:
    """Run each preparation in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=200.0)
    parser.add_argument("--vocab", type=int, nargs="*", default=[256, 8192])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        prepare(given.one, given.vocab[0])
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text"
        write_text(path, int(given.megabytes * 1e6))
        for vocab in given.vocab:
            for _ in ("first", "second"):
                command = [sys.executable, __file__, "--one", str(path), "--vocab", str(vocab)]
                subprocess.run(command, check=True, env={**os.environ, "XDG_CACHE_HOME": str(Path(folder) / "cache")})


if __name__ == "__main__":
    main()
