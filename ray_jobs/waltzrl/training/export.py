"""Export of a trained agent: a Hugging Face folder and `waltzrl_NAME_stage2.pt`."""

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from data.storage import Store
from ray_jobs.waltzrl.evaluation.metrics import Interval

WEIGHTS = "model.safetensors"
COMPARED = "comparison"
"""Folder of the models that an evaluation compares with: `stage_1_feedback`, `single_rl`."""
_NOT_COPIED = (".safetensors", ".safetensors.index.json", ".bin", ".pt", ".pth", ".md")


def agent_file(name: str) -> str:
    """An agent's weights in one file, for `torch.load(weights_only=True)`."""
    return f"waltzrl_{name}_stage2.pt"


def export_agent(
    output: Store,
    name: str,
    base_folder: Path,
    weights: dict[str, Tensor],
    measured: dict[str, Interval],
) -> None:
    """Write `NAME/` for `from_pretrained` and `waltzrl_NAME_stage2.pt`; idempotent.

    `base_folder` gives configuration and tokenizer; `weights` are float32 by parameter name.
    """
    export_folder(output, name, base_folder, weights)
    output.write_bytes(f"{name}/README.md", model_card(name, measured).encode())
    tensors = {key: value.contiguous() for key, value in weights.items()}
    content = {"format": 1, "agent": name, "state_dict": tensors}
    output.write_stream(agent_file(name), lambda out: torch.save(content, out))


def export_folder(output: Store, name: str, base_folder: Path, weights: dict[str, Tensor]) -> None:
    """Write `NAME/` alone, as `from_pretrained` opens it."""
    for path in sorted(base_folder.iterdir()):
        if path.is_file() and not path.name.endswith(_NOT_COPIED):
            output.upload(path, f"{name}/{path.name}")
    tensors = {key: value.contiguous() for key, value in weights.items()}
    data = safetensors.torch.save(tensors, metadata={"format": "pt"})
    output.write_bytes(f"{name}/{WEIGHTS}", data)


def model_card(name: str, measured: dict[str, Interval]) -> str:
    """The README of an exported agent: what it is and what was measured of the pair."""
    rows = [
        f"| {key} | {each['value']:.3f} | {each['low']:.3f} to {each['high']:.3f} |"
        for key, each in measured.items()
        if each["value"] is not None
    ]
    return "\n".join(
        [
            f"# WaltzRL {name} agent",
            "",
            "Trained by WaltzRL (arXiv 2510.08240), stage 2. Works with its partner agent only.",
            "Rates of both agents together on held-out prompts, with 95 % bootstrap intervals:",
            "",
            "| rate | value | interval |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )
