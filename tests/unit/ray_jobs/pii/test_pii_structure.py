"""Structures that prove themselves: found where the check agrees, and nowhere else."""

import random

import pytest

from data.builders.identifiers import draw_card, draw_iban, draw_ip, draw_national_id
from ray_jobs.pii.spans import PIISpan
from ray_jobs.pii.structure import find_structures, with_structures


def found(text: str) -> list[tuple[str, str]]:
    return [(text[s.start : s.end], s.label) for s in find_structures(text)]


@pytest.mark.parametrize(
    "text, value, label",
    [
        ("Write to jane.o'neil+x@mail.example.co.uk.", "jane.o'neil+x@mail.example.co.uk", "EMAIL"),
        ("(jürgen@müller.example)", "jürgen@müller.example", "EMAIL"),
        ("IBAN DE89 3704 0044 0532 0130 00 BIC COBADEFF", "DE89 3704 0044 0532 0130 00", "IBAN"),
        ("iban gb82west12345698765432,", "gb82west12345698765432", "IBAN"),
        ("card 4111-1111-1111-1111, please", "4111-1111-1111-1111", "CREDIT_CARD"),
        ("card no 378282246310005.", "378282246310005", "CREDIT_CARD"),
        ("host 2001:db8::ff00:42:8329 is down", "2001:db8::ff00:42:8329", "IP_ADDRESS"),
        ("SSN 536-22-8145", "536-22-8145", "NATIONAL_ID"),
        ("DNI 12345678Z", "12345678Z", "NATIONAL_ID"),
        ("call +44 20 7946 0018 today", "+44 20 7946 0018", "PHONE"),
        ("testigos (+34 604 863 605)", "+34 604 863 605", "PHONE"),
        ("Tel. +49 158 19251815", "+49 158 19251815", "PHONE"),
    ],
)
def test_one_structure_and_its_borders(text, value, label):
    assert found(text) == [(value, label)]


@pytest.mark.parametrize(
    "text",
    [
        "card 4111 1111 1111 1112",  # Luhn
        "IBAN DE89 3704 0044 0532 0130 01",  # mod 97
        "version 1.2.3.4.5 of 2024",
        "at 12:30:45 on 300.1.2.3",
        "SSN 000-12-3456 or 666-12-3456",
        "DNI 12345678A",
        "order 20240131-4471-2290, 3.141592653589793",
        "me@home and @handle and a@b",
        "namespace std::vector<int>, time 10::",
        "ISBN 978-3-16-148410-0; EAN 4006381333931",
    ],
)
def test_what_looks_alike_is_not_taken(text):
    assert found(text) == []


def test_a_form_that_proves_little_only_sets_the_borders_of_what_a_probe_found():
    text = "firmware 10.21.9.7, host 192.0.2.17:8080, sku 5685631002949"
    structures = find_structures(text)
    assert [s.conclusive for s in structures] == [False, False, False]
    labels = ("IP_ADDRESS", "CREDIT_CARD")
    assert with_structures([], structures, labels) == []
    spans = [PIISpan(25, 32, "IP_ADDRESS", 0.8), PIISpan(46, 59, "PHONE", 0.6)]
    (found_ip, other) = with_structures(spans, structures, labels)
    assert (text[found_ip.start : found_ip.end], found_ip.found_by) == ("192.0.2.17", "IPv4")
    assert other == spans[1]


def test_a_phone_without_its_country_code_is_the_probes_alone():
    assert found("Tel. 030 2273 4455") == []


def test_a_structure_replaces_the_spans_it_touches_and_says_by_what_it_was_found():
    text = "Ann Lee ann@lee.example 4111111111111111"
    spans = [
        PIISpan(0, 7, "PERSON", 0.9),
        PIISpan(8, 19, "USERNAME", 0.6),
        PIISpan(24, 40, "PHONE", 0.5),
    ]
    merged = with_structures(spans, find_structures(text), ("PERSON", "EMAIL"))
    # CREDIT_CARD is no label of this classifier: its span stays what the probe said.
    assert [(s.start, s.end, s.label, s.found_by) for s in merged] == [
        (0, 7, "PERSON", "probe"),
        (8, 23, "EMAIL", "email"),
        (24, 40, "PHONE", "probe"),
    ]


@pytest.mark.parametrize("language", ["de", "es", "fr", "it"])
def test_the_built_in_values_with_checks_are_found(language):
    rng = random.Random(7)
    for draw, label in ((draw_card, "CREDIT_CARD"), (draw_iban, "IBAN"), (draw_ip, "IP_ADDRESS")):
        hits = sum(
            label in [s.label for s in find_structures(f"x {value} y")]
            for value in (
                draw(rng, *((language,) if label == "IBAN" else ()), "train") for _ in range(40)
            )
        )
        assert hits >= 38, label
    ids = [draw_national_id(rng, language, "train") for _ in range(40)]
    assert sum(bool(find_structures(f"x {value} y")) for value in ids) >= 20
