"""The command line: verbs -> jobs. Parses, prints, exits; a job is imported inside its command, so --help is quick.

Progress and messages go to standard error, results to standard output. Exit codes: 0 done; 1 some inputs failed, each
named; 2 wrong usage or config; 3 bad data; 130 interrupted with everything saved.
"""

import functools
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asr_lora import __version__
from asr_lora.artifacts import ComparisonFolder, ReportFolder
from asr_lora.audio.splits import DEFAULT_SUBSETS
from asr_lora.config import Context, Precision, Task, load_config
from asr_lora.errors import AsrLoraError, ConfigError

if TYPE_CHECKING:
    from asr_lora.adaptation import Adaptation

OUT_OF_MEMORY = (
    "there is not enough memory: lower training.batch_seconds, or set training.gradient_checkpointing=true or "
    "model.quantise=8bit, or take a smaller model. What was complete is kept."
)

app = typer.Typer(
    name="asr-lora",
    help="Adapt Whisper to a language or a domain, and show what that bought.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Out = Annotated[Path, typer.Option(help="Folder for what is made.")]
Language = Annotated[str, typer.Option(help="Name or code, such as Dutch or nl.")]
MaybeLanguage = Annotated[str | None, typer.Option(help="Name or code; the model's own when not given.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Locale = Annotated[
    str | None, typer.Option(help="Folder in the release where it is not the language's code, such as zh-CN.")
]
Beams = Annotated[int, typer.Option(min=1, help="Width of the beam search; 1 is greedy.")]
MaybeContext = Annotated[
    Context | None, typer.Option(help="What the encoder sees; as the model was trained when not given.")
]
MaybePrecision = Annotated[
    Precision, typer.Option(help="What the model computes in; auto: bf16 where the machine does.")
]
MaybeTask = Annotated[Task | None, typer.Option(help="transcribe when not given.")]
Model = Annotated[str, typer.Argument(help="Hub id, folder, run, adapter, CTranslate2 folder, or pypi:whisper-base.")]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a verb; its errors become one sentence and an exit code."""

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> None:
        _quiet_libraries()
        try:
            function(*args, **kwargs)
        except AsrLoraError as error:
            _fail(str(error), error.exit_code)
        except KeyboardInterrupt:
            _fail("interrupted; what was complete is kept. Run the same command again to go on.", 130)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError as error:
            place = f" ({error.filename})" if error.filename else ""
            _fail(
                f"{error.strerror or error}{place}; what was complete is kept. Mend it and run this again.",
                1,
            )
        except ImportError as error:
            _fail(_import_sentence(error), 2)
        except (RuntimeError, MemoryError) as error:
            if type(error).__name__ not in ("OutOfMemoryError", "MemoryError"):
                raise
            _fail(OUT_OF_MEMORY, 1)

    app.command(name=function.__name__.removesuffix("_command"))(guarded)
    return guarded


@command
def prepare_command(
    source: Annotated[Path, typer.Argument(help="Unpacked Common Voice release.")],
    language: Language,
    out: Out,
    locale: Locale = None,
    subsets: Annotated[str, typer.Option(help="Lengths of the nested low-data subsets of train.")] = ",".join(
        DEFAULT_SUBSETS
    ),
    seed: Annotated[int, typer.Option(help="Of the choice of subsets.")] = 0,
    as_json: Json = False,
) -> None:
    """Common Voice release -> dataset folder: parquet splits and nested low-data subsets."""
    from asr_lora.audio.prepare import prepare

    names = [name for name in subsets.split(",") if name]
    folder = prepare(source, language=language, out=out, locale=locale, subsets=names, seed=seed)
    body = folder.read()
    if as_json:
        _print_json(body)
        return
    for part in ("splits", "subsets"):
        for name, facts in body[part].items():
            minutes = 60 * facts["hours"]
            print(f"{name:8} {facts['utterances']:7,} utterances {minutes:9.1f} min {facts['speakers']:6,} speakers")
    for reason, count in body["dropped"].items():
        print(f"left out {count:7,} {reason} (listed in {folder.dropped})")
    for pair, shared in body["shared_between_splits"].items():
        if shared["speakers"]:
            _say(f"warning: {pair} share {shared['speakers']} speakers, so scores will look better than they are")
    print(folder.root)


@command
def train_command(
    config: Annotated[Path, typer.Argument(help="YAML file, such as those in configs/.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, laid over the file.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with an unfinished run.")] = False,
    as_json: Json = False,
) -> None:
    """Train a LoRA adapter, or every weight, from one YAML file."""
    settings = load_config(config, overrides)
    from asr_lora.training.train import train

    folder = train(settings, resume=resume)
    body = folder.read()
    if as_json:
        _print_json(body)
        return
    for reason, ids in body["train"]["left_out"].items():
        print(f"left out {len(ids)} utterances: {reason} (listed in {folder.manifest})")
    best = body["best"]
    print(f"best dev WER {100 * best['dev_wer']:.1f} % at step {best['step']}: {folder.weights(body['method'])}")


@command
def check_command(
    config: Annotated[Path, typer.Argument(help="YAML file, as for train.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, laid over the file.")] = None,
    price_per_hour: Annotated[float | None, typer.Option(min=0, help="Of this machine, to reckon the cost.")] = None,
    probe: Annotated[bool, typer.Option("--probe/--no-probe", help="Time a few real steps.")] = True,
    as_json: Json = False,
) -> None:
    """Predict what train will take: parameters, memory, epochs, time and cost; warn of known traps."""
    settings = load_config(config, overrides)
    from asr_lora.training.check import check

    forecast = check(settings, probe=probe, price_per_hour=price_per_hour)
    if as_json:
        _print_json(forecast.to_dict())
    else:
        from asr_lora.training.forecast import table

        print(table(forecast))
    for sentence in forecast.warnings:
        _say(f"warning: {sentence}")


@command
def evaluate_command(
    model: Model,
    dataset: Annotated[Path, typer.Argument(help="Folder made by prepare.")],
    out: Out,
    split: Annotated[str, typer.Option(help="train, dev or test.")] = "test",
    name: Annotated[str | None, typer.Option(help="Of the system in comparisons.")] = None,
    language: MaybeLanguage = None,
    task: MaybeTask = None,
    context: MaybeContext = None,
    precision: MaybePrecision = Precision.AUTO,
    beams: Beams = 1,
    as_json: Json = False,
) -> None:
    """Model and dataset split -> hypotheses, WER and CER."""
    from asr_lora.scoring.evaluate import evaluate

    folder = evaluate(
        model, dataset, out=out, split=split, name=name, language=language, task=task, context=context,
        precision=precision, beams=beams,
    )  # fmt: skip
    _print_report(folder, as_json)


@command
def compare_command(
    reports: Annotated[list[Path], typer.Argument(help="Report folders; the others are held against the first.")],
    out: Out,
    transcripts: Annotated[
        bool,
        typer.Option("--with-transcripts/--without-transcripts", help="Show references and hypotheses in the page."),
    ] = True,
    as_json: Json = False,
) -> None:
    """Reports -> one table, one verdict, one self-contained page."""
    from asr_lora.scoring.compare import compare

    _print_comparison(compare(reports, out=out, transcripts=transcripts), as_json)


@command
def transcribe_command(
    model: Model,
    inputs: Annotated[list[Path], typer.Argument(help="Audio files or folders.")],
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="txt, srt, vtt or json; may be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the outputs; standard output when not given.")] = None,
    language: MaybeLanguage = None,
    task: MaybeTask = None,
    context: MaybeContext = None,
    precision: MaybePrecision = Precision.AUTO,
    beams: Beams = 1,
) -> None:
    """Audio files or folders -> text, subtitles or JSON."""
    from asr_lora.transcription.subtitles import FORMATS
    from asr_lora.transcription.transcribe import transcribe

    formats = formats or ["txt"]
    if out is None and len(formats) > 1:
        raise ConfigError("several formats need a folder: add --out FOLDER")
    failed = 0
    for transcript in transcribe(
        model, inputs, formats=formats, out=out, language=language, task=task, context=context, precision=precision,
        beams=beams,
    ):  # fmt: skip
        if transcript.error:
            failed += 1
            _say(f"error: {transcript.error}")
        elif out is None:
            print(FORMATS[formats[0]](transcript.segments), end="", flush=True)
        else:
            print(*transcript.written, sep="\n", flush=True)
    if failed:
        _fail(f"{failed} of the inputs could not be transcribed; the others are done", 1)


@command
def adapt_command(
    source: Annotated[Path, typer.Argument(help="Unpacked Common Voice release.")],
    language: Language,
    out: Out,
    locale: Locale = None,
    model: Annotated[str | None, typer.Option(help="Any Whisper; chosen by the machine when not given.")] = None,
    subset: Annotated[str | None, typer.Option(help="Of train, such as 1h; chosen when not given.")] = None,
    baselines: Annotated[str, typer.Option(help="full: also fine-tune every weight, to compare.")] = "",
    transcripts: Annotated[
        bool,
        typer.Option("--with-transcripts/--without-transcripts", help="Show references and hypotheses in the page."),
    ] = True,
    as_json: Json = False,
) -> None:
    """Everything for one language: prepare, train, compare, transcribe, with settings chosen for this machine."""
    from asr_lora.adaptation import adapt

    wanted = [name for name in baselines.split(",") if name]
    done = adapt(
        source, language=language, out=out, locale=locale, model=model, subset=subset, baselines=wanted,
        transcripts=transcripts,
    )  # fmt: skip
    _print_adaptation(done, as_json)


@command
def demo_command(
    out: Annotated[Path, typer.Option(help="Folder for what is made.")] = Path("demo"),
    source: Annotated[Path, typer.Option(help="The demo's speech, in a checkout of this repository.")] = Path(
        "data/demo"
    ),
    as_json: Json = False,
) -> None:
    """`adapt` on the Italian speech in this repository, with openai/whisper-base from PyPI."""
    if not source.is_dir():
        raise ConfigError(f"{source} is not there: run this in a checkout of the repository, or name it with --source")
    from asr_lora.adaptation import adapt

    _print_adaptation(adapt(source, language="it", out=out, model="pypi:whisper-base", baselines=["full"]), as_json)


def _print_adaptation(done: "Adaptation", as_json: bool) -> None:
    if as_json:
        _print_json(done.folder.read())
        return
    print(done.table)
    print(f"{done.sample.file.name}, held out, by the adapted model: {' '.join(s.text for s in done.sample.segments)}")
    print(f"{'reference:':>{len(done.sample.file.name)}} {done.sample_reference}")
    print(f"page:      {ComparisonFolder(done.folder.comparison).page}")
    print(f"adapter:   {done.folder.run('lora')}")
    print(f"configs:   {done.folder.config('lora').parent}")
    print(f"commands:  {done.folder.manifest}")


def _print_report(folder: ReportFolder, as_json: bool) -> None:
    body = folder.read()
    if as_json:
        _print_json(body)
        return
    scores, data = body["scores"], body["dataset"]
    low, high = (100 * value for value in scores["wer_interval"])
    print(
        f"{body['system']['name']}: WER {100 * scores['wer']:.1f} % (95 % interval {low:.1f} to {high:.1f}), "
        f"CER {100 * scores['cer']:.1f} %; "
        f"as written {100 * scores['raw_wer']:.1f} and {100 * scores['raw_cer']:.1f} %; "
        f"on {data['utterances']} utterances of {data['split']}, RTFx {body['rtfx']}"
    )
    print(folder.root)


def _print_comparison(folder: ComparisonFolder, as_json: bool) -> None:
    if as_json:
        _print_json(folder.read())
        return
    print(folder.markdown.read_text(encoding="utf-8"))
    print(folder.page)


def _print_json(body: dict[str, Any]) -> None:
    print(json.dumps(body, ensure_ascii=False, indent=2))


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _fail(message: str, code: int) -> None:
    _say(f"error: {message}" if code != 130 else message)
    raise typer.Exit(code)


def _import_sentence(error: ImportError) -> str:
    if "libc10_cuda" in str(error) or "libtorch" in str(error) or "torchaudio" in str(error):
        return "torch and torchaudio do not fit each other: pip install --force-reinstall torch torchaudio"
    return f"a package is missing ({error}): pip install --upgrade asr_lora"


def _quiet_libraries() -> None:
    """Keep notices of libraries out of the user's way; our own messages say what matters."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Adapt Whisper to a language or a domain, and show what that bought."""


def main() -> None:
    """Entry point of `asr-lora`."""
    sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]  # names of files may be any bytes
    sys.stderr.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    app()
