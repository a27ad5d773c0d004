"""`evo-tune mcp`: serve tools for coding agents, over standard input and output."""

import click

from evo_tune.cli import shared
from evo_tune.cli.help import cli_command


@cli_command(
    "mcp",
    "evo-tune mcp .                # started by the agent's program, not typed",
    "evo-tune mcp . --format json",
    order=145,
    formats=("mcp", "json"),
)
@click.argument("folders", metavar="FOLDER…", nargs=-1, required=True)
def command(folders: tuple[str, ...], output_format: str) -> None:
    """Serve tools for coding agents, over MCP.

    The tools start, watch, stop and read runs in FOLDERs. The command speaks the Model Context Protocol over standard
    input and output, and opens no port. Files outside of the folders
    are refused, links included. It needs the extra `mcp`. `--format json` lists the tools and ends.
    """
    from evo_tune.cli.agents import Workplace, server

    place = Workplace(folders)
    if output_format == "json":
        from evo_tune.cli.formats import AgentTool, AgentTools

        tools = [
            AgentTool(name=name, summary=(tool.__doc__ or "").partition("\n")[0]) for name, tool in place.tools.items()
        ]
        shared.print_json(AgentTools(folders=place.folders, tools=tools))
        return
    server(place).run("stdio")
