"""Each module of the package has tests that can be found."""

from __future__ import annotations

import pytest

from tests import where


def test_each_module_has_tests_that_can_be_found() -> None:
    assert len(where.modules()) > 200
    assert [module for module in where.modules() if not where.named(module)] == [], "add rows to where.ELSEWHERE"


def test_the_table_names_modules_and_tests_that_exist() -> None:
    homes = {
        *where.modules(),
        *(path.parent.relative_to(where.PACKAGE).as_posix() for path in where.PACKAGE.rglob("*.py")),
    }
    assert where.ELSEWHERE.keys() <= homes
    assert [path.name for module in where.ELSEWHERE for path in where.named(module) if not path.is_file()] == []


def test_a_module_may_be_a_path_or_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("evo_tune/store/journal.py", "evo_tune.store.journal", "store/journal"):
        where.main([text])
        assert capsys.readouterr().out.splitlines()[0] == "tests/store/test_journal.py"
    where.main(["evo_tune.dispatch.clusters.ray_cluster"])
    assert "tests/dispatch/test_ray_cluster.py" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="there is no module"):
        where.main(["evo_tune.stor"])
