"""The pages list the bundled evaluators, and their options as they are declared: each of them, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from evo_tune.options.declare import union_members
from evo_tune.plugins.find import bundled_folder, load_evaluator
from tests.public import script

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "evaluators.md").read_text(encoding="utf-8")
FILES = sorted(path for path in bundled_folder().glob("*.py") if not path.name.startswith("_"))


def rows() -> dict[str, list[str]]:
    """Return the table of the bundled ones: evaluator to the cells of its row."""
    chapter = PAGE.partition("\n## The bundled ones\n")[2].partition("\n## ")[0]
    found = re.findall(r"^\| `(\w+)` \| (.*) \|$", chapter, re.MULTILINE)
    assert len(dict(found)) == len(found), "one of them has two rows"
    return {name: cells.split(" | ") for name, cells in found}


def test_every_bundled_evaluator_has_its_row_and_every_row_its_evaluator() -> None:
    assert set(rows()) == {path.stem for path in FILES}


def test_a_row_names_the_objective_and_the_genes() -> None:
    for path in FILES:
        plugin = load_evaluator(path, f"bundled:{path.stem}", "bundled")
        _, genes, objective, _ = rows()[path.stem]
        assert [re.findall(r"`(\w+)`", objective)[0]] == [one.metric for one in plugin.objectives], path.stem
        if "see its chapter" not in genes:
            assert set(genes.split(", ")) == set(plugin.bind({}).space.genes), path.stem


def test_the_page_of_options_is_made_of_the_declarations() -> None:
    chapters = re.split(r"^## ", script("docs/make_options.py").generated(), flags=re.MULTILINE)[1:]
    tables = {
        chapter.partition("\n")[0]: set(re.findall(r"^\| `(\w+)`", chapter, re.MULTILINE)) for chapter in chapters
    }
    strategies = tables.pop("Strategies")
    assert tables == {path.stem: set(load_evaluator(path, f"bundled:{path.stem}", "bundled").options) for path in FILES}
    assert {"gp_only", "levels", "population"} < strategies


def test_every_option_of_a_bundled_evaluator_says_what_it_is_for() -> None:
    for path in FILES:
        plugin = load_evaluator(path, f"bundled:{path.stem}", "bundled")
        assert plugin.options_type is not None
        for one in plugin.options.values():
            assert one.help, f"{path.stem}: {one.name}"
            assert one.group, f"{path.stem}: {one.name}"
            assert one.bounds or one.choices or not {int, float} & set(union_members(one.type)), (
                f"{path.stem}: {one.name}"
            )
