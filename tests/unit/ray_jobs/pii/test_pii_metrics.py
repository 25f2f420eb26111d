"""Span scores against cases counted by hand."""

import math

import numpy as np
import pytest

from data.documents import Document, Span
from ray_jobs.pii.evaluation import evaluate, strict_f1, table
from ray_jobs.pii.metrics import (
    bootstrap_sums,
    character_counts,
    f_score,
    ratio_interval,
    relaxed_counts,
    relaxed_scores,
    span_scores,
    strict_counts,
)
from ray_jobs.pii.spans import PIISpan

TRUTH = [Span(0, 4, "PERSON"), Span(10, 20, "EMAIL"), Span(30, 35, "PERSON")]


def test_strict_needs_start_end_and_label():
    found = [
        PIISpan(0, 4, "PERSON", 0.9),
        PIISpan(10, 19, "EMAIL", 0.9),
        PIISpan(30, 35, "USERNAME", 0.9),
    ]
    counts = strict_counts(TRUTH, found, ["EMAIL", "PERSON", "USERNAME"])
    assert counts.tolist() == [[0, 1, 1], [1, 2, 1], [0, 0, 1]]


def test_relaxed_needs_the_label_and_one_shared_character():
    found = [Span(3, 12, "PERSON"), Span(20, 25, "EMAIL"), Span(31, 32, "PERSON")]
    assert relaxed_counts(TRUTH, found).tolist() == [2, 3, 2, 3]


def test_relaxed_counts_two_halves_of_one_span_as_one_true_and_two_found():
    found = [Span(10, 14, "EMAIL"), Span(15, 20, "EMAIL")]
    counts = relaxed_counts([Span(10, 20, "EMAIL")], found)
    assert counts.tolist() == [1, 1, 2, 2]
    assert relaxed_scores(counts[None], seed=0).f1.value == 1.0


def test_characters_ignore_labels():
    found = [Span(2, 12, "IBAN"), Span(34, 40, "PERSON")]
    assert character_counts(TRUTH, found).tolist() == [2 + 2 + 1, 4 + 10 + 5, 16]


def test_micro_scores_by_hand():
    counts = np.array([[2, 3, 2], [1, 1, 4], [0, 1, 0]])
    scores = span_scores(counts, seed=0)
    assert scores.precision.value == pytest.approx(3 / 6)
    assert scores.recall.value == pytest.approx(3 / 5)
    assert scores.f1.value == pytest.approx(2 * 3 / (5 + 6))
    assert (scores.true_spans, scores.found_spans) == (5, 6)
    assert scores.f1.low <= scores.f1.value <= scores.f1.high


def test_f_score_weighs_recall_by_beta():
    counts = np.array([3, 5, 6])
    precision, recall = 3 / 6, 3 / 5
    assert f_score(counts) == pytest.approx(6 / 11)
    expected = 5 * precision * recall / (4 * precision + recall)
    assert f_score(counts, beta=2.0) == pytest.approx(expected)
    assert f_score(np.zeros(3)) == 0.0


def test_bootstrap_depends_on_the_seed_alone():
    counts = np.arange(30).reshape(10, 3)
    first, again = bootstrap_sums(counts, seed=3), bootstrap_sums(counts, seed=3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, bootstrap_sums(counts, seed=4))
    assert first.shape == (1000, 3)


def test_bootstrap_draws_whole_documents_with_replacement():
    counts = np.eye(4, dtype=np.int64)
    sums = bootstrap_sums(counts, seed=0)
    assert np.array_equal(sums.sum(1), np.full(1000, 4.0))
    assert sums.max() > 1 and sums.min() == 0
    assert abs(sums.mean() - 1.0) < 0.05


def test_interval_has_the_width_of_a_proportion():
    hits = np.arange(400) % 4 == 0
    interval = ratio_interval(hits.astype(int), np.ones(400, dtype=int), seed=0)
    half_width = 1.96 * math.sqrt(0.25 * 0.75 / 400)
    assert interval.value == 0.25
    assert interval.high - interval.low == pytest.approx(2 * half_width, rel=0.1)


def test_no_document_gives_undefined_scores():
    scores = span_scores(np.zeros((0, 3), dtype=np.int64), seed=0)
    assert scores.f1.value is None and scores.f1.low is None


def documents() -> list[Document]:
    return [
        Document("Ann Lee", (Span(0, 7, "PERSON"),), "en", "template:1"),
        Document("Bob", (Span(0, 3, "PERSON"),), "de", "template:2"),
        Document("It rains in the hills.", (), "en", "prose:weather"),
        Document("It snows.", (), "en", "prose:weather"),
    ]


def test_evaluation_by_language_type_and_prose():
    found = [
        [Span(0, 7, "PERSON")],
        [Span(0, 3, "USERNAME")],
        [Span(3, 8, "PERSON")],
        [],
    ]
    result = evaluate(documents(), found, n_tokens=[2, 1, 6, 4])
    assert strict_f1(result.to_json()) == {
        "overall": 0.5,
        "by_language": {"de": 0.0, "en": 1.0},
        "by_type": {"PERSON": pytest.approx(2 / 3), "USERNAME": 0.0},
    }
    assert (result.documents, result.prose_documents) == (2, 2)
    assert result.false_positives_per_1000_tokens.value == pytest.approx(1000 / 10)
    assert result.character_recall.value == 1.0
    assert result.to_json()["strict"]["true_spans"] == 2
    assert "language de" in table(result)


def test_evaluation_without_prose_has_no_false_positive_rate():
    result = evaluate(documents()[:1], [[]], n_tokens=[2])
    assert result.false_positives_per_1000_tokens.value is None
    assert result.strict.recall.value == 0.0 and result.strict.precision.value is None
    assert "-" in table(result)
