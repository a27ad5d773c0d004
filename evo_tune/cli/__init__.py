"""The command line: one file for each command in `commands`, imported when it is used or for the help.

Heavy imports are inside the commands, so that `evo-tune --help` is quick. An error is one line on standard error; the
exit code is 2 for wrong usage, 1 for a run that failed, and 130 after Ctrl-C.
"""

import contextlib
import os
import sys
import warnings
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

import click

from evo_tune import __version__
from evo_tune.cli import commands, shared
from evo_tune.cli.help import COMMANDS
from evo_tune.errors import ClusterLost, EvoTuneError

__all__ = ["main"]

PROG = "evo-tune"

# Environment variable by which a shell asks for completions.
COMPLETE = "_EVO_TUNE_COMPLETE"


def command_names() -> list[str]:
    """Return the names of the commands, which are those of the files in `commands`."""
    return [module.name for module in iter_modules(commands.__path__)]


def command_module(name: str) -> ModuleType:
    """Import the module of a command."""
    return import_module(f"{commands.__name__}.{name}")


class Commands(click.Group):
    """The group of all commands; a command is imported when it is used, and all of them for the help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(command_names(), key=lambda name: (command_module(name).command.order, name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {title: [] for title in COMMANDS.values()}
        names = self.list_commands(ctx)
        width = formatter.width - 6 - max(map(len, names))
        for name in names:
            command = command_module(name).command
            title = COMMANDS[max(order for order in COMMANDS if order <= command.order)]
            groups[title].append((name, command.get_short_help_str(width)))
        for title, rows in groups.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:<{max(map(len, names))}}", text) for name, text in rows])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in command_names():
            command: click.Command = command_module(cmd_name).command
            return command
        if cmd_name.startswith("-") or ctx.resilient_parsing:  # a flag, or a shell that completes
            return None
        from evo_tune.options.binding import did_you_mean

        names = self.list_commands(ctx)
        expected = f"{did_you_mean(cmd_name, names)}: expected one of {', '.join(names)}"
        raise click.UsageError(f"there is no command {cmd_name!r}{expected}", ctx)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name=PROG)
def cli() -> None:
    """Find the hyperparameters and the architecture with which a model trains best on your data and hardware.

    Start with `evo-tune run`: it tunes a small language model on text that comes with Python, on the devices of this
    machine, and saves every trial in ./populations.

    A gene is a hyperparameter, a genome is one configuration, and a trial is a genome with its result. A run is a
    search with its saved trials.
    """


def main() -> None:
    """Run the command line; this is the console script."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):  # it accepts any text
            stream.reconfigure(errors="replace")
    if COMPLETE in os.environ:  # a shell shows nothing but completions
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    warnings.showwarning = _warn  # type: ignore[assignment]
    try:
        code = cli.main(prog_name=PROG, standalone_mode=False)
    except EvoTuneError as error:
        _fail(str(error), error.exit_code, at_once=isinstance(error, ClusterLost))
    except click.exceptions.Abort as error:  # of a KeyboardInterrupt
        _fail(str(error.__cause__ or "") or "interrupted", 130)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else PROG
        _fail(f"{error.format_message().rstrip('.')}{_unknown_flag_hint(error)}; see `{where} --help`", error.exit_code)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except OSError as error:
        # Discard buffered output: writing it at exit would fail again, with a traceback.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _fail(f"{error.strerror or error}: cannot continue", 1)
    sys.exit(code if isinstance(code, int) else 0)


def _unknown_flag_hint(error: click.UsageError) -> str:
    """Return a hint for an unknown flag that may be an option or a gene of the evaluator, such as `--data`."""
    names = {param.name for param in error.ctx.command.params} if error.ctx else set()
    if not isinstance(error, click.NoSuchOption) or not {"options", "genes"} <= names:
        return ""
    from evo_tune.plugins.command import is_interpreter

    if is_interpreter(sys.argv[2] if len(sys.argv) > 2 else ""):
        return "; put the command of a script in quotes"
    return "; an evaluator's option is set by -o NAME=VALUE, a gene by --gene NAME=VALUE"


# Maximum characters of an error or a warning: a name or a value of somebody's data may have millions.
LONGEST = 2000


def _print_problem(kind: str, message: object) -> None:
    text = " ".join(str(message).splitlines())
    if len(text) > LONGEST:  # the end says what to do next
        text = f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"
    shared.echo(f"{kind}: {text}", err=True)


def _warn(message: Warning | str, category: type[Warning], *place: object) -> None:
    """Print a warning as one line, without the place in the code, which tells a user nothing."""
    _print_problem("Warning", message)


def _fail(message: str, code: int, at_once: bool = False) -> None:
    """Print an error and exit.

    Args:
        message: The error.
        code: Exit code.
        at_once: Whether to exit without the usual clean-up, in which Ray without its head crashes, waits, or changes
            the exit code.
    """
    _print_problem("Error", message)
    if not at_once:
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
