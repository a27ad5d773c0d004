"""Another user of the machine, who makes the folders first in which libraries keep code: nothing of theirs is used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

NOBODY = 65534

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be a second user")
]

PLANT = """
import os
os.umask(0)
for folder in {folders!r}:
    os.makedirs(folder, mode=0o777)
"""

LOOK = """
import os
for root, folders, files in os.walk({folder!r}):
    for name in folders + files:
        path = os.path.join(root, name)
        if os.lstat(path).st_uid != os.getuid() and (os.access(path, os.R_OK) or os.access(path, os.W_OK)):
            print(path)
"""


def as_nobody(code: str) -> str:
    """Execute Python as another user, and return what it prints."""
    arguments = ["/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable, "-c", code]
    ended = subprocess.run(
        arguments, user=NOBODY, group=NOBODY, extra_groups=[], text=True, capture_output=True, cwd="/"
    )
    if "Permission denied" in ended.stderr:
        pytest.skip("another user cannot execute Python here")
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A temporary folder as /tmp is, which another user can enter, and has planted folders in."""
    folder = tmp_path_factory.mktemp("temporary")
    for parent in (folder, *folder.parents):
        if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001 and "pytest" in str(parent):
            parent.chmod(parent.stat().st_mode | 0o011)
    folder.chmod(0o1777)
    planted = [f"{folder}/torchinductor_root/precompiled_headers", f"{folder}/dask-scratch-space"]
    as_nobody(PLANT.format(folders=planted))
    return folder


def environment(temporary: Path, home: Path) -> dict[str, str]:
    settings = {**os.environ, "TMPDIR": str(temporary), "XDG_CACHE_HOME": str(home), "LOGNAME": "root"}
    settings.pop("TORCHINDUCTOR_CACHE_DIR", None)
    return settings


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if not path.is_dir()]


@pytest.mark.slow
def test_compiled_code_is_neither_read_nor_written_where_another_user_made_the_folder(
    temporary: Path, tmp_path: Path
) -> None:
    code = (
        "import torch; from evo_tune.training import GPT; from evo_tune.training.recipe import GPTConfig\n"
        "from evo_tune.training.stepping.compiling import compile_blocks\n"
        "torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])\n"
        "compile_blocks(GPT(GPTConfig(context=8, depth=1, width=8, heads=1)))\n"
        "from torch._inductor import codecache\n"
        "print(codecache._HEADER_DIR, codecache.cache_dir(), sep='\\n')"
    )
    settings = environment(temporary, tmp_path)
    told = subprocess.run([sys.executable, "-c", code], env=settings, text=True, stdout=subprocess.PIPE, check=True)
    training = ["evaluate", "language_model", "-o", "compile=true", "-o", "tokens=2000"]
    subprocess.run([sys.executable, "-m", "evo_tune", *training], env=settings, cwd=tmp_path, check=True)
    for place in told.stdout.splitlines():
        assert Path(place).is_relative_to(tmp_path / "evo-tune" / "compiled")
    assert files_below(temporary) == []
    assert as_nobody(LOOK.format(folder=str(temporary))) == ""
    assert (tmp_path / "evo-tune" / "compiled").stat().st_mode & 0o077 == 0
