"""The comparison page: what it says, and how it behaves in a real browser, over real speech of data/demo."""

import csv
import json
import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rerun import report as invented_report
from typer.testing import CliRunner

from asr_lora import compare
from asr_lora.cli.verbs import app
from asr_lora.dataset.reading import read_split
from asr_lora.errors import ConfigError, DataError
from asr_lora.evaluation.comparison import read_comparison
from asr_lora.evaluation.report import score_report
from asr_lora.evaluation.rerun import rerun
from asr_lora.evaluation.shown_utterances import direction, shown_utterances
from asr_lora.folders.atomic import write_jsonl
from asr_lora.folders.dataset_folder import DatasetFolder
from asr_lora.folders.measurements import ReportRecord
from asr_lora.folders.report_folder import ComparisonFolder, ReportFolder
from asr_lora.metrics.normalize import find_normaliser
from asr_lora.metrics.wer import align_words
from asr_lora.pages.tables import Number, Table, interval, latex_csv, text
from asr_lora.pages.templating import markdown_line

NAMES = {"untouched": (0.5, None), "lora#1": (0.2, 0.03), "lora#2": (0.25, 0.05), "full, $x_1$ <b>": (0.15, 0.05)}


def trained(name: str, hours: float) -> dict:
    """Facts of a run as `evaluate` states them."""
    curve = [{"step": step, "seconds": 6.0 * step, "wer": 1 / step, "cer": 0.5 / step} for step in (10, 20, 30)]
    return {
        "method": name.partition("#")[0].partition(",")[0], "trainable_parameters": 1_179_648,
        "total_parameters": 73_773_568, "weights_bytes": 4_735_114, "seconds": 1800.0,
        "peak_memory_bytes": 2_228_043_776, "hours_of_speech": hours, "epochs": 8.3, "step": 30,
        "dev_wer": 0.1, "curve": curve, "config": {"training": {"seed": 7, "steps": 30}}, "made_with": {},
    }  # fmt: skip


def spoilt(text: str, wrong: float, chance: np.random.Generator) -> str:
    """A hypothesis that gets a share of the words wrong in each of the three ways."""
    words = []
    for word in text.split():
        drawn = chance.random()
        words += [word] if drawn >= wrong else [[], ["erra"], [word, "troppo"]][int(chance.integers(3))]
    return " ".join(words)


def demo_reports(dataset: Path, root: Path) -> list[Path]:
    """Reports of systems that get shares of the demo's words wrong; its clips are real, and are heard on the page."""
    data, manifest = read_split(dataset, "test"), DatasetFolder(dataset).read()
    reports = []
    for place, (name, (wrong, hours)) in enumerate(NAMES.items()):
        chance = np.random.default_rng(place)
        rows = [
            {
                "id": clip, "speaker": f"s{number % 12}", "gender": ["female", "male"][number % 2], "age": "",
                "seconds": round(seconds, 3), "reference": text, "hypothesis": spoilt(text, wrong, chance),
            }
            for number, (clip, seconds, text) in enumerate(zip(data.ids, data.seconds, data.texts, strict=True))
        ]  # fmt: skip
        rows, scored = score_report(rows, "it", find_normaliser("basic", "it"))
        folder = ReportFolder(root / f"system-{place}")
        folder.root.mkdir(parents=True)
        write_jsonl(folder.hypotheses, rows)
        body = {
            "fingerprint": name,
            "system": {
                "name": name, "model": f"runs/{place}", "base": "b", "context": "full", "dtype": "bfloat16",
                "device": "cpu", "training": trained(name, hours) if hours else None, "strength": None,
            },
            "dataset": {
                "language": "it", "split": "test", "sha256": manifest.splits["test"].sha256,
                "utterances": len(rows), "seconds": sum(data.seconds), "speakers": 12, "folder": str(dataset),
            },
            "decoding": {"language": "it", "language_token": None, "task": "transcribe", "beams": 1},
            "rtfx": 20.0,
        }  # fmt: skip
        folder.write(ReportRecord.model_validate({**body, **scored.fields()}))
        reports.append(folder.root)
    return reports


@pytest.fixture(scope="module")
def made(demo_dataset, tmp_path_factory):
    """A comparison folder with everything that a page may have."""
    root = tmp_path_factory.mktemp("page")
    reports = demo_reports(demo_dataset, root)
    return compare(reports, out=root / "out", price_per_hour=0.5, audio=demo_dataset, regression_sets=reports[:2])


# Cells and sentences


def test_numbers_are_shown_as_the_medium_wants():
    change = Number(-1234.567, "+,.1f")
    sentence = text("A <b> changed by ", change, " points")
    assert (str(change), change.__html__()) == ("-1,234.6", "−1,234.6")
    assert str(sentence) == "A <b> changed by -1,234.6 points"
    assert sentence.__html__() == "A &lt;b&gt; changed by −1,234.6 points"
    assert (str(Number(None)), str(interval(None, 0.1)), str(interval(-0.1, 0.25, "+.1f"))) == (
        "–",
        "–",
        "-10.0 to +25.0",
    )
    table = Table("t", ["system", "wer", "runs"], [["a_1, b", Number(100 / 3), Number(2)], ["c", Number(None), "–"]])
    assert latex_csv(table).splitlines() == ["system,wer,runs", r"a\_1\char44{} b,33.3333,2", "c,,–"]


HOSTILE = {  # a name, and how it begins a row of the Markdown table
    "\x1b]0;owned\x07\x9b31m|b\\| **x** <img src=x> [a](b)": r"| \u001b\]0;owned\u0007\u009b31m\|b\\\| \*\*x",
    "=HYPERLINK(1)\r\n| new | row |": r"| =HYPERLINK(1) \| new \| row \| |",
    "# \u202ereversed\u2069 \u2028 __x__ a_b &lt;": r"| # \u202ereversed\u2069 \_\_x\_\_ a_b &amp;lt; |",
    "@SUM(A1)\ttab": "| @SUM(A1) tab |",
    "+1": "| +1 |",
    "-2`": r"| -2\` |",
    "سلام\u200f نیم\u200cفاصله": "| سلام\u200f نیم\u200cفاصله |",  # marks that languages need
}


def test_names_neither_break_tables_nor_reach_a_terminal(tmp_path):
    paths = [
        invented_report(tmp_path / str(number), name, 0.5 - number / 20, seed=number)
        for number, name in enumerate(HOSTILE)
    ]
    done = CliRunner().invoke(app, ["compare", *map(str, paths), "--out", str(tmp_path / "out")])
    failed = CliRunner().invoke(app, ["evaluate", "\x9b31m\u202e", "nowhere\x1b\nx", "--out", str(tmp_path / "o")])
    made = ComparisonFolder(tmp_path / "out")
    _, markdown, _ = shown = [path.read_text(encoding="utf-8") for path in made.rendered]
    for output in (*shown, done.stdout, done.stderr, failed.stderr):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", output)
    assert (failed.exit_code, failed.stderr.count("\n")) == (3, 1)
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows}) == 1
    for row, beginning in zip(rows[2:], HOSTILE.values(), strict=True):
        assert row.startswith(beginning)
    assert "<img" not in markdown
    assert markdown_line("# a") == r"\# a"
    assert markdown_line("2. a - b") == r"2\. a - b"
    with made.csv.open(encoding="utf-8", newline="") as handle:
        names = [row["system"] for row in csv.DictReader(handle)]
    assert names[1:3] == [
        "{}=HYPERLINK(1) | new | row |",
        r"\# \textbackslash{}u202ereversed\textbackslash{}u2069 \_\_x\_\_ a\_b \&lt\char59{}",
    ]
    assert [name[:3] for name in names[3:6]] == ["{}@", "{}+", "{}-"]
    assert rerun(made.root).differences == ()


# What it says


def test_the_table_for_latex_has_plain_numbers_and_names_that_tex_reads(made):
    with made.csv.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["system"] for row in rows] == [
        "untouched", r"lora\#1", r"lora\#2", r"full\char44{} \$x\_1\$ <b>", "lora (mean of 2)",
    ]  # fmt: skip
    assert '"' not in made.csv.read_text(encoding="utf-8")
    body = made.read_json()
    for row, system in zip(rows, body["systems"], strict=False):
        assert float(row["wer"]) == pytest.approx(100 * system["scores"]["wer"], rel=1e-4)
        assert float(row["werlow"]) <= float(row["wer"]) <= float(row["werhigh"])
    pair = body["pairs"][0]
    assert float(rows[1]["difference"]) == pytest.approx(100 * pair["wer"]["value"], rel=1e-4)
    assert float(rows[1]["p"]) == pytest.approx(pair["mapsswe"]["p"], rel=1e-4)
    assert (rows[1]["cost"], rows[1]["minutes"], rows[1]["trainable"]) == ("0.25", "30", "1179648")
    assert (rows[0]["cost"], rows[0]["difference"], rows[4]["runs"]) == ("", "", "2")
    assert float(rows[4]["wer"]) == pytest.approx((float(rows[1]["wer"]) + float(rows[2]["wer"])) / 2, rel=1e-4)


def test_the_verdict_is_of_the_best_and_the_next_best(made):
    body = made.read_json()
    names = ["lora (mean of 2)", "full, $x_1$ <b>"]
    rates = dict(zip(names, (body["combined"][0]["wer"]["mean"], body["systems"][3]["scores"]["wer"]), strict=True))
    best, second = sorted(names, key=lambda name: rates[name])
    assert body["verdict"].startswith(f"{best} is better than untouched by ")
    assert f"next best, {second}, " in body["verdict"]
    assert "#1" not in body["verdict"]
    contest = next(pair for pair in body["contests"] if {pair["a"], pair["b"]} == set(names))
    assert abs(contest["wer"]["value"]) == pytest.approx(abs(rates[best] - rates[second]))
    assert ("is not distinguishable from it" in body["verdict"]) == (contest["verdict"] == "not distinguishable")


def test_where_nothing_is_better_the_verdict_says_so(tmp_path):
    good, bad = invented_report(tmp_path / "a", "good", 0.1), invented_report(tmp_path / "b", "bad", 0.6, seed=2)
    worse = invented_report(tmp_path / "c", "worse", 0.8, seed=3)
    assert str(read_comparison([good, bad]).verdict).startswith("bad is worse than good by ")
    verdict = str(read_comparison([good, worse, bad]).verdict)
    assert verdict.startswith("None is better than good. bad is worse than good by ")


def test_characters_lead_where_words_are_not_parted(tmp_path):
    reports = [invented_report(tmp_path / name, name, wrong, language="zh", seed=seed)
               for name, wrong, seed in (("a", 0.5, 0), ("b", 0.1, 1))]  # fmt: skip
    folder = compare(reports, out=tmp_path / "out")
    assert (
        folder.markdown.read_text(encoding="utf-8")
        .splitlines()[2]
        .startswith("| System | CER % | 95 % interval | WER %")
    )
    page = folder.page.read_text(encoding="utf-8")
    assert "CER, %, with 95 % interval" in page
    assert 'lang="zh"' in page
    shown = shown_utterances(read_comparison(reports))
    steps = [step for one in shown for line in one.blocks[0] for step in line.cells if step]
    assert {len(step.reference or step.hypothesis) for step in steps} == {1}


def test_charts_are_drawn_where_there_is_something_to_draw(made, tmp_path):
    titles = ("WER with intervals", "How much speech is enough", "On dev, by steps", "On dev, by minutes", "By gender")
    untrained = [invented_report(tmp_path / name, name, 0.3, seed=seed) for seed, name in enumerate("ab")]
    pages = [made.page, compare(untrained, out=tmp_path / "out").page]
    drawn = [[f"<figcaption>{title}" in page.read_text(encoding="utf-8") for title in titles] for page in pages]
    assert drawn == [[True, True, True, True, False], [True, False, False, False, True]]  # the demo's groups are small


def test_costs_are_in_nobodys_money_and_only_where_a_price_is_given(made, tmp_path):
    assert "Cost: hours of training at 0.5 an hour, in the currency of that price" in made.markdown.read_text(
        encoding="utf-8"
    )
    reports = [Path(path) for path in made.read_json()["reports"]]
    plain = compare(reports, out=tmp_path / "plain")
    assert "Cost" not in plain.markdown.read_text(encoding="utf-8")
    assert "Cost" not in plain.page.read_text(encoding="utf-8")


def test_sound_that_is_not_the_reports(made, demo_dataset, tmp_path):
    reports = [Path(path) for path in made.read_json()["reports"]]
    with pytest.raises(ConfigError, match="leave one out"):
        compare(reports, out=tmp_path / "o", audio=demo_dataset, transcripts=False)
    other = tmp_path / "other"
    other.mkdir()
    body = json.loads((demo_dataset / "dataset.json").read_text(encoding="utf-8"))
    body["splits"]["test"]["sha256"] = "0" * 64
    (other / "dataset.json").write_text(json.dumps(body), encoding="utf-8")
    with pytest.raises(DataError, match="is not the dataset of the reports"):
        compare(reports, out=tmp_path / "o", audio=other)
    assert not (tmp_path / "o").exists()


def test_without_transcripts_no_words_are_on_the_page(made, demo_dataset, tmp_path):
    folder = compare([Path(path) for path in made.read_json()["reports"]], out=tmp_path / "o", transcripts=False)
    page = folder.page.read_text(encoding="utf-8")
    assert not [text for text in read_split(demo_dataset, "test").texts if text in page]
    assert "troppo" not in page
    assert "data:audio" not in page


def test_a_page_shows_no_more_words_than_it_may(made, monkeypatch):
    comparison = read_comparison([Path(path) for path in made.read_json()["reports"]])
    every = len(shown_utterances(comparison))
    monkeypatch.setattr("asr_lora.evaluation.shown_utterances.UNITS_SHOWN", 400)
    shown = shown_utterances(comparison)
    assert 0 < len(shown) < every
    assert sum(step is not None for one in shown for line in one.blocks[0][1:] for step in line.cells) <= 400


WORDS = st.lists(st.sampled_from("abc"), max_size=6).map(" ".join)


@settings(deadline=None, max_examples=50)
@given(reference=WORDS, hypotheses=st.lists(WORDS, min_size=1, max_size=4))
def test_lines_of_an_alignment_hold_every_word_in_columns(reference, hypotheses):
    from asr_lora.evaluation.shown_utterances import _blocks

    alignments = align_words([reference] * len(hypotheses), hypotheses)
    (block,) = _blocks([f"s{n}" for n in range(len(hypotheses))], [0] * len(hypotheses), alignments)
    said, *lines = block
    assert " ".join(step.reference for step in said.cells if step) == reference
    assert {len(line.cells) for line in block} == {len(said.cells)}
    for line, hypothesis in zip(lines, hypotheses, strict=True):
        assert " ".join(step.hypothesis for step in line.cells if step and step.hypothesis) == hypothesis
        for step, above in zip(line.cells, said.cells, strict=True):
            assert (step.reference if step else None) == (above.reference if above else None)


def test_texts_run_as_their_letters_do():
    assert [direction(text) for text in ("uno", "«שלום»", "1. مرحبا", "今天", "")] == [
        "ltr",
        "rtl",
        "rtl",
        "ltr",
        "ltr",
    ]


class Ids(HTMLParser):
    """Ids of a page, and where it points to within itself."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        for key, value in attrs:
            if key == "id":
                self.ids.append(value)
            elif key.endswith("href") and value.startswith("#"):
                self.links.append(value[1:])


def test_ids_are_of_one_thing_and_links_lead_somewhere(made):
    found = Ids(made.page.read_text(encoding="utf-8"))
    assert len(set(found.ids)) == len(found.ids)
    assert set(found.links) <= set(found.ids)


# In a browser


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome")
    with sync_api.sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, names)), playwright.chromium.executable_path)
        if not Path(found).exists():
            pytest.skip("there is no Chromium: apt-get install chromium, or playwright install chromium")
        arguments = ["--no-sandbox", "--disable-gpu", "--mute-audio", "--autoplay-policy=no-user-gesture-required"]
        running = playwright.chromium.launch(executable_path=found, args=arguments)
        yield running
        running.close()


@pytest.fixture(scope="module")
def windows(browser, made):
    """The page in a window for each (width, scheme, script), opened once, with what it asked for and complained of."""
    asked, complaints, opened = [], [], {}

    def show(width=1400, scheme="light", script=True):
        if (width, scheme, script) not in opened:
            context = browser.new_context(
                viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=script,
                reduced_motion="reduce",
            )  # fmt: skip
            context.set_default_timeout(60_000)
            window = opened[width, scheme, script] = context.new_page()
            window.on("request", lambda request: asked.append(request.url))
            window.on("console", lambda message: complaints.append(message.text))
            window.on("pageerror", lambda error: complaints.append(str(error)))
            window.goto(made.page.as_uri())
        return opened[width, scheme, script]

    yield show, asked, complaints
    for window in opened.values():
        window.context.close()


@pytest.fixture
def show(windows):
    """A function: the page in a window, which must ask for nothing and complain of nothing."""
    opened, asked, complaints = windows
    yield opened
    assert all(url.startswith(("file:", "data:")) for url in asked), asked
    assert complaints == []


def unfold(window):
    window.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true })")


def column(window, place, table="table.sortable"):
    cells = f"{table} >> nth=0 >> tbody > tr > :nth-child({place})"
    return window.locator(cells).all_inner_texts()


def test_tables_sort_by_click_and_by_keyboard(show):
    window = show()
    before = column(window, 1)
    head = window.locator("table.sortable >> nth=0 >> thead th", has_text="WER %").first
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    values = [float(text.split()[0]) for text in column(window, 2)]
    assert values == sorted(values)
    assert column(window, 1) != before
    minutes = window.get_by_role("button", name="Training min")
    minutes.focus()
    for pressed, direction_ in (("Enter", "ascending"), ("Space", "descending")):
        window.keyboard.press(pressed)
        assert window.locator("th[aria-sort]").count() == 1
        assert window.locator("th[aria-sort]").get_attribute("aria-sort") == direction_
        shown = column(window, column_of(window, "Training min"))
        assert shown[3:] == ["–", "–"]  # what has none stays last, both ways
    names = window.locator("table.sortable >> nth=0 >> thead th", has_text="System").get_by_role("button")
    names.click()
    assert column(window, 1)[0].startswith("full")


def column_of(window, name):
    heads = window.locator("table.sortable >> nth=0 >> thead th").all_inner_texts()
    return next(place for place, head in enumerate(heads, 1) if " ".join(head.split()).startswith(name))


def test_utterances_sort_and_filter(show):
    window = show()
    bodies = window.locator("table.utterances > tbody")
    total = bodies.count()
    assert total > 10
    window.locator("table.utterances > thead th", has_text="Change").get_by_role("button").click()
    cells = window.locator("table.utterances > tbody > tr:first-child > td:nth-child(4)").all_inner_texts()
    changes = [int(text.replace("−", "-")) for text in cells]
    assert changes == sorted(changes)
    assert changes[0] < 0
    count = window.locator("#found")
    window.locator("#side").select_option("worse 2")
    worse = window.locator("table.utterances > tbody:visible")
    assert count.inner_text() == f"{worse.count()} of {total} utterances"
    assert 0 < worse.count() < total
    for body in worse.all():
        edits = [int(text) for text in body.locator(".edits").all_inner_texts()]
        assert edits[1] > edits[0]
    window.locator("#side").select_option("")
    window.locator("#kind").select_option("ins")
    added = window.locator("table.utterances > tbody:visible")
    assert all(body.locator("ins").count() for body in added.all())
    window.locator("#kind").select_option("")
    said = bodies.first.locator(".said").inner_text()
    window.locator("#wanted").press_sequentially(said.upper()[:14])
    assert said in window.locator("table.utterances > tbody:visible .said").all_inner_texts()
    window.locator("#wanted").fill("nobody says this")
    assert count.inner_text() == f"0 of {total} utterances"


def eventually(value) -> bool:
    """Whether a function's value comes true in time; the page's policy forbids playwright's own waiting."""
    until = time.monotonic() + 30
    while not value():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def test_a_clip_plays(show):
    clip = show().locator("audio").first
    clip.evaluate("(audio) => audio.play()")
    assert eventually(lambda: clip.evaluate("(audio) => audio.currentTime") > 0)
    clip.evaluate("(audio) => audio.pause()")


def test_the_page_without_its_sound_is_small(made):
    page = made.page.read_text(encoding="utf-8")
    assert len(re.sub(r'"data:audio[^"]*"', "", page).encode()) < 1e6
    assert len(page.encode()) < 14e6


def test_everything_is_there_without_script(show, made):
    window = show(400, script=False)
    assert window.locator("form.filter").is_hidden()
    assert window.locator("table.utterances > tbody").last.is_visible()
    assert window.get_by_role("button").count() == 0
    assert window.locator(".verdict").inner_text().replace("−", "-") == made.read_json()["verdict"]
    assert window.locator("main").bounding_box()["width"] <= 400


def test_nothing_is_wider_than_a_narrow_window(show):
    window = show(400, "dark")
    unfold(window)
    assert window.evaluate("document.documentElement.scrollWidth") == 400
    wide = window.locator(".scroll").first
    assert wide.evaluate("(box) => box.scrollWidth > box.clientWidth")  # the table scrolls, and by keyboard too
    wide.focus()
    window.keyboard.press("ArrowRight")
    assert eventually(lambda: wide.evaluate("(box) => box.scrollLeft") > 0)


CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const style = getComputedStyle(document.documentElement);
  const light = (name) => {
    canvas.fillStyle = style.getPropertyValue(name);
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => {
    const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  return {
    text: ["--ink", "--dim", "--accent"].flatMap((name) => [contrast(name, "--paper"), contrast(name, "--soft")]),
    errors: ["sub", "ins", "del"].map((name) => contrast(`--${name}`, `--${name}-soft`)),
    charts: [1, 2, 3, 4, 5, 6, 7, 8].map((number) => contrast(`--c${number}`, "--paper")),
  };
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_stand_out(show, scheme):
    window = show({"light": 1400, "dark": 400}[scheme], scheme)
    found = window.evaluate(CONTRASTS)
    assert min(found["text"] + found["errors"]) >= 4.5
    assert min(found["charts"]) >= 3
    paper = window.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}[scheme]
    ink = window.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
    assert ink == {"light": "rgb(27, 31, 36)", "dark": "rgb(230, 233, 237)"}[scheme]


def test_focus_is_seen_and_motion_and_print_are_as_asked(show):
    window = show()
    window.reload()
    assert window.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    window.keyboard.press("Tab")
    assert window.evaluate("document.activeElement.className") == "skip"
    while not window.evaluate("document.activeElement.matches('th button')"):  # no trap on the way there
        window.keyboard.press("Tab")
    assert window.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    window.emulate_media(media="print")
    window.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert window.locator("nav").is_hidden()
    assert window.locator("form.filter").is_hidden()
    assert window.locator("details:not([open])").count() == 0
    window.evaluate("dispatchEvent(new Event('afterprint'))")
    assert window.locator("details[open]").count() == 0


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (400, "dark")])
def test_nobody_is_shut_out(show, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    window = show(width, scheme)
    unfold(window)
    # Of many rows a few: each is made like the others, and axe takes its time.
    few = "[...document.querySelectorAll(`.utterances > tbody:nth-of-type(n + 4), .beside tr:nth-child(n + 3)`)]"
    window.evaluate(f"{few}.forEach((row) => row.remove())")
    found = axe.Axe().run(window).response["violations"]
    assert not [(fault["id"], [node["html"][:200] for node in fault["nodes"]]) for fault in found]
