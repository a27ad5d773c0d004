"""`evo_tune.load_model`: read a model from the folder that `evo-tune export` wrote.

The folder may be a stranger's. No code of it is executed: weights are safetensors, all else is JSON within bounds. No
link in it is followed, and no path that it names is read.
"""

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from evo_tune import training
from evo_tune.errors import UsageError
from evo_tune.text import one_line
from evo_tune.training.models.linear import LinearModel
from evo_tune.training.models.linear_texts import LinearTextClassifier
from evo_tune.training.models.model_files import CONFIG, ERRORS, SavedModel, read_json
from evo_tune.training.models.trees import BoostedTrees
from evo_tune.training.prediction import ensemble as ensembles
from evo_tune.training.prediction.about import read_training_facts
from evo_tune.training.prediction.language import ForeignTokens, LanguageModel, OwnTokens
from evo_tune.training.prediction.memory import TABLE_BYTES, MemoryLimit
from evo_tune.training.prediction.model import PASS, ClassifierModel, Model, RegressionModel, SampleModel
from evo_tune.training.prediction.readers import Pictures, Tables, Texts
from evo_tune.training.prediction.series import ForecastModel, Past
from evo_tune.training.recipe.models.base import read_base
from evo_tune.training.recipe.models.gpt_config import GPTConfig
from evo_tune.training.tuned import FINE_TUNING_FILE
from evo_tune.training.tuning.weights import ADAPTER

# Maximum number of files in a model's folder.
MOST_FILES = 1000


# Models of samples by the name in config.json, each with its reader.
SAMPLE_MODELS: dict[str, tuple[type[SavedModel], type[Tables | Pictures | Past | Texts]]] = {
    "BoostedTrees": (BoostedTrees, Tables),
    "ConvNet": (training.ConvNet, Pictures),
    "Forecaster": (training.Forecaster, Past),
    "FTTransformer": (training.FTTransformer, Tables),
    "LinearModel": (LinearModel, Tables),
    "LinearTextClassifier": (LinearTextClassifier, Texts),
    "TextClassifier": (training.TextClassifier, Texts),
    "ViT": (training.ViT, Pictures),
}


def load_model(
    folder: Path | str,
    *,
    device: str = "cpu",
    threads: int | None = None,
    base: Path | str | None = None,
    batch: int | None = None,
    memory: float | None = None,
) -> Model:
    """Return the model that `evo-tune export` wrote, to predict with.

    Args:
        folder: Folder of the model.
        device: Device to compute on: 'cpu', 'cuda:0'.
        threads: Number of CPU threads; None: as in training, which gives the same digits.
        base: Folder of the base of an adapter that was exported alone; None: the folder base inside.
        batch: Samples per pass, which may change the last digits; None: 256, as in training.
        memory: Most memory that the model and its predictions may take, in GiB; None: 80 % of the free memory.

    Raises:
        UsageError: The folder has no model of evo-tune's, or a file of it is missing, altered, a link or too large, or
            the model would take too much memory.
    """
    place = Path(folder).expanduser()
    names, limit = _check_folder(place), MemoryLimit(device, memory)
    settings: dict[str, Any] = {"device": device, "threads": threads, "limit": limit}
    if ADAPTER in names:
        adapter, inside = read_json(place, ADAPTER), place / "base"
        if base is None and not inside.is_dir():
            was = one_line(str(adapter.get("base", "")), 200)
            remedy = f"give the folder of its base with --base; it was {was!r}"
            raise UsageError(f"MODEL {place} is an adapter alone: {remedy}")
        base_folder = inside if base is None else Path(base).expanduser()
        if base is None:
            _check_folder(base_folder)
        if read_base(base_folder).sha256() != adapter.get("base_sha256"):
            raise UsageError(f"MODEL {place}: {base_folder} is another base than the adapter was trained for")
        return _language(place, base_folder, read_json(base_folder, CONFIG), True, settings)
    if base is not None:
        raise UsageError(f"base={str(base)!r}: {place} is no adapter, so it has its own weights: leave it out")
    config = read_json(place, CONFIG)
    kind = str(config.get("class", ""))
    sample_settings = {**settings, "batch": batch or PASS}
    if kind == ensembles.ENSEMBLE:
        return _load_ensemble(place, config, sample_settings)
    if kind in SAMPLE_MODELS:
        limit.require(_needed_memory(place, config), f"MODEL {place}")
        return _load_samples(place, config, sample_settings)
    if kind == "GPT" or "model_type" in config:
        return _language(place, place, config, FINE_TUNING_FILE in names, settings)
    raise UsageError(
        f"MODEL {place}: its {CONFIG} names the class {one_line(kind, 40)!r}: expected one of "
        f"{', '.join([*SAMPLE_MODELS, ensembles.ENSEMBLE, 'GPT'])}, in a folder that `evo-tune export` wrote"
    )


def _check_folder(folder: Path) -> set[str]:
    """Return the names in a folder, all of them regular files and folders.

    Raises:
        UsageError: There is no such folder, or it has links, special files or too many files.
    """
    try:
        entries = [(entry.name, entry.stat(follow_symlinks=False).st_mode) for entry in os.scandir(folder)]
    except OSError as error:
        raise UsageError(f"MODEL {folder}: {error.strerror}: expected a folder that `evo-tune export` wrote") from None
    for name, mode in entries:
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            problem = "is a link, and none is followed" if stat.S_ISLNK(mode) else "is no regular file"
            raise UsageError(f"MODEL {folder}: {one_line(name, 80)!r} {problem}: copy the folder again")
    if len(entries) > MOST_FILES:
        raise UsageError(f"MODEL {folder} has {len(entries)} files: expected a folder that `evo-tune export` wrote")
    names = {name for name, _ in entries}
    if not names & {CONFIG, ADAPTER}:
        raise UsageError(f"MODEL {folder} has no {CONFIG}: expected a folder that `evo-tune export` wrote")
    return names


def _needed_memory(folder: Path, config: Mapping[str, Any]) -> float:
    """Return the bytes of weights, and of tables of positions and masks."""
    needed = 2.0 * sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    if config.get("class") == "GPT":
        with suppress(*ERRORS):  # the reader of the model names what is wrong
            needed += TABLE_BYTES * GPTConfig.from_json(config["model"]).tables
    return needed


def _load_samples(place: Path, config: dict[str, Any], settings: dict[str, Any]) -> SampleModel[Any] | ForecastModel:
    """Return a model of samples.

    Args:
        place: Folder of the model.
        config: Its config.json, which names one of `SAMPLE_MODELS`.
        settings: device, threads, limit and batch.
    """
    model_type, reader_type = SAMPLE_MODELS[config["class"]]
    network: Any = model_type.load(place, settings["device"])
    about = read_training_facts(place, config)
    reader: Any = reader_type(about, network)
    if isinstance(reader, Past):
        return ForecastModel(reader, place, network, about, **settings)
    model_class = RegressionModel if getattr(network, "scale", None) else ClassifierModel
    return model_class(reader, place, network, about, **settings)


def _load_ensemble(place: Path, config: dict[str, Any], settings: dict[str, Any]) -> Model:
    """Return an ensemble; the memory of all its members is checked before one is loaded.

    Raises:
        UsageError: A member is missing or altered, is no model of samples, or has other targets than the others.
    """
    ensemble, configs, needed = ensembles.read_ensemble(place, config), {}, 0.0
    for number in range(len(ensemble.members)):
        member = place / ensembles.member_name(number)
        _check_folder(member)
        configs[member] = member_config = ensembles.read_member(place, ensemble, number)
        if (kind := str(member_config.get("class"))) not in {*SAMPLE_MODELS} - {"Forecaster"}:
            raise UsageError(f"MODEL {member}: the class {one_line(kind, 40)!r} cannot be averaged: export it again")
        needed += _needed_memory(member, member_config)
    settings["limit"].require(needed, f"MODEL {place}")
    models: list[Any] = [_load_samples(member, config, settings) for member, config in configs.items()]
    first = models[0]
    for model in models[1:]:
        if (model.task, model.network.labels) != (first.task, first.network.labels):
            raise UsageError(f"MODEL {model.folder}: it predicts other targets than {first.folder}: export it again")
    model_class = ensembles.EnsembleClassifier if isinstance(first, ClassifierModel) else ensembles.EnsembleRegressor
    weights, about = [member.weight for member in ensemble.members], read_training_facts(place, config)
    return model_class(models, weights, place, first.network, about, **settings)


def _language(folder: Path, weights: Path, config: dict[str, Any], tuned: bool, settings: dict[str, Any]) -> Model:
    """Return a language model: evo-tune's own, one of Hugging Face, or an adapter on one of them.

    Args:
        folder: Folder of the model.
        weights: Folder of its base; that of the model itself unless it is an adapter.
        config: config.json of the weights.
        tuned: Whether it was tuned.
        settings: device, threads and limit.
    """
    settings["limit"].require(_needed_memory(weights, config), f"MODEL {weights}")
    about = read_training_facts(folder, read_json(folder, FINE_TUNING_FILE) if tuned else config)
    is_gpt = config.get("class") == "GPT"
    base = None if is_gpt else read_base(weights)
    network: Any = training.GPT.load(weights) if base is None else training.load_pretrained(base)
    vocabulary = OwnTokens(network.tokenizer) if base is None else ForeignTokens(base)
    shape = network.config if base is None else base
    if base is None and network.tokenizer is None:
        raise UsageError(f"MODEL {folder} has no tokenizer.json, and its tokens are no bytes: export it again")
    if weights != folder:
        training.load_adapter(network, folder)
    network = network.to(settings["device"]).eval()
    return LanguageModel(folder, network, vocabulary, shape, about, tuned, **settings)
