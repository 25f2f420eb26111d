"""BIOES tags: round trips, valid transitions, characters from tokens."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data.documents import Span
from ray_jobs.pii.spans import TagScheme, character_range, character_segments

LABELS = ("EMAIL", "PERSON", "PHONE")
SCHEME = TagScheme(LABELS)


def offsets_of(*words: tuple[int, int]) -> np.ndarray:
    return np.array(words, dtype=np.int32).reshape(-1, 2)


@st.composite
def tokens_and_segments(draw):
    """Offsets of 0..12 tokens with gaps, and labelled runs of them that do not overlap."""
    position, offsets = 0, []
    for length, gap in draw(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2)), max_size=12)):
        offsets.append((position, position + length))
        position += length + gap
    segments, first = [], 0
    while first < len(offsets):
        stop = min(len(offsets), first + draw(st.integers(1, 4)))
        if draw(st.booleans()):
            segments.append((first, stop, draw(st.sampled_from(LABELS))))
        first = stop
    return offsets_of(*offsets), segments


@given(tokens_and_segments())
def test_tags_give_back_the_segments_they_were_made_from(case):
    offsets, segments = case
    spans = [Span(int(offsets[a, 0]), int(offsets[b - 1, 1]), label) for a, b, label in segments]
    tags = SCHEME.encode(reversed(spans), offsets)
    assert SCHEME.segments(tags) == segments


@given(tokens_and_segments())
def test_encoded_tags_are_always_a_valid_sequence(case):
    offsets, segments = case
    spans = [Span(int(offsets[a, 0]), int(offsets[b - 1, 1]), label) for a, b, label in segments]
    tags = SCHEME.encode(spans, offsets)
    if len(tags):
        assert SCHEME.starts[tags[0]] and SCHEME.ends[tags[-1]]
        assert SCHEME.transitions[tags[:-1], tags[1:]].all()


def test_names_number_the_tags():
    assert SCHEME.names[:6] == ("O", "B-EMAIL", "I-EMAIL", "E-EMAIL", "S-EMAIL", "B-PERSON")
    assert len(SCHEME.names) == SCHEME.n_tags == 13


def test_transitions_follow_bioes():
    tag = {name: number for number, name in enumerate(SCHEME.names)}
    allowed = SCHEME.transitions
    assert allowed[tag["O"], tag["B-PHONE"]] and allowed[tag["E-EMAIL"], tag["S-PERSON"]]
    assert allowed[tag["B-EMAIL"], tag["E-EMAIL"]] and allowed[tag["B-EMAIL"], tag["I-EMAIL"]]
    assert not allowed[tag["B-EMAIL"], tag["I-PERSON"]]
    assert not allowed[tag["O"], tag["I-EMAIL"]] and not allowed[tag["B-EMAIL"], tag["O"]]
    assert not allowed[tag["S-EMAIL"], tag["E-EMAIL"]]
    assert not SCHEME.starts[tag["E-EMAIL"]] and not SCHEME.ends[tag["B-EMAIL"]]


def test_a_token_that_a_span_cuts_belongs_to_it():
    tags = SCHEME.encode([Span(2, 6, "PERSON")], offsets_of((0, 4), (5, 9), (10, 12)))
    assert [SCHEME.names[tag] for tag in tags] == ["B-PERSON", "E-PERSON", "O"]


def test_of_two_spans_on_one_token_the_first_has_it():
    tags = SCHEME.encode([Span(3, 6, "PHONE"), Span(0, 3, "PERSON")], offsets_of((0, 4), (4, 6)))
    assert [SCHEME.names[tag] for tag in tags] == ["S-PERSON", "S-PHONE"]


def test_spans_of_other_types_and_without_tokens_leave_no_tag():
    tags = SCHEME.encode([Span(0, 2, "IBAN"), Span(4, 5, "PERSON")], offsets_of((0, 2), (6, 8)))
    assert tags.tolist() == [0, 0]


def test_no_token_no_tag():
    tags = SCHEME.encode([Span(0, 2, "PERSON")], offsets_of())
    assert tags.shape == (0,) and SCHEME.segments(tags) == []


def test_blanks_at_the_edges_are_cut():
    assert character_range("a  bob \n", offsets_of((1, 8)), 0, 1) == (3, 6)
    assert character_range("   ", offsets_of((0, 3)), 0, 1) is None


def test_punctuation_glued_to_a_word_is_cut():
    text = 'mail "ann@x.org",'
    assert character_range(text, offsets_of((0, 4), (4, 17)), 1, 2) == (6, 15)


def test_a_token_of_punctuation_alone_stays():
    text = "King Jr. left"
    offsets = offsets_of((0, 4), (5, 7), (7, 8), (9, 13))
    assert character_range(text, offsets, 0, 3) == (0, 8)


def test_a_bracket_stays_when_its_partner_is_inside():
    assert character_range("+49 (0)", offsets_of((0, 3), (4, 7)), 0, 2) == (0, 7)
    assert character_range("(Ann Lee)", offsets_of((1, 4), (5, 9)), 0, 2) == (1, 8)


def test_characters_are_code_points():
    text = "👩‍🚀 Zoë 🎈"
    start = text.index("Zoë")
    offsets = offsets_of((0, 3), (start, start + 3), (start + 4, start + 5))
    tags = SCHEME.encode([Span(start, start + 3, "PERSON")], offsets)
    assert SCHEME.segments(tags) == [(1, 2, "PERSON")]
    assert text[slice(*character_range(text, offsets, 1, 2))] == "Zoë"


def redacted_pieces(text: str, offsets: np.ndarray, *names: str) -> list[str]:
    tags = np.array([SCHEME.names.index(name) for name in names])
    return [text[part.start : part.end] for part in character_segments(text, offsets, SCHEME, tags)]


def test_a_character_over_several_tokens_is_taken_whole_by_the_first_segment():
    # Byte-level BPE: the two bytes of the umlaut are tokens of their own.
    text, offsets = "Zoë5", offsets_of((0, 2), (2, 3), (2, 3), (3, 4))
    assert redacted_pieces(text, offsets, "B-PERSON", "E-PERSON", "B-PHONE", "E-PHONE") == [
        *("Zoë", "5"),
    ]
    assert redacted_pieces(text, offsets, "B-PERSON", "E-PERSON", "S-PHONE", "O") == ["Zoë"]
    assert redacted_pieces(text, offsets, "O", "O", "B-PHONE", "E-PHONE") == ["ë5"]


def test_a_letter_is_taken_with_its_accents():
    text = "Jose\u0301 Rene\u0301\u0302"
    offsets = offsets_of((0, 4), (6, 10))  # MiniLM's tokenizer drops the accents
    assert redacted_pieces(text, offsets, "S-PERSON", "S-PERSON") == text.split()
    offsets = offsets_of((0, 3), (4, 6))
    assert character_range(text, offsets, 1, 2) == (3, 5)
