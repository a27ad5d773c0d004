"""An evaluator that is a command line, without a file of its own: `command:python train.py --lr {lr}`.

The reference in the manifest is the command itself; loading it executes nothing. Its options say how to read the
output. Whether the command of a saved run may be executed is decided in `loop.code`, as for all code.
"""

import contextlib
import os
import re
import shlex
import shutil
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

from evo_tune.errors import OptionError, PluginError, SpaceError
from evo_tune.genome.genes import Gene
from evo_tune.genome.space import SearchSpace
from evo_tune.genome.trial import Candidate
from evo_tune.genome.values import Genome
from evo_tune.options.binding import bind_options, did_you_mean, options_of
from evo_tune.plugins.context import Context
from evo_tune.plugins.evaluator import Evaluator
from evo_tune.plugins.patches.combining import PatchSet
from evo_tune.plugins.patches.project import run_trial
from evo_tune.plugins.scripts.script import CommandTemplate, Script, placeholder_value
from evo_tune.plugins.scripts.template import ConfigTemplate
from evo_tune.text import one_line

# Origin of such an evaluator, and prefix of its reference.
COMMAND = "command"

# Maximum bytes of a file in the command that counts as code; larger files are data.
LARGEST = 1 << 20

# Maximum characters of a command.
LONGEST = 4000


# Remark about a command without a placeholder for the seed.
NO_SEED = (
    "the command has no {seed}: unless the script reads EVO_TUNE_SEED, extra seeds may all give the same result; "
    "--final-seeds 0 leaves them out"
)

# Options of a command that `Script` takes, in its order.
SCRIPT_OPTIONS = ("metric", "progress", "shell", "metrics_file", "template", "set_values")

# Programs whose first argument is a script, unless it is a flag.
INTERPRETERS = re.compile(r"(?:python|pypy)[\d.]*|bash|sh|dash|zsh|Rscript|julia|perl|ruby")


def is_command(name: str) -> bool:
    """Return whether the name of an evaluator is a command: not a file, and with a placeholder or several words."""
    if name.startswith(f"{COMMAND}:"):
        return True
    words = name.split()
    called = "{" in name or (len(words) > 1 and shutil.which(words[0]) is not None)
    return called and not os.path.exists(name)


def command_evaluator(
    reference: str,
    genes: Mapping[str, Gene | None] | None = None,
    options: Mapping[str, Any] | None = None,
    patches: PatchSet | None = None,
) -> Evaluator:
    """Return the evaluator of a command.

    Args:
        reference: The command, with or without 'command:'.
        genes: Genes of its placeholders, and of patches; None in a worker, which needs no space.
        options: Given options of `evaluate`.
        patches: Patches of the run.

    Raises:
        OptionError: Command, genes and options do not go together, or an option is wrong.
        PluginError: There is no such program, or the command is too long.
    """
    text = reference.removeprefix(f"{COMMAND}:")
    if len(text) > LONGEST:
        raise PluginError(f"the command has {len(text)} characters: expected at most {LONGEST}; put it into a script")

    def evaluate(
        genome: Genome,
        context: Context,
        *,
        metric: str = "",
        progress: str = "",
        shell: bool = False,
        judge: str = "",
        metrics_file: str = "",
        template: str = "",
        set_values: str = "",
    ) -> dict[str, float]:
        script = Script(text, metric, progress, shell, metrics_file, template, set_values)
        return run_trial(script, Script(judge, metric) if judge else None, genome, context)

    values = bind_options(options or {}, options_of(evaluate), "a command", "-o")
    script = Script(text, *(values[name] for name in SCRIPT_OPTIONS))
    words = script.command
    if not words.genes and genes is not None and patches is None:
        raise PluginError(f"the command {one_line(text, 100)!r} has no placeholder: expected --lr {{lr}} for a gene lr")
    if values["set_values"] and not values["template"]:
        raise OptionError("--set replaces values of a template: give the configuration file as --template FILE")
    if values["judge"]:
        if values["metrics_file"]:
            raise OptionError("--judge measures the objective, and --metrics-file reads it: give one of the two")
        judge_words = CommandTemplate(values["judge"])
        if unknown := [name for name in judge_words.genes if name not in words.genes]:
            shown = one_line(unknown[0], 60)
            raise OptionError(f"--judge: {{{shown}}} has no value: expected {{folder}}, {{seed}} or a gene")
        _check_program(judge_words)
    space: dict[str, Gene] = {}
    default_remarks: list[str] = []
    if genes is not None:
        if script.config is not None:
            genes = {**script.config.genes, **genes}
            script.config.fill(lambda inside: placeholder_value(inside, dict.fromkeys(words.names, 1)))
            genes, default_remarks = _with_defaults_of_file(genes, script.config, words)
        of_patches = {} if patches is None else patches.genes
        words.check(name for name in genes if name not in of_patches)
        space = {name: gene for name, gene in genes.items() if isinstance(gene, Gene)}
        for name in genes.keys() - space.keys():
            raise OptionError(f"--gene {name}: expected its values, such as '{name}=log(1e-4,1e-2)' or {name}=2|4")
        _check_program(words)
    try:
        parts = shlex.split(text)
    except ValueError:  # text of a shell
        parts = text.split()
    # The name is that of the first file with a suffix, or else of the program.
    names = [Path(part).name for part in parts]
    file_name = next((name for name in names if re.fullmatch(r"[\w.-]+\.[A-Za-z]{1,3}", name)), names[0])
    name = Path(file_name).stem or COMMAND
    # The files of a project with patches are copied into the run, so later changes do not matter.
    config_path = [] if script.config is None else [str(script.config.path)]
    parts += [*shlex.split(values["judge"]), *config_path]
    code = () if patches is not None else tuple(_code_files(parts))
    module = ModuleType(COMMAND)
    module.__doc__ = one_line(text)
    supports = ["budget"] if "budget" in words.names else []
    supports += ["curve"] if script.curve_position is not None and not values["judge"] else []
    unsupported = {
        "budget": "the command has no {budget}: put it where the length of a training belongs, such as "
        "--steps {budget*2000} where a full one has 2000",
        "curve": "where a printed line lies on the curve is not known: say --progress 20 (points of a full training), "
        "--progress step/2000 or --progress fraction (metrics)",
    }
    vars(module).update(
        SPACE=SearchSpace(None if patches is None else patches.repair, None, **space) if space else _no_space,
        OBJECTIVES=[],
        METRICS=dict.fromkeys(script.patterns, ""),
        SUPPORTS=supports,
        UNSUPPORTED=unsupported,
        SEEDED="seed" in words.names,
        evaluate=evaluate,
        remarks=lambda **_: [
            *default_remarks,
            *([] if "seed" in words.names else [NO_SEED]),
            *(patches.remarks() if patches else ()),
        ],
    )
    return Evaluator(module, name, f"{COMMAND}:{text}", Path(__file__), COMMAND, code, patches)


def with_template_text(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of a command with the content of the template in place of its path: it belongs to the run.

    Raises:
        OptionError: The file cannot be read.
    """
    template = options.get("template")
    if not isinstance(template, str) or not template:
        return dict(options)
    return {**options, "template": ConfigTemplate(template).text}


def _with_defaults_of_file(
    genes: Mapping[str, Gene | None], config: ConfigTemplate, words: CommandTemplate
) -> tuple[dict[str, Gene | None], list[str]]:
    """Return genes without a default with that of the configuration file if they allow it, and remarks about these."""
    new_genes, shown, remarks = dict(genes), list[str](), list[str]()
    texts = config.own_texts(lambda inside: placeholder_value(inside, dict.fromkeys(words.names, 1)))
    for name, text in texts.items():
        gene = genes.get(name)
        if not isinstance(gene, Gene) or gene.default is not None or gene.size == 1:
            continue
        value = f"{name}={one_line(text, 60)}"
        try:
            new_genes[name] = replace(gene, default=gene.parse(text))  # type: ignore[type-var]
            shown.append(value)
        except SpaceError:
            used = f"the default is {gene.middle()}; give @ VALUE in --gene {name}=… for another"
            remarks.append(f"{config.path} has {value}, which is not in its range: {used}")
    return new_genes, [f"default from {config.path}: {', '.join(shown)}", *remarks] if shown else remarks


def command_of(reference: str, candidate: Candidate, options: Mapping[str, Any], device: str, threads: int) -> str:
    """Return the command that trains a candidate of a run once more in full, for a shell; '' without a command.

    Args:
        reference: Evaluator of the run.
        candidate: Trial to train, with its seed.
        options: Options of the evaluator.
        device: Device of its training.
        threads: CPU threads of its training.
    """
    kind, _, text = reference.partition(":")
    if kind != COMMAND:
        return ""
    folder = f"trial-{candidate.id}"
    values: dict[str, Any] = {
        "seed": candidate.seed,
        "device": device,
        "threads": threads,
        "budget": 1.0,
        "folder": folder,
        "resume": "",
    }
    shell, template, assignments = (options.get(name) for name in ("shell", "template", "set_values"))
    shell = shell is True
    config = ConfigTemplate(str(template), str(assignments or "").splitlines()) if template else None
    words = CommandTemplate(text, shell, config)
    values |= candidate.genome
    make = f"mkdir -p {folder} && " if "folder" in words.names or config is not None else ""
    if config is not None:
        values["config"] = f"{folder}/{config.path.name}"
        content = config.fill(lambda inside: placeholder_value(inside, values))
        escaped = content.replace("\\", "\\\\").replace("\n", "\\n")
        make += f"printf %b {shlex.quote(escaped)} > {shlex.quote(values['config'])} && "
    put = words.fill(values)
    return make + (put[0] if shell else shlex.join(put))


def _no_space() -> SearchSpace:
    raise PluginError("a command has no genes of its own: give them, such as --gene 'lr=log(1e-4,1e-2)' for {lr}")


def _check_program(words: CommandTemplate) -> None:
    """Refuse a program, or a script of an interpreter, that does not exist.

    Raises:
        PluginError: The program or the script is not found.
    """
    first = words.words[0]
    if words.shell or "{" in first:
        return
    if shutil.which(first) is None:
        raise PluginError(
            f"{one_line(first, 100)!r} is neither an evaluator nor a program that can be started: expected a command "
            "such as 'python train.py --lr {lr}', an existing .py file, or a name that `evo-tune evaluators` lists"
        )
    # Behind a flag, which may take a value or name a module, no script is looked for.
    script = words.words[1] if words.words[1:] and is_interpreter(first) else "-"
    if not script.startswith("-") and "{" not in script and not os.path.exists(script):
        folder = os.path.dirname(script) or "."
        hint = did_you_mean(os.path.basename(script), os.listdir(folder) if os.path.isdir(folder) else [])
        place = one_line(os.getcwd(), 200)
        raise PluginError(f"there is no script {one_line(script, 100)!r}{hint}: expected a path from {place}")


def is_interpreter(word: str) -> bool:
    """Return whether a word is the name or path of a program that runs scripts."""
    return INTERPRETERS.fullmatch(os.path.basename(word)) is not None


def _code_files(parts: Sequence[str]) -> list[Path]:
    """Return the files in a command that may be code, whose change changes results."""
    modules = [f"{after.replace('.', '/')}.py" for flag, after in pairwise(parts) if flag == "-m"]
    paths = {Path(part) for word in [*parts, *modules] for part in (word, word.partition("=")[2]) if part}
    files = set()
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            status = path.stat()
            if stat.S_ISREG(status.st_mode) and 0 < status.st_size <= LARGEST:  # 0: perhaps /proc/kmsg, without an end
                files.add(path.resolve())
    return sorted(files)
