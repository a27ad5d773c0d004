"""`evo-tune completion`: print the completion script of a shell."""

import click

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command


@cli_command(
    "completion",
    'eval "$(evo-tune completion bash)"  # in ~/.bashrc',
    'eval "$(evo-tune completion zsh)"  # in ~/.zshrc, after compinit',
    "evo-tune completion fish > ~/.config/fish/completions/evo-tune.fish  # once",
    order=150,
    formats=("script", "json"),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str, output_format: str) -> None:
    """Print the completion script of SHELL.

    It completes commands, flags, choices, and the names of runs.
    """
    from click.shell_completion import get_completion_class

    from evo_tune.cli import COMPLETE, PROG

    kind = get_completion_class(shell)
    assert kind is not None, "click knows each of the choices"
    script = kind(ctx.find_root().command, {}, PROG, COMPLETE).source()
    if output_format == "json":
        from evo_tune.cli.formats import ShellScript  # a shell that starts waits for the script

        shared.print_json(ShellScript(shell=shell, script=script))
    else:
        shared.echo(*script.splitlines())
