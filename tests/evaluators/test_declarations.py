"""Each option of the bundled evaluators is declared once: one type, bounds, unit, help, default and gene."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import pytest

from evo_tune.errors import OptionError
from evo_tune.genome.genes import Float, Int
from evo_tune.options.declare import Options as OptionGroup
from evo_tune.options.declare import dataclass_options, option, redeclare
from evo_tune.plugins.evaluator import _gene_of_option
from evo_tune.plugins.find import bundled_folder, load_evaluator

PLUGINS = {
    path.stem: load_evaluator(path, f"bundled:{path.stem}", "bundled")
    for path in sorted(bundled_folder().glob("*.py"))
    if not path.name.startswith("_")
}

QUANTITIES = {
    "data": "each evaluator has a format of its own, and a set of its own if none is given",
    "eval_tokens": "bytes of a text, and tokens of a base's vocabulary",
    "micro_batch": "tokens of a language model, and samples of the others",
    "size": "a shape of a language model, and one of two spaces of the others",
    "target": "one column of a table, and several of a file of series",
}
"""Options whose name is of more than one quantity, with the reason."""


def declarations() -> Iterator[tuple[str, str, dict[str, Any], Any]]:
    """Yield the name, group, facts and default of each declaration in the groups of the bundled evaluators."""
    groups = {group for plugin in PLUGINS.values() for group in (plugin.options_type or object).__mro__}
    for group in sorted(groups - {object, OptionGroup}, key=lambda group: (group.__module__, group.__qualname__)):
        for field in fields(group):
            if field.name in inspect.get_annotations(group):
                kind = dataclass_options(group)[field.name].type
                yield field.name, group.__qualname__, {**field.metadata, "type": kind}, field.default


def test_an_option_is_declared_once_and_otherwise_only_with_another_default_and_a_reason() -> None:
    firsts: dict[str, list[tuple[str, dict[str, Any], Any]]] = defaultdict(list)
    for name, group, facts, default in declarations():
        if "redeclared" not in facts:
            firsts[name].append((group, facts, default))
    several = {name: [group for group, _, _ in places] for name, places in firsts.items() if len(places) > 1}
    assert several.keys() == QUANTITIES.keys(), several
    for name, group, facts, default in declarations():
        if "redeclared" in facts:
            _, first, first_default = firsts[name][0]
            assert {**facts, "redeclared": ""} == {**first, "redeclared": ""}, f"{group}.{name}"
            assert facts["redeclared"] or default == first_default, f"{group}.{name} has no reason for its default"


@pytest.mark.parametrize("name", PLUGINS)
def test_a_gene_of_a_space_has_the_range_that_its_option_declares(name: str) -> None:
    plugin = PLUGINS[name]

    for gene_name, gene in plugin.bind({}).space.genes.items():
        declared = _gene_of_option(plugin.options[gene_name]) if gene_name in plugin.options else None
        if isinstance(gene, Float | Int):
            assert declared is None or (gene.low, gene.high) == (declared.low, declared.high), gene_name  # type: ignore


def test_a_redeclared_option_keeps_its_facts() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Group(OptionGroup):
        steps: int = option(5, bounds="[1, 9]", unit="s", gene="1|2", help="Steps")

    again = redeclare(Group, "steps", 7, reason="longer")
    assert again.default == 7
    assert again.metadata == {**fields(Group)[0].metadata, "redeclared": "longer"}
    assert redeclare(Group, "steps").default == 5


def outside(bounds: str) -> Iterator[float]:
    """Yield numbers just outside of an interval, such as 0 and 1.5 for '(0, 1]'; none for an infinite end."""
    low, high = (float(end) for end in bounds.strip("[]()").split(","))
    for end, closed, step in ((low, bounds[0] == "[", -1), (high, bounds[-1] == "]", 1)):
        if abs(end) != float("inf"):
            yield end + step * max(1.0, abs(end)) if closed else end


@pytest.mark.parametrize("name", PLUGINS)
def test_each_option_refuses_values_outside_of_its_declaration(name: str) -> None:
    plugin, count = PLUGINS[name], 0
    for declared in plugin.options.values():
        values = [
            *(outside(declared.bounds) if declared.bounds else ()),
            *(["no such name"] if declared.choices else []),
        ]
        for value in values:
            with pytest.raises(OptionError, match=rf"-o {declared.name}="):
                plugin.bind({declared.name: value})
            with pytest.raises(OptionError, match=rf"-o {declared.name}="):
                plugin.bind({declared.name: str(value)})
            count += 1
    assert count > 40
