"""The label doctor, end to end: nothing is changed, nothing found is silent, and a model hears what rules cannot."""

import json
import shutil
from html.parser import HTMLParser

import apart
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_cli import invoke

from asr_lora import check_labels, prepare
from asr_lora.dataset.reading import read_split
from asr_lora.errors import ConfigError
from asr_lora.folders.atomic import read_jsonl
from asr_lora.folders.dataset_folder import DatasetFolder, DatasetRecord
from asr_lora.folders.digests import sha256_file
from asr_lora.labels.label_report import MEASURED
from asr_lora.labels.model_scores import ModelScore, findings_from_scores, suspicion

FAULTS = {"perchÃ© no": "mojibake", "premere <b>uno</b>": "markup", "премере уно": "wrong-script"}


def spoil(table, texts):
    """Put texts in the place of the first ones of a table; None leaves one as it is."""
    head, *lines = table.read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines]
    place = head.split("\t").index("sentence")
    for row, text in zip(rows, texts, strict=False):
        row[place] = row[place] if text is None else text
    table.write_text("\n".join([head, *map("\t".join, rows)]) + "\n", encoding="utf-8")


def shorten(release):
    """Leave a few rows in the tables of a release."""
    for split, count in (("train", 6), ("dev", 2), ("test", 3)):
        table = release / f"{split}.tsv"
        table.write_text("".join(table.read_text(encoding="utf-8").splitlines(keepends=True)[: count + 1]), "utf-8")


@pytest.fixture(scope="module")
def faulty(demo_dataset, tmp_path_factory):
    """The demo with three texts of train spoilt, prepared anew."""
    from conftest import DEMO

    release = tmp_path_factory.mktemp("faulty") / "release"
    shutil.copytree(DEMO, release)
    spoil(release / "cv-corpus-17.0-2024-03-15" / "it" / "train.tsv", [*FAULTS, None, None, " "])
    return prepare(release, language="it", out=release.parent / "data").root


def test_what_a_rule_finds_in_train_is_left_out_where_that_is_wanted(release, tmp_path):
    """Dev and test keep what the same rules find there."""
    shorten(release)
    for split in ("train", "test"):
        spoil(release / f"{split}.tsv", FAULTS)
    words = ["prepare", release, "--language", "it", "--out", tmp_path / "o", "--subsets", "10s"]
    words += ["--drop", "mojibake", "--drop", "markup"]
    done = invoke(*words)
    assert done.exit_code == 0, done.stderr
    body = DatasetFolder(tmp_path / "o").read_json()
    assert body["dropped"] == {"mojibake": 1, "markup": 1}
    assert body["drop"] == ["markup", "mojibake"]
    assert "left out       1 mojibake (listed in" in done.stdout
    left_out = {row["id"]: row["reason"] for row in read_jsonl(tmp_path / "o" / "dropped.jsonl")}
    train, test = (read_split(tmp_path / "o", split) for split in ("train", "test"))
    assert len(train) == body["splits"]["train"]["utterances"] == 6 - 2
    assert not set(train.ids) & set(left_out)
    assert not set(DatasetFolder(tmp_path / "o").subset_ids("10s")) & set(left_out)
    assert [text for text in train.texts if text in FAULTS] == ["премере уно"]
    assert sorted(text for text in test.texts if text in FAULTS) == sorted(FAULTS)
    before = (tmp_path / "o" / "train.parquet").stat().st_mtime_ns
    assert invoke(*words[:-2]).exit_code == 0  # other rules make another train
    assert (tmp_path / "o" / "train.parquet").stat().st_mtime_ns != before


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ("to-fast", "--drop: there is no rule 'to-fast', did you mean too-fast? The rules are unreadable, silent"),
        ("x", "--drop: there is no rule 'x'. The rules are unreadable"),
        (
            "leaked-speaker",
            "--drop leaked-speaker: this rule finds no fault of a label in train. The rules for --drop are unreadable",
        ),
        ("misheard", "--drop misheard: this rule needs a model. The rules for --drop are unreadable"),
    ],
)
def test_rules_that_cannot_leave_anything_out(rule, sentence, tmp_path):
    done = invoke("prepare", "nowhere", "--language", "it", "--out", tmp_path / "o", "--drop", rule)
    assert done.exit_code == 2
    assert sentence in done.stderr


@pytest.fixture
def copied(faulty, tmp_path):
    return shutil.copytree(faulty, tmp_path / "data")


@pytest.fixture
def few(release, tmp_path):
    """A dataset of a few utterances."""
    shorten(release)
    return prepare(release, language="it", out=tmp_path / "few").root


def findings(folder):
    return read_jsonl(DatasetFolder(folder).label_report.findings)


def rewrite_train_unmeasured(folder, change):
    """Change the rows of train, without what prepare measured of their sound; keep the manifest in step."""
    dataset = DatasetFolder(folder)
    path = dataset.split("train")
    table = pq.read_table(path)
    changed = pa.Table.from_pylist(change(table.to_pylist()), schema=table.schema)
    measured = [name for name in changed.column_names if name in MEASURED and name != "seconds"]
    pq.write_table(changed.drop_columns(measured).replace_schema_metadata(None), path)
    body = dataset.read_json()
    body["splits"]["train"] |= {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    dataset.write(DatasetRecord.model_validate(body))


def test_prepare_writes_findings_without_being_asked(faulty):
    body = DatasetFolder(faulty).label_report.read_json()
    by_text = {row["text"]: row["rule"] for row in findings(faulty) if row["rule"] in FAULTS.values()}
    assert by_text == FAULTS
    assert body["counts"]["left-out"] == 1
    assert body["left_out"] == {"text is empty": 1}
    assert len(read_split(faulty, "train")) == 58  # of 59, one without text: what is suspicious stays


def test_prepare_says_that_labels_are_suspicious(release, tmp_path):
    table = release / "train.tsv"
    text = table.read_text(encoding="utf-8")
    sentence = text.splitlines()[1].split("\t")[3]
    table.write_text(text.replace(f"\t{sentence}\t", "\tpremere 4 & %\t"), encoding="utf-8")
    done = invoke("prepare", release, "--language", "it", "--out", tmp_path / "o")
    assert done.exit_code == 0
    assert "digits 1" in done.stderr
    assert f"see them with: asr-lora check {tmp_path / 'o'}" in done.stderr
    again = invoke("prepare", release, "--language", "it", "--out", tmp_path / "o")  # the folder is still ours
    assert again.exit_code == 0


@pytest.mark.slow
def test_check_of_a_folder_as_a_user_meets_it(copied):
    before = {path: sha256_file(path) for path in copied.glob("*") if path.is_file()}
    done = apart.run("check", copied)
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "UTF-8 read as" in lines["mojibake"]
    assert "text is empty" in lines["left-out"]
    assert "utterances are suspicious; none was left out because of it" in done.stderr
    assert "Traceback" not in done.stderr
    assert {path: sha256_file(path) for path in before} == before


def test_json_and_rules_that_are_off(copied):
    body = json.loads(invoke("check", copied, "--json").stdout)
    assert body["counts"]["mojibake"] == 1
    assert body["examples"]["markup"]["text"] == "premere <b>uno</b>"
    without = json.loads(invoke("check", copied, "--without", "mojibake", "--without", "markup", "--json").stdout)
    assert without["without"] == ["markup", "mojibake"]
    assert without["counts"] == {rule: n for rule, n in body["counts"].items() if rule not in without["without"]}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["{data}", "--without", "digit"], "there is no rule 'digit', did you mean digits? The rules are left-out"),
        (["{data}", "--set", "x.y=1"], "is a dataset folder: leave out --set"),
        (["{data}", "--no-probe"], "leave out --probe or --no-probe, which belongs to a config"),
        (["{data}", "--language-token", "nl"], "add --model"),
        (["{data}/dataset.json", "--with-audio"], "is no dataset folder: leave out --with-audio"),
    ],
)
def test_wrong_usage_is_one_sentence(faulty, words, sentence):
    done = invoke("check", *(word.format(data=faulty) for word in words))
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_folder_that_is_no_dataset_is_one_sentence(tmp_path, copied):
    assert "no dataset at" in invoke("check", tmp_path / "nowhere").stderr
    (tmp_path / "empty").mkdir()
    done = invoke("check", tmp_path / "empty")
    assert done.exit_code == 3
    assert "Make it with: asr-lora prepare" in done.stderr
    train = DatasetFolder(copied).split("train")
    train.write_bytes(train.read_bytes()[:-100])
    done = invoke("check", copied)
    assert done.exit_code == 3
    assert "missing or cut short" in done.stderr


def test_audio_that_no_longer_decodes_is_a_finding(copied):
    def spoil(rows):
        rows[3]["audio"]["bytes"] = b"no audio"
        rows[4]["audio"]["bytes"] = rows[6]["audio"]["bytes"]
        return rows

    rewrite_train_unmeasured(copied, spoil)
    counts = check_labels(copied).read().counts
    assert counts["unreadable"] == 1
    assert counts["duplicate-audio"] == 1


class Tags(HTMLParser):
    """What a page is made of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def test_the_page_stands_alone_and_is_accessible(copied):
    page = DatasetFolder(copied).label_report.page
    check_labels(copied, audio=True)
    html = page.read_text(encoding="utf-8")
    tags = Tags(html).found
    links = [value for _, facts in tags for key, value in facts.items() if key in ("src", "href") and value]
    assert all(link.startswith(("data:", "#")) for link in links)
    sounds = [facts for tag, facts in tags if tag == "audio"]
    assert sounds
    assert all(facts["aria-label"] and facts["src"].startswith("data:audio/flac;base64,") for facts in sounds)
    charts = [facts for tag, facts in tags if tag == "svg"]
    assert len(charts) == 4
    assert all(facts["aria-label"].startswith("Histogram of") for facts in charts)
    assert all(facts.get("scope") in ("col", "row") for tag, facts in tags if tag == "th")
    ids = [facts["id"] for tag, facts in tags if tag == "g" and "id" in facts]
    assert ids == []
    assert page.stat().st_size < 5e6
    assert "&lt;b&gt;uno" in html
    assert "<b>uno" not in html


def test_a_page_without_transcripts_has_none_of_any_text(copied):
    texts = [text for split in ("train", "dev", "test") for text in read_split(copied, split).texts if len(text) > 12]
    html = check_labels(copied, transcripts=False).page.read_text(encoding="utf-8")
    assert "mojibake" in html
    assert not [text for text in texts if text in html]
    assert "Ã©" not in html
    assert "data:audio" not in html


def opinion(place: int, **changes) -> ModelScore:
    usual = dict(
        tokens=9, loss=1.0 + place % 5 / 10, silent_loss=4.0, tail_gain=3.0, end_loss=0.1, hypothesis="ja", cer=0.1
    )
    return ModelScore(**{"split": "train", "id": f"clip{place}", **usual, **changes})


def test_opinions_are_judged_by_what_is_usual():
    from test_label_rules import label

    odd = [
        opinion(100, loss=5.0, silent_loss=4.9, cer=0.9),
        opinion(101, loss=4.0, silent_loss=6.0, tail_gain=2.0),
        opinion(102, end_loss=9.0),
        opinion(104, tail_gain=0.0),
        opinion(103, loss=9.0, silent_loss=9.0, tokens=1),  # too short to say
    ]
    thought = [*map(opinion, range(40)), *odd]
    found = {(row.rule, row.id) for row in findings_from_scores(thought, [label(int(row.id[4:])) for row in thought])}
    assert found == {
        ("unheard-text", "clip100"),
        ("misheard", "clip100"),
        ("unlikely-text", "clip101"),
        ("text-ends-early", "clip102"),
        ("sound-ends-early", "clip104"),
    }
    assert max(thought[:-1], key=suspicion).id == "clip100"


def unlike(texts):
    """Places of long texts that share few words with those before."""
    chosen: list[int] = []
    for place in sorted(range(len(texts)), key=lambda place: -len(texts[place])):
        words = set(texts[place].lower().split())
        if all(len(words & set(texts[other].lower().split())) <= len(words) / 6 for other in chosen):
            chosen.append(place)
    return chosen


def test_a_real_model_hears_that_texts_were_swapped(base, demo_dataset):
    from asr_lora.evaluation.teacher_forced import score_labels

    split = read_split(demo_dataset, "test")
    honest = split.select(unlike(split.texts)[:5])
    rows = honest.rows.remove_columns("text").add_column("text", [*honest.texts[1:], honest.texts[0]])
    right = {row.id: row for batch in score_labels(base, honest, "test") for row in batch}
    wrong = {row.id: row for batch in score_labels(base, type(honest)(rows), "test") for row in batch}
    assert right.keys() == wrong.keys() == set(honest.ids)
    for clip, row in right.items():
        assert row.gain > 1.0 > wrong[clip].gain
        assert suspicion(row) < suspicion(wrong[clip])
        assert row.cer < 0.5 < wrong[clip].cer
        assert row.hypothesis == wrong[clip].hypothesis


def test_asking_a_model_goes_on_where_it_stopped(few, tiny_folder):
    folder = check_labels(few, model=str(tiny_folder))
    kept = folder.all_model_scores
    assert len(kept) == 1
    rows = kept[0].read_text(encoding="utf-8").splitlines()
    whole = findings(few)
    kept[0].write_text("\n".join([*rows[:3], rows[3][:30]]), encoding="utf-8")  # as a killed process leaves it
    assert check_labels(few, model=str(tiny_folder)).all_model_scores == kept
    assert set(kept[0].read_text(encoding="utf-8").splitlines()) == set(rows)
    assert len(rows) == 11
    assert findings(few) == whole
    assert folder.read().model == str(tiny_folder)


def test_rules_of_a_model_have_switches_too(copied):
    with pytest.raises(ConfigError, match="no rule"):
        check_labels(copied, without=["unheard"])
    assert check_labels(copied, without=["unheard-text"]).read().without == ["unheard-text"]
