"""A model's shape from its config.json alone: no weights are read and nothing is downloaded."""

import json
import os
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from data.errors import DataError
from ray_jobs.waltzrl.planning.memory import ModelShape


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
        config = AutoConfig.from_pretrained(folder)
        return shape_of_config(config)
    except (ValueError, KeyError, AttributeError, json.JSONDecodeError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DataError(f"{folder}: config.json gives no model to plan for: {reason}") from error


def shape_of_config(config: PretrainedConfig) -> ModelShape:
    """Counts the parameters of the model as it would be built, on no device at all."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
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
