import ast
import subprocess
import sys
from pathlib import Path

import evo_tune.training as training

LIGHT = (
    "GPTConfig, GapDecay, flops_per_token, Schedule, WeightDecay, predict_memory, scale_lr, optimizer_steps, "
    "keep_freed_memory, read_base, matching_names, LanguageOptions, LanguageTask, Corpus, Scheduling, Clipping, "
    "Optimisation, Decaying, Ramping, Averaging, Stopping, Computing, Passes, Processes, Decoder, Budget, Texts, "
    "Classifying, ClassifierTask, Training, Tuning, known_before, units_of, has_gpu, "
    "read_images, read_labelled_texts, read_table, small_base_key, read_tuning_text"
)
KNOWN = ("torch", "numpy", "safetensors", "tokenizers", "transformers", "evo_tune", "filelock")
READERS = ("pandas", "sklearn", "PIL", "torchvision")
"""What reads files and sample data: for the readers in data/ only."""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_public_name_is_there() -> None:
    assert len(set(training.__all__)) == len(training.__all__) > 20
    for name in training.__all__:
        assert getattr(training, name).__doc__ or name.isupper()


def test_arithmetic_loads_no_torch() -> None:
    run(f"import sys; from evo_tune.training import {LIGHT}; assert 'torch' not in sys.modules, 'torch was loaded'")


def test_it_is_an_island() -> None:
    for path in Path(training.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0
                modules = [node.module or ""]
            for module in modules:
                top = module.split(".")[0]
                known = KNOWN + READERS if path.parent.name == "data" else KNOWN
                assert top in sys.stdlib_module_names or top in known, module
                if top == "evo_tune":
                    allowed = ("evo_tune.training.", "evo_tune.options.")
                    assert f"{module}." == "evo_tune.errors." or f"{module}.".startswith(allowed), module


def test_freed_memory_is_kept_where_glibc_is() -> None:
    out = (
        run(
            "import numpy, resource, time\n"
            "from evo_tune.training import keep_freed_memory\n"
            "told = keep_freed_memory()\n"
            "def faults():\n"
            "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
            "    numpy.empty(2**20).fill(1.0)\n"  # 8 MiB: 2048 pages, or with huge pages a few
            "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
            "faults()\n"
            "print(told, max(faults() for _ in range(5)))\n"
        )
        if sys.platform == "linux"
        else "False 0"
    )
    told, most = out.split()
    assert told == "False" or int(most) < 4
