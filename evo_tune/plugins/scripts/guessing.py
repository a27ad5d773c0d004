"""A first guess at what of a script's settings may vary, and within what range; and at what it prints.

By names, as people give them. A guess that is no gene is none; whoever uses it looks at it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from evo_tune.errors import SpaceError
from evo_tune.genome.genes import Choice, Float, Gene, Int
from evo_tune.plugins.scripts.settings import Setting
from evo_tune.plugins.scripts.words import GIVEN

__all__ = ["given_word", "guess", "metric_of", "range_of"]

OTHER = re.compile(
    r"wandb|log|debug|compile|resume|eval|save|cuda|gpu|dry|verbose|export|test|sample|download|force|overwrite|print|"
    r"profil|fp16|bf16|amp\b|accel|cpu|push|quiet|plot|show|data|device|backend|dtype|dir|path|file|worker|port|host|rank|"
    r"world|seed|version|check|token_?izer|project|entity|pin_|cache|predict|generate|infer|deterministic|distributed|ddp",
    re.IGNORECASE,
)
"""Settings that say how a script works, and not how it trains."""

LOG = re.compile(
    r"(^|_)lrs?(_|$)|learning_?rate|decay|(^|_)wd(_|$)|clip|max_?norm|l2|step_?size|temperature|init_?(std|scale)", re.I
)
SHARES = re.compile(r"drop|smooth|mixup|cutmix|warmup|augment", re.I)
NEAR_ONE = re.compile(r"momentum|beta|ema|gamma", re.I)
SIZES = re.compile(
    r"batch|width|hidden|hid($|den)|dim|embd|emsize|embed|d_?model|d_?ff|channels|features|units|filters", re.I
)
COUNTS = re.compile(r"layer|depth|blocks?$|warmup", re.I)

FOLDER = re.compile(r"(out|output|save|work|ckpt|checkpoints?|results?|log|logging|model)_?(dir|path|folder)")
WEIGHTS = re.compile(r"[\w-][\w.-]*\.(pt|pth|bin|ckpt|npz?)")

METRICS = (
    ("val_loss", "min", r"val(id(ation)?)?[ _]loss"),
    ("eval_loss", "min", r"eval[ _]loss"),
    ("test_loss", "min", r"test[ _]loss"),
    ("val_acc", "max", r"val(id(ation)?)?[ _]acc(uracy)?"),
    ("accuracy", "max", r"accuracy"),
    ("loss", "min", r"\bloss"),
)
"""What a script may print: name, direction, and how it is written; the first that is found."""


def guess(setting: Setting) -> Gene | None:
    """Return the gene that a setting is likely to be; None where it should stay as it is."""
    if setting.name in GIVEN or setting.default is None or OTHER.search(setting.name) or not setting.word:
        return None
    return range_of(setting) if _varies(setting) else None


def _varies(setting: Setting) -> bool:
    if setting.choices or isinstance(setting.default, bool):
        return True
    kinds = {float: (LOG, SHARES, NEAR_ONE), int: (LOG, SIZES, COUNTS)}.get(type(setting.default), ())
    return any(kind.search(setting.name) for kind in kinds)


def range_of(setting: Setting) -> Gene | None:
    """Return a gene around a setting's default, whether or not it should vary; None if there can be none."""
    try:
        return _range(setting)
    except SpaceError:
        return None


def _range(setting: Setting) -> Gene | None:
    default, name = setting.default, setting.name
    if default is None:
        return None
    if setting.choices:
        return Choice(setting.choices, default=default if default in setting.choices else None)
    if isinstance(default, bool):
        return Choice((False, True), default=default)
    if isinstance(default, int):
        return _whole(name, default)
    if not isinstance(default, float):
        return None
    if SHARES.search(name) and 0.0 <= default <= 0.5:
        return Float(0.0, 0.5 if "drop" in name.lower() else 0.3 if default <= 0.3 else 0.5, default=default)
    if NEAR_ONE.search(name) and 0.0 < default < 1.0:
        return Float(_round(max(0.0, 1 - 5 * (1 - default))), _round(1 - (1 - default) / 5), default=default)
    if default > 0.0:
        factor = 10.0 if LOG.search(name) else 2.0
        return Float(_round(default / factor), _round(default * factor), log=True, default=default)
    return Float(0.0, 0.1, default=0.0) if default == 0.0 else None


def _whole(name: str, default: int) -> Gene | None:
    if default <= 0:
        return None
    if SIZES.search(name) and default >= 2:
        factors = (0.25, 0.5, 1, 2, 4) if "batch" in name.lower() else (0.5, 1, 2)
        sizes = [int(default * factor) for factor in factors if default * factor == int(default * factor)]
        return Choice(tuple(sizes), ordered=True, default=default)
    return Int(max(1, default // 2), 2 * default, default=default)


def _round(value: float) -> float:
    return float(f"{value:.3g}") if math.isfinite(value) else value


def given_word(setting: Setting) -> str | None:
    """Return the word of the command for a setting that is what a trial is given: its seed, its device, its folder."""
    name, word, default = setting.name.lower(), setting.word, setting.default
    what = ""
    if name in ("seed", "random_seed", "manual_seed", "rng_seed"):
        what = "{seed}"
    elif name == "device":
        what = "{device}"
    elif name in ("threads", "num_threads", "n_threads"):
        what = "{threads}"
    elif FOLDER.fullmatch(name):
        what = "{folder}"
    elif re.match(r"save|out", name) and isinstance(default, str) and WEIGHTS.fullmatch(default):
        what = f"{{folder}}/{default}"
    placed = f"{{{setting.name}}}"
    return word.replace(placed, what) if what and placed in word else None


def metric_of(texts: Sequence[str], json: bool) -> tuple[str, str, str]:
    """Return name, direction and pattern ('' for JSON) of what a script seems to print; val_loss if nothing is seen."""
    for name, direction, written in METRICS:
        for text in texts:
            found = re.search(written, text, re.IGNORECASE)
            if found:
                exact = found[0] if json and text == found[0] else name
                return exact, direction, "" if json else found[0]
    return "val_loss", "min", "" if json else "val_loss"
