"""The command line: one file per command in `commands`, imported when it is used, or for the help.

Everything heavy is imported inside the commands, so `evo-tune --help` answers at once. Errors are one
line on stderr: exit code 2 for what was typed, 1 for a run that failed, 130 after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

import click

from evo_tune import __version__
from evo_tune.cli import _shared as shared
from evo_tune.cli import commands, complete
from evo_tune.cli.help import Context
from evo_tune.errors import ClusterLost, EvoTuneError

__all__ = ["main"]

PROG = "evo-tune"

COMPLETE = "_EVO_TUNE_COMPLETE"
"""Set by a shell that asks what could stand where one types."""


def names() -> list[str]:
    """Return the names of the commands: those of the files in `commands`."""
    return [found.name for found in iter_modules(commands.__path__)]


def module_of(name: str) -> ModuleType:
    """Import a command's module."""
    return import_module(f"{commands.__name__}.{name}")


class Commands(click.Group):
    """A group of the commands that are there; one is imported when it is asked for, all of them for the help."""

    context_class = Context

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(names(), key=lambda name: (module_of(name).PLACE, name))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in names():
            return None
        command: click.Command = module_of(cmd_name).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from evo_tune.options.binding import suggest

        if args and not args[0].startswith("-") and args[0] not in names() and not ctx.resilient_parsing:
            known = self.list_commands(ctx)
            raise click.UsageError(
                f"there is no command {args[0]!r}{suggest(args[0], known)}: expected one of {', '.join(known)}", ctx
            )
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="evo-tune")
def cli() -> None:
    """Evolve the architecture and hyperparameters with which a Transformer trains best on your task.

    Begin with `evo-tune run`: it evolves a small language model on text that comes with Python, on
    whatever this machine has, and saves every evaluation under ./populations.
    """


def main() -> None:
    """Run the command line; this is the console script."""
    _mend_streams()
    if COMPLETE in os.environ:
        sys.exit(complete.answer(cli, PROG, COMPLETE))
    warnings.showwarning = _warn  # type: ignore[assignment]
    try:
        code = cli.main(prog_name=PROG, standalone_mode=False)
    except ClusterLost as error:
        _end_at_once(str(error), error.exit_code)
    except EvoTuneError as error:
        _fail(str(error), error.exit_code)
    except click.exceptions.Abort:
        _fail("interrupted", 130)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "evo-tune"
        _fail(f"{error.format_message().rstrip('.')}{_elsewhere(error)}; see `{where} --help`", error.exit_code)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except BrokenPipeError:  # `evo-tune show | head`
        _give_up_output()
        sys.exit(1)
    except OSError as error:
        _give_up_output()
        _fail(f"{error.strerror or error}: cannot go on", 1)
    sys.exit(code if isinstance(code, int) else 0)


def _elsewhere(error: click.UsageError) -> str:
    """Return where a flag that a command does not have may belong, as `--data` or `--lr`: to the evaluator."""
    names = {param.name for param in error.ctx.command.params} if error.ctx else set()
    if not isinstance(error, click.NoSuchOption) or not {"options", "genes"} <= names:
        return ""
    return "; an evaluator's option is set by -o NAME=VALUE, a gene by --gene NAME=VALUE"


def _mend_streams() -> None:
    """Give a process that was started without standard streams, or with poor ones, streams that take all text."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _give_up_output() -> None:
    """Let what is still buffered go nowhere: writing it at exit would fail once more, with a traceback."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> None:
    shared.echo(f"Error: {' '.join(message.splitlines())}", err=True)
    sys.exit(code)


def _end_at_once(message: str, code: int) -> None:
    """As `_fail`, past what is done at the exit: Ray without its head crashes there, waits, or gives another code."""
    shared.echo(f"Error: {' '.join(message.splitlines())}", err=True)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _warn(message: Warning | str, category: type[Warning], *where: object) -> None:
    """Print a warning as one line: where in our code it was raised tells a user nothing."""
    shared.echo(f"Warning: {' '.join(str(message).splitlines())}", err=True)
