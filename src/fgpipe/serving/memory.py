"""What one vLLM engine takes of a GPU's memory, part by part: arithmetic on sizes, without torch or vLLM.

Weights, adapter slots and KV cache follow vLLM 0.32's own allocation and are compared with it, byte for byte, on its
CPU build. The rest was measured twice, with FunctionGemma's shape (18 layers, hidden 640, vocabulary 262,144) in
bfloat16, `max_num_seqs` 256: vLLM 0.26.0 on an H200 with `max_num_batched_tokens` 16,384, vLLM 0.32.0 on an H100 with
8,192. How it grows with other settings is an estimate. docs/results.md has the comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from fgpipe.config import INPUT_GROUPS, LINEAR_MODULES, VLLM_LORA_RANKS
from fgpipe.serving.shapes import LINEAR_BYTES, BaseShape

GIB = 2**30

GPU_BLOCK_TOKENS, CPU_BLOCK_TOKENS = 16, 128
"""Tokens in a block of the KV cache: vLLM's defaults (`CacheConfig.DEFAULT_BLOCK_SIZE`, `CpuPlatform`)."""

OTHER_BYTES = round(0.56 * GIB)
"""Outside torch's allocator after profiling: libraries' workspaces. Measured with 0.32.0, see above; it was 0.22 with
0.26.0."""

CONTEXT_BYTES = round(0.5 * GIB)
"""A process's CUDA context. vLLM looks at the free memory after it was made (`Worker.init_device`), so it comes on top
of the share that `gpu_memory_utilization` gives. An assumption; with it the sum was 1 % off nvidia-smi's on an H100."""

GRAPH_BYTES, GRAPH_BYTES_WITH_LORA = 0.28 * GIB / (18 * 51), 0.48 * GIB / (18 * 51)
"""CUDA graphs, a layer and captured batch size: 0.28 GiB without and 0.48 GiB with LoRA for 18 layers and 51 sizes
(measured with 0.26.0; 0.32.0 set 0.47 aside; with LoRA vLLM captures every size twice). Proportionality to layers is an
estimate."""

SAMPLER_ROWS = 5
"""Rows of hidden_size a batched token that live beside the float32 logits at the peak: 0.35 GiB were measured, of which
the logits are 0.25 (see above). The one coefficient that was fitted, to one point."""


@dataclass(frozen=True)
class EngineSettings:
    """How one vLLM engine is started, as far as it costs memory."""

    max_model_len_tokens: int
    max_num_seqs: int
    max_num_batched_tokens: int
    element_bytes: int
    """Of a weight, an activation and a KV entry: 2 for bfloat16, 4 for float32."""
    max_loras: int = 0
    """Adapter slots; 0: LoRA is off."""
    max_lora_rank: int = 16
    lora_modules: tuple[str, ...] | None = None
    """What --lora-target-modules names; None: not given, and vLLM takes every linear layer."""
    cpu: bool = False
    """vLLM's CPU build: larger blocks, no CUDA graphs, one batch in flight."""
    eager: bool = False
    """No CUDA graphs."""

    @property
    def in_flight_tokens(self) -> int:
        """Tokens scheduled and not yet settled (`VllmConfig.max_in_flight_tokens`): two batches overlap on a GPU."""
        return self.max_num_batched_tokens * (1 if self.cpu else 2)

    @property
    def block_tokens(self) -> int:
        """Tokens in a block of the KV cache."""
        return CPU_BLOCK_TOKENS if self.cpu else GPU_BLOCK_TOKENS


def batched_tokens(
    *, max_num_seqs: int, max_model_len_tokens: int, chunked_prefill: bool, total_bytes: int | None, gpu_name: str = ""
) -> int:
    """Default `max_num_batched_tokens` of vLLM 0.32's API server (`EngineArgs.get_batch_defaults`).

    Args:
        total_bytes: the GPU's memory; None for the CPU build.
    """
    tokens = 2048
    if total_bytes is not None and total_bytes >= 160 * GIB:
        tokens = 16384
    elif total_bytes is not None and total_bytes >= 70 * GIB and "a100" not in gpu_name.lower():
        tokens = 8192
    if not chunked_prefill:
        tokens = max(tokens, max_model_len_tokens)
    return min(tokens, max_num_seqs * max_model_len_tokens)


def weight_bytes(shape: BaseShape, settings: EngineSettings) -> int:
    """Of the weights as vLLM holds them, the embedding table padded; quantisation shrinks the linear layers only."""
    each = LINEAR_BYTES.get(shape.quantization, settings.element_bytes)
    return ceil(shape.linear_weights() * each) + shape.other_weights() * settings.element_bytes


def rope_bytes(shape: BaseShape, settings: EngineSettings) -> int:
    """Of the rotary tables: cosine and sine of every position (`RotaryEmbedding.cos_sin_cache`)."""
    rows = max(shape.max_position_embeddings, settings.max_model_len_tokens)
    return shape.rope_tables * rows * shape.sizes.head_dim * settings.element_bytes


def lora_bytes(shape: BaseShape, settings: EngineSettings) -> int:
    """Of the slots for adapters: A (rank, in) and B (out, rank) of every layer, max_loras times, at max_lora_rank.

    vLLM allocates them at the start for all linear layers, whatever the adapters target and whatever their rank
    (`create_lora_weights`). --lora-target-modules leaves layers out; one of a merged group brings the whole group.
    """
    wanted = LINEAR_MODULES if settings.lora_modules is None else settings.lora_modules
    shapes = shape.sizes.linear_shapes()
    layers = [shapes[module] for group in INPUT_GROUPS if set(group) & set(wanted) for module in group]
    elements = shape.sizes.num_hidden_layers * sum(inner + outer for inner, outer in layers)
    if shape.family.embedding_slots and settings.lora_modules is None:
        elements += 2 * (shape.sizes.vocab_size + shape.sizes.hidden_size)  # both ends, even where they are tied
    return settings.max_loras * settings.max_lora_rank * elements * settings.element_bytes


def activation_bytes(shape: BaseShape, settings: EngineSettings) -> int:
    """Of the largest step: either a block's inner layer over all batched tokens, or the sampler's float32 logits."""
    tokens, element = settings.max_num_batched_tokens, settings.element_bytes
    block = tokens * (3 * shape.sizes.intermediate_size + 2 * shape.sizes.hidden_size) * element
    logits = min(settings.max_num_seqs, tokens) * shape.sizes.vocab_size * 4
    return max(block, logits + SAMPLER_ROWS * tokens * shape.sizes.hidden_size * element)


def graph_sizes(settings: EngineSettings) -> int:
    """How many batch sizes vLLM captures (`VllmConfig._set_cudagraph_sizes`; 512 tokens at most outside Blackwell)."""
    largest = min(2 * settings.max_num_seqs, 512, settings.max_num_batched_tokens)
    sizes = {size for size in (1, 2, 4) if size <= largest}
    sizes |= {*range(8, min(largest + 1, 256), 8), *range(256, largest + 1, 16)}
    if settings.max_num_seqs <= largest:
        sizes.add(settings.max_num_seqs)
    if settings.max_num_batched_tokens <= largest:
        sizes.add(settings.max_num_batched_tokens)
    return len(sizes)


def graph_bytes(shape: BaseShape, settings: EngineSettings) -> int:
    """Of the CUDA graphs; since 0.21 vLLM estimates them and takes them from the KV cache's share."""
    if settings.cpu or settings.eager:
        return 0
    each = GRAPH_BYTES_WITH_LORA if settings.max_loras else GRAPH_BYTES
    return round(each * shape.sizes.num_hidden_layers * graph_sizes(settings))


@dataclass(frozen=True)
class KvLayout:
    """How vLLM lays the KV cache out for one base and one set of settings (`kv_cache_utils.get_kv_cache_groups`).

    Layers of one kind are cut into groups of equal size; all groups draw blocks from one pool, and a request holds
    blocks of every group: up to its length in full attention, up to window plus tokens in flight in sliding layers.
    """

    layer_bytes_per_token: int
    """Keys and values of one token in one layer."""
    full_layers: int
    sliding_layers: int
    window_tokens: int | None
    block_bytes: int
    blocks_per_sequence: int
    """Of a sequence as long as max_model_len."""
    max_model_len_tokens: int

    @property
    def bytes_per_token(self) -> int:
        """Of one token in all layers, while it is inside every window."""
        return self.layer_bytes_per_token * (self.full_layers + self.sliding_layers)

    @property
    def bytes_per_sequence(self) -> int:
        """Of one sequence as long as max_model_len."""
        return self.blocks_per_sequence * self.block_bytes

    def least_bytes(self, sequences: int = 1) -> int:
        """What holds `sequences` of full length, and the one block that vLLM never gives away."""
        return (sequences * self.blocks_per_sequence + 1) * self.block_bytes

    def concurrency(self, kv_bytes: int) -> float:
        """What vLLM calls "Maximum concurrency": how many sequences of full length `kv_bytes` hold."""
        return (kv_bytes // self.block_bytes) / self.blocks_per_sequence

    def tokens(self, kv_bytes: int) -> int:
        """What vLLM calls "KV cache size", in tokens: that concurrency times max_model_len, not the pool's slots."""
        return int(self.concurrency(kv_bytes) * self.max_model_len_tokens)


def kv_layout(shape: BaseShape, settings: EngineSettings) -> KvLayout:
    """The layout of the KV cache."""
    windows = [window for window in shape.windows_tokens if window is not None]
    full, sliding = len(shape.windows_tokens) - len(windows), len(windows)
    window = windows[0] if windows else None
    size = _group_size([count for count in (full, sliding) if count])
    per_layer = 2 * shape.sizes.num_key_value_heads * shape.sizes.head_dim * settings.element_bytes
    length = settings.max_model_len_tokens
    blocks = ceil(full / size) * ceil(length / settings.block_tokens)
    if window is not None:
        held = min(window - 1 + settings.in_flight_tokens, length)
        blocks += ceil(sliding / size) * (ceil(held / settings.block_tokens) + 1)
    widest = max(ceil(count / ceil(count / size)) for count in (full, sliding) if count)
    return KvLayout(per_layer, full, sliding, window, widest * per_layer * settings.block_tokens, blocks, length)


def _group_size(counts: Sequence[int]) -> int:
    """Layers in a group: the smaller kind's, or the larger's if that is less than half as many again."""
    return max(counts) if max(counts) < min(counts) * 1.5 else min(counts)


@dataclass(frozen=True)
class EngineMemory:
    """What one engine takes, all in bytes, and how its KV cache is laid out."""

    weights: int
    rope: int
    lora: int
    activations: int
    other: int
    graphs: int
    kv: KvLayout

    @property
    def fixed(self) -> int:
        """Everything but the KV cache; what vLLM subtracts from the engine's share of the GPU."""
        return self.weights + self.rope + self.lora + self.activations + self.other + self.graphs


def engine_memory(shape: BaseShape, settings: EngineSettings) -> EngineMemory:
    """What an engine on `shape` takes with `settings`."""
    return EngineMemory(
        weights=weight_bytes(shape, settings),
        rope=rope_bytes(shape, settings),
        lora=lora_bytes(shape, settings),
        activations=activation_bytes(shape, settings),
        other=0 if settings.cpu else OTHER_BYTES,
        graphs=graph_bytes(shape, settings),
        kv=kv_layout(shape, settings),
    )


def smallest_rank(rank: int) -> int | None:
    """The smallest --max-lora-rank that holds adapters of `rank`; None if vLLM has none."""
    return next((legal for legal in VLLM_LORA_RANKS if legal >= rank), None)
