"""The help of commands: flags in groups, and examples.

It extends click's own commands, so that the help needs no other import. rich-click took 100 ms more and draws boxes
into pipes; cloup takes 50 ms more for every command and every completion.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

# Titles of the groups and names of their flags, both in the order of the help; all others are in 'Other flags'.
FLAGS: Mapping[str, str] = {
    "Training": """trial from gene option ladder for-scale evaluator metric metrics-file template set progress shell
        judge ensemble single width depth batch base prompt length temperature top-k""",
    "Search": """target families patches protect allow-patches strategy strategy-option accept-changes trust
        population fidelity prune widen seed order lag warm-start learn-from fill-defaults""",
    "Limits": "generations trials budget hours stop-when-done tokens seconds timeout retries dry-run give-up-after",
    "Devices": "slots device devices per-device threads backend address scheduler-file max-slots memory speed",
    "Evaluation": "objective subject-to seeds-per-trial seeds final-seeds finalists baseline with probe",
    "Output": """out overwrite name as store folder config emit output keep track no-report price-per-hour quiet
        format help""",
}

# Titles of the groups of commands, by the lowest `order` of a command in them.
COMMANDS: Mapping[int, str] = {0: "Search", 30: "Runs", 80: "Evaluators and strategies", 112: "Models", 140: "Setup"}

# Most flags of a command without groups.
FEW = 9

# Names of values in the help, by the type of a flag without a name of its own.
METAVARS: Mapping[type[click.ParamType[Any]], str] = {
    click.types.IntParamType: "N",
    click.types.FloatParamType: "NUMBER",
    click.types.StringParamType: "TEXT",
}

# What an error says a value is not, for types whose own names only programmers know.
KINDS: Mapping[type[click.ParamType[Any]], str] = {click.IntRange: "whole number", click.FloatRange: "number"}


class Command(click.Command):
    """A command whose help shows its flags in groups; `cli_command` makes it."""

    # See `cli_command`.
    order = 0
    examples: Sequence[str] = ()
    settings: str | None = None

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        if self.settings is not None:
            from evo_tune.cli import flags

            self.params.extend(getattr(flags, self.settings)())
            self.settings = None
        for param in self.params:
            if isinstance(param, click.Option) and param.metavar is None and not isinstance(param.type, click.Choice):
                kinds = (name for kind, name in METAVARS.items() if isinstance(param.type, kind))
                param.metavar = next(kinds, None)
            if (kind := KINDS.get(type(param.type))) is not None:
                param.type.name = kind
        return super().get_params(ctx)

    def groups(self, ctx: click.Context) -> dict[str, list[click.Option]]:
        """Return the visible flags by the title of their group, in the order of the help."""
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option) and not param.hidden]
        flags = {max(option.opts, key=len).lstrip("-"): option for option in options}
        if len(flags) <= FEW:
            return {"Options": list(flags.values())}
        groups: dict[str, list[click.Option]] = {}
        for title, names in FLAGS.items():
            group = [flags.pop(name) for name in names.split() if name in flags]
            if group:
                groups[title] = group
        return {**groups, "Other flags": list(flags.values())} if flags else groups

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, flags in self.groups(ctx).items():
            rows = [row for flag in flags if (row := flag.get_help_record(ctx)) is not None]
            with formatter.section(title):
                formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        if not self.examples:
            return
        with formatter.section("Examples"):
            for line in "\n".join(self.examples).splitlines():
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


def cli_command(
    name: str, *examples: str, order: int, formats: Sequence[str] = ("table", "json"), settings: str | None = None
) -> Callable[[Callable[..., Any]], Command]:
    """Return a decorator that makes a command of a function.

    Args:
        name: Name of the command.
        examples: Command lines for the end of the help, each with an optional comment after two blanks and '#'. Their
            lines have up to 78 characters.
        order: Place in the help of `evo-tune`: the lower, the earlier.
        formats: Choices of `--format`; the first one is the default.
        settings: Function of `cli.flags` that returns further flags, called once this command is used or asked for its
            help. It keeps the declarations of settings out of `evo-tune --help`.
    """

    def make(function: Callable[..., Any]) -> Command:
        command = click.command(name, cls=Command)(function)
        command.order, command.examples, command.settings = order, examples, settings
        help, choice = f"Output format.  [default: {formats[0]}]", click.Choice(formats)
        click.option("--format", "output_format", type=choice, default=formats[0], help=help)(command)
        return command

    return make
