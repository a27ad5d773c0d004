"""One file per command: `NAME.py` is the command `evo-tune NAME`.

Each has `command`, made with `cli_command("NAME")`, and `HELP_ORDER`, its place in the help: the lower, the earlier.
The help imports all of them, so slow imports are inside functions. Code that commands share is in `evo_tune/cli`; no
command imports another.
"""
