"""The field and label names of the ai4privacy data sets (pii-masking-200k ... openpii-1m).

Their rows cut a name or an address into pieces: GIVENNAME, SURNAME; STREET, BUILDINGNUM, CITY.
Pieces of the same type of ours with nothing but spaces and ",.-'" between them (at most three
characters) become one span. An ADDRESS without street or building (a lone town) is dropped, and
so are labels that we have no type for.
"""

import re

from data.labels import Label, contradiction, parsed, read_label

_TEXT_FIELDS = ("source_text", "unmasked_text")
_LABEL_FIELDS = ("privacy_mask", "span_labels")
_TYPES = {
    "PERSON": "GIVENNAME FIRSTNAME MIDDLENAME SURNAME LASTNAME NAME FULLNAME",
    "EMAIL": "EMAIL EMAILADDRESS",
    "PHONE": "TELEPHONENUM PHONENUMBER PHONENUM TEL TELEPHONE PHONE",
    "ADDRESS": "STREET STREETADDRESS BUILDINGNUM BUILDINGNUMBER BUILDING SECONDARYADDRESS "
    "SECADDRESS CITY ZIPCODE POSTCODE STATE COUNTY ADDRESS",
    "DATE_OF_BIRTH": "DATEOFBIRTH DOB BOD",
    "CREDIT_CARD": "CREDITCARDNUMBER CREDITCARD CARDNUMBER",
    "IBAN": "IBAN",
    "IP_ADDRESS": "IP IPV IPADDRESS",
    "NATIONAL_ID": "SOCIALNUM SOCIALNUMBER SSN IDCARDNUM IDCARD TAXNUM NATIONALID",
    "USERNAME": "USERNAME",
}
_OURS = {theirs: ours for ours, listed in _TYPES.items() for theirs in listed.split()}
_STREET_PIECES = re.compile(r"STREET|BUILDING|ADDRESS")
_BETWEEN = re.compile(r"[\s,.'’-]{0,3}")
_LANGUAGES = {
    "english": "en",
    "german": "de",
    "french": "fr",
    "spanish": "es",
    "italian": "it",
    "dutch": "nl",
}


def has_its_fields(row: dict[str, object]) -> bool:
    return any(field in row for field in _TEXT_FIELDS)


def own_row(row: dict[str, object]) -> dict[str, object]:
    """A row of theirs with our field and label names.

    Raises:
        KeyError: neither privacy_mask nor span_labels is there.
        ValueError: their labels cannot be read.
    """
    text = next(row[field] for field in _TEXT_FIELDS if field in row)
    listed = _labels(row)
    spans = _merged(listed, text) if isinstance(text, str) else []
    for label in listed if isinstance(text, str) else ():
        if problem := contradiction(label, text):
            raise ValueError(problem)
    language = row.get("language") or row.get("locale")
    return {"text": text, "spans": spans, "language": _language(language), "source": "ai4privacy"}


def _labels(row: dict[str, object]) -> list[Label]:
    """Theirs, "O" left out, sorted."""
    present = [field for field in _LABEL_FIELDS if row.get(field) is not None]
    if not present:
        raise KeyError("privacy_mask")
    lists = [parsed(row[field]) for field in present]
    listed = next((each for each in lists if isinstance(each, list)), None)
    if listed is None:
        raise ValueError(f"{present[0]} is not a list of start, end and label")
    labels = [_label(item) for item in listed]
    return sorted((each for each in labels if each.label != "O"), key=lambda each: each.start)


def _label(item: object) -> Label:
    try:
        return read_label(item)
    except ValueError:
        raise ValueError(f"label {item!r} has no start, end and label") from None


def _merged(listed: list[Label], text: str) -> list[list[object]]:
    merged: list[list[object]] = []
    streets: list[bool] = []
    last_end = 0
    for each in listed:
        start, end = each.start, each.end
        name = re.sub(r"[^A-Z]", "", re.sub(r"_\d+$", "", each.label.upper()))
        ours = _OURS.get(name)
        if ours is None:
            continue
        is_street = bool(_STREET_PIECES.search(name))
        joined = merged and merged[-1][2] == ours and ours in ("PERSON", "ADDRESS")
        if joined and start >= last_end and _BETWEEN.fullmatch(text[last_end:start]):
            merged[-1][1] = end
            streets[-1] |= is_street
        else:
            merged.append([start, end, ours])
            streets.append(is_street)
        last_end = end
    kept = zip(merged, streets, strict=True)
    return [span for span, is_street in kept if span[2] != "ADDRESS" or is_street]


def _language(value: object) -> str:
    name = str(value or "").lower()
    return _LANGUAGES.get(name, re.split(r"[-_]", name)[0])
