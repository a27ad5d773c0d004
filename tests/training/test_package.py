"""The two parts that train: what they may import beside each other, their public names, and freed memory."""

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import evo_tune.training.public as training
import evo_tune.training.recipe.public as recipe

KNOWN = (
    "torch",
    "numpy",
    "psutil",
    "scipy",
    "safetensors",
    "lightgbm",
    "tokenizers",
    "transformers",
    "evo_tune",
    "filelock",
    "msgspec",
)
READERS = ("pyarrow", "pandas", "sklearn", "PIL", "torchvision", "statsmodels", "threadpoolctl", "jinja2", "markupsafe")
"""Packages that read files and sample data, that trainings are compared with, or that write the model card."""
READING = ("data", "baselines", "forecaster", "prediction")
"""Folders and files that may import them."""


def public(part: ModuleType) -> dict[str, object]:
    names = {name: thing for name, thing in vars(part).items() if not name.startswith("_")}
    return {name: thing for name, thing in names.items() if not isinstance(thing, ModuleType)}


@pytest.mark.parametrize("part", [recipe, training])
def test_every_public_name_says_what_it_is(part: ModuleType) -> None:
    assert len(public(part)) > 20
    assert not [name for name, thing in public(part).items() if not (thing.__doc__ or name.isupper())]


def test_a_public_name_has_one_home() -> None:
    assert not public(recipe).keys() & public(training).keys()


@pytest.mark.parametrize("part", [recipe, training])
def test_a_part_imports_few_other_packages(part: ModuleType) -> None:
    for path in Path(str(part.__file__)).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            for module in modules:
                top = module.split(".")[0]
                known = KNOWN + READERS if {path.parent.name, path.stem} & set(READING) else KNOWN
                assert top in sys.stdlib_module_names or top in known, module


@pytest.mark.slow
def test_freed_memory_is_kept_where_glibc_is() -> None:
    code = (
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
    out = "False 0"
    if sys.platform == "linux":
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    told, most = out.split()
    assert told == "False" or int(most) < 4
