"""Memory of a training, by formula: weights and moments, activations, logits.

Activations are counted after Korthikanti et al. (arXiv:2205.05198), for the tensors that the blocks here keep for the
backward pass. `estimate` and the choice of passes use the same formulas and constants. The pass size depends on the
total memory of the device, not on its free memory, so that other processes cannot change a trial's result.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from evo_tune.errors import RecipeError
from evo_tune.training.recipe.models import gpt_config
from evo_tune.training.recipe.models.base import TARGET_PRESETS, BaseModel
from evo_tune.training.recipe.models.encoder_config import EncoderConfig
from evo_tune.training.recipe.models.gpt_config import GPTConfig

# Optimizer to bytes of its moments per trained weight; Muon has one moment less for each hidden matrix.
MOMENTS = {"adamw": 8, "muon": 8, "sgd": 4}

# Ratio of the peak to the sum of the counted memory, without the order of a step; the rest is for short-lived tensors.
SHORT_LIVED = 1.1

# Device to bytes used by its libraries.
LIBRARIES = {"cpu": 0.0, "cuda": 0.75 * 2**30}

# Maximum share of a device's memory for a predicted training.
USABLE = 0.9


class Memory(NamedTuple):
    """Predicted memory, in bytes.

    Args:
        states: Weights, gradients, moments, and the weight average if any.
        activations: Tensors that the forward pass keeps for the backward pass.
        logits: Peak of logits, their log-softmax and their gradients.
        context: Libraries of the device.
        step: Largest sum of states, activations and logits at one time in a step; None: all of them at the same time,
            with an allowance for short-lived tensors.
    """

    states: float
    activations: float
    logits: float
    context: float = 0.0
    step: float | None = None

    @property
    def peak(self) -> float:
        """Largest memory in a step, in bytes."""
        together = SHORT_LIVED * (self.states + self.activations + self.logits)
        return (together if self.step is None else self.step) + self.context


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Settings that determine the memory of a training, apart from model and batch.

    Args:
        precision: 'fp32', 'bf16' or 'fp16'.
        recompute: Interval of blocks that are recomputed in the backward pass; None: no block.
        device: 'cpu' or 'cuda'.
        optimizer: 'adamw', 'muon' or 'sgd'.
        ema: Whether an average of the trained weights is kept.
        ranks: Number of data-parallel processes.
        accumulated: Whether a step has several passes, so that gradients exist in the forward pass.
    """

    precision: str = "fp32"
    recompute: int | None = None
    device: str = "cpu"
    optimizer: str = "adamw"
    ema: bool = False
    ranks: int = 1
    accumulated: bool = False

    @property
    def number_bytes(self) -> int:
        """Bytes per number in products."""
        return 4 if self.precision == "fp32" else 2


def state_bytes(trainable: int, setup: Setup, matrices: int = 0) -> float:
    """Return the bytes of weights, gradients and moments in float32; with AdamW 16 per trainable weight.

    Args:
        trainable: Number of weights with a gradient.
        setup: Optimizer and average.
        matrices: Number of weights in hidden matrices, which have one moment with Muon; 0 gives an upper bound.
    """
    average = 4.0 * trainable if setup.ema else 0.0
    spared = 4.0 * matrices if setup.optimizer == "muon" else 0.0
    return (8.0 + MOMENTS[setup.optimizer]) * trainable + average - spared


def activation_bytes(config: GPTConfig, batch: int, setup: Setup) -> float:
    """Return the bytes that one forward pass keeps for the backward pass, without logits.

    A plain block keeps 16 numbers per channel: 64 · bTd bytes in fp32. Under autocast the residual stream stays in
    float32, so that a block keeps 36 · bTd bytes and a copy of its weights. On a CPU the attention weights add
    2 · heads · bT² (see `training.models.block`). A recomputed block keeps only its input, and one such block at a
    time is in memory in full.

    Args:
        config: Shape of the model.
        batch: Sequences b per micro-batch.
        setup: Precision, recomputed blocks and device. On a CPU dropout masks are larger.
    """
    blocks, inputs, head, masks = _kept_bytes(config, batch, setup)
    recomputed = [] if setup.recompute is None else blocks[:: setup.recompute]
    return sum(inputs) + head + masks + max(recomputed, default=0.0)


def _kept_bytes(config: GPTConfig, batch: int, setup: Setup) -> tuple[list[float], list[float], float, float]:
    """Return the bytes kept by each block, by each until it is recomputed, by the head, and as document masks."""
    tokens, d, e, recompute = batch * config.context, config.width, setup.number_bytes, setup.recompute
    blocks = [_block_bytes(config, batch, setup, values=values) for values in config.embeds_values]
    if setup.precision != "fp32":
        copies = e * (config.matmul_parameters - d * config.vocab_size) / config.depth
        blocks = [block + copies for block in blocks]
    # The last norm, its statistics, the tokens, and the rows of their n-grams.
    head = tokens * ((4.0 + e) * d + 8 + 8 * config.ngrams)
    head += tokens * d * (1 if setup.device == "cuda" else 4) if config.dropout else 0
    head += e * d * config.vocab_size if setup.precision != "fp32" else 0
    masks = 0.0
    if config.boundary is not None and (recompute is not None or config.vocab_size >= gpt_config.LARGE_VOCABULARY):
        masks = float(tokens * config.context)  # for blocks yet to be computed
    inputs = [
        block if recompute is None or number % recompute else 4.0 * tokens * d for number, block in enumerate(blocks)
    ]
    return blocks, inputs, head, masks


def step_bytes(config: GPTConfig, batch: int, setup: Setup, states: float, logits: float) -> float:
    """Return the largest sum of states, activations and logits at one time in a step.

    Gradients grow while activations shrink. At the end of the forward pass there are none yet, except those of earlier
    passes, and the buffers in which ranks reduce them.

    Args:
        config: Shape of the model.
        batch: Sequences per pass.
        setup: All fields.
        states: Bytes of weights, gradients, moments and average.
        logits: Peak of the logits (see `logit_bytes`).
    """
    tokens, d, f, depth = batch * config.context, config.width, config.ffn_width, config.depth
    blocks, inputs, head, masks = _kept_bytes(config, batch, setup)
    head_gradient, hidden = 4.0 * d * config.vocab_size, _hidden_weights(config)
    absent = 0.0 if setup.accumulated or setup.ranks > 1 else 4.0 * config.parameters
    # Autocast keeps its copies of weights until the end of the forward pass, which includes logits in pieces.
    recomputed = 0 if setup.recompute is None else len(range(0, depth, setup.recompute))
    copies = 0.0 if setup.precision == "fp32" else setup.number_bytes * hidden * recomputed / depth
    last = copies + logits if config.vocab_size >= gpt_config.LARGE_VOCABULARY else max(copies, logits)
    sums = [sum(inputs) + head + masks + last - absent]
    # The gradients of the residual stream and of the widest layer, while a block's tensors are all in memory.
    working = tokens * (4.0 * d + setup.number_bytes * f)
    for number, block in enumerate(blocks):
        later = absent - head_gradient - 4.0 * hidden * (depth - 1 - number) / depth
        sums.append(sum(inputs[:number]) + block + masks + working - max(0.0, later))
    sums.append(head_gradient)  # that of the embedding, before it is added to the head's or to earlier ones
    if setup.optimizer == "muon":  # updates, those of one shape in one tensor, and its products in float32
        largest = 2 * depth * d * f
        sums.append(4.0 * (hidden + largest) + (0.0 if setup.precision == "bf16" else 8.0 * largest * d / f))
    return states + max(sums)


def _hidden_weights(config: GPTConfig) -> int:
    """Return the number of weights in the blocks' matrices."""
    return config.matmul_parameters - config.width * config.vocab_size


def _block_bytes(config: GPTConfig, batch: int, setup: Setup, *, values: bool) -> float:
    """Return the bytes that a block keeps, without copies of its weights.

    `values` says whether the block has value embeddings.
    """
    d, f, heads, length = config.width, config.ffn_width, config.heads, config.context
    e, precision, device, window = setup.number_bytes, setup.precision, setup.device, config.reach
    documents = config.boundary is not None  # their masks are not divided into chunks
    whole = documents or window >= length
    chunks = [(0, 0, length)] if whole else gpt_config.window_chunks(window, length, config.chunk)
    plain = [device == "cpu" and gpt_config.uses_plain_products(precision, end - first) for first, _, end in chunks]
    shared = d * config.key_value_heads // heads
    norms = 2 * ((4 + e) * d + 8)  # inputs from the residual stream, outputs, statistics
    attention = e * (d + 2 * shared) + e * d
    if config.qk_norm:
        # Inputs (a copy if in less than float32) and their inverse root mean squares.
        attention += (0 if e == 4 else 4) * (d + shared) + 4 * (heads + config.key_value_heads)
    if not all(plain):
        attention += _qkv_copy_bytes(config, e, values=values)
    elif config.qk_norm and e == 4:
        attention += e * (d + 2 * shared)  # the layer's output, whose views are the norms' inputs
    feed_forward = e * f * 2
    mask = 1 if device == "cuda" else e
    dropped = 2 * mask * d if config.dropout else 0
    total = float(batch * length * (norms + attention + feed_forward + dropped))
    for (first, start, end), products in zip(chunks, plain, strict=True):
        queries, keys = end - start, end - first
        # Attention weights, which the fused kernel does not store (see `training.models.block`), or else a statistic of
        # the softmax per query.
        weight_bytes = e if products else 0
        total += batch * float(weight_bytes * heads * queries * keys + (0 if products else 4 * heads * queries))
        if products:
            # Keys of overlapping chunks are copied; where the fused kernel keeps the source tensor, all of it is kept.
            total += batch * e * 2 * shared * (keys - queries)
            total += 0 if all(plain) else batch * e * (d + 2 * shared) * queries
        if documents:  # the mask: for plain products as booleans, else as numbers; shared keys and values are repeated
            total += batch * queries * keys * (1 if products else e)
            total += batch * e * 2 * (d - shared) * keys if products else 0
        elif not whole and not products:
            total += batch * e * d * queries  # the chunk, in addition to the joined tensor
            total += queries * keys * mask if first < start or queries > window else 0  # the mask; on a CPU as numbers
    return total


def _qkv_copy_bytes(config: GPTConfig, e: int, *, values: bool) -> int:
    """Return the bytes per token of queries, keys and values that are not views of their layer's output.

    Args:
        config: Shape of the model.
        e: Bytes per number in products.
        values: Whether the block has value embeddings.
    """
    d, shared = config.width, config.width * config.key_value_heads // config.heads
    rotated = config.position == "rope" or config.qk_norm
    new = e * ((d + shared) * rotated + shared * values)
    # Only views keep the layer's output alive. A norm keeps its inputs, which are views in float32.
    freed = rotated and values and not (config.qk_norm and e == 4)
    return new - e * (d + 2 * shared) * freed


def logit_bytes(config: GPTConfig, tokens: int, setup: Setup, *, frozen: bool = False) -> float:
    """Return the peak bytes of logits and of the tensors computed from them.

    Logits of a small vocabulary are complete, in float32. Log-softmax, its gradient and the logits' gradient take 12
    bytes per logit. Logits of a large vocabulary exist in pieces (see `training.optim.losses`), in float32 and in the
    precision of products. The gradients of the head and its inputs are in memory with them.

    Args:
        config: Shape of the model.
        tokens: Tokens per micro-batch.
        setup: Precision, device and z-loss.
        frozen: Whether the head is frozen.
    """
    d, vocabulary = config.width, config.vocab_size
    if vocabulary < gpt_config.LARGE_VOCABULARY:
        return 12.0 * tokens * vocabulary
    words = min(tokens, gpt_config.tokens_in_piece(vocabulary, setup.device)) * vocabulary
    gradients = 4.0 * d * (tokens + (0 if frozen else vocabulary))
    if setup.precision == "fp32":
        return 4.0 * words + gradients
    # The head's gradient of one piece; on a CPU also a float32 copy before it is added to the sum.
    head_gradient = 0.0 if frozen else (6.0 if setup.device == "cpu" else 2.0) * d * vocabulary
    return max(6.0 * words, 2.0 * words + head_gradient) + gradients


def predict_memory(config: GPTConfig, batch: int, **setup: Any) -> Memory:
    """Return the predicted memory of a training of a GPT.

    Args:
        config: Shape of the model.
        batch: Sequences per micro-batch.
        setup: Fields of `Setup`.
    """
    training_setup = Setup(**setup)
    states = state_bytes(config.parameters, training_setup, _hidden_weights(config))
    logits = logit_bytes(config, batch * config.context, training_setup)
    return Memory(
        states=states,
        activations=activation_bytes(config, batch, training_setup),
        logits=logits,
        context=LIBRARIES[training_setup.device],
        step=step_bytes(config, batch, training_setup, states, logits),
    )


def encoder_memory(config: EncoderConfig, batch: int, **setup: Any) -> Memory:
    """Return the predicted memory of a training of a classifier, with samples of maximum length.

    Args:
        config: Shape of the model.
        batch: Samples per pass.
        setup: Fields of `Setup`.
    """
    training_setup = Setup(**setup)
    e = training_setup.number_bytes
    copies = e * config.cast_parameters() if training_setup.precision != "fp32" else 0
    mask = 1 if training_setup.device == "cuda" else e
    return Memory(
        states=state_bytes(config.parameters, training_setup),
        activations=copies + batch * config.activation_bytes(e, mask, training_setup.recompute),
        logits=20.0 * batch * config.outputs,
        context=LIBRARIES[training_setup.device],
    )


def largest_pass(memory: Callable[[int], Memory], batch: int, capacity: float, *, sample: str = "sample") -> int:
    """Return the samples of the largest pass, by halving a batch, within 90 % of a device's memory.

    Args:
        memory: Function from samples per pass to predicted memory.
        batch: Samples per step of one process.
        capacity: Total memory of the device, in bytes.
        sample: Word for a sample in the error message.

    Raises:
        RecipeError: Not even one sample fits.
    """
    largest = batch
    while (needed := memory(largest).peak / USABLE) > capacity:
        if largest == 1:
            raise RecipeError("capacity", capacity, f"{needed:.3g} bytes or more for one {sample} of this model")
        largest = -(-largest // 2)
    return largest


class Fit(NamedTuple):
    """Settings with which a training fits into a device.

    Args:
        micro_batch: Sequences per micro-batch.
        recompute: None, or 1 to recompute all blocks.
        memory: Predicted memory.
    """

    micro_batch: int
    recompute: int | None
    memory: Memory


def fit_memory(config: GPTConfig, batch: int, capacity: float, **options: Any) -> Fit:
    """Return the settings to train within 90 % of a device's memory; results change only by rounding.

    The micro-batch is halved first, which costs little. If not even one sequence fits, all blocks are recomputed, at a
    third more arithmetic, with the largest micro-batch that then fits.

    Args:
        config: Shape of the model.
        batch: Sequences per step.
        capacity: Total memory of the device, in bytes (see `device_memory`).
        options: As in `predict_memory`, without recompute.

    Raises:
        RecipeError: Not even one sequence fits.
    """

    def memory(micro_batch: int, recompute: int | None = None) -> Memory:
        accumulated = micro_batch < batch
        return predict_memory(config, micro_batch, recompute=recompute, accumulated=accumulated, **options)

    recompute = None
    try:
        micro_batch = largest_pass(memory, batch, capacity)
    except RecipeError:
        recompute = 1
        micro_batch = largest_pass(partial(memory, recompute=recompute), batch, capacity, sample="sequence")
    return Fit(micro_batch, recompute, memory(micro_batch, recompute))


@dataclass(frozen=True, kw_only=True)
class NewWeights:
    """Numbers of the weights that are added to a base and trained.

    Args:
        layers: Names of the layers with added weights.
        rank: Rank r of LoRA; 0: no LoRA.
        dora: Whether DoRA's lengths are trained too.
        dropout: Dropped share of the inputs of a layer's low-rank map.
        bottleneck: Width m of an adapter; 0: no adapter.
    """

    layers: Collection[str]
    rank: int = 0
    dora: bool = False
    dropout: float = 0.0
    bottleneck: int = 0

    def count(self, base: BaseModel) -> int:
        """Return the number of added weights for this base.

        LoRA adds r · (d_in + d_out) per layer, DoRA d_out more, and an adapter 2md + d + m.
        """
        sizes = [base.linears[name] for name in self.layers]
        if self.bottleneck:
            return sum(2 * self.bottleneck * outputs + outputs + self.bottleneck for _, outputs in sizes)
        return sum(self.rank * (inputs + outputs) + (outputs if self.dora else 0) for inputs, outputs in sizes)

    def activation_bytes(self, inputs: int, outputs: int, e: int, mask: int, *, bias: bool) -> float:
        """Return the bytes per token that the added weights of a layer keep for the backward pass.

        Args:
            inputs: Number of inputs of the layer.
            outputs: Number of outputs of the layer.
            e: Bytes per number in products.
            mask: Bytes per number of a dropout mask; 0: no mask is kept.
            bias: Whether the layer has a bias.
        """
        if self.bottleneck:
            return float(e * (outputs + 2 * self.bottleneck))
        stretched = (e + (4 if bias else e)) * outputs if self.dora else 0
        return float(e * (inputs + self.rank) + (mask * inputs if self.dropout else 0) + stretched)


def tuning_memory(base: BaseModel, new: NewWeights, window: int, batch: int, **setup: Any) -> Memory:
    """Return the predicted memory of a fine-tuning.

    Args:
        base: Base model, with matrices stored in the precision of the training.
        new: Weights that are added and trained.
        window: Tokens per window.
        batch: Windows per pass.
        setup: Fields of `Setup`.
    """
    training_setup = Setup(**setup)
    e, trained = training_setup.number_bytes, new.count(base)
    frozen = e * base.parameters + (e * trained if e == 2 else 0)  # and copies of the added weights, for products
    activations = batch * window * _tuning_bytes_per_token(base, new, window, training_setup)
    if training_setup.recompute is not None:
        blocks = -(-base.depth // training_setup.recompute)  # that are recomputed
        activations *= (base.depth - blocks + 1) / base.depth
        activations += 4.0 * batch * window * base.width * blocks
    head = GPTConfig(vocab_size=base.vocab_size, width=base.width, heads=1)
    return Memory(
        states=state_bytes(trained, training_setup) + frozen,
        activations=activations,
        logits=logit_bytes(head, batch * window, training_setup, frozen=True),
        context=LIBRARIES[training_setup.device],
    )


def _tuning_bytes_per_token(base: BaseModel, new: NewWeights, window: int, setup: Setup) -> float:
    """Return the bytes per token that a pass keeps for the backward pass, without logits."""
    gpt, d, e, on_gpu = base.gpt, base.width, setup.number_bytes, setup.device == "cuda"
    # Nothing is kept before the first tuned layer. Layers of other files have no known order, so all count.
    begun, total = gpt is None, 0.0
    for name, (inputs, outputs) in base.linears.items():
        tuned, ends_branch = name in new.layers, re.fullmatch(TARGET_PRESETS["branch-outputs"], name) is not None
        attention = re.fullmatch(TARGET_PRESETS["attention"], name) is not None
        first, begun = tuned and not begun, begun or tuned
        if not begun:
            continue
        wide = 4 if new.dora else e  # products with DoRA's lengths are float32
        if tuned:
            input_bytes = 4 if not ends_branch else e if attention else wide  # norms return float32
            bias = gpt.bias if gpt is not None else f"{name}.bias" in base.shapes
            mask = 0 if first else 1 if on_gpu else input_bytes
            total += new.activation_bytes(inputs, outputs, e, mask, bias=bias)
        if not ends_branch:
            total += (wide if tuned and not attention else e) * outputs
            continue
        total += 4 * d + 8  # the next norm's inputs and statistics
        if gpt is not None and gpt.dropout:
            total += (1 if on_gpu else wide if tuned else e) * d
        if attention and not first:
            values = gpt is not None and gpt.embeds_values[int(name.split(".")[1])]
            total += _attention_bytes(base, new, window, setup, inputs, tuned=tuned, values=values)
        elif not attention and not (first and new.bottleneck):
            total += _activation_copies(base) * wide * inputs
    return total


def _attention_bytes(
    base: BaseModel, new: NewWeights, window: int, setup: Setup, inputs: int, *, tuned: bool, values: bool
) -> float:
    """Return the bytes per token that attention keeps, apart from inputs that a low-rank map keeps already."""
    gpt, heads, e = base.gpt, base.heads, setup.number_bytes
    input_bytes = 0 if tuned and new.rank and not new.dropout else e * inputs
    if gpt is None:
        return 4.0 * heads + input_bytes
    precision = "bf16" if e == 2 else "fp32"
    if setup.device == "cpu" and gpt_config.uses_plain_products(precision, window) and not new.dora:
        return float(e * heads * window)  # three plain products, which keep the attention weights
    copied_bytes = 0 if new.dora and e == 2 else _qkv_copy_bytes(gpt, e, values=values)
    return 4.0 * heads + input_bytes + copied_bytes


def _activation_copies(base: BaseModel) -> int:
    """Return how many tensors of the activation's size a feed-forward layer keeps, besides the activation's input."""
    if base.gpt is not None:
        return 0
    if base.config.get("activation_function") == "gelu_new":  # computed as separate operations
        return 3
    return 1 if any("gate" in name for name in base.linears) else 0
