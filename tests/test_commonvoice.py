"""Every generation of Common Voice's tables, and tables that are wrong."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_lora.errors import DataError
from asr_lora.sources.commonvoice import BadRow, Utterance, find_locale, read_table

HEADERS = {
    "1-4": "client_id path sentence up_votes down_votes age gender accent",
    "5-7": "client_id path sentence up_votes down_votes age gender accent locale segment",
    "8-12": "client_id path sentence up_votes down_votes age gender accents locale segment",
    "13-16.1": "client_id path sentence up_votes down_votes age gender accents variant locale segment",
    "17+": "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents variant locale "
    "segment",
}


def locale_with(folder: Path, header: str, *rows: dict[str, str]) -> Path:
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    names = header.split()
    lines = ["\t".join(names), *("\t".join(row.get(name, "") for name in names) for row in rows)]
    (folder / "train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
def test_every_header_generation(tmp_path, header):
    row = {
        "client_id": "abc", "path": "common_voice_nl_1.mp3", "sentence": "Goedemorgen, Els!",
        "gender": "female_feminine", "accent": "Vlaams", "accents": "Vlaams", "age": "thirties",
        "sentence_domain": "general,news",
    }  # fmt: skip
    (found,) = read_table(locale_with(tmp_path / "nl", header, row), "train")
    assert isinstance(found, Utterance)
    assert (found.id, found.text, found.speaker) == ("common_voice_nl_1", "Goedemorgen, Els!", "abc")
    assert (found.gender, found.accent, found.age) == ("female", "Vlaams", "thirties")
    assert found.domain == ("general,news" if "sentence_domain" in header else "")
    assert found.recording == "common_voice_nl_1.mp3"


def test_quotes_are_text(tmp_path):
    sentences = ['"Kom', 'hij zei "nee"', 'een "', "''"]
    rows = [{"client_id": "a", "path": f"{n}.mp3", "sentence": text} for n, text in enumerate(sentences)]
    folder = locale_with(tmp_path / "nl", HEADERS["17+"], *rows)
    assert [row.text for row in read_table(folder, "train")] == sentences
    # csv's defaults would lose rows here
    body = (folder / "train.tsv").read_text()
    assert len(list(csv.DictReader(io.StringIO(body), delimiter="\t"))) < len(sentences)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ('"""Kom"" zei ze."', '"Kom" zei ze.'),
        ('"""Kom!"""', '"Kom!"'),
        ('"Hij zei ""nee""."', 'Hij zei "nee".'),
        ('"Kom!"', '"Kom!"'),
        ('""Kom!""', '""Kom!""'),
        ('hij zei ""nee""', 'hij zei ""nee""'),
        ('"een" en "twee"', '"een" en "twee"'),
        ('"een ""', '"een ""'),
    ],
)
def test_a_field_that_is_escaped_as_a_whole_is_unescaped(tmp_path, written, meant):
    row = {"client_id": "a", "path": "1.mp3", "sentence": written}
    folder = locale_with(tmp_path / "nl", HEADERS["1-4"], row)
    assert [row.text for row in read_table(folder, "train")] == [meant]


def test_rows_that_are_no_utterance(tmp_path):
    folder = locale_with(tmp_path / "nl", "client_id path sentence")
    with (folder / "train.tsv").open("ab") as table:
        table.write(b"a\t1.mp3\n" + b"a\t\tzin\n" + b"\n" + b"a\t2.mp3\t\xff\xfe\n" + b"a\t../../3.mp3\tzin\r\n")
    rows = list(read_table(folder, "train"))
    assert [row.reason for row in rows if isinstance(row, BadRow)] == [
        "row is cut short", "row is cut short", "row is not UTF-8",
    ]  # fmt: skip
    assert [row.id for row in rows if isinstance(row, BadRow)] == ["train.tsv:2", "train.tsv:3", "train.tsv:5"]
    assert rows[-1].recording == "3.mp3"  # never out of the clips folder


@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=400))
def test_no_table_breaks_the_reader(tmp_path_factory, body):
    folder = tmp_path_factory.mktemp("cv") / "nl"
    (folder / "clips").mkdir(parents=True)
    (folder / "train.tsv").write_bytes(b"client_id\tpath\tsentence\n" + body)
    for row in read_table(folder, "train"):
        assert isinstance(row, BadRow) or ("/" not in row.recording and row.recording not in (".", ".."))


@pytest.mark.parametrize(
    ("body", "sentence"),
    [(None, "is missing"), (b"", "is empty"), (b"a\tb\n", "has no column"), (b"\x00\xff" * 9, "has no column")],
)
def test_a_table_that_cannot_be_read(tmp_path, body, sentence):
    (tmp_path / "nl" / "clips").mkdir(parents=True)
    if body is not None:
        (tmp_path / "nl" / "train.tsv").write_bytes(body)
    with pytest.raises(DataError, match=sentence):
        list(read_table(tmp_path / "nl", "train"))


def test_finding_the_locale(tmp_path):
    nl = locale_with(tmp_path / "cv-corpus-25.0" / "nl", HEADERS["17+"])
    locale_with(tmp_path / "cv-corpus-25.0" / "zh-CN", HEADERS["17+"])
    for source in (tmp_path, tmp_path / "cv-corpus-25.0", nl):
        assert find_locale(source, "nl") == nl
    assert find_locale(tmp_path, "ZH-cn").name == "zh-CN"
    with pytest.raises(DataError, match="has no locale 'fr'; it has nl, zh-CN"):
        find_locale(tmp_path, "fr")
    with pytest.raises(DataError, match="is not there"):
        find_locale(tmp_path / "nowhere", "nl")
    with pytest.raises(DataError, match="no Common Voice release"):
        find_locale(nl / "clips", "nl")
    (tmp_path / "cv.zip").write_bytes(b"x")
    with pytest.raises(DataError, match=r"no \.tar\.gz"):
        find_locale(tmp_path / "cv.zip", "nl")
    locale_with(tmp_path / "cv-corpus-24.0" / "nl", HEADERS["17+"])
    with pytest.raises(DataError, match="more than once"):
        find_locale(tmp_path, "nl")
