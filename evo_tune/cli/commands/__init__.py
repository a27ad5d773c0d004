"""One file per command: `NAME.py` is the command `evo-tune NAME`.

Each has `command`, made with `cli_command("NAME", order=…)`: the lower the order, the earlier it is in the help.
The help imports all of them, so slow imports are inside functions. Code that commands share is in `evo_tune/cli`; no
command imports another.
"""
