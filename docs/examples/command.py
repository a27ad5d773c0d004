"""An external command: a program that takes --gene=value flags and prints its result as its last line."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

from evo_tune import Choice, Context, Float, Minimize, SearchSpace

SPACE = SearchSpace(lr=Float(1e-3, 1.0, log=True, default=0.1), degree=Choice([1, 3, 5, 7], ordered=True, default=3))
OBJECTIVES = [Minimize("val_loss")]
SCRIPT = Path(__file__).with_name("command_script.py")


def evaluate(genome: dict, context: Context, *, steps: int = 200) -> dict[str, float]:
    """Run the command once; what it prints last is a JSON object of metrics, or the val_loss alone."""
    flags = [f"--{name}={value}" for name, value in {**genome, "steps": steps, "seed": context.seed}.items()]
    done = subprocess.run([sys.executable, SCRIPT, *flags], capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2]
        raise RuntimeError(f"exit code {done.returncode}: {reason}")
    result = json.loads(done.stdout.strip().rpartition("\n")[2])
    return result if isinstance(result, dict) else {"val_loss": result}


def fingerprint() -> str:
    """Tell when the script changes: evo-tune sees only what this file imports."""
    return hashlib.sha256(SCRIPT.read_bytes()).hexdigest()
