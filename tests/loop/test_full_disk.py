"""A full disk is no fault of a genome: its trial waits, and is trained after `resume`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from evo_tune.errors import RunError
from evo_tune.loop.search import Search


@pytest.mark.parametrize(
    "raised", ["OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))", 'RuntimeError("x: No space left on device")']
)
def test_a_trial_that_met_a_full_disk_is_trained_on_resume(
    begin: Callable[..., Search], resume: Callable[..., Search], quick: Path, tmp_path: Path, raised: str
) -> None:
    (full := tmp_path / "full").touch()
    condition = f"os.path.exists({str(full)!r}) and context.folder.name == '000002'"
    check = f"import errno, os\n    if {condition}: raise {raised}\n    "
    quick.write_text(quick.read_text().replace("    time.sleep(", f"    {check}time.sleep("))
    with pytest.raises(RunError, match=r"the disk is full \(trial 2: .*No space left on device.*make room"):
        begin("run", trials=4, slots=1, final_seeds=0).run()
    full.unlink()
    saved = resume("run").run().saved
    assert [saved.outcomes[id].status for id in range(4)] == ["ok"] * 4
