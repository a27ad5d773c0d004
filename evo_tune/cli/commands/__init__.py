"""One file per command, which is known by being here: `NAME.py` is what `evo-tune NAME` does.

Each has `command`, made with `click.command("NAME")`, and `PLACE`, its place in the help: the lower, the earlier. All
of them are imported for the help, so what takes long to import stands inside functions. What commands share lies one
floor up; no command imports another.
"""
