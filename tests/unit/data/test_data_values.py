"""Invented numbers are valid: check digits, forms and ranges, for any seed."""

import ipaddress
import random
import re
import string
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.builders import dates, identifiers, names
from data.builders.identifiers import fill
from data.builders.splits import SPLITS, draw_in, fold, split_of
from data.builders.texts import LANGUAGES

ANY_RNG = st.integers(0, 2**32).map(random.Random)
ANY_SPLIT = st.sampled_from(SPLITS)
ANY_LANGUAGE = st.sampled_from(LANGUAGES)


def luhn_holds(digits: str) -> bool:
    total = 0
    for position, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + position % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def iban_holds(iban: str) -> bool:
    turned = iban[4:] + iban[:4]
    return int("".join(str(int(c, 36)) for c in turned)) % 97 == 1


def steuer_id_holds(number: str) -> bool:
    product = 10
    for digit in number[:-1]:
        product = ((int(digit) + product) % 10 or 10) * 2 % 11
    counts = sorted(number[:10].count(d) for d in set(number[:10]))
    return (product + int(number[-1])) % 10 == 1 and counts == [1] * 8 + [2] and number[0] != "0"


def nir_holds(number: str) -> bool:
    body = number[:13].replace("2A", "19").replace("2B", "18")
    return len(number) == 15 and 97 - int(body) % 97 == int(number[13:])


def dni_or_nie_holds(number: str) -> bool:
    digits = number[:-1].translate(str.maketrans("XYZ", "012"))
    return len(number) == 9 and "TRWAGMYFPDXBNJZSQVHLCKE"[int(digits) % 23] == number[-1]


def codice_fiscale_holds(code: str) -> bool:
    odd = dict(zip(string.digits + string.ascii_uppercase,
                   [1, 0, 5, 7, 9, 13, 15, 17, 19, 21] * 2 + [2, 4, 18, 20, 11, 3, 6, 8, 12, 14]
                   + [16, 10, 22, 25, 24, 23], strict=True))  # fmt: skip
    values = [
        odd[c] if i % 2 == 0 else int(c, 36) - 10 * c.isalpha() for i, c in enumerate(code[:15])
    ]
    return len(code) == 16 and chr(ord("A") + sum(values) % 26) == code[15]


def ssn_or_nino_holds(number: str) -> bool:
    if number.isdigit():
        return bool(re.fullmatch(r"(?!000|666|9)\d{3}(?!00)\d{2}(?!0000)\d{4}", number))
    unused = r"(?!BG|GB|NK|KN|TN|NT|ZZ)"
    return bool(re.fullmatch(unused + r"[A-CEGHJ-PRSTW-Z][A-CEGHJ-NPRSTW-Z]\d{6}[A-D]", number))


NATIONAL_IDS = {
    "en": ssn_or_nino_holds,
    "de": steuer_id_holds,
    "fr": nir_holds,
    "es": dni_or_nie_holds,
    "it": codice_fiscale_holds,
}
PUBLISHED = {
    "en": "JG103759A",
    "de": "36574261809",
    "fr": "295109912611193",
    "es": "54362315K",
    "it": "RCCMNL83S18D969H",
}


def test_the_checks_take_published_numbers_and_refuse_altered_ones() -> None:
    assert luhn_holds("4111111111111111") and not luhn_holds("4111111111111112")
    assert iban_holds("DE89370400440532013000") and not iban_holds("DE88370400440532013000")
    for language, number in PUBLISHED.items():
        assert NATIONAL_IDS[language](number)
    assert not ssn_or_nino_holds("ZZ103759A") and not steuer_id_holds("36574261808")
    assert not nir_holds("295109912611194") and not dni_or_nie_holds("54362315L")
    assert not codice_fiscale_holds("RCCMNL83S18D969I")


@settings(deadline=None)
@given(ANY_RNG, ANY_SPLIT)
def test_cards(rng: random.Random, split: str) -> None:
    written = identifiers.draw_card(rng, split)
    digits = re.sub(r"[ -]", "", written)
    assert re.fullmatch(r"\d{15,16}", digits) and luhn_holds(digits)
    assert split_of(digits) == split
    assert re.fullmatch(r"\d+|\d{4}([ -])\d{4}\1\d{4}\1\d{4}|\d{4}([ -])\d{6}\2\d{5}", written)


@settings(deadline=None)
@given(ANY_RNG, ANY_LANGUAGE, ANY_SPLIT)
def test_ibans(rng: random.Random, language: str, split: str) -> None:
    written = identifiers.draw_iban(rng, language, split)
    assert iban_holds(written.replace(" ", "")) and split_of(fold(written)) == split
    assert " " not in written or max(map(len, written.split())) == 4


@settings(deadline=None)
@given(ANY_RNG, ANY_LANGUAGE, ANY_SPLIT)
def test_national_ids(rng: random.Random, language: str, split: str) -> None:
    written = identifiers.draw_national_id(rng, language, split)
    assert NATIONAL_IDS[language](re.sub(r"[ .-]", "", written)), written
    assert split_of(fold(written)) == split


@settings(deadline=None)
@given(ANY_RNG, ANY_SPLIT)
def test_ip_addresses(rng: random.Random, split: str) -> None:
    written = identifiers.draw_ip(rng, split)
    address = ipaddress.ip_address(written)
    assert split_of(address.exploded) == split


@settings(deadline=None)
@given(ANY_RNG, ANY_LANGUAGE, ANY_SPLIT)
def test_phones(rng: random.Random, language: str, split: str) -> None:
    written = identifiers.draw_phone(rng, language, split)
    digits = re.sub(r"\D", "", written)
    assert 8 <= len(digits) <= 15 and split_of(digits[-7:]) == split


@settings(deadline=None)
@given(ANY_RNG, ANY_LANGUAGE, ANY_SPLIT)
def test_emails_and_user_names(rng: random.Random, language: str, split: str) -> None:
    person = names.draw_person(rng, language, split)
    email = names.draw_email(rng, person, language, split)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*@[a-z0-9-]+(\.[a-z]+)+", email)
    username = names.draw_username(rng, person, split)
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]+", username)


@settings(deadline=None)
@given(ANY_RNG, ANY_LANGUAGE, ANY_SPLIT)
def test_names_keep_their_words_in_the_split(rng: random.Random, language: str, split: str) -> None:
    person = names.draw_person(rng, language, split)
    for write in (names.write_name, names.write_name_for_form):
        written = write(rng, person, language, split)
        assert {split_of(word) for word in names.name_words(written)} == {split}
        assert fold(person.last.split()[-1]) in fold(written)


@settings(deadline=None)
@given(ANY_RNG, ANY_LANGUAGE, ANY_SPLIT)
def test_birthdays_and_plain_dates(rng: random.Random, language: str, split: str) -> None:
    birthday = dates.draw_birthday(rng, language, split)
    assert re.search(r"(?:19[3-9]\d|200\d|\d\d)$|^(?:19[3-9]\d|200\d)-", birthday), birthday
    plain = dates.PlainDates(rng, language)
    first, second = plain.draw(), plain.draw()
    assert first != second
    assert re.sub(r"\w+", "", first) == re.sub(r"\w+", "", second)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_day_reads_the_same_in_each_form(language: str) -> None:
    day = date(1987, 3, 21)
    written = {dates._write(form, day, language) for form in dates._FORMS[language]}
    for each in written:
        assert "21" in each and "87" in each
        assert not re.search(r"\b[dmyDMYBb]\b", each), each
    assert "1987-03-21" in written


@settings(deadline=None)
@given(ANY_RNG)
def test_patterns(rng: random.Random) -> None:
    assert re.fullmatch(r"A-\d[2-9][A-Z][0-9a-f]", fill(rng, "A-#%?^"))


def test_a_key_that_never_fits_is_an_error_not_an_endless_loop() -> None:
    other = next(split for split in SPLITS if split != split_of("x"))
    with pytest.raises(AssertionError, match="no value for split"):
        draw_in(other, lambda: ("x", "x"))


def test_fold_ignores_capitals_accents_and_separators() -> None:
    assert fold("Müller-Straße 5") == fold("MULLER STRASSE5")


def test_splits_have_their_shares() -> None:
    found = [split_of(str(number)) for number in range(20_000)]
    shares = [found.count(split) / len(found) for split in SPLITS]
    assert shares == pytest.approx([0.7, 0.15, 0.15], abs=0.02)
