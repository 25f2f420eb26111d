"""What the check on held-out activations refuses."""

import pytest
import torch

from data.errors import DataError, NonFiniteError
from ray_jobs.sae.measure import held_out_metrics
from ray_jobs.sae.model import TopKSAE


def test_a_new_autoencoder_leaves_variance_unexplained():
    rows = torch.randn(512, 8, generator=torch.Generator().manual_seed(0))
    metrics = held_out_metrics(TopKSAE(8, 32, 4), rows)
    assert metrics["fvu"] > 0 and metrics["loss"] > 0


def test_rows_that_are_all_alike_are_refused():
    with pytest.raises(DataError, match="all alike"):
        held_out_metrics(TopKSAE(8, 32, 4), torch.ones(16, 8))


def test_rows_that_overflow_are_refused():
    rows = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    rows[3] = 3e38
    with pytest.raises(NonFiniteError, match="not finite"):
        held_out_metrics(TopKSAE(8, 32, 4), rows)
