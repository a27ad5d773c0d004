"""`ConfigTemplate`: a configuration file with a genome's values, written anew for each trial.

Its text is that of YAML, JSON, TOML or any other format. Placeholders are those of a command, and
`{lr=log(1e-4,1e-2)}` also declares its gene. Dotted names replace values of YAML, JSON and TOML; all other text of YAML
stays as it is. The text belongs to the run, so that a later change of the file changes no trial.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from evo_tune.errors import OptionError, explain_error, require_extra
from evo_tune.genome.genes import Gene
from evo_tune.genome.notation import parse_gene
from evo_tune.options.binding import did_you_mean
from evo_tune.plugins.patches import PLACEHOLDER as GENE_PLACEHOLDER
from evo_tune.text import one_line
from evo_tune.trust import safe_files

# Maximum bytes of a template.
LARGEST = 1 << 18

# A placeholder, perhaps in quotation marks of its own: with a gene (groups 2 and 3), or with one of two texts or steps.
PLACEHOLDER = re.compile(
    rf"([\"']?)(?:{GENE_PLACEHOLDER.pattern}|\{{([A-Za-z_]\w*)((?:\?[^{{}}\n]*|\s*\*\s*\d{{1,15}})?)\}})\1"
)

# A dotted name and its new value.
ASSIGNMENT = re.compile(r"\s*([^\s=]+)\s*=\s*(.*\S)\s*")

KEY_PART = r"""(?:[\w-]+|"[^"\n]*"|'[^'\n]*')"""
# A key of more than ten parts ('a.a.a.…') in TOML: parsing it takes time that grows with the square of its parts.
LONG_KEY = re.compile(rf"(?:^|[{{,\[])\s*{KEY_PART}(?:[ \t]*\.[ \t]*{KEY_PART}){{10}}", re.MULTILINE)

# What is before and behind a value that is alone in its place.
BEFORE, BEHIND = (
    re.compile(r"(?:^|[=,\[]|[:-]\s)[ \t]*\Z", re.MULTILINE),
    re.compile(r"[ \t]*(?:$|[,\]}#])", re.MULTILINE),
)

# Returns the value of the inside of a placeholder; None if it has none.
ValueOf = Callable[[str], Any]


class ConfigTemplate:
    """A template of a configuration file.

    Args:
        text: Path of the file; or its path, a line break, and its content.
        assignments: NAME={GENE} or NAME=VALUE for values that are replaced, by dotted name: 'model.depth={depth}'.

    Raises:
        OptionError: The file cannot be read, or something in it or in an assignment is not understood.
    """

    def __init__(self, text: str, assignments: Iterable[str] = ()) -> None:
        path, line_break, content = text.partition("\n")
        self.path = Path(path)
        self.content = content if line_break else _read(self.path)
        self.assignments: dict[str, str] = {}
        for assignment in assignments:
            match = ASSIGNMENT.fullmatch(assignment)
            if match is None or match[1] in self.assignments:
                expected = "expected NAME={GENE} such as model.depth={depth}, each name once"
                raise OptionError(f"--set {one_line(assignment, 100)}: {expected}")
            self.assignments[match[1]] = match[2]
        if self.assignments and self.path.suffix not in EDITORS:
            raise OptionError(f"--set is for a template in {', '.join(EDITORS)}: put placeholders into {path} instead")
        # Names of all that may be a placeholder: braces with other names stay as they are.
        self.names: list[str] = []
        self.genes: dict[str, Gene] = {}
        for match in PLACEHOLDER.finditer("\n".join([self.content, *self.assignments.values()])):
            self.names.append(match[2] or match[4])
            if match[2] and self.genes.setdefault(match[2], gene := parse_gene(match[2], match[3])) != gene:
                raise OptionError(f"{path}: {{{match[2]}}} has other values in another place: give them once")

    @property
    def text(self) -> str:
        """Path, line break and content: all that a run needs to know of the file."""
        return f"{self.path}\n{self.content}"

    def fill(self, value_of: ValueOf) -> str:
        """Return the content with values.

        Raises:
            OptionError: A name of an assignment is not in the file, or the file is broken.
        """
        content = _fill(self.content, value_of, self.path.suffix in EDITORS)
        if not self.assignments:
            return content
        values = {name: _assigned_value(text, value_of) for name, text in self.assignments.items()}
        try:
            return EDITORS[self.path.suffix](content, values)
        except (ValueError, RecursionError, LookupError, TypeError) as error:
            raise OptionError(f"--template {self.path}: {one_line(str(error), 200)}") from None

    def own_texts(self, value_of: ValueOf) -> dict[str, str]:
        """Return the file's own value, as text, of each gene that an assignment alone puts there, by the gene's name.

        Arguments and errors are those of `fill`, which has checked the names of the assignments.
        """
        content, texts = _fill(self.content, value_of, has_literals=True), dict[str, str]()
        for name, text in self.assignments.items():
            match = PLACEHOLDER.fullmatch(text)
            if match and not match[5]:
                texts.setdefault(match[2] or match[4], _own_text(content, self.path.suffix, name))
        return texts

    def write(self, folder: Path, value_of: ValueOf) -> None:
        """Write the file into a folder, under its own name; arguments and errors are those of `fill`."""
        safe_files.replace(folder, self.path.name, self.fill(value_of).encode(), f"{self.path.name}.part", sync=False)


def _read(path: Path) -> str:
    shown = f"--template {one_line(str(path), 100)}"
    with explain_error(OptionError, shown, "expected a configuration file", caught=Exception):  # also what is no UTF-8
        real = path.resolve()  # the user's own link
        return safe_files.read(real.parent, real.name, limit=LARGEST).decode("utf-8-sig")


def _inside(match: re.Match[str]) -> str:
    return str(match[2] or match[4] + match[5])


def _fill(text: str, value_of: ValueOf, has_literals: bool) -> str:
    """Return a text with values, as literals in YAML, JSON and TOML, and else as in a command."""

    def put(match: re.Match[str]) -> str:
        value, quote = value_of(_inside(match)), match[1]
        if value is None:
            return match[0]
        if "?" in match[0] or not has_literals:
            return f"{quote}{value}{quote}"
        is_alone = BEFORE.search(text[max(0, match.start() - 200) : match.start()]) and BEHIND.match(text, match.end())
        return literal(value) if quote or is_alone or not isinstance(value, str) else literal(value)[1:-1]

    return PLACEHOLDER.sub(put, text)


def _assigned_value(text: str, value_of: ValueOf) -> Any:
    """Return the value of an assignment: that of its placeholder, or a number, true, false, null, or a text."""
    match = PLACEHOLDER.fullmatch(text)
    value = None if match is None or "?" in text else value_of(_inside(match))
    if value is not None:
        return value
    filled = PLACEHOLDER.sub(lambda match: str(value_of(_inside(match))), text)
    try:
        return json.loads(filled)
    except (ValueError, RecursionError):
        return filled


def literal(value: Any) -> str:
    """Return a value as YAML, JSON and TOML write it; '1.0e-05', because '1e-05' is a text in YAML 1.1."""
    if isinstance(value, float):
        return re.sub(r"^(-?\d+)e", r"\1.0e", repr(value))
    text = json.dumps(value, ensure_ascii=False)
    # YAML and TOML allow no control characters, such as those from 128 to 159.
    return "".join(c if c.isprintable() or ord(c) > 0xFFFF else f"\\u{ord(c):04x}" for c in text)


def _edit_json(content: str, values: Mapping[str, Any]) -> str:
    return json.dumps(_with_values(json.loads(content), values), indent=2)


def _edit_toml(content: str, values: Mapping[str, Any]) -> str:
    data = _with_values(load_toml(content), values)
    return "".join(f"{literal(key)} = {_toml(value)}\n" for key, value in data.items())


def load_toml(content: str) -> dict[str, Any]:
    """Return the data of a TOML text.

    Raises:
        ValueError: It is no TOML, nested too deeply, or has a key of more than ten parts.
    """
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib
    if LONG_KEY.search(content):
        raise ValueError("a key in it has more than ten parts")
    try:
        data: dict[str, Any] = tomllib.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return data


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{literal(key)} = {_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return literal(value) if isinstance(value, str | bool | int) else str(value)  # a number, a date or a time


def _with_values(data: Any, values: Mapping[str, Any]) -> Any:
    for name, value in values.items():
        place, index = _place_of(data, name)
        place[index] = value
    return data


def _place_of(data: Any, name: str) -> tuple[Any, Any]:
    """Return the dict or list in which a dotted name has its value, and the key or index there."""
    place: Any = {"": data}
    index: int | str = ""
    for key in name.split("."):
        place = place[index]
        index = int(key) if isinstance(place, list) and key.isdecimal() else key
        if isinstance(place, dict) and index not in place:
            raise LookupError(f"there is no {name}{did_you_mean(key, place)}: expected the name of a value in it")
    return place, index


def _own_text(content: str, suffix: str, name: str) -> str:
    """Return the value of a dotted name as text; of YAML, as it is written: PyYAML reads '1e-3' as a text."""
    if suffix in (".json", ".toml"):
        place, index = _place_of(json.loads(content) if suffix == ".json" else load_toml(content), name)
        return str(place[index])
    node = _yaml_node(content, name)
    return node.value if isinstance(node.value, str) else content[node.start_mark.index : node.end_mark.index]


def _edit_yaml(content: str, values: Mapping[str, Any]) -> str:
    """Replace values in the text itself: PyYAML would lose tags, and other parsers read other words as numbers."""
    for name, value in values.items():
        node = _yaml_node(content, name)
        start, end = node.start_mark.index, node.end_mark.index
        if not isinstance(node.value, str) and not node.flow_style:
            raise LookupError(f"{name} is no single value: expected a name inside of it")
        space, line_end = " " * (content[start - 1 : start] == ":"), "\n" * content[start:end].endswith("\n")
        content = f"{content[:start]}{space}{literal(value)}{line_end}{content[end:]}"
    return content


def _yaml_node(content: str, name: str) -> Any:
    """Return the node of a dotted name."""
    with require_extra("--set for a template in YAML", "yaml"):
        import yaml
    try:
        node = yaml.compose(content, yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    for key in name.split("."):
        names = [inner.value for inner, _ in node.value] if isinstance(node, yaml.MappingNode) else []
        if isinstance(node, yaml.SequenceNode) and key.isdecimal():
            node = node.value[int(key)]
        elif key in names:
            node = node.value[names.index(key)][1]
        else:
            raise LookupError(f"there is no {name}{did_you_mean(key, names)}: expected the name of a value in it")
    return node


# Functions that replace values by dotted name, by suffix.
EDITORS = {".yaml": _edit_yaml, ".yml": _edit_yaml, ".json": _edit_json, ".toml": _edit_toml}
