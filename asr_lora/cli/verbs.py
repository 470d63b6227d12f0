"""The command line: verbs -> jobs. Parses, prints, exits; a job is imported inside its command, so --help is quick.

Progress and messages go to standard error, results to standard output. Exit codes: 0 done; 1 some inputs failed, each
named, or the gate refused; 2 wrong usage or config; 3 bad data; 130 interrupted with everything saved.
"""

import functools
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from asr_lora import __version__
from asr_lora.cli.options import (
    Beams,
    Engine,
    Epochs,
    Json,
    Language,
    LanguageToken,
    MaybeContext,
    MaybeLanguage,
    MaybeNormaliser,
    MaybePrecision,
    MaybeTask,
    Model,
    Out,
    Sources,
    Terms,
    with_speech_options,
)
from asr_lora.cli.printing import (
    print_adaptation,
    print_comparison,
    print_dataset,
    print_json,
    print_label_report,
    print_promotion,
    print_report,
    print_rerun,
    print_sweep,
)
from asr_lora.config import Context, Precision, load_config
from asr_lora.errors import AsrLoraError, ConfigError, Incomplete, Refused, ran_out_of_memory
from asr_lora.system.progress import say

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
            if not ran_out_of_memory(error):
                raise
            _fail(OUT_OF_MEMORY, 1)

    app.command(name=function.__name__.removesuffix("_command"))(guarded)
    return guarded


@command
@with_speech_options
def prepare_command(
    sources: Sources, language: Language, out: Out, asked: dict[str, Any], as_json: Json = False
) -> None:
    """Sources of speech -> dataset folder: parquet splits and nested low-data subsets."""
    from asr_lora.dataset.prepare import prepare
    from asr_lora.language import missing_token

    folder = prepare(sources, language=language, out=out, **asked)
    body = folder.read()
    if notice := missing_token(body.language):
        say(f"warning: {notice}")
    if as_json:
        print_json(body)
        return
    print_dataset(folder, body)


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
        print_json(body)
        return
    for reason, ids in body.train.left_out.items():
        print(f"left out {len(ids)} utterances: {reason} (listed in {folder.manifest})")
    dev_wer = "-" if body.best.dev_wer is None else f"{100 * body.best.dev_wer:.1f} %"
    print(f"best dev WER {dev_wer} at step {body.best.step}: {folder.weights(body.method)}")


@command
def check_command(
    subject: Annotated[Path, typer.Argument(help="YAML file, as for train; or a dataset folder made by prepare.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, laid over the file.")] = None,
    price_per_hour: Annotated[float | None, typer.Option(min=0, help="Of this machine, to reckon the cost.")] = None,
    probe: Annotated[bool | None, typer.Option("--probe/--no-probe", help="Time a few real steps.")] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", help="Rule on a dataset that is off; may be repeated.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Whisper, best untouched, that is asked what it thinks of a dataset's labels.")
    ] = None,
    language_token: LanguageToken = None,
    precision: Annotated[Precision | None, typer.Option(help="What that model computes in.")] = None,
    audio: Annotated[
        bool, typer.Option("--with-audio", help="Put the sound of the worst utterances into a dataset's page.")
    ] = False,
    transcripts: Annotated[
        bool | None, typer.Option("--with-transcripts/--without-transcripts", help="Show texts in a dataset's page.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Before anything is spent: what train will take, or, given a dataset folder, which labels are suspicious."""
    of_dataset = {
        "--without": without, "--model": model, "--language-token": language_token, "--precision": precision,
        "--with-audio": audio or None, "--with-transcripts or --without-transcripts": transcripts,
    }  # fmt: skip
    of_config = {"--set": overrides, "--price-per-hour": price_per_hour, "--probe or --no-probe": probe}
    if subject.is_dir() or (not subject.suffix and not subject.exists()):
        _refuse_options(of_config, f"{subject} is a dataset folder: leave out", "which belongs to a config")
        from asr_lora.workflows.check_labels import check_labels

        folder = check_labels(
            subject, model=model, language_token=language_token, precision=precision or Precision.AUTO,
            without=without or (), transcripts=transcripts is not False, audio=audio,
        )  # fmt: skip
        print_label_report(folder, as_json)
        return
    _refuse_options(of_dataset, f"{subject} is no dataset folder: leave out", "which belongs to one")
    settings = load_config(subject, overrides)
    from asr_lora.forecast.check import check

    forecast = check(settings, probe=probe is not False, price_per_hour=price_per_hour)
    if as_json:
        print_json(forecast.to_dict())
    else:
        from asr_lora.forecast.estimate import table

        print(table(forecast))
    for sentence in forecast.warnings:
        say(f"warning: {sentence}")


def _refuse_options(given: dict[str, Any], before: str, after: str) -> None:
    if names := [name for name, value in given.items() if value is not None and value != []]:
        raise ConfigError(f"{before} {names[0]}, {after}")


@command
def evaluate_command(
    model: Model,
    dataset: Annotated[Path, typer.Argument(help="Folder made by prepare.")],
    out: Out,
    split: Annotated[str | None, typer.Option(help="train, dev or test; test when not given.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the system in comparisons.")] = None,
    language: MaybeLanguage = None,
    language_token: LanguageToken = None,
    task: MaybeTask = None,
    context: MaybeContext = None,
    precision: MaybePrecision = Precision.AUTO,
    beams: Beams = 1,
    normaliser: MaybeNormaliser = None,
    terms: Terms = None,
    strength_sweep: Annotated[
        bool, typer.Option("--strength-sweep", help="Score an adapter on dev at several strengths; dev chooses one.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Model and dataset split -> hypotheses, WER and CER."""
    if strength_sweep:
        _refuse_in_sweep(split, name, context, normaliser, terms)
        from asr_lora.workflows.promote import sweep_strengths

        swept = sweep_strengths(
            model, dataset, out=out, language=language, language_token=language_token, task=task, precision=precision,
            beams=beams,
        )  # fmt: skip
        print_sweep(swept, as_json)
        return
    from asr_lora.evaluation.evaluate import evaluate

    folder = evaluate(
        model, dataset, out=out, split=split or "test", name=name, language=language, language_token=language_token,
        task=task, context=context, precision=precision, beams=beams, normaliser=normaliser or "basic", hotwords=terms,
    )  # fmt: skip
    print_report(folder, as_json)


def _refuse_in_sweep(
    split: str | None, name: str | None, context: Context | None, normaliser: str | None, terms: Path | None
) -> None:
    if split not in (None, "dev"):
        raise ConfigError(f"--strength-sweep chooses on dev, never on {split}: leave out --split {split}")
    if name or context:
        raise ConfigError("--strength-sweep names its systems and takes the model's own context: leave these out")
    if normaliser or terms:
        raise ConfigError("--strength-sweep chooses by the basic normaliser: leave out --normaliser and --terms")


@command
def promote_command(
    run: Annotated[str, typer.Argument(help="Run folder, perhaps with a strength, such as runs/x@0.7.")],
    over: Annotated[str | None, typer.Option(help="Model to beat; the run's untouched base when not given.")] = None,
    guards: Annotated[
        list[Path] | None, typer.Option("--guard", help="Dataset that must not get worse; may be repeated.")
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Rise of WER that a guard may show; 0.01 is one point.")] = 0.01,
    force: Annotated[bool, typer.Option(help="Promote in spite of refusals, and record them.")] = False,
    as_json: Json = False,
) -> None:
    """The gate before a run is used: better on dev than the model before, and no guard dataset worse."""
    from asr_lora.workflows.promote import promote

    try:
        folder = promote(run, over=over, guards=guards or (), tolerance=tolerance, force=force)
    except Refused as error:
        print_promotion(error.facts, as_json)
        raise
    print_promotion(folder.read(), as_json)
    if not as_json:
        print(folder.read().verdict)
        print(folder.manifest)


@command
def compare_command(
    reports: Annotated[
        list[Path] | None, typer.Argument(help="Report folders; the others are held against the first.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for what is made.")] = None,
    transcripts: Annotated[
        bool,
        typer.Option("--with-transcripts/--without-transcripts", help="Show references and hypotheses in the page."),
    ] = True,
    normaliser: Annotated[
        str | None, typer.Option(help="none, basic, whisper or leaderboard; that of the reports when not given.")
    ] = None,
    terms: Terms = None,
    guards: Annotated[
        list[Path] | None,
        typer.Option("--guard", help="Report of one of the systems on another dataset; may be repeated."),
    ] = None,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0, help="Of the machine that trained, for a column of costs.")
    ] = None,
    audio: Annotated[
        Path | None, typer.Option("--with-audio", help="The reports' dataset, to put sound into the page.")
    ] = None,
    analysis: Annotated[Path | None, typer.Option(help="Folder made by analyze, whose spectra to show.")] = None,
    again: Annotated[
        Path | None, typer.Option("--rerun", help="Make every number of this folder again, and say where it differs.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Reports -> one table, one verdict, one self-contained page; --rerun checks one that was made before."""
    from asr_lora.evaluation.compare import compare
    from asr_lora.evaluation.rerun import rerun

    if again is not None:
        if any((reports, out, normaliser, terms, guards, price_per_hour is not None, audio, analysis)):
            raise ConfigError("--rerun takes the folder alone: asr-lora compare --rerun FOLDER")
        found = rerun(again)
        print_rerun(again, found, as_json)
        if found.differences:
            _fail(f"{again} does not agree with its hypotheses in {len(found.differences)} places", 3)
        return
    if out is None:
        raise ConfigError("say where to write with --out: asr-lora compare REPORT REPORT --out FOLDER")
    folder = compare(
        reports or [], out=out, transcripts=transcripts, normaliser=normaliser, hotwords=terms,
        regression_sets=guards or (), price_per_hour=price_per_hour, audio=audio, analysis=analysis,
    )  # fmt: skip
    print_comparison(folder, as_json)


@command
def analyze_command(
    runs: Annotated[list[str], typer.Argument(help="Run or adapter folders, trained from one base.")],
    out: Out,
    as_json: Json = False,
) -> None:
    """What training changed in the weights: ranks, norms, what it amplifies, and what several runs share."""
    from asr_lora.workflows.analyze import analyze

    folder = analyze(runs, out=out)
    if as_json:
        print_json(folder.read())
        return
    print(folder.markdown.read_text(encoding="utf-8"))
    print(folder.page)


@command
def sweep_command(
    file: Annotated[Path, typer.Argument(help="YAML file, such as those in configs/sweeps/.")],
    out: Out,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, laid over the base.")] = None,
    split: Annotated[str, typer.Option(help="dev, or test: dev and then test.")] = "dev",
    empty: Annotated[
        bool, typer.Option("--empty", help="Write table and page with no figure yet, and train nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train and score variants of one config, and hold each against the first."""
    from asr_lora.workflows.sweep import sweep_settings, write_empty

    if empty:
        planned = write_empty(file, out=out, overrides=overrides, split=split)
        print(planned.markdown(split).read_text(encoding="utf-8"))
        print(planned.page(split))
        return
    try:
        folder = sweep_settings(file, out=out, overrides=overrides, split=split)
    except Incomplete as error:
        if error.table and not as_json:
            print(error.table)
        raise
    if as_json:
        print_json(folder.read())
        return
    print(folder.markdown(split).read_text(encoding="utf-8"))
    print(f"dev chooses {folder.read().chosen_by_dev}")
    print(folder.page(split))


@command
def transcribe_command(
    model: Model,
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="Audio or video files, folders, patterns; - is standard input."),
    ],
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="txt, srt, vtt, tsv or json; may be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the outputs; standard output when not given.")] = None,
    language: Annotated[
        str | None, typer.Option(help="Name or code; the model's own when not given; auto: as heard, file by file.")
    ] = None,
    language_token: LanguageToken = None,
    task: MaybeTask = None,
    context: MaybeContext = None,
    precision: MaybePrecision = Precision.AUTO,
    adapters: Annotated[
        list[str] | None,
        typer.Option("--adapter", help="NAME=RUN on the base MODEL, such as cs=runs/cs@0.7; may be repeated."),
    ] = None,
    route: Annotated[
        str | None,
        typer.Option(help="Which adapter transcribes a file: language, as heard; folder, by its name; or a NAME."),
    ] = None,
    beams: Beams = 1,
    vad: Annotated[bool, typer.Option("--vad/--no-vad", help="Transcribe speech only, as silero finds it.")] = True,
    timestamps: Annotated[
        bool, typer.Option("--timestamps/--no-timestamps", help="Segments by Whisper's own timestamps.")
    ] = True,
    words: Annotated[
        bool | None, typer.Option("--words/--no-words", help="When each word is said; on for srt and vtt.")
    ] = None,
    sequential: Annotated[
        bool, typer.Option("--sequential", help="Whisper's own way: 30 s at a time, each told what came before.")
    ] = False,
    fallback: Annotated[
        bool, typer.Option("--fallback/--no-fallback", help="Try doubtful windows again at higher temperatures.")
    ] = True,
    terms: Annotated[
        Path | None, typer.Option(help="File of names and terms, one a line, that are made likelier.")
    ] = None,
    engine: Engine = "torch",
    line_length: Annotated[int, typer.Option(help="Of subtitles, in characters.")] = 42,
    lines: Annotated[int, typer.Option(help="Of a subtitle.")] = 2,
    keep_existing: Annotated[
        bool, typer.Option("--keep-existing", help="Leave out files whose outputs are already there.")
    ] = False,
) -> None:
    """Audio or video of any length -> text, subtitles or JSON."""
    from asr_lora.transcription.subtitles import SubtitleRules
    from asr_lora.transcription.transcribe import transcribe

    formats = formats or ["txt"]
    if out is None and (len(formats) > 1 or keep_existing):
        raise ConfigError("several formats, and --keep-existing, need a folder: add --out FOLDER")
    failed = 0
    for transcript in transcribe(
        model, inputs, formats=formats, out=out, language=language, language_token=language_token, task=task,
        context=context, precision=precision, adapters=_named_adapters(adapters or []), route=route, beams=beams,
        vad=vad, timestamps=timestamps, words=words, sequential=sequential, fallback=fallback, terms=terms,
        engine=engine, rules=SubtitleRules(line_length, lines), keep_existing=keep_existing,
        echo=functools.partial(print, end="", flush=True) if out is None else None,
    ):  # fmt: skip
        if transcript.error:
            failed += 1
            say(f"error: {transcript.error}")
        elif transcript.written:
            print(*transcript.written, sep="\n", flush=True)
    if failed:
        _fail(f"{failed} of the inputs could not be transcribed; the others are done", 1)


@command
def serve_command(
    model: Annotated[
        str | None, typer.Argument(help="As for transcribe; the base of the adapters when not given.")
    ] = None,
    adapters: Annotated[
        list[str] | None,
        typer.Option("--adapter", help="NAME=RUN on the base MODEL, such as cs=runs/cs@0.7; may be repeated."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than this machine's need a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8000,
    api_key_env: Annotated[
        str, typer.Option(help="Environment variable with the key that clients must send.")
    ] = "ASR_LORA_API_KEY",
    no_api_key: Annotated[bool, typer.Option("--no-api-key", help="Let others in without a key.")] = False,
    max_upload_mb: Annotated[float, typer.Option(min=0.001, help="Of a file.")] = 200,
    max_seconds: Annotated[float, typer.Option(min=1, help="Of its audio.")] = 7200,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests that take turns and share batches.")] = 8,
    queue: Annotated[int, typer.Option(min=0, help="Requests that wait for that; others are told to come again.")] = 16,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds of a request, from the end of its upload.")] = 600,
    language: MaybeLanguage = None,
    language_token: LanguageToken = None,
    context: MaybeContext = None,
    precision: MaybePrecision = Precision.AUTO,
    vad: Annotated[bool, typer.Option("--vad/--no-vad", help="Transcribe speech only, as silero finds it.")] = True,
    engine: Engine = "torch",
) -> None:
    """A model and its adapters behind OpenAI's API for transcriptions, and one page."""
    from asr_lora.serving.limits import Limits
    from asr_lora.serving.serve import serve

    limits = Limits(round(max_upload_mb * 2**20), max_seconds, concurrency, queue, timeout)
    serve(
        model, _named_adapters(adapters or []), host=host, port=port, key_variable=api_key_env, no_key=no_api_key,
        limits=limits, language=language, language_token=language_token, context=context, precision=precision, vad=vad,
        engine=engine,
    )  # fmt: skip


def _named_adapters(given: list[str]) -> dict[str, str]:
    """NAME=RUN of each --adapter."""
    named: dict[str, str] = {}
    for text in given:
        name, equals, run = text.partition("=")
        if (
            not equals
            or not run
            or not re.fullmatch(r"[\w-]+", name)
            or name in named
            or name in ("language", "folder")
        ):
            raise ConfigError(f"--adapter {text}: give a NAME of its own and a run, such as cs=runs/cs")
        named[name] = run
    return named


@command
def export_command(
    run: Annotated[str, typer.Argument(help="Run folder, perhaps with a strength, or any other model.")],
    out: Out,
    kind: Annotated[str, typer.Option("--format", help="transformers, ctranslate2, ggml or adapter.")],
    dtype: Annotated[
        str | None, typer.Option(help="float16 or float32, of what is not quantised; float16 when not given.")
    ] = None,
    quantise: Annotated[str | None, typer.Option(help="int8 (ctranslate2), q8_0 or q5_0 (ggml).")] = None,
    dataset: Annotated[
        Path | None, typer.Option(help="Whose dev split both engines transcribe; the run's own when not given.")
    ] = None,
    clips: Annotated[int, typer.Option(min=1, help="How many of it.")] = 50,
    tolerance: Annotated[float, typer.Option(help="Drift of WER that is let pass; 0.01 is one point.")] = 0.005,
    language: MaybeLanguage = None,
    language_token: LanguageToken = None,
    task: MaybeTask = None,
    as_json: Json = False,
) -> None:
    """A run for another engine, with the proof that it hears there what it hears here."""
    from asr_lora.exporting.export import export
    from asr_lora.exporting.parity import parity_table

    try:
        folder = export(
            run, format=kind, out=out, dtype=dtype, quantise=quantise, dataset=dataset, clips=clips,
            tolerance=tolerance, language=language, language_token=language_token, task=task,
        )  # fmt: skip
    except Refused as error:
        print_json(error.facts) if as_json else print(parity_table(error.facts))
        raise
    body = folder.read()
    if as_json:
        print_json(body)
        return
    print(parity_table(body))
    for file in body.files:
        print(f"{file.bytes / 1e6:9.1f} MB  {folder.root / file.name}")
    print(folder.manifest)


@command
def push_command(
    run: Annotated[str, typer.Argument(help="Run folder, perhaps with a strength.")],
    to: Annotated[str, typer.Option(help="owner/name on the hub, or a folder such as ./published.")],
    exported: Annotated[
        Path | None, typer.Option("--export", help="Made by export; the adapter is exported when not given.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a private repository.")] = False,
    reports: Annotated[
        list[Path] | None, typer.Option("--report", help="Report for the card's table; may be repeated.")
    ] = None,
    dataset: Annotated[Path | None, typer.Option(help="The run's own, where it has moved.")] = None,
    licence: Annotated[str | None, typer.Option("--license", help="Of the model, as the hub names licences.")] = None,
    data_licence: Annotated[str | None, typer.Option("--data-license", help="Of the speech, for the card.")] = None,
    as_json: Json = False,
) -> None:
    """Publish a run: its export and a model card, on the hub or in a folder; no speakers, texts or local names."""
    from asr_lora.workflows.publish import push

    done = push(
        run, to=to, exported=exported, private=private, reports=reports or (), dataset=dataset, licence=licence,
        data_licence=data_licence,
    )  # fmt: skip
    if not done.measured:
        say("warning: the card states no WER on held-out data: add --report FOLDER, made by asr-lora evaluate")
    if as_json:
        print_json({"place": done.place, "files": done.files})
        return
    print(*done.files, done.place, sep="\n")


@command
@with_speech_options
def adapt_command(
    sources: Sources,
    language: Language,
    out: Out,
    asked: dict[str, Any],
    language_token: LanguageToken = None,
    model: Annotated[str | None, typer.Option(help="Any Whisper; chosen by the machine when not given.")] = None,
    subset: Annotated[str | None, typer.Option(help="Of train, such as 1h; chosen when not given.")] = None,
    epochs: Epochs = None,
    baselines: Annotated[str, typer.Option(help="full: also fine-tune every weight, to compare.")] = "",
    transcripts: Annotated[
        bool,
        typer.Option("--with-transcripts/--without-transcripts", help="Show references and hypotheses in the page."),
    ] = True,
    as_json: Json = False,
) -> None:
    """Everything for one language: prepare, train, compare, transcribe, with settings chosen for this machine."""
    from asr_lora.workflows.adapt import adapt

    wanted = [name for name in baselines.split(",") if name]
    done = adapt(
        sources, language=language, out=out, language_token=language_token, model=model, subset=subset,
        epochs=epochs, baselines=wanted, transcripts=transcripts, **asked,
    )  # fmt: skip
    print_adaptation(done, as_json)


@command
def demo_command(
    out: Annotated[Path, typer.Option(help="Folder for what is made.")] = Path("demo"),
    source: Annotated[
        Path | None, typer.Option(help="Folder of other Italian speech; that of the package when not given.")
    ] = None,
    epochs: Epochs = None,
    as_json: Json = False,
) -> None:
    """Run `adapt` on the Italian speech that comes with the package, with openai/whisper-base from PyPI."""
    if source and not source.is_dir():
        raise ConfigError(f"--source: there is no folder {source}; leave --source out to take the package's own speech")
    from asr_lora.sources.demo import demo_speech
    from asr_lora.workflows.adapt import adapt

    done = adapt(
        source or demo_speech(), language="it", out=out, model="pypi:whisper-base", epochs=epochs, baselines=["full"]
    )
    print_adaptation(done, as_json)


def _fail(message: str, code: int) -> None:
    say(f"error: {message}" if code != 130 else message)
    raise typer.Exit(code)


def _import_sentence(error: ImportError) -> str:
    if "libc10_cuda" in str(error) or "libtorch" in str(error) or "torchaudio" in str(error):
        return "torch and torchaudio do not fit each other: pip install --force-reinstall torch torchaudio"
    if error.name in ("fastapi", "starlette", "uvicorn", "python_multipart", "prometheus_client"):
        return f"serving needs packages ({error.name}): pip install 'asr_lora[serve]'"
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
    if int(os.environ.get("RANK", "0")):  # of several processes the first one speaks
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)
    sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]  # names of files may be any bytes
    sys.stderr.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    app()
