"""Texts that are divided and tokenised once: the same in memory and from the file, and no wrong file is used."""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from evo_tune.errors import OptionError, RecipeError
from evo_tune.training.recipe import Corpus
from evo_tune.training.recipe.data import corpus as module
from evo_tune.training.recipe.data import texts
from evo_tune.training.recipe.data.corpus import prepare
from evo_tune.training.recipe.data.texts import SEPARATOR, read_documents, size_of, split_evenly, split_text
from evo_tune.training.recipe.data.tokens import BPE
from evo_tune.trust.safe_files import cache_folder
from tests.extras import need

LINES = b"".join(b"%d: the quick brown fox jumps over dog %d\n" % (n, n * n) for n in range(900))


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a text of one file, in a process with a cache of its own that keeps every text in a file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "IN_MEMORY", {"bytes": 0, "pairs": 0})
    (tmp_path / "text").write_bytes(LINES)
    return str(tmp_path / "text")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of 300 documents."""
    made = tmp_path / "documents"
    made.mkdir()
    for number in range(300):
        (made / f"{number:03}").write_bytes(b"document %d " % number * (number % 7 + 1))
    return made


def file_of() -> Path:
    (found,) = (cache_folder() / "texts").glob("*.tokens")
    return found


def content(wanted: Corpus) -> tuple[bytes, bytes, bytes, str]:
    found = prepare(wanted)
    return found.tokenizer.decode(found.training), bytes(found.validation), bytes(found.test), found.fingerprint


# ---------------------------------------------------------------- division


def test_one_file_is_divided_at_its_end_and_its_fingerprint_covers_all(text: str) -> None:
    parts = split_text(LINES, 32, "here")
    sizes = "+".join(str(len(part)) for part in parts)
    assert content(Corpus(text, 256, 8)) == (*parts, hashlib.sha256(sizes.encode() + b":" + LINES).hexdigest())
    assert content(Corpus(text, 300, 8))[:3] == parts


def documents_in(part: bytes) -> set[bytes]:
    return set(part.strip(b"\n").split(b"\n"))


@pytest.mark.parametrize("split", ["tail", "even"])
def test_byte_pairs_are_learned_from_the_training_text_alone(
    folder: Path, split: Literal["tail", "even"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs of the other texts would come first: none is as frequent in the training text."""
    need("bpe")
    corpus = Corpus(str(folder), 300, 8, split=split)
    documents = corpus.read(file := io.BytesIO())
    text = bytearray(file.getvalue())
    learned = prepare(corpus).tokenizer
    parts = corpus.divide(bytes(text), documents.ends)
    for start, end in (*parts[1], *parts[2]):
        text[start:end] = (b"zq" * len(text))[: end - start]
    monkeypatch.setattr(Corpus, "divide", lambda *_: parts)  # else other documents are held out
    header = module._write_sections(corpus, memoryview(bytes(text)), documents, again := io.BytesIO())
    other = module._read_sections(memoryview(again.getvalue()), header, corpus)
    assert b"zqzq" in bytes(other.validation)
    assert isinstance(learned, BPE)
    assert isinstance(other.tokenizer, BPE)
    assert other.tokenizer.to_json() == learned.to_json()


def test_documents_are_held_out_evenly_and_whole(folder: Path) -> None:
    whole = b"\n".join(file.read_bytes() for file in sorted(folder.iterdir()))
    *parts, _ = content(Corpus(str(folder), 256, 8))
    assert sum(map(len, parts)) == len(whole)
    found = [documents_in(part) for part in parts]
    assert set.union(*found) == documents_in(whole)
    assert sum(map(len, found)) == 300  # no document is in two parts
    for part in parts[1:]:
        assert 0.05 * len(whole) <= len(part) <= 0.06 * len(whole)
    assert content(Corpus(str(folder), 256, 8, "tail"))[:3] == split_text(whole, 32, "")


def test_names_and_order_do_not_decide_which_documents_are_held_out(folder: Path) -> None:
    before = [documents_in(part) for part in content(Corpus(str(folder), 256, 8))[:3]]
    other = folder.with_name("renamed")
    other.mkdir()
    for number, file in enumerate(sorted(folder.iterdir(), reverse=True)):
        (other / f"{number:03}").write_bytes(file.read_bytes())
    assert [documents_in(part) for part in content(Corpus(str(other), 256, 8))[:3]] == before


def test_equal_documents_are_in_one_part(folder: Path) -> None:
    for number in range(300):
        (folder / f"copy of {number}").write_bytes(b"twin %d " % (number // 2))
    found = [documents_in(part) for part in content(Corpus(str(folder), 256, 8))[:3]]
    assert not found[0] & (found[1] | found[2])
    assert not found[1] & found[2]


@pytest.mark.parametrize("chunk", [3, 14, 1 << 20])
def test_a_separator_ends_a_document_wherever_the_file_is_cut_in_reading(
    folder: Path, tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "_CHUNK", chunk)
    documents = [file.read_bytes() for file in sorted(folder.iterdir())]
    (tmp_path / "one").write_bytes(SEPARATOR.join(documents))
    found = read_documents(str(tmp_path / "one"), mark=False)
    assert len(found.ends) == 300
    *parts, _ = content(Corpus(str(tmp_path / "one"), 256, 8))
    assert len(parts[0]) < 0.9 * size_of(str(tmp_path / "one")) + 1
    split = [set(part.split(SEPARATOR)) - {b""} for part in parts]
    assert [len(part) for part in split] == [len(documents_in(p)) for p in content(Corpus(str(folder), 256, 8))[:3]]


def test_a_long_document_is_drawn_in_blocks() -> None:
    parts = split_evenly(LINES, np.array([len(LINES)]))
    ranges = sorted(one for part in parts for one in part)
    assert [start for start, _ in ranges] == [0, *(end for _, end in ranges[:-1])]
    assert ranges[-1][1] == len(LINES)
    assert all(len(part) > 3 for part in parts[1:])
    assert all(LINES[end - 1 : end] == b"\n" for _, end in ranges)


def test_boundaries_take_the_place_of_what_is_between_documents(folder: Path, tmp_path: Path) -> None:
    documents = [file.read_bytes() for file in sorted(folder.iterdir())]
    (tmp_path / "one").write_bytes(SEPARATOR.join(documents))
    for data in (folder, tmp_path / "one"):
        training = content(Corpus(str(data), 300, 8, documents="mask"))[0]
        assert 200 < training.count(b"\0") < 300
        assert SEPARATOR not in training
        assert set(training.split(b"\0")) - {b""} <= set(documents)
    ((_, _, one, print_one), (_, _, other, print_other)) = (
        content(Corpus(str(data), 256, 8, documents="mask")) for data in (folder, tmp_path / "one")
    )
    assert (one, print_one) == (other, print_other)


def test_a_text_of_equal_documents_is_refused(folder: Path) -> None:
    for file in folder.iterdir():
        file.write_bytes(b"the same text")
    with pytest.raises(OptionError, match=r"-o split=auto: the test text has 0 bytes.*-o split=tail"):
        Corpus(str(folder), 256, 8).fingerprint()
    Corpus(str(folder), 256, 8, "tail").fingerprint()


# ---------------------------------------------------------------- the file


@pytest.mark.parametrize("vocab", [256, 300])
def test_the_file_has_what_memory_would_have(text: str, vocab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped = prepare(Corpus(text, vocab, 8))
    assert mapped.path == file_of()
    monkeypatch.setattr(module, "IN_MEMORY", {"bytes": 1 << 30, "pairs": 1 << 30})
    plain = prepare(Corpus(text, vocab, 8))
    assert plain.path is None
    assert plain.training.dtype == mapped.training.dtype
    assert np.array_equal(plain.training, mapped.training)
    assert (bytes(plain.validation), bytes(plain.test)) == (bytes(mapped.validation), bytes(mapped.test))
    assert plain.fingerprint == mapped.fingerprint
    if isinstance(plain.tokenizer, BPE) and isinstance(mapped.tokenizer, BPE):
        assert plain.tokenizer.to_json() == mapped.tokenizer.to_json()


def test_a_text_is_tokenised_once(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    need("bpe")
    written: list[Path] = []
    write = module._write
    monkeypatch.setattr(module, "_write", lambda path, wanted: (written.append(path), write(path, wanted)))
    threads = [threading.Thread(target=prepare, args=(Corpus(text, 300, 8),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert written == [file_of()]


def _flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def _move_split(path: Path) -> None:
    """Change the sizes in the header so that they still add up."""
    data = path.read_bytes()
    header = json.loads(data[: module.HEADER])
    header["training"] -= 2
    header["validation"] += 2
    path.write_bytes(json.dumps(header).encode().ljust(module.HEADER) + data[module.HEADER :])


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _another(path: Path) -> None:
    other = path.parent.parent / "other"
    other.write_bytes(LINES[::-1])
    prepare(Corpus(str(other), 300, 8))
    (made,) = (one for one in path.parent.glob("*.tokens") if one != path)
    made.replace(path)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a deep header": lambda path: path.write_bytes(b"[" * module.HEADER + bytes(100)),
    "removed": Path.unlink,
    "emptied": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "a wrong bit in the header": lambda path: _flip(path, 2),
    "a wrong bit in the tokens": lambda path: _flip(path, module.HEADER + 100),
    "a wrong bit at the end": lambda path: _flip(path, -1),
    "another division": _move_split,
    "no header": lambda path: path.write_bytes(b"[]".ljust(module.HEADER) + bytes(100)),
    "a negative size": lambda path: path.write_bytes(b'{"training": -1}'.ljust(module.HEADER)),
    "another text": _another,
    "a link": _link,
    "writable by all": lambda path: path.chmod(0o666),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path))[1],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_wrong_file_is_written_again(text: str, damage: Callable[[Path], None]) -> None:
    before, path = content(Corpus(text, 300, 8)), file_of()
    elsewhere = path.with_name("elsewhere")
    damage(path)
    assert content(Corpus(text, 300, 8)) == before
    assert path.is_file()
    assert not path.is_symlink()
    assert not path.stat().st_mode & 0o022
    if elsewhere.exists():
        assert elsewhere.stat().st_size > module.HEADER, "the target of a link is left alone"
    assert [one.name for one in path.parent.iterdir() if "partial" in one.name] == []


def test_a_relative_cache_folder_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in ("cache", "./cache", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        assert cache_folder() == tmp_path / ".cache" / "evo-tune"


def test_another_users_file_is_not_used(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, path = content(Corpus(text, 300, 8)), file_of()
    seen = path.stat().st_mtime_ns
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(RecipeError, match="text that does not change"):  # neither the one just written
        prepare(Corpus(text, 300, 8))
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(path.parents[2]))
    monkeypatch.setattr(module, "IN_MEMORY", {"bytes": 0, "pairs": 0})
    assert content(Corpus(text, 300, 8)) == before
    assert path.stat().st_mtime_ns > seen  # an inode may be used again


def test_a_file_that_changes_after_it_was_checked_is_checked_again(text: str) -> None:
    corpus = Corpus(text, 300, 32)
    before, path = corpus.prepared.training.copy(), file_of()
    _flip(path, module.HEADER + 100)
    assert np.array_equal(corpus.prepared.training, before)
    path.unlink()  # a cache that is emptied during a run
    assert np.array_equal(corpus.prepared.training, before)
    assert not path.exists()


def test_tokens_cannot_be_changed_through_the_mapping(text: str) -> None:
    prepare(Corpus(text, 256, 8)).training[:] = 7
    assert content(Corpus(text, 256, 8))[0] == split_text(LINES, 32, "")[0]


def test_what_a_killed_process_left_is_removed(text: str) -> None:
    content(Corpus(text, 256, 8))
    path = file_of()
    left = path.with_name(f"{path.stem}.abc.partial")
    left.write_bytes(b"half")
    path.unlink()
    content(Corpus(text, 256, 8))
    assert not left.exists()


def test_a_changed_text_is_another_file(text: str) -> None:
    before = content(Corpus(text, 256, 8))
    Path(text).write_bytes(LINES[:-1] + b"!")
    assert content(Corpus(text, 256, 8)) != before
    assert len(list(file_of_all())) == 2


def file_of_all() -> list[Path]:
    return list((cache_folder() / "texts").glob("*.tokens"))


def test_a_cache_that_cannot_be_written_is_named(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", text)
    with pytest.raises(RecipeError, match=r"room for its tokens in .*XDG_CACHE_HOME"):
        prepare(Corpus(text, 256, 8))


@pytest.mark.slow
def test_a_long_text_is_not_held_in_memory(text: str) -> None:
    size = 24 << 20
    Path(text).write_bytes((LINES * (size // len(LINES) + 1))[:size])
    prepare(Corpus(text, 256, 8)).path  # noqa: B018 # imports
    file_of().unlink()
    tracemalloc.start()
    try:
        prepare(Corpus(text, 256, 8))
        assert tracemalloc.get_traced_memory()[1] < size / 3
    finally:
        tracemalloc.stop()


def test_a_long_tokenisation_says_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    for _ in module._report_progress([memoryview(bytes(500_000))] * 4, "books", 2_000_000):
        now[0] += 6.0
    assert capsys.readouterr().err.splitlines() == [
        "tokenising books: 50% of 2 MB",
        "tokenising books: 100% of 2 MB",
    ]
