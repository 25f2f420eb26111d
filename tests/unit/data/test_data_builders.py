"""The invented texts: the same for a seed, rightly labelled, and disjoint over the splits."""

import hashlib
import json
import os
import random
import re
import subprocess
import sys
from collections import defaultdict
from itertools import combinations

import pytest

from data.builders.names import name_words
from data.builders.pii import pii_documents
from data.builders.prose import prose_documents
from data.builders.render import SLOT, TYPES, Scene, label_of
from data.builders.splits import SPLITS, fold, split_of
from data.builders.texts import LANGUAGES, load_texts
from data.documents import Document

DOCUMENTS = 5000
SHUFFLED_HASHES = """
import hashlib
from data.builders.pii import pii_documents
from data.builders.texts import LANGUAGES
text = repr([list(pii_documents(s, 7, 100, LANGUAGES)) for s in ("train", "validation", "test")])
print(hashlib.sha256(text.encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def by_split() -> dict[str, list[Document]]:
    return {split: list(pii_documents(split, 0, DOCUMENTS, LANGUAGES)) for split in SPLITS}


def values_of(documents: list[Document]) -> dict[str, set[str]]:
    values = defaultdict(set)
    for document in documents:
        for span in document.spans:
            values[span.label].add(document.text[span.start : span.end])
    return values


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_the_same_seed_gives_the_same_texts_whatever_the_hash_seed(hash_seed: str) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", SHUFFLED_HASHES]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    here = repr([list(pii_documents(split, 7, 100, LANGUAGES)) for split in SPLITS])
    assert child.stdout.strip() == hashlib.sha256(here.encode()).hexdigest()


def test_another_seed_gives_other_texts() -> None:
    first, second = (
        {document.text for document in pii_documents("train", seed, 50, ("en",))} for seed in (0, 1)
    )
    assert not first & second


def test_counts_and_languages(by_split: dict[str, list[Document]]) -> None:
    assert {split: len(found) for split, found in by_split.items()} == {
        "train": DOCUMENTS * 8 // 10,
        "validation": DOCUMENTS // 10,
        "test": DOCUMENTS // 10,
    }
    for documents in by_split.values():
        counts = [sum(d.language == language for d in documents) for language in LANGUAGES]
        assert max(counts) == min(counts)


def test_spans_are_exact(by_split: dict[str, list[Document]]) -> None:
    for document in (d for documents in by_split.values() for d in documents):
        end = 0
        for span in document.spans:
            value = document.text[span.start : span.end]
            assert end <= span.start < span.end <= len(document.text)
            assert value and value == value.strip()
            assert span.label in TYPES
            end = span.end
        assert not re.search(r"\{[A-Z_a-z]+\d?\}|\[\[|\]\]", document.text), document.source


def test_a_span_holds_the_whole_value_and_no_more(by_split: dict[str, list[Document]]) -> None:
    forms = {
        "EMAIL": r"[a-z0-9._-]+@[a-z0-9-]+(\.[a-z]+)+",
        "IP_ADDRESS": r"\d+(\.\d+){3}|[0-9a-f:]+",
        "PHONE": r"[+(]{0,2}\d[\d ()./-]{6,}\d",
        "CREDIT_CARD": r"[\d -]{15,19}",
        "IBAN": r"[a-z]{2}\d{2}[a-z0-9 ]+",
        "DATE_OF_BIRTH": r"(?!0\d{3}).*\d.*\d.*",
        "ADDRESS": r".*\d.*",
        "PERSON": r"[^\d@]+",
    }
    for documents in by_split.values():
        for label, values in values_of(documents).items():
            for value in values:
                assert re.fullmatch(forms.get(label, ".+"), value.lower(), re.DOTALL), value


def test_templates_per_language() -> None:
    for language in LANGUAGES:
        templates = load_texts(language).templates
        with_slots = [t for t in templates if any(label_of(s) for s, _ in SLOT.findall(t.text))]
        assert len(with_slots) >= 40
        assert len(templates) - len(with_slots) >= 12
        assert len({template.text for template in templates}) == len(templates)
        assert len({template.genre for template in templates}) >= 10


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("split", SPLITS)
def test_every_type_is_in_the_templates_of_every_split(language: str, split: str) -> None:
    texts = load_texts(language)
    slots = {slot for t in texts.of_split(split) for slot, _ in SLOT.findall(t.text)}
    assert {label_of(slot) for slot in slots} - {None} == set(TYPES)
    assert any(t.genre == "negative" for t in texts.of_split(split))


def test_every_type_is_in_the_documents_of_every_split(by_split) -> None:
    for split, documents in by_split.items():
        for language in LANGUAGES:
            found = values_of([d for d in documents if d.language == language])
            assert set(found) == set(TYPES), (split, language)


def test_documents_use_templates_of_their_split_only(by_split) -> None:
    for split, documents in by_split.items():
        known = {t.id for language in LANGUAGES for t in load_texts(language).of_split(split)}
        used = {part for d in documents for part in d.source.removeprefix("template:").split("+")}
        composed = {part for part in used if part.endswith(("-record", "-note"))}
        assert used - composed <= known
        assert split == "train" or not composed
        assert known <= used


def test_openings_and_closings_are_disjoint_over_splits() -> None:
    for language in LANGUAGES:
        texts = load_texts(language)
        for pools in (texts.openings, texts.closings):
            for first, second in combinations(SPLITS, 2):
                assert pools[first] and not set(pools[first]) & set(pools[second])


def test_values_are_disjoint_over_splits(by_split) -> None:
    found = {split: values_of(documents) for split, documents in by_split.items()}
    for label in TYPES:
        for first, second in combinations(SPLITS, 2):
            shared = {v.casefold() for v in found[first][label]} & {
                v.casefold() for v in found[second][label]
            }
            assert not shared, (label, shared)


@pytest.mark.parametrize("label", ["IBAN", "CREDIT_CARD", "NATIONAL_ID", "EMAIL", "USERNAME"])
def test_values_are_disjoint_however_they_are_grouped(by_split, label: str) -> None:
    for split, documents in by_split.items():
        for value in values_of(documents)[label]:
            assert split_of(fold(value)) == split, value


def test_names_share_no_word_over_splits(by_split) -> None:
    for split, documents in by_split.items():
        words = {w for name in values_of(documents)["PERSON"] for w in name_words(name)}
        assert len(words) > 100
        assert {split_of(word) for word in words} == {split}


def test_one_street_lies_in_one_split(by_split) -> None:
    kinds = "|".join(kind[1:].casefold() for kind in load_texts("de").words["street_kinds"])
    for split, documents in by_split.items():
        found = values_of([d for d in documents if d.language == "de"])["ADDRESS"]
        bases = [re.match(rf"(.+)(?:{kinds}) \d", address.casefold()) for address in found]
        assert len(bases) >= 10
        assert {split_of(fold(base[1])) for base in bases if base} == {split}
        assert None not in bases


def test_hard_negatives_carry_no_label(by_split) -> None:
    for documents in by_split.values():
        free = [document for document in documents if not document.spans]
        assert len(free) > 0.04 * len(documents)
        assert sum(bool(re.search(r"\d{4}", d.text)) for d in free) > 0.7 * len(free)
        sources = {d.source.removeprefix("template:").split("+")[0] for d in free}
        negatives = {
            t.id
            for language in LANGUAGES
            for t in load_texts(language).templates
            if t.genre == "negative"
        }
        assert {s for s in sources if not s.endswith(("-record", "-note"))} <= negatives


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_slot_written_twice_is_one_value_and_a_number_makes_another(language: str) -> None:
    scene = Scene(random.Random(0), language, "train", "email")
    pieces = scene.fill("{PERSON} {PERSON} {PERSON2} {FIRST}! {order} {order} {order2} [[x|x]]")
    whole, again, other, first = (piece for piece in pieces if piece.label)
    assert whole == again != other
    assert first.text[0] == whole.text[0] and first.label == "PERSON"
    texts = "".join(piece.text for piece in pieces).split("! ")[1].split()
    assert texts[0] == texts[1] != texts[2] and texts[3] == "x"


def test_unknown_slots_are_refused() -> None:
    scene = Scene(random.Random(0), "en", "train", "email")
    with pytest.raises(KeyError, match="nonsense"):
        scene.fill("{nonsense}")
    with pytest.raises(ValueError, match="NONSENSE"):
        scene.fill("{NONSENSE}")


def test_prose_is_clean_and_disjoint() -> None:
    texts = {split: {d.text for d in prose_documents(split)} for split in SPLITS}
    assert len(texts["train"]) > 500 and len(texts["test"]) > 100
    for first, second in combinations(SPLITS, 2):
        assert not texts[first] & texts[second]
    for text in set().union(*texts.values()):
        assert not re.search(r"\S@\w+\.\w|\b\d{1,3}(\.\d{1,3}){3}\b|\bGuido\b", text)
        assert json.loads(json.dumps(text)) == text and len(text) >= 60
