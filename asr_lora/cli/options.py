"""Arguments and options that several verbs of the command line share."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from asr_lora.cli.help_screen import option
from asr_lora.config import Context, Precision
from asr_lora.dataset.subsets import DEFAULT_SUBSETS
from asr_lora.decoding.decoding_options import BEAMS
from asr_lora.errors import ConfigError
from asr_lora.language import Task

# Sections of the help screens.
ADAPTERS, DECODING, MODEL, OUTPUT, PAGE, SCORES, SUBSETS, SPLITS, SOURCES, TEXT = (
    "Adapters", "Decoding", "Model", "Output", "Page", "Scores", "Subsets", "Splits and leaks", "Sources", "Text",
)  # fmt: skip

Out = Annotated[Path, option("Folder for the results; complete results in it are reused.", metavar="FOLDER")]
Language = Annotated[str, option("Language of the speech, as a name or a code, such as Dutch or nl.", metavar="LANG")]
MaybeLanguage = Annotated[
    str | None,
    option(
        "Language to recognise, as a name or a code; by default the language that the model learnt.",
        metavar="LANG",
    ),
]
LanguageToken = Annotated[
    str | None,
    option(
        "Related language whose token the decoder is given, for a language that Whisper has no token for.",
        metavar="LANG",
        section=MODEL,
    ),
]
Json = Annotated[bool, option("Print the result as JSON to standard output.", "--json", section=OUTPUT)]
Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help="Common Voice release (folder or .tar.gz), manifest, Kaldi folder, parquet, audio with .txt files, "
        "hf:NAME:CONFIG or mdc:DATASET. Several are mixed; SOURCE=0.5 takes half of its train split.",
    ),
]
Engine = Annotated[
    str | None,
    option(
        "Engine that runs the model: torch, or ctranslate2 (8 bits on a CPU, float16 on a GPU); by default ctranslate2 "
        "on a CPU and torch on a GPU.",
        metavar="NAME",
        section=DECODING,
    ),
]
Beams = Annotated[
    int | None,
    option(f"Width of the beam search; by default {BEAMS}.", min=1, show_default=False, section=DECODING),
]
Fast = Annotated[
    bool,
    option(
        "Decode greedily, as --beams 1 does: half the time, and more errors.",
        "--fast", show_default=False, section=DECODING,
    ),
]  # fmt: skip
MaybeContext = Annotated[
    Context | None,
    option("Audio that the encoder sees, padded to 30 s or not; by default as in training.", section=MODEL),
]
MaybePrecision = Annotated[
    Precision,
    option("Number format of the computation; auto takes bf16 where the machine computes in it.", section=MODEL),
]
Vad = Annotated[
    bool,
    option(
        "Transcribe only speech, which the silero network detects, or all audio.", "--vad/--no-vad", section=DECODING
    ),
]
MaybeNormaliser = Annotated[
    str | None,
    option(
        "Normaliser of the main scores: none, basic, whisper or leaderboard; by default basic.",
        metavar="NAME",
        section=SCORES,
    ),
]
Hotwords = Annotated[
    Path | None,
    option(
        "Text file of names and rare words, one per line, whose recall is reported.",
        "--hotwords", "--terms", metavar="FILE", section=SCORES,
    ),
]  # fmt: skip
Epochs = Annotated[
    float | None,
    option("Passes over the training speech; by default chosen from its hours.", min=0.01, metavar="NUMBER"),
]
MaybeTask = Annotated[
    Task | None, option("Task of the decoder: transcribe (the default), or translate to English.", section=MODEL)
]
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Hub id, model folder, run folder, adapter (RUN@0.7 applies it at strength 0.7), RUN1+RUN2 for the mean "
        "of runs, CTranslate2 folder, or pypi:whisper-base.",
    ),
]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="Run folder, or RUN@0.7 for its adapter at strength 0.7.")
]
Adapters = Annotated[
    list[str] | None,
    option(
        "Adapter of the base MODEL under a name of your choice, such as cs=runs/cs@0.7; may be repeated.",
        "--adapter", metavar="NAME=RUN", section=ADAPTERS,
    ),
]  # fmt: skip
Overrides = Annotated[
    list[str] | None,
    option(
        "Setting that replaces one in the YAML file, such as adapter.rank=8; may be repeated.",
        "--set", metavar="KEY=VALUE",
    ),
]  # fmt: skip
Transcripts = Annotated[
    bool,
    option(
        "Show references and hypotheses in the page, or only numbers.",
        "--with-transcripts/--without-transcripts", section=PAGE,
    ),
]  # fmt: skip


def _speech(
    subsets: Annotated[str, option(
        "Lengths of the nested subsets of train, comma-separated; 1h@2 is drawn with seed 2.",
        section=SUBSETS)] = ",".join(DEFAULT_SUBSETS),
    hours: Annotated[list[float] | None, option(
        "Length of one more subset in hours; may be repeated.", metavar="HOURS", section=SUBSETS)] = None,
    seed: Annotated[int, option("Seed that draws subsets and the splits made here.", section=SUBSETS)] = 0,
    speaker_cap: Annotated[float | None, option(
        "Most seconds of one speaker in a subset; by default unlimited.", section=SUBSETS)] = None,
    ids: Annotated[list[Path] | None, option(
        "Text file of utterance ids, one per line, for a subset; may be repeated.",
        metavar="FILE", section=SUBSETS)] = None,
    splits_from: Annotated[str, option(
        "Origin of the splits: release keeps the source's own; validated splits all validated utterances by speaker.",
        "--from", section=SPLITS)] = "release",
    against: Annotated[list[str] | None, option(
        "Dataset or SOURCE that must share no speech with this one; leaks are listed; may be repeated.",
        metavar="DATASET", section=SPLITS)] = None,
    keep_shared_sentences: Annotated[bool, option(
        "Keep sentences of dev and test in train too, where splits are made here.",
        "--keep-shared-sentences", section=SPLITS)] = False,
    held_out_from_train: Annotated[bool, option(
        "Take dev and test from train, by speaker, where the sources lack them.",
        "--held-out-from-train", section=SPLITS)] = False,
    drop: Annotated[list[str] | None, option(
        "Rule of `check`, such as too-fast, whose findings are left out of train (never of dev or test); may "
        "be repeated.",
        metavar="RULE", section=SPLITS)] = None,
    locale: Annotated[str | None, option(
        "Folder of the language in a release; by default the language's code. Example: zh-CN.",
        section=SOURCES)] = None,
    delta: Annotated[list[Path] | None, option(
        "Delta release to add to the only SOURCE; may be repeated.", metavar="PATH", section=SOURCES)] = None,
    text_column: Annotated[str | None, option(
        "Column that holds the text of a table; by default found by common names.", section=SOURCES)] = None,
    keep_marks: Annotated[bool, option(
        "Keep marks such as [disfluency] of Spontaneous Speech releases.", "--keep-marks", section=TEXT)] = False,
    lower_case: Annotated[bool, option("Convert all text to lower case.", "--lower-case", section=TEXT)] = False,
    strip_punctuation: Annotated[bool, option(
        "Remove punctuation from all text.", "--strip-punctuation", section=TEXT)] = False,
    nfc: Annotated[bool, option("Convert text to Unicode normal form C.", "--nfc", section=TEXT)] = False,
    apostrophes: Annotated[bool, option(
        "Write every kind of apostrophe as the plain '.", "--apostrophes", section=TEXT)] = False,
) -> dict[str, object]:  # fmt: skip
    """Options of `prepare` beside sources, language and folder, by the names of its keyword arguments."""
    from asr_lora.text import TextCleaning

    return {
        "locale": locale, "subsets": [*filter(None, subsets.split(",")), *(f"{length:g}h" for length in hours or ())],
        "seed": seed, "speaker_cap": speaker_cap, "id_lists": ids or (), "deltas": delta or (),
        "splits_from": splits_from, "against": against or (),
        "text": TextCleaning(lower_case, strip_punctuation, nfc, apostrophes), "keep_marks": keep_marks,
        "keep_shared_sentences": keep_shared_sentences, "held_out_from_train": held_out_from_train,
        "text_column": text_column, "drop": drop or (),
    }  # fmt: skip


def with_speech_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the options of `_speech`; it receives the resulting keyword arguments as `asked`."""
    own, shared = inspect.signature(function).parameters, inspect.signature(_speech).parameters

    @functools.wraps(function)
    def whole(**given: Any) -> None:
        asked = _speech(**{name: given.pop(name) for name in shared})
        function(asked=asked, **given)

    listed = {**own, **shared}
    del listed["asked"]
    keyword = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in listed.values()]
    vars(whole)["__signature__"] = inspect.Signature(keyword)
    return whole


def beams_of(beams: int | None, fast: bool) -> int:
    """Return the width of the beam search that --beams and --fast ask for.

    Raises:
        ConfigError: they contradict each other.
    """
    if fast and beams not in (None, 1):
        raise ConfigError(f"--fast decodes greedily, and --beams {beams} does not: leave out one of them")
    return 1 if fast else beams or BEAMS
