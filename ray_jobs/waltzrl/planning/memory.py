"""Memory plan: bytes per GPU of a WaltzRL step, from the model's shape and the run's settings.

The shape comes from config.json alone: no weights are read and nothing is downloaded.

P parameters, N workers, b bytes a weight in forward and backward (2 or 4), A trained agents, F
frozen ones. Always there, by ZeRO stage (DeepSpeed 0.19; fp32 masters from stage 1 on):

    weights      A b P                  stages 0-2      A b P / N            stage 3
    optimizer    A 8 P     stage 0      A 12 P / N      stages 1-3; in host memory if offloaded
    gradients    nothing                stages 0-2      A b (P / N + G)      stage 3
    references   F b P                  stages 0-2      F b P / N            stage 3
    judges       whole, where judge models run on the workers

and the larger of two phases, for one agent at a time:

    rollout      gathered copy b P (stage 3, several workers), KV cache, what one layer computes
    update       the backward pass of one part, or the optimizer step

    backward     held gradients, what the layers keep for the backward pass, logits
                 held: b P in stages 0 and 1; b (P / N + 2 G) in stage 2; 2 b L in stage 3, the
                 weights that DeepSpeed keeps gathered, of the agent and of its reference
    step         stage 0: b P, and again min(P, G) b where several workers reduce it
                 stages 1-3: gradients of the own part in both precisions and Adam's two
                 temporaries, of at most U elements in stage 3

G, L, U: DeepSpeed's `reduce_bucket_size`, `max_live_parameters` and `sub_group_size`.
`benchmarks/waltz_memory.py` compares the formula with scaled-down runs. CUDA's context, the
libraries' workspaces and fragmentation are not in it: leave a tenth.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from data.errors import DataError
from ray_jobs.activations.host_files import first_line

FLOAT32 = 4
_LOGIT_BYTES = 16
"""Of one logit in the backward pass: scaled logits and three gradients of them, all float32."""


@dataclass(frozen=True)
class ModelShape:
    """A decoder-only transformer with gated MLPs and grouped-query attention."""

    parameters: int
    largest_tensor: int
    """Elements of the largest parameter."""
    layers: int
    hidden: int
    intermediate: int
    attention: int
    """Query heads times head dimension."""
    key_value: int
    """Key-value heads times head dimension."""
    vocabulary: int


@dataclass(frozen=True)
class Buckets:
    """DeepSpeed's sizes, in elements; the defaults are its own."""

    reduce: int = 500_000_000
    live: int = 1_000_000_000
    sub_group: int = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the run holds; lengths in tokens."""

    shape: ModelShape
    workers: int
    zero_stage: int
    weight_bytes: int
    offload_optimizer: bool
    checkpointing: bool
    trained_agents: int
    frozen_agents: int
    part_rows: int
    """Samples of one forward and backward pass."""
    parts: int
    """Such passes in an update."""
    rollout_rows: int
    """Replies generated side by side."""
    prompt_tokens: int
    """Longest state that an agent answers to."""
    action_tokens: int
    """Longest action."""
    judge_bytes: int = 0
    """Weights of the judge models on this worker."""
    buckets: Buckets = Buckets()

    @property
    def tokens(self) -> int:
        """Longest sequence."""
        return self.prompt_tokens + self.action_tokens


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of one worker; `rollout` and `update` are the phases' own, one after the other."""

    weights: int
    gradients: int
    optimizer: int
    references: int
    judges: int
    gathered: int
    kv_cache: int
    rollout_work: int
    activations: int
    logits: int
    backward: int
    """The backward pass in all: held gradients and weights, activations, logits."""
    step: int
    host: int
    """Optimizer states in host memory, of one worker."""

    @property
    def always(self) -> int:
        """What stays between the phases."""
        agents = self.weights + self.gradients + self.optimizer + self.references
        return agents + self.judges

    @property
    def rollout(self) -> int:
        """What sampling takes in addition."""
        return self.gathered + self.kv_cache + self.rollout_work

    @property
    def update(self) -> int:
        """What an update takes in addition."""
        return max(self.backward, self.step)

    @property
    def peak(self) -> int:
        """The most at any time."""
        return self.always + max(self.rollout, self.update)


def memory_plan(s: Setting) -> MemoryPlan:
    """The formula of the module's docstring."""
    part = s.shape.parameters if s.zero_stage == 0 else s.shape.parameters / s.workers
    whole = s.weight_bytes * s.shape.parameters
    held = whole / s.workers if s.zero_stage == 3 else whole
    optimizer = s.trained_agents * part * (2 if s.zero_stage == 0 else 3) * FLOAT32
    gradients = s.weight_bytes * (part + s.buckets.reduce) if s.zero_stage == 3 else 0
    on_device = 0 if s.offload_optimizer else optimizer
    kept, logits = activation_bytes(s), _LOGIT_BYTES * s.part_rows * s.action_tokens
    logits *= s.shape.vocabulary
    return MemoryPlan(
        weights=round(s.trained_agents * held),
        gradients=round(s.trained_agents * gradients),
        optimizer=round(on_device),
        references=round(s.frozen_agents * held),
        judges=s.judge_bytes,
        gathered=round(whole) if s.zero_stage == 3 and s.workers > 1 else 0,
        kv_cache=s.rollout_rows
        * s.tokens
        * 2
        * s.shape.layers
        * s.shape.key_value
        * s.weight_bytes,
        rollout_work=_layer_work(s),
        activations=kept,
        logits=logits,
        backward=round(_held_in_backward(s, part, whole)) + kept + logits,
        step=round(_step_bytes(s, part, whole)),
        host=round(optimizer - on_device),
    )


def activation_bytes(s: Setting) -> int:
    """What the layers keep for the backward pass of one part.

    A layer keeps, a token: 2 norms with input, normalized input and output; query, key, value,
    attention's output and its copy; gate, its activation, up and their product. In 16 bits the
    norms keep their float32 inputs too. With checkpointing: every layer's input, and all of
    one layer while it is computed again.
    """
    shape = s.shape
    elements = 6 * shape.hidden + 3 * shape.attention + 2 * shape.key_value + 4 * shape.intermediate
    a_layer = elements * s.weight_bytes
    if s.weight_bytes < FLOAT32:
        a_layer += 2 * shape.hidden * FLOAT32
    if s.checkpointing:
        a_token = shape.layers * shape.hidden * s.weight_bytes + a_layer
    else:
        a_token = shape.layers * a_layer
    return s.part_rows * s.tokens * a_token


def _layer_work(s: Setting) -> int:
    """What one layer computes for all prompts, without a backward pass."""
    elements = 2 * s.shape.hidden + 3 * s.shape.intermediate
    return s.rollout_rows * s.prompt_tokens * elements * s.weight_bytes


def _held_in_backward(s: Setting, part: float, whole: float) -> float:
    """Gradients of the passes before, and gathered weights."""
    if s.zero_stage == 3:
        return 2 * min(whole, s.buckets.live * s.weight_bytes)
    if s.zero_stage == 2:
        bucket = min(s.buckets.reduce, s.shape.parameters)
        return s.weight_bytes * (part + bucket + min(bucket, s.shape.largest_tensor))
    return whole if s.parts > 1 else 0.0


def _step_bytes(s: Setting, part: float, whole: float) -> float:
    if s.zero_stage == 0:
        reduced = min(s.buckets.reduce, s.shape.parameters) if s.workers > 1 else 0
        temporaries = 2 * FLOAT32 * s.shape.largest_tensor
        return whole + max(reduced * s.weight_bytes, temporaries)
    unit = min(part, s.buckets.sub_group) if s.zero_stage == 3 else part
    low = 0.0 if s.zero_stage == 3 else s.weight_bytes * part
    work = FLOAT32 if s.offload_optimizer else 3 * FLOAT32
    return low + work * unit


def find_config(name: str) -> Path:
    """The folder with the config.json of a model folder, or of a hub model in this machine's cache.

    Raises:
        DataError: there is none.
    """
    if os.path.isdir(name):
        found = Path(name, "config.json")
        if not found.is_file():
            raise DataError(f"model {name!r}: the folder has no config.json")
        return found.parent
    cached = try_to_load_from_cache(name, "config.json") if name.count("/") == 1 else None
    if not isinstance(cached, str):
        raise DataError(
            f"model {name!r}: no config.json here to plan from; run `hf download {name} "
            "config.json` or give --model FOLDER"
        )
    return Path(cached).parent


def shape_of_folder(folder: Path) -> ModelShape:
    """The shape that a config.json describes.

    Raises:
        DataError: it is not one of a causal language model that transformers knows.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        return shape_of_config(config)
    except (ValueError, KeyError, AttributeError, json.JSONDecodeError, OSError) as error:
        raise DataError(
            f"{folder}: config.json gives no model to plan for: {first_line(error)}"
        ) from error


def shape_of_config(config: PretrainedConfig) -> ModelShape:
    """Counts the parameters of the model as it would be built, on no device at all."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    sizes = [parameter.numel() for parameter in model.parameters()]
    text = config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return ModelShape(
        parameters=sum(sizes),
        largest_tensor=max(sizes),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        attention=head_dim * text.num_attention_heads,
        key_value=head_dim * heads,
        vocabulary=text.vocab_size,
    )
