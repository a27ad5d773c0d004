"""Run evo-tune from a checkout without installing it: `python cli.py run`, `torchrun cli.py …`."""

from evo_tune.cli import main

if __name__ == "__main__":
    main()
