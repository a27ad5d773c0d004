"""Files inside a folder: no link is followed, nothing but regular files is touched, sizes are bounded."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from evo_tune.trust import safe_files


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder to work in; beside it one that nobody may touch."""
    (tmp_path / "outside" / "000001").mkdir(parents=True)
    (tmp_path / "outside" / "000001" / "precious").write_text("precious")
    (tmp_path / "outside" / "file").write_text("precious")
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def untouched(tmp_path: Path) -> Callable[[], bool]:
    files = [tmp_path / "outside" / "file", tmp_path / "outside" / "000001" / "precious"]
    before = [file.stat().st_mtime_ns for file in files]

    def look() -> bool:
        return [file.stat().st_mtime_ns for file in files] == before and all(f.read_text() == "precious" for f in files)

    return look


def replaced(root: Path, name: str) -> None:
    safe_files.replace(root, name, b"new", part=f"{name}.part")


def refused(error: pytest.ExceptionInfo[OSError], said: str) -> bool:
    return said in str(error.value.strerror)


def test_what_is_written_is_read_back_and_leaves_nothing_else(root: Path) -> None:
    replaced(root, "a")
    replaced(root, "a")
    assert safe_files.read(root, "a", limit=3) == b"new"
    assert os.listdir(root) == ["a"]
    file, new = safe_files.open_to_write(root, "log", append=True)
    os.close(file)
    again, newer = safe_files.open_to_write(root, "log", append=True)
    os.close(again)
    assert (new, newer) == (True, False)


def test_the_root_itself_and_what_is_above_it_may_be_links(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    replaced(tmp_path / "link", "a")
    assert safe_files.read(tmp_path / "link", "a", limit=3) == b"new"


@pytest.mark.parametrize("target", ["file", "missing", "000001"])
def test_a_link_is_neither_read_nor_written_through(
    root: Path, tmp_path: Path, target: str, untouched: Callable[[], bool]
) -> None:
    outside = tmp_path / "outside"
    (root / "a").symlink_to(outside / target)
    for do in (lambda: safe_files.read(root, "a", limit=99), lambda: safe_files.open_to_write(root, "a")):
        with pytest.raises(OSError) as caught:  # noqa: PT011
            do()
        assert refused(caught, "it is a link, and inside a run none is followed")
    (root / "a.part").symlink_to(outside / target)
    replaced(root, "a")
    assert not (root / "a").is_symlink()
    assert untouched()
    assert not (outside / "missing").exists()


def test_a_folder_that_is_a_link_is_not_gone_through(root: Path, tmp_path: Path, untouched: Callable[[], bool]) -> None:
    (root / "_trials").symlink_to(tmp_path / "outside")
    acts = [
        lambda: safe_files.read(root, "_trials", "file", limit=99),
        lambda: safe_files.remove(root, "_trials", "000001"),
        lambda: safe_files.remove_all_but(root, "_trials", "000001", files=()),
        lambda: safe_files.move(root, ("a",), ("_trials", "000001", "a")),
        lambda: safe_files.open_to_write(root, "_trials", "file"),
    ]
    (root / "a").write_text("x")
    for act in acts:
        with pytest.raises(OSError) as caught:  # noqa: PT011
            act()
        assert refused(caught, "it is a link")
    safe_files.remove(root, "_trials")
    assert not os.path.lexists(root / "_trials")
    assert untouched()


def test_links_in_a_tree_go_with_it_and_what_they_point_to_stays(
    root: Path, tmp_path: Path, untouched: Callable[[], bool]
) -> None:
    (root / "tree" / "inner").mkdir(parents=True)
    (root / "tree" / "inner" / "link").symlink_to(tmp_path / "outside")
    (root / "tree" / "log.txt").write_text("x")
    (root / "tree" / "link").symlink_to(tmp_path / "outside" / "file")
    safe_files.remove_all_but(root, "tree", files=("log.txt",))
    assert os.listdir(root / "tree") == ["log.txt"]
    safe_files.remove(root, "tree")
    safe_files.remove(root, "tree")
    assert os.listdir(root) == []
    assert untouched()


def test_a_second_name_of_a_file_is_read_and_not_written(
    root: Path, tmp_path: Path, untouched: Callable[[], bool]
) -> None:
    os.link(tmp_path / "outside" / "file", root / "a")
    assert safe_files.read(root, "a", limit=99) == b"precious"
    with pytest.raises(OSError, match="second name"):
        safe_files.open_to_write(root, "a", append=True)
    replaced(root, "a")
    assert untouched()


@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_what_is_no_file_is_refused_at_once(root: Path, kind: str) -> None:
    os.mkfifo(root / "a") if kind == "fifo" else (root / "a").mkdir()
    for do in (lambda: safe_files.read(root, "a", limit=99), lambda: safe_files.open_to_write(root, "a")):
        waiting = threading.Timer(5.0, lambda: os.open(root / "a", os.O_RDWR | os.O_NONBLOCK))
        waiting.start()  # what hangs is let go, late
        with pytest.raises(OSError, match="no regular file"):
            do()
        assert waiting.is_alive()
        waiting.cancel()


def test_larger_than_the_limit_is_refused_before_it_is_read(root: Path) -> None:
    (root / "a").touch()
    os.truncate(root / "a", 1 << 40)
    with pytest.raises(OSError, match="expected at most 100") as caught:
        safe_files.read(root, "a", limit=100)
    assert caught.value.errno == errno.EFBIG


@pytest.mark.parametrize("name", ["../outside/file", "", ".", "..", "/etc/passwd", "a/b"])
def test_a_name_that_is_a_way_is_refused(root: Path, name: str) -> None:
    with pytest.raises(OSError, match="no plain name"):
        safe_files.read(root, name, limit=100)
    with pytest.raises(OSError, match="no plain name"):
        safe_files.remove(root, name)


def test_what_lies_too_deep_is_an_error_and_costs_no_descriptors(root: Path) -> None:
    here = root
    for _ in range(safe_files.DEEPEST + 20):
        here /= "d"
    here.mkdir(parents=True)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with pytest.raises(OSError, match="are nested"):
        safe_files.remove(root, "d")
    assert before == (len(os.listdir("/proc/self/fd")) if before else 0)


def test_a_copy_keeps_holes_and_content(root: Path, tmp_path: Path) -> None:
    with (root / "a").open("wb") as file:
        file.seek(1 << 34)
        file.write(b"end")
    (tmp_path / "to").mkdir()
    with safe_files.folder(root) as source, safe_files.folder(tmp_path / "to") as target:
        safe_files.copy_file(source, target, "a")
        with pytest.raises(FileExistsError):
            safe_files.copy_file(source, target, "a")
    copy = (tmp_path / "to" / "a").stat()
    assert (copy.st_size, copy.st_mtime) == ((1 << 34) + 3, (root / "a").stat().st_mtime)
    assert copy.st_blocks < 10_000
    with (tmp_path / "to" / "a").open("rb") as file:
        file.seek(1 << 34)
        assert file.read() == b"end"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_folders_that_cannot_be_synced_cost_one_warning(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    sync = os.fsync

    def refuse(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(number, os.strerror(number))
        sync(file)

    monkeypatch.setattr(os, "fsync", refuse)
    monkeypatch.setattr(safe_files, "_unsynced", False)
    with pytest.warns(UserWarning, match="cannot sync a folder"):
        replaced(root, "a")
    replaced(root, "b")  # a second warning would be an error here
    safe_files.sync_folder(root)


def test_a_folder_that_a_disk_refuses_to_sync_is_an_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="Input/output"):
        safe_files.sync_folder(root)


@pytest.mark.parametrize("kind", ["others can write", "link", "file", "another user's"])
def test_a_folder_for_code_that_somebody_else_could_fill_is_not_used(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "compiled"
    if kind == "link":
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    elif kind == "file":
        folder.write_text("")
    else:
        folder.mkdir()
        folder.chmod(0o777 if kind == "others can write" else 0o755)
    if kind == "another user's":
        if os.getuid():
            pytest.skip("only root can give a folder away")
        os.chown(folder, 12345, 12345)
    private = safe_files.private_folder(folder)
    assert private != folder
    assert private.stat().st_mode & 0o777 == 0o700
    private.rmdir()


def test_a_folder_for_code_is_made_with_those_above_it(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "compiled"
    assert safe_files.private_folder(folder) == folder == safe_files.private_folder(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
