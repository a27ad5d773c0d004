"""Templates of configuration files: what becomes of their text, and the programs that read them."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evo_tune import Context, Minimize, Script
from evo_tune.errors import OptionError
from evo_tune.genome.genes import Choice, Float, Int
from evo_tune.plugins.command import command_evaluator, with_template_text
from evo_tune.plugins.scripts.processes import Ended
from evo_tune.plugins.scripts.script import placeholder_value
from evo_tune.plugins.scripts.template import LARGEST, ConfigTemplate
from tests.extras import need

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

VALUES = {"lr": 1e-05, "depth": 4, "on": True, "kind": "adam", "odd": 'a: "b"\n', "budget": 0.5, "seed": 7}


def fill(text: str, *assignments: str, name: str = "conf.yaml", **values: Any) -> str:
    template = ConfigTemplate(f"{name}\n{text}", assignments)
    return template.fill(lambda inside: placeholder_value(inside, {**VALUES, **values}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lr: {lr}", "lr: 1.0e-05"),  # '1e-05' would be a text for PyYAML
        ("lr: '{lr}'", "lr: 1.0e-05"),
        ("a: {depth} # x\nb: {on}", "a: 4 # x\nb: true"),
        ("kind: {kind}", 'kind: "adam"'),
        ("kind: '{kind}'", 'kind: "adam"'),
        ("- {kind}\n- run-{kind}", '- "adam"\n- run-adam'),
        ('path: "/x/{kind}/{depth}"', 'path: "/x/adam/4"'),
        ("odd: {odd}", r'odd: "a: \"b\"\n"'),
        ("{lr=log(1e-6,1e-2)}", "1.0e-05"),
        ("kind: {kind=adam|sgd}", 'kind: "adam"'),
        ("{on?yes:no} '{on?yes:no}'", "yes 'yes'"),
        ("n: {budget*100}, {budget}", "n: 50, 0.5"),
        ('{"a": "{lr}", "b": {"c": {depth}}}', '{"a": 1.0e-05, "b": {"c": 4}}'),
        ("{a: 1, depth: 2} {depth: 3} {unknown} ${depth2} {}", "{a: 1, depth: 2} {depth: 3} {unknown} ${depth2} {}"),
    ],
)
def test_placeholders_are_values_or_parts_of_text(text: str, expected: str) -> None:
    assert fill(text) == expected


@given(st.text(max_size=30) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.integers())
@settings(max_examples=300, deadline=None)
def test_any_value_is_read_back_by_json_toml_and_yaml(value: Any) -> None:
    yaml = pytest.importorskip("yaml")
    try:
        str(value).encode()
    except UnicodeEncodeError:  # half of a pair: no gene has one
        return
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**63:
        return
    assert json.loads(fill('{"a": "{odd}"}', odd=value)) == {"a": value}
    assert tomllib.loads(fill("a = '{odd}'", odd=value)) == {"a": value}
    assert tomllib.loads(fill("a = {b = [1]}", "a.b={odd}", name="c.toml", odd=value)) == {"a": {"b": value}}
    assert json.loads(fill('{"a": {"b": 1}}', "a.b={odd}", name="c.json", odd=value)) == {"a": {"b": value}}
    for text in ("a: {odd}", "a: '{odd}'"):
        assert yaml.safe_load(fill(text, odd=value)) == {"a": value}
    assert yaml.safe_load(fill("a:\n  b: 1\nc: 2", "a.b={odd}", odd=value)) == {"a": {"b": value}, "c": 2}


def test_dotted_names_replace_values_of_yaml_and_leave_all_else() -> None:
    need("yaml")
    text = """# head
model: !custom
  depth:   3   # layers
  sizes: [1, 2]
  empty:
  text: |
    a
    b
layers:
  - {n: 1}
  - {n: 2}
rate: 1e-3
link: ${model.depth}
"""
    changed = fill(
        text, "model.depth={depth}", "model.empty=null", "layers.1.n={lr}", "model.text={kind}", "model.sizes=[3]"
    )
    expected = text.replace("3   #", "4   #").replace("empty:\n", "empty: null\n").replace("n: 2", "n: 1.0e-05")
    expected = expected.replace("|\n    a\n    b\n", '"adam"\n').replace("[1, 2]", "[3]")
    assert changed == expected


def test_dotted_names_replace_values_of_json_and_toml() -> None:
    text = '{"m": {"d": 1, "l": [1, {"x": 2}]}, "t": "é"}'
    data = json.loads(fill(text, "m.d={depth}", "m.l.1.x=run-{seed}", name="c.json"))
    assert data == {"m": {"d": 4, "l": [1, {"x": "run-7"}]}, "t": "é"}
    toml = 'when = 2020-01-02T03:04:05Z\nx = inf\n[m]\nd = 1\nl = [{a = "b"}]\n["a b"]\nc = true\n'
    expected = tomllib.loads(toml)
    expected["m"]["d"] = 4
    assert tomllib.loads(fill(toml, "m.d={depth}", name="c.toml")) == expected


@pytest.mark.parametrize(
    ("name", "text", "assignment", "message"),
    [
        ("c.yaml", "model:\n  depth: 1", "model.dept=1", r"did you mean depth\?"),
        ("c.yaml", "model:\n  depth: 1", "model=1", "no single value"),
        ("c.yaml", "a: [", "a=1", "conf|c.yaml"),
        ("c.yaml", "a: 1\n---\nb: 2", "a=1", "c.yaml"),
        ("c.yaml", "[" * 5000, "a=1", "c.yaml"),
        ("c.json", '{"depth": 1}', "dept=1", r"did you mean depth\?"),
        ("c.json", '{"a": 1}', "a.b=1", "c.json"),
        ("c.json", '{"a": [1]}', "a.7=1", "c.json"),
        ("c.json", "[" * 100_000, "a=1", "c.json"),
        ("c.json", "{", "a=1", "c.json"),
        ("c.toml", "a = ", "a=1", "c.toml"),
        ("c.toml", "a = 1", "b=1", "there is no b"),
        ("c.ini", "a = 1", "a=1", "put placeholders into c.ini instead"),
        ("c.yaml", "a: 1", "a", "expected NAME={GENE}"),
        ("c.yaml", "{x=log(1,2)} {x=log(1,3)}", "", "other values in another place"),
        ("c.yaml", "{x=log(2,1)}", "", "--gene x"),
    ],
)
def test_what_cannot_be_replaced_is_refused_in_one_line(name: str, text: str, assignment: str, message: str) -> None:
    if name == "c.yaml":
        need("yaml")
    with pytest.raises(Exception, match=message) as error:
        fill(text, *([assignment] if assignment else []), name=name)
    assert type(error.value).__module__ == "evo_tune.errors"
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.yaml", "m:\n  width: 8 # units\n  rate: 1e-3\n  big: 999\n  own: 2\n  flags: [1, 2]\nlr: {lr}\n"),
        ("c.json", '{"m": {"width": 8, "rate": 1e-3, "big": 999, "own": 2, "flags": [1, 2]}, "lr": "{lr}"}'),
        ("c.toml", "lr = '{lr}'\n[m]\nwidth = 8\nrate = 1e-3\nbig = 999\nown = 2\nflags = [1, 2]\n"),
    ],
)
def test_the_value_that_a_dotted_name_has_in_the_file_is_the_default(name: str, text: str) -> None:
    if name == "c.yaml":
        need("yaml")
    genes = {
        "width": Choice((8, 16, 32), ordered=True),
        "rate": Float(1e-4, 1.0, log=True),
        "big": Choice((1, 2, 3), ordered=True),
        "own": Choice((1, 2, 3), default=3),
        "flag": Choice((1, 2)),
        "lr": Float(0.0, 1.0),
    }
    assignments = ["m.width={width}", "m.rate={rate}", "m.big={big}", "m.own={own}", "m.flags.1={flag}"]
    options = {"template": f"{name}\n{text}", "set_values": "\n".join(assignments)}
    bound = command_evaluator(f"{sys.executable} {{config}} {{seed}}", genes, options).bind(options)
    assert bound.space.default() == {"width": 8, "rate": 0.001, "big": 2, "own": 3, "flag": 2, "lr": 0.5}
    assert bound.remarks() == [
        f"default from {name}: width=8, rate={'1e-3' if name == 'c.yaml' else 0.001}, flag=2",
        f"{name} has big=999, which is not in its range: the default is 2; give @ VALUE in --gene big=… for another",
    ]


def test_a_value_that_no_gene_has_or_that_is_fixed_is_no_default() -> None:
    options = {"template": f'c.json\n{{"a": "{"9" * 9000}", "b": null, "c": 1, "d": 2}}'}
    options["set_values"] = "a={a}\nb={b}\nc={c}\nd=x-{d}"
    genes = {"a": Int(1, 9), "b": Int(1, 9), "c": Choice((7,)), "d": Int(1, 9)}
    bound = command_evaluator(f"{sys.executable} {{config}} {{seed}}", genes, options).bind(options)
    assert bound.space.default() == {"a": 5, "b": 5, "c": 7, "d": 5}
    assert [remark[:17] for remark in bound.remarks()] == ["c.json has a=9999", "c.json has b=None"]


def test_a_key_of_many_parts_or_a_deep_value_takes_no_time() -> None:
    for text in ("a" + ".a" * 100_000 + " = 1", "[a" + ".a" * 100_000 + "]"):
        with pytest.raises(OptionError, match="more than ten parts"):
            fill(text, "a=1", name="c.toml")
    assert fill('{"a": 1}', "a=" + "[" * 100_000, name="c.json").count("[") == 100_000


def test_an_alias_bomb_is_not_expanded() -> None:
    need("yaml")
    text = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 20}]\n" for n in range(1, 30)) + "b: 1\n"
    assert fill(text, "b={depth}") == text.replace("b: 1", "b: 4")


@pytest.mark.parametrize("kind", ["missing", "fifo", "folder", "large", "binary"])
def test_a_file_that_is_no_template_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "c.yaml"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(b"a" * (LARGEST + 1) if kind == "large" else b"\xff\xfe")
    with pytest.raises(OptionError, match=r"--template .*c.yaml: .*; expected a configuration file"):
        ConfigTemplate(str(path))


def test_without_pyyaml_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(Exception, match=r"pip install 'evo-tune\[yaml\]'"):
        fill("a: 1", "a=2")
    assert fill("a: {depth}") == "a: 4"


def test_genes_and_placeholders_of_a_template_count_as_those_of_the_command(tmp_path: Path) -> None:
    def bind(command: str, genes: dict[str, Any], **options: str) -> Any:
        return command_evaluator(f"{sys.executable} {command}", genes, options)

    template = "c.yaml\nlr: {lr}\nkind: {kind=a|b}\nsteps: {budget*10}\nseed: {seed}\nother: {other}\n"
    evaluator = bind("{config}", {"lr": Float(0.1, 1.0)}, template=template)
    assert {*evaluator.bind({"template": template}).space.genes} == {"lr", "kind"}
    assert [*evaluator.supports] == ["budget"]
    assert evaluator.bind({"template": template}).remarks() == []  # it has {seed}
    given = bind("{config}", {"lr": Float(0.1, 1.0), "kind": Choice(("c", "d"))}, template=template)
    assert given.bind({"template": template}).space.genes["kind"].values == ("c", "d")
    for command, genes, options, message in (
        ("x", {"lr": Float(0.1, 1.0)}, {"template": template}, r"has no \{config\}"),
        ("{config} {lr}", {"lr": Float(0.1, 1.0)}, {}, r"\{config\} in the command is no gene"),
        ("{config}", {"dept": Float(0.1, 1.0)}, {"template": template}, r"the command has no \{dept\}"),
        ("{lr}", {"lr": Float(0.1, 1.0)}, {"set_values": "a=1"}, "--set replaces values of a template"),
        ("{config}", {"lr": Float(0.1, 1.0), "config": Choice(("a", "b"))}, {"template": template}, "another name"),
        ("{config}", {}, {"template": "c.json\n{", "set_values": "a={lr=log(1,2)}"}, "c.json"),
    ):
        with pytest.raises(OptionError, match=message):
            bind(command, genes, **options)
    # A gene of that name in a run of version 1.0.
    assert bind("--config {config}", {"config": Choice(("a", "b"))}).bind({}).space.genes.keys() == {"config"}


def test_the_text_takes_the_place_of_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text("lr: {lr}\n")
    options = with_template_text({"template": "c.yaml", "metric": "x"})
    assert options == {"template": "c.yaml\nlr: {lr}\n", "metric": "x"}
    assert with_template_text(options) == options
    assert with_template_text({}) == {}


def test_a_trial_gets_its_own_file(tmp_path: Path) -> None:
    code = "import sys; print(open(sys.argv[1]).read()); print(sys.argv[1])"
    script = Script(
        shlex.join([sys.executable, "-c", code, "{config}"]), ["v"], template="sub/c.ini\nv={lr}\nout={folder}\n"
    )
    context = Context(folder=tmp_path / "trial", objectives=[Minimize("v")])
    assert script.run({"lr": 0.25}, context) == {"v": 0.25}
    assert (tmp_path / "trial" / "c.ini").read_text() == f"v=0.25\nout={tmp_path / 'trial'}\n"


def test_the_configuration_is_no_file_of_metrics(tmp_path: Path) -> None:
    script = Script(shlex.join([sys.executable, "-c", "print('done')", "{config}"]), template='c.json\n{"lr": "{lr}"}')
    context = Context(folder=tmp_path / "trial", objectives=[Minimize("v")])
    assert context.folder.is_dir()
    with pytest.raises(Ended, match=r"^the script printed no v: expected a line .* its last line: done$"):
        script.run({"lr": 0.25}, context)
