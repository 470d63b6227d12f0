"""Arguments and options that several verbs of the command line share."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from asr_lora.config import Context, Precision
from asr_lora.dataset.subsets import DEFAULT_SUBSETS
from asr_lora.language import Task

Out = Annotated[Path, typer.Option(help="Folder for what is made.")]
Language = Annotated[str, typer.Option(help="Name or code, such as Dutch or nl.")]
MaybeLanguage = Annotated[str | None, typer.Option(help="Name or code; the model's own when not given.")]
LanguageToken = Annotated[
    str | None, typer.Option(help="Of a related language, for one that Whisper has no token for.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help="Common Voice release (folder or .tar.gz), manifest, Kaldi folder, parquet, audio with .txt files, "
        "hf:NAME:CONFIG, or mdc:DATASET. Several are mixed; SOURCE=0.5 takes half of its train.",
    ),
]
Engine = Annotated[str, typer.Option(help="torch, or ctranslate2: 8-bit on a CPU, float16 on a GPU; converted once.")]
Beams = Annotated[int, typer.Option(min=1, help="Width of the beam search; 1 is greedy.")]
MaybeContext = Annotated[
    Context | None, typer.Option(help="What the encoder sees; as the model was trained when not given.")
]
MaybePrecision = Annotated[
    Precision, typer.Option(help="What the model computes in; auto: bf16 where the machine does.")
]
MaybeNormaliser = Annotated[
    str | None, typer.Option(help="none, basic, whisper or leaderboard: of the scores that lead.")
]
Terms = Annotated[Path | None, typer.Option(help="File of names and terms, one a line, whose recall is wanted.")]
Epochs = Annotated[
    float | None, typer.Option(min=0.01, help="How often the speech is heard; chosen by its hours when not given.")
]
MaybeTask = Annotated[Task | None, typer.Option(help="transcribe when not given.")]
Model = Annotated[
    str,
    typer.Argument(
        help="Hub id, folder, run, adapter (RUN@0.7: at that strength), CTranslate2 folder, or pypi:whisper-base."
    ),
]


def _speech(
    locale: Annotated[
        str | None, typer.Option(help="Folder in the release where it is not the language's code, such as zh-CN.")
    ] = None,
    subsets: Annotated[
        str, typer.Option(help="Lengths of the nested low-data subsets of train; 1h@2 is the hour drawn with seed 2.")
    ] = ",".join(DEFAULT_SUBSETS),
    hours: Annotated[list[float] | None, typer.Option(help="One more length; may be repeated.")] = None,
    seed: Annotated[int, typer.Option(help="Of the choice of subsets, and of splits that are made here.")] = 0,
    speaker_cap: Annotated[float | None, typer.Option(help="Seconds that one speaker may fill of a subset.")] = None,
    ids: Annotated[
        list[Path] | None, typer.Option(help="Text file of ids, one a line, to be a subset; may be repeated.")
    ] = None,
    delta: Annotated[
        list[Path] | None, typer.Option(help="Delta release to lay over the only SOURCE; may be repeated.")
    ] = None,
    splits_from: Annotated[
        str, typer.Option("--from", help="release: its own splits; validated: all validated clips, split by speaker.")
    ] = "release",
    against: Annotated[
        list[str] | None,
        typer.Option(help="Dataset or SOURCE with which nothing should be shared; may be repeated."),
    ] = None,
    lower_case: Annotated[bool, typer.Option("--lower-case", help="Change the text to lower case.")] = False,
    strip_punctuation: Annotated[
        bool, typer.Option("--strip-punctuation", help="Take punctuation out of the text.")
    ] = False,
    nfc: Annotated[bool, typer.Option("--nfc", help="Bring the text to Unicode's normal form C.")] = False,
    apostrophes: Annotated[bool, typer.Option("--apostrophes", help="Write every apostrophe as '.")] = False,
    keep_marks: Annotated[
        bool, typer.Option("--keep-marks", help="Keep marks such as [disfluency] of Spontaneous Speech.")
    ] = False,
    keep_shared_sentences: Annotated[
        bool, typer.Option("--keep-shared-sentences", help="In train, where splits are made here.")
    ] = False,
    text_column: Annotated[str | None, typer.Option(help="Of a table, when its text is not found by itself.")] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RULE",
            help="Leave out of train what this rule of `check` finds, such as too-fast; may be repeated. Dev and test "
            "are never touched.",
        ),
    ] = None,
) -> dict[str, Any]:
    """What `prepare` is asked for beside sources, language and folder, by the names of its arguments."""
    from asr_lora.text import TextCleaning

    return {
        "locale": locale, "subsets": [*filter(None, subsets.split(",")), *(f"{length:g}h" for length in hours or ())],
        "seed": seed, "speaker_cap": speaker_cap, "id_lists": ids or (), "deltas": delta or (),
        "splits_from": splits_from, "against": against or (),
        "text": TextCleaning(lower_case, strip_punctuation, nfc, apostrophes), "keep_marks": keep_marks,
        "keep_shared_sentences": keep_shared_sentences, "text_column": text_column, "drop": drop or (),
    }  # fmt: skip


def with_speech_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the options of `_speech`; it takes what that makes of them as `asked`."""
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
