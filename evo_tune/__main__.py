"""`python -m evo_tune` does what the console script `evo-tune` does."""

from evo_tune.cli import main

if __name__ == "__main__":
    main()
