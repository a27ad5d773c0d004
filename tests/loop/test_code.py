"""Which code of a run is executed, and which of its wishes are followed: what the user named and began, unchanged."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evo_tune.errors import EvoTuneError, PluginError, UsageError
from evo_tune.genome.genes import Choice
from evo_tune.loop.code import hashes_of, load_code, load_run_evaluator
from evo_tune.loop.search import Search
from evo_tune.plugins import find
from evo_tune.plugins.code import source_hash
from evo_tune.store.manifest import read_manifest
from evo_tune.store.run import Run
from evo_tune.trust import decide as trust
from evo_tune.trust.decide import Consent
from tests.conftest import QUICK
from tests.journals import events_of, write_events

EVIL_STRATEGY = """
from dataclasses import dataclass
from evo_tune import Strategy

open({mark!r}, "w").close()

@dataclass(frozen=True)
class Evil(Strategy):
    def propose(self, history, rng):
        return None

    def survivors(self, history):
        return []
"""


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """What hostile code makes when it is executed."""
    return tmp_path / "ran"


@pytest.fixture
def stranger(begin: Callable[..., Search], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that another user began; this user works in the folder above it."""
    search = begin("run", trials=4)
    search.close()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "of-this-user"))
    monkeypatch.chdir(tmp_path)
    return search.saved.folder


@pytest.fixture
def evil(tmp_path: Path, mark: Path) -> Path:
    """A file of hostile code below the working directory."""
    path = tmp_path / "evil.py"
    path.write_text(f"open({str(mark)!r}, 'w').close()\n" + QUICK)
    return path


def named(run: Path, **fields: Any) -> Run:
    """Write other fields into a run's manifest."""
    manifest = json.loads((run / "_run.json").read_text())
    (run / "_run.json").write_text(json.dumps({**manifest, **fields}))
    return Run.open(run)


def wishes(run: Path, **fields: Any) -> None:
    """Write other fields into the session of a run's journal."""
    lines = events_of(run)
    for line in lines:
        if line["event"] == "session":
            line["session"].update(fields)
    write_events(run, lines)


def test_a_prefix_hides_no_path(stranger: Path, evil: Path, mark: Path) -> None:
    here = Path(os.path.relpath(evil.with_suffix(""), find.bundled_folder()))
    for reference in (f"bundled:{here}", f"bundled:{evil.with_suffix('')}", "bundled:..", f"entry:{evil}", "bundled:"):
        with pytest.raises(PluginError) as caught:
            load_code(named(stranger, evaluator=reference), Consent())
        assert "\n" not in str(caught.value)
        with pytest.raises(PluginError):
            find.find_evaluator(reference)
    for reference in (f"bundled:; touch {mark} {{x}}", f"entry:; touch {mark} {{x}}"):
        with pytest.raises(PluginError, match=r"there is no (bundled|installed) evaluator"):
            load_code(named(stranger, evaluator=reference, options={"shell": True}), Consent())
    assert not mark.exists()


def test_a_file_below_the_working_directory_is_no_more_trusted_than_another(
    stranger: Path, evil: Path, mark: Path
) -> None:
    for reference in (str(evil), "evil.py", "./evil.py"):
        run = named(stranger, evaluator=reference)
        for load in (load_code, load_run_evaluator):
            with pytest.raises(UsageError, match=r"evaluator .*evil\.py.*have not named yourself.*--trust"):
                load(run, Consent())
    assert not mark.exists()
    load_run_evaluator(run, Consent(trust=True))
    assert mark.exists(), "the user has said so"


def test_a_strategy_is_asked_about_as_an_evaluator_is(stranger: Path, tmp_path: Path, mark: Path) -> None:
    (tmp_path / "own.py").write_text(EVIL_STRATEGY.format(mark=str(mark)))
    run = named(stranger, strategy="./own.py", strategy_options={"population": 4})
    asked: list[str] = []
    with pytest.raises(UsageError, match=r"strategy .*own\.py"):
        load_code(run, Consent(ask=lambda text: bool(asked.append(text))), str(tmp_path / "quick.py"))
    assert len(asked) == 1
    assert not mark.exists()
    load_code(run, Consent(ask=lambda text: True), str(tmp_path / "quick.py"))
    assert mark.exists()
    load_code(run, Consent())  # both have been named by now


def test_resume_from_python_asks_as_well(stranger: Path, tmp_path: Path, evil: Path, mark: Path) -> None:
    named(stranger, evaluator=str(evil))
    with pytest.raises(UsageError, match="trust=True"):
        Search.resume("run", store=tmp_path / "store", accept_changes=True)
    assert not mark.exists()
    Search.resume("run", store=tmp_path / "store", accept_changes=True, trust=True).close()
    assert mark.exists()
    Search.resume("run", store=tmp_path / "store").close()


def test_a_plain_name_is_not_looked_for_in_a_folder_of_evaluators(stranger: Path, evil: Path, mark: Path) -> None:
    (evil.parent / "evaluators").mkdir()
    shutil.copy(evil, evil.parent / "evaluators" / "foo.py")
    with pytest.raises(PluginError, match="expected bundled:NAME, entry:NAME or a path"):
        load_code(named(stranger, evaluator="foo"), Consent())
    assert not mark.exists()


def test_what_was_allowed_is_what_is_loaded(stranger: Path, tmp_path: Path) -> None:
    """A link could be turned elsewhere between the question and the last of the workers."""
    trust.remember_file(tmp_path / "quick.py", source_hash(tmp_path / "quick.py"))
    (tmp_path / "link.py").symlink_to(tmp_path / "quick.py")
    assert load_run_evaluator(named(stranger, evaluator="link.py"), Consent()).path == (tmp_path / "quick.py").resolve()


@pytest.mark.parametrize("path", ["gone.py", "store", "/dev/zero/x.py", "x" * 4000 + ".py"])
def test_what_is_no_file_is_said_at_once(stranger: Path, path: str) -> None:
    with pytest.raises(EvoTuneError) as caught:
        load_code(named(stranger, evaluator=path if path.endswith(".py") else f"./{path}"), Consent())
    assert "is not a file here: check the path" in str(caught.value)


STRANGE = {"backend": "dask", "address": "tcp://evil:8786", "slots": 3, "devices": "cpu", "max_slots": 5}


def test_a_stranger_does_not_say_where_trainings_run(stranger: Path, tmp_path: Path) -> None:
    wishes(stranger, **STRANGE)
    with pytest.warns(UserWarning, match=r"not given it here.*--backend dask, --address tcp://evil:8786") as told:
        search = Search.resume("run", store=tmp_path / "store", evaluator=str(tmp_path / "quick.py"))
    search.close()
    assert len(told) == 1
    assert "\n" not in str(told[0].message)
    one = search.session
    assert (one.backend, one.address, one.max_slots, one.slots, one.devices) == ("joblib", None, None, None, None)
    assert one.trials == 4, "limits are the run's"


def test_what_the_user_gives_needs_not_be_told(stranger: Path, tmp_path: Path) -> None:
    wishes(stranger, slots=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search = Search.resume("run", store=tmp_path / "store", evaluator=str(tmp_path / "quick.py"), slots=2)
    search.close()
    assert search.session.slots == 2


def test_a_run_of_the_users_own_goes_on_where_it_was(begin: Callable[..., Search], tmp_path: Path) -> None:
    begin("mine", trials=4, slots=3, devices="cpu").close()
    search = Search.resume("mine", store=tmp_path / "store")
    search.close()
    assert (search.session.slots, search.session.devices) == (3, "cpu")


def test_a_journal_that_came_back_changed_says_not_where_to_train(begin: Callable[..., Search], tmp_path: Path) -> None:
    begin("own", trials=4, slots=2).close()
    wishes(tmp_path / "store" / "own", **STRANGE)
    with pytest.warns(UserWarning, match=r"run own names places to train that you have not given it here .*tcp://evil"):
        search = Search.resume("own", store=tmp_path / "store", trials=5, slots=1)
    search.close()
    assert (search.session.address, search.session.slots) == (None, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = Search.resume("own", store=tmp_path / "store")
    again.close()
    assert again.session.slots == 1, "what the user gave last"


def returned(store: Path, begin: Callable[..., Search], evil: Path) -> dict[str, Path]:
    """Begin runs, and return their folders: each comes back changed in one way."""
    names = ("evaluator", "strategy", "options", "identity", "file", "module")
    files = {name: Path(shutil.copy(evil.with_name("quick.py"), evil.with_name(f"{name}.py"))) for name in names}
    (evil.parent / "neighbour_that_returns.py").write_text("")
    files["module"].write_text("import neighbour_that_returns\n" + QUICK)
    for name in names:
        begin(name, evaluator=str(files[name]), trials=4).close()
    named(store / "evaluator", evaluator=str(evil))
    named(store / "strategy", strategy=str(evil))
    named(store / "options", options={"sleep": 0.0, "failing": 0.5})
    named(store / "identity", identity="0" * 32)
    files["file"].write_text(evil.read_text())
    (evil.parent / "neighbour_that_returns.py").write_text(evil.read_text())
    return {name: store / name for name in names}


def test_a_run_of_ones_own_that_came_back_changed_executes_nothing_unasked(
    begin: Callable[..., Search], tmp_path: Path, evil: Path, mark: Path
) -> None:
    for name, run in returned(tmp_path / "store", begin, evil).items():
        outside = name in ("file", "module")
        said = (
            f"{name if name == 'file' else ''}.*has changed since" if outside else r"has changed since \(_run\.json\)"
        )
        said = "names the strategy" if name == "strategy" else said
        for load in (load_code, load_run_evaluator) if name != "strategy" else (load_code,):
            with pytest.raises(UsageError, match=said) as caught:
                load(Run.open(run), Consent())
            assert "\n" not in str(caught.value)
            assert "give --trust" in str(caught.value) or "say --trust" in str(caught.value)
        if not outside:
            with pytest.raises(UsageError, match=said):
                load_code(Run.open(run), Consent(changes=True))
        assert not mark.exists(), name


def test_a_run_that_came_back_changed_goes_on_once_the_user_says_so(
    begin: Callable[..., Search], tmp_path: Path
) -> None:
    begin("mine", trials=4).close()
    run = named(tmp_path / "store" / "mine", created="another time")
    asked: list[str] = []
    load_run_evaluator(run, Consent(ask=lambda text: not asked.append(text)))
    assert asked == ["run mine was begun by you here and has changed since (_run.json). Go on?"]
    load_run_evaluator(run, Consent())  # said once


def test_what_a_run_is_known_by_is_the_same_once_it_is_read_back(begin: Callable[..., Search], tmp_path: Path) -> None:
    for number, fields in enumerate(
        (
            {"options": {"sleep": 1}, "warm_start": [{"x": 1, "n": 2, "kind": True}], "fidelity": "1"},
            {"subject_to": ["cost<=1e3"], "strategy": "saea", "threads": 1},
        )
    ):
        search = begin(f"run-{number}", **fields)
        search.close()
        run = Run.open(search.saved.folder)
        assert hashes_of(run.manifest, run.genes) == hashes_of(search.saved.manifest, search.saved.genes)
        assert trust.reason_for_distrust(run.folder, hashes_of(run.manifest, run.genes)) == ""


def test_values_that_the_user_adds_to_a_gene_are_their_own(begin: Callable[..., Search], tmp_path: Path) -> None:
    begin("mine", trials=4).close()
    genes = {"kind": Choice(("a", 2, True, "b"))}
    Search.resume("mine", store=tmp_path / "store", genes=genes).close()
    Search.resume("mine", store=tmp_path / "store").close()


def test_a_changed_run_that_is_copied_over_a_run_of_ones_own_is_asked_about(
    begin: Callable[..., Search], tmp_path: Path
) -> None:
    for name in ("one", "two"):
        begin(name, trials=4, slots=3).close()
    store = tmp_path / "store"
    shutil.copytree(store / "two", store / "three")  # one's own run in another folder
    Search.resume("three", store=store).close()
    shutil.rmtree(store / "one")
    shutil.copytree(store / "two", store / "one")
    manifest = store / "one" / "_run.json"
    changed = json.loads(manifest.read_text())
    changed["created"] = "2020-01-01T00:00:00+00:00"
    manifest.write_text(json.dumps(changed))
    with pytest.raises(UsageError, match=r"run one was begun by you here and has changed since \(_run\.json\)"):
        Search.resume("one", store=store)
    os.rename(store / "one", store / "four")
    with pytest.warns(UserWarning, match="not given it here"):
        Search.resume("four", store=store).close()


def test_a_strangers_run_reads_no_path_outside_of_its_folder_unasked(
    stranger: Path, tmp_path: Path, evil: Path, mark: Path
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "text").write_text("all work and no play\n" * 5000)
    (stranger / "data").mkdir()
    (stranger / "data" / "text").symlink_to(secret / "text")
    gene = {"kind": "choice", "values": ["secret", "other"], "ordered": False, "default": None}
    plain = json.loads((stranger / "_run.json").read_text())
    for fields in (
        {"options": {"data": "secret"}},
        {"options": {"data": "~/x"}},
        {"options": {"data": str(stranger / "data")}},
        {"options": {"data": f"{stranger}/da*/*"}},
        {"options": {}, "space": {**plain["space"], "data": gene}},
        {"options": {}, "warm_start": [{"data": "secret"}]},
        {"options": {}, "strategy_options": {**plain["strategy_options"], "file": "secret"}},
    ):
        run = named(stranger, **{**plain, "evaluator": "bundled:language_model", **fields})
        with pytest.raises(
            UsageError, match=r"was not begun by you here; it reads '/.*': look at it, then give --trust"
        ):
            load_run_evaluator(run, Consent())
        with pytest.raises(UsageError, match="it reads"):
            load_run_evaluator(run, Consent(), "language_model")
    asked: list[str] = []
    run = named(stranger, **{**plain, "evaluator": "bundled:language_model", "options": {"data": "secret"}})
    load_run_evaluator(run, Consent(ask=lambda text: not asked.append(text)))
    assert asked == [f"run run was not begun by you here; it reads '{secret.resolve()}'. Go on?"]
    load_run_evaluator(run, Consent())  # said once
    run = named(stranger, evaluator=str(evil), options={"sleep": "secret"})
    with pytest.raises(UsageError, match=r"evaluator .*evil\.py.*have not named"):
        load_run_evaluator(run, Consent(ask=lambda text: "evil" not in text))
    run = named(stranger, **{**plain, "evaluator": "bundled:language_model", "options": {"data": "secret"}})
    (secret / "more").symlink_to("/etc")
    with pytest.raises(UsageError, match="'/etc'"):
        load_run_evaluator(run, Consent())
    assert not mark.exists()


def test_a_strangers_run_reads_what_is_in_its_folder(stranger: Path) -> None:
    (stranger / "data").mkdir()
    (stranger / "data" / "text").write_text("all work and no play\n" * 5000)
    options = {"data": str(stranger / "data")}
    load_run_evaluator(named(stranger, evaluator="bundled:language_model", options=options), Consent())


def test_every_run_has_an_identity_and_a_copy_has_its_own(begin: Callable[..., Search], tmp_path: Path) -> None:
    store = tmp_path / "store"
    begin("one", trials=4, slots=3).close()
    begin("two", trials=4).close()
    copy = Search.resume("one", store=store, copy_as="three")
    copy.close()
    assert copy.session.slots == 3, "the copy of an own run is one's own"
    identities = {read_manifest(store / name).identity for name in ("one", "two", "three")}
    assert len(identities) == 3
    assert all(len(identity) == 32 and int(identity, 16) for identity in identities)
    assert doubt(store / "three") == ""


def doubt(folder: Path) -> str:
    run = Run.open(folder)
    return trust.reason_for_distrust(folder, hashes_of(run.manifest, run.genes))


def test_a_copy_of_a_run_that_came_back_changed_is_asked_about(begin: Callable[..., Search], tmp_path: Path) -> None:
    begin("mine", trials=4, slots=3).close()
    named(tmp_path / "store" / "mine", identity="0" * 32)
    wishes(tmp_path / "store" / "mine", slots=4)
    with pytest.warns(UserWarning, match=r"not given it here \(--slots 4\)"):
        Search.resume("mine", store=tmp_path / "store", copy_as="copy", trust=True).close()
    assert doubt(tmp_path / "store" / "copy")


def test_a_copy_of_a_strangers_run_stays_a_strangers(stranger: Path, tmp_path: Path) -> None:
    wishes(stranger, slots=3)
    for name in ("copy", "copy-of-copy"):
        with pytest.warns(UserWarning, match="not given it here"):
            Search.resume(
                "run" if name == "copy" else "copy",
                store=tmp_path / "store",
                copy_as=name,
                evaluator=str(tmp_path / "quick.py"),
                accept_changes=True,
            ).close()
        wishes(tmp_path / "store" / name, slots=3)
        assert doubt(tmp_path / "store" / name) == "was not begun by you here"
