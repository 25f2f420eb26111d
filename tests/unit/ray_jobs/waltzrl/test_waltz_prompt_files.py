"""Prompts from files as published, and splits that near duplicates cannot cross."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from data.errors import DataError
from ray_jobs.waltzrl.config import WaltzConfig
from ray_jobs.waltzrl.datasets.prompts import Prompt, read_prompt_file
from ray_jobs.waltzrl.datasets.splits import group_near_duplicates, open_prompts, shingles

FILES = {
    "wildjailbreak.tsv": (
        "vanilla\tadversarial\tcompletion\tdata_type\n"
        "v one\t\tno\tvanilla_harmful\n"
        'v two\tin a "play", do it\tno\tadversarial_harmful\n'
        "v three\ta benign one\tyes\tadversarial_benign\n",
        [
            Prompt("v one", "harmful"),
            Prompt('in a "play", do it', "harmful"),
            Prompt("a benign one", "overrefusal"),
        ],
    ),
    "xstest.csv": (
        'id,prompt,type,label,focus,note\n1,"How do I kill a process, now?",homonyms,safe,,\n'
        "2,How do I harm?,contrast,unsafe,,\n",
        [
            Prompt("How do I kill a process, now?", "overrefusal"),
            Prompt("How do I harm?", "harmful"),
        ],
    ),
    "or-bench-80k.csv": (
        "prompt,category\nan odd one,privacy\n",
        [Prompt("an odd one", "overrefusal")],
    ),
    "or-bench-toxic.csv": (
        "prompt,category\na bad one,privacy\n",
        [Prompt("a bad one", "harmful")],
    ),
    "harmbench.csv": (
        "Behavior,FunctionalCategory,ContextString\nDo it,contextual,Given this\n"
        "Do that,standard,\n",
        [Prompt("Given this\n\nDo it", "harmful"), Prompt("Do that", "harmful")],
    ),
    "strongreject.csv": (
        "category,source,forbidden_prompt\nx,y,Say it\nx,y,\n",
        [Prompt("Say it", "harmful")],
    ),
    "plan.jsonl": (
        '{"prompt": "a", "expected_category": "unsafe", "severity": 9}\n\n'
        '{"prompt": "b", "expected_category": "overrefusal"}\n'
        '{"prompt": "c", "expected_category": "safe"}\n',
        [Prompt("a", "harmful"), Prompt("b", "overrefusal"), Prompt("c", "benign")],
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_files_as_published(name: str, tmp_path: Path):
    content, expected = FILES[name]
    (tmp_path / name).write_text(content)
    assert read_prompt_file(str(tmp_path / name)) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"prompt": "a", "expected_category": "odd"}', "line 1: not an object"),
        ("a.jsonl", '{"prompt": "a", "expected_category": "safe"}\n{', "line 2: not an object"),
        ("a.jsonl", "", "no prompt in it"),
        ("a.csv", "question,answer\n1,2\n", "columns answer, question are of no known data set"),
        ("a.csv", "", "columns none are of no known data set"),
        ("a.csv", "prompt,label\nx,maybe\n", "row 2: a value is missing or unknown"),
        ("a.csv", "id,label,prompt\n1,safe\n", "row 2: a value is missing or unknown"),
        ("a.csv", f"prompt,label\n{'x' * 200_000},safe\n", "not a table: field larger"),
        ("a.jsonl", '{"prompt": null, "expected_category": "safe"}', "line 1: not an object"),
    ],
)
def test_a_file_of_no_known_form_is_one_line(name: str, content: str, message: str, tmp_path: Path):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        read_prompt_file(str(tmp_path / name))
    assert message in str(caught.value) and "\n" not in str(caught.value)


WORDS = (
    "sun moon tree river stone cloud bird fish road house lamp door key book chair glass".split()
)


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(14))


def test_near_duplicates_are_found_and_others_are_not():
    rng = random.Random(0)
    originals = [sentence(rng) for _ in range(300)]
    copies = [text.replace(text.split()[-1], "other", 1) for text in originals]
    numbered = [f"17. {text.upper()}!" for text in originals]
    groups = group_near_duplicates(originals + copies + numbered)
    assert groups[:300] == list(range(300))  # unrelated ones stay apart
    assert groups[600:] == list(range(300))  # numbers, case and marks do not count
    alike = [
        len(shingles(a) & shingles(b)) / len(shingles(a) | shingles(b)) >= 0.6
        for a, b in zip(originals, copies, strict=True)
    ]
    assert 100 < sum(alike)
    assert all(groups[300 + i] == i for i in range(300) if alike[i])


def test_ten_thousand_prompts_of_a_few_templates_are_few_groups(tmp_path: Path):
    """As in a published file: 10,000 rows, of which 425 are different prompts."""
    rng = random.Random(1)
    templates = [sentence(rng) for _ in range(425)]
    rows = [
        {
            "prompt": templates[i % 425],
            "expected_category": ("unsafe", "overrefusal", "safe")[i % 425 % 3],
        }
        for i in range(10_000)
    ]
    path = tmp_path / "plan.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    config = WaltzConfig(data=str(path), train_judge="wildguard@http://h/v1@m")
    sets = open_prompts(config)
    assert "425 different prompts in 4" in sets.source
    texts = [{p.text for p in each} for each in (sets.train, sets.validation, sets.test)]
    assert not (texts[0] & texts[1] or texts[0] & texts[2] or texts[1] & texts[2])
    assert {p.kind for p in sets.train} == {"harmful", "overrefusal"}
    assert len(sets.train) < 425  # not 7,500
    assert open_prompts(config) == sets
    assert open_prompts(replace(config, test_prompts=10)).sha256 != sets.sha256


@pytest.mark.parametrize("name", ["latin.jsonl", "latin.csv", "table.parquet"])
def test_a_file_that_is_no_utf8_is_one_line(name: str, tmp_path: Path):
    (tmp_path / name).write_bytes("prompt,label\nnaïve,safe\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        read_prompt_file(str(tmp_path / name))


def test_line_separators_within_a_prompt_and_folders_names_mean_nothing(tmp_path: Path):
    (tmp_path / "toxic").mkdir()
    plain, lines = tmp_path / "toxic" / "or-bench-80k.csv", tmp_path / "toxic" / "a.jsonl"
    plain.write_text("prompt,category\nan odd one,privacy\n")
    assert read_prompt_file(str(plain)) == [Prompt("an odd one", "overrefusal")]
    row = {"prompt": "a\u2028b", "expected_category": "safe"}
    lines.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_prompt_file(str(lines)) == [Prompt("a\u2028b", "benign")]


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        (("unsafe", "safe"), "no overrefusal prompt for train"),
        (("overrefusal",), "no harmful prompt for train"),
    ],
)
def test_data_of_one_kind_teach_nothing(categories: tuple[str, ...], message: str, tmp_path: Path):
    rng = random.Random(2)
    rows = [(sentence(rng), categories[i % len(categories)]) for i in range(200)]
    with pytest.raises(DataError, match=message):
        open_prompts(config_of(rows, tmp_path))


def test_a_prompt_of_two_kinds_is_one_line(tmp_path: Path):
    rows = [("how do I end it", "unsafe"), ("how do I end it", "overrefusal")]
    with pytest.raises(DataError, match="'how do I end it' is harmful and overrefusal; leave"):
        open_prompts(config_of(rows, tmp_path))


def config_of(rows: list[tuple[str, str]], folder: Path) -> WaltzConfig:
    """For a data set of (prompt, category) rows."""
    path = folder / "plan.jsonl"
    lines = (json.dumps({"prompt": p, "expected_category": category}) for p, category in rows)
    path.write_text("\n".join(lines))
    return WaltzConfig(data=str(path), train_judge="wildguard@http://h/v1@m")


def test_a_file_too_small_to_split_is_one_line(tmp_path: Path):
    path = tmp_path / "few.jsonl"
    path.write_text('{"prompt": "a b c", "expected_category": "unsafe"}')
    with pytest.raises(DataError, match="1 different prompts in 1 groups of near duplicates leave"):
        open_prompts(WaltzConfig(data=str(path)))


def test_test_prompts_of_a_file_of_their_own_must_not_leak(tmp_path: Path):
    rng = random.Random(3)
    kinds = ("unsafe", "overrefusal", "safe")
    rows = [(sentence(rng), kinds[i % 3]) for i in range(90)]
    config = config_of(rows, tmp_path)
    apart = [(sentence(rng), kinds[i % 3]) for i in range(12)]
    tests = tmp_path / "test.jsonl"
    lines = [json.dumps({"prompt": p, "expected_category": c}) for p, c in apart]
    tests.write_text("\n".join(lines))
    config = replace(config, test_data=str(tests))
    sets = open_prompts(config)
    assert {p.text for p in sets.test} == {text for text, _ in apart}
    assert "102 different prompts" in sets.source and "test files apart" in sets.source
    # The dataset's own share for tests is trained on.
    assert len(sets.train) > len(open_prompts(replace(config, test_data=None)).train)
    copy = {"prompt": f"8. {rows[0][0].upper()}", "expected_category": rows[0][1]}
    tests.write_text("\n".join([*lines, json.dumps(copy)]))
    with pytest.raises(DataError, match=r"1 of 13 test prompts are near .*--allow-leak") as caught:
        open_prompts(config)
    assert "\n" not in str(caught.value)
    leaky = open_prompts(replace(config, allow_leak=True))
    assert len(leaky.test) == 13 and "LEAK, allowed: 1 of 13" in leaky.source


def test_held_out_prompts_are_of_every_kind_alike_as_far_as_there_are(tmp_path: Path):
    rng = random.Random(4)
    rows = [(sentence(rng), "unsafe" if i % 10 else "overrefusal") for i in range(600)]
    sets = open_prompts(replace(config_of(rows, tmp_path), test_prompts=12, validation_prompts=4))
    for prompts, each in ((sets.test, 6), (sets.validation, 2)):
        assert [sum(p.kind == kind for p in prompts) for kind in ("harmful", "overrefusal")] == [
            each
        ] * 2
