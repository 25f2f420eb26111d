"""Personal data whose form proves it: found by a pattern, kept where the check agrees.

    EMAIL         local part, @, domain with a top level
    IBAN          country, length and ISO 7064 mod 97 (stdnum)
    CREDIT_CARD   digits of a card network in one of its lengths, Luhn (stdnum)
    IP_ADDRESS    IPv6 (ipaddress)
    NATIONAL_ID   check characters of ES, FR, IT and DE; the US form with its rules (stdnum)
    PHONE         an assigned number with its country code: `phonenumbers`, leniency VALID

What such a check finds replaces what a probe says of the same characters. Two forms prove less:
firmware has versions that look like IPv4, and one in ten numbers of goods passes Luhn. They only
set the borders of a span of their type that a probe has found. What has no form (a name, a
street, a date) is the probes' alone.
"""

import ipaddress
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import phonenumbers
import stdnum.iban
import stdnum.luhn
from stdnum.de import idnr
from stdnum.es import dni, nie
from stdnum.fr import nir
from stdnum.it import codicefiscale
from stdnum.us import ssn

from ray_jobs.pii.spans import PIISpan

_EMAIL = re.compile(
    r"[\w.%+'-]+@[^\W_](?:[\w-]*[^\W_])?(?:\.[^\W_](?:[\w-]*[^\W_])?)*\.[^\W\d_]{2,24}(?![\w-])"
)
_IBAN = re.compile(
    r"(?<![^\W_])(?:[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){10,30}|[a-z]{2}\d{2}[a-z0-9]{10,30})(?![^\W_])"
)
# The networks' first digits: Visa, Mastercard, American Express, Diners, JCB, Discover, Maestro.
_CARD = re.compile(
    r"(?<![\w.,/+-])(?<![A-Z]{2}\d{2} )(?=[3-6]|2[2-7]|2131|1800)"
    r"\d(?:[ -]?\d){11,18}(?![\w/-]|[.,]\d)"
)
_CARD_DIGITS = (14, 15, 16, 19)
"""Twelve and thirteen digits are cards too, and far more often numbers of goods."""
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")
_SSN = re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])")
_DNI = re.compile(r"(?<![\w-])(?:\d{8}|[XYZ]-?\d{7})[- ]?[A-Z](?![\w-])")
_CODICE = re.compile(r"(?<!\w)[A-Z]{6}\d{2}[A-Z]\d{2}[A-Z]\d{3}[A-Z](?!\w)")
_NIR = re.compile(r"(?<![\w-])[12] ?\d{2} ?\d{2} ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}(?![\w-])")
_IDNR = re.compile(r"(?<![\w.,/+-])\d{2} ?\d{3} ?\d{3} ?\d{3}(?![\w/-]|[.,]\d)")


@dataclass(frozen=True)
class Structure:
    """Characters [start, end) that have the form of `label` by `check`.

    One that is not `conclusive` needs a probe that says the same of some of its characters.
    """

    start: int
    end: int
    label: str
    check: str
    conclusive: bool = True


def find_structures(text: str) -> list[Structure]:
    """All structures of a text, in order, none touching another; of two the first listed stays."""
    found: list[Structure] = []
    for one in _candidates(text):
        if not any(one.start < other.end and other.start < one.end for other in found):
            found.append(one)
    return sorted(found, key=lambda one: one.start)


def with_structures(
    spans: Sequence[PIISpan], structures: Sequence[Structure], labels: Collection[str]
) -> list[PIISpan]:
    """A probe's spans with the structures of `labels` in place of the spans that they touch."""

    def touched(one: Structure) -> list[PIISpan]:
        return [span for span in spans if span.start < one.end and one.start < span.end]

    proved = [
        PIISpan(one.start, one.end, one.label, 1.0, one.check)
        for one in structures
        if one.label in labels
        and (one.conclusive or any(span.label == one.label for span in touched(one)))
    ]
    kept = [
        span
        for span in spans
        if not any(span.start < one.end and one.start < span.end for one in proved)
    ]
    return sorted([*kept, *proved], key=lambda span: span.start)


def _candidates(text: str) -> Iterator[Structure]:
    for match in _EMAIL.finditer(text):
        yield Structure(match.start(), match.end(), "EMAIL", "email")
    yield from _ibans(text)
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match.group())
        if stdnum.luhn.is_valid(digits):
            is_card = len(digits) in _CARD_DIGITS
            yield Structure(match.start(), match.end(), "CREDIT_CARD", "Luhn", is_card)
    for pattern, label, check, is_valid in _CHECKED:
        for match in pattern.finditer(text):
            if is_valid(match.group()):
                yield Structure(match.start(), match.end(), label, check, check != "IPv4")
    leniency = phonenumbers.Leniency.VALID
    for match in phonenumbers.PhoneNumberMatcher(text, None, leniency):
        # The matcher takes an opening bracket along whose other half stands behind the number.
        start = match.start + (match.raw_string.startswith("(") and ")" not in match.raw_string)
        yield Structure(start, match.end, "PHONE", "phonenumbers")


def _ibans(text: str) -> Iterator[Structure]:
    """An IBAN may be followed by words in capitals: the longest beginning that is valid."""
    for match in _IBAN.finditer(text):
        value = match.group()
        while len(value) >= 15:
            if stdnum.iban.is_valid(value, check_country=False):
                yield Structure(match.start(), match.start() + len(value), "IBAN", "mod 97")
                break
            value = value[:-1].rstrip(" -")


def _is_ip(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    # Valid forms with hardly a group ("10::") are times and C++ far more often than addresses.
    return "." in value or value == "::1" or len([g for g in value.split(":") if g]) > 2


def _is_dni(value: str) -> bool:
    return dni.is_valid(value) or nie.is_valid(value)


_CHECKED: Sequence[tuple[re.Pattern[str], str, str, Callable[[str], bool]]] = (
    (_IPV4, "IP_ADDRESS", "IPv4", _is_ip),
    (_IPV6, "IP_ADDRESS", "IPv6", _is_ip),
    (_SSN, "NATIONAL_ID", "US SSN", ssn.is_valid),
    (_DNI, "NATIONAL_ID", "ES DNI", _is_dni),
    (_CODICE, "NATIONAL_ID", "IT codice fiscale", codicefiscale.is_valid),
    (_NIR, "NATIONAL_ID", "FR NIR", nir.is_valid),
    (_IDNR, "NATIONAL_ID", "DE IdNr", idnr.is_valid),
)
