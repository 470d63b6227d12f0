"""The command line: parse arguments, call a job, print its result, exit with a code.

Progress and messages go to standard error, results to standard output. A job is imported within its command, so that
`--help` is fast. Exit codes: 0 done; 1 some inputs failed, each named, or a gate refused; 2 wrong usage or config;
3 bad data; 130 interrupted with everything saved.
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
from asr_lora.cli.help_screen import SectionedCommand, option
from asr_lora.cli.options import (
    ADAPTERS,
    DECODING,
    MODEL,
    PAGE,
    SCORES,
    Adapters,
    Beams,
    Engine,
    Epochs,
    Fast,
    Hotwords,
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
    Overrides,
    RunArgument,
    Sources,
    Transcripts,
    Vad,
    beams_of,
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
from asr_lora.system.progress import accept_any_text, say, show
from asr_lora.text import printable

OUT_OF_MEMORY = (
    "there is not enough memory: lower training.batch_seconds, or set training.gradient_checkpointing=true or "
    "model.quantise=8bit, or choose a smaller model. Complete results are kept."
)

USAGE_ERROR: Any = typer.BadParameter.__base__  # of click, which newer versions of typer contain

app = typer.Typer(
    name="asr-lora",
    help="Adapt Whisper to a language or a domain, and measure the gain.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def command(*examples: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a verb with examples for its help screen; its errors become one sentence and an exit code."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> None:
            _quiet_libraries()
            try:
                function(*args, **kwargs)
            except AsrLoraError as error:
                _fail(str(error), error.exit_code)
            except KeyboardInterrupt:
                _fail("interrupted; complete results are kept. Run the same command again to continue.", 130)
            except BrokenPipeError:  # who reads the output has seen enough
                for stream in (sys.stdout, sys.stderr):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            except OSError as error:
                place = f" ({error.filename})" if error.filename else ""
                _fail(
                    f"{error.strerror or error}{place}; complete results are kept. Remove the cause and run again.",
                    1,
                )
            except ImportError as error:
                _fail(_import_sentence(error), 2)
            except (RuntimeError, MemoryError) as error:
                if not ran_out_of_memory(error):
                    raise
                _fail(OUT_OF_MEMORY, 1)

        name = function.__name__.removesuffix("_command")
        app.command(name=name, cls=SectionedCommand, epilog="\n".join(examples))(guarded)
        return guarded

    return register


@command(
    "asr-lora adapt cv-corpus-25.0-2026-03-09-nl.tar.gz --language nl --out nl",
    "asr-lora adapt calls.jsonl --language nl --out nl --model openai/whisper-small",
)
@with_speech_options
def adapt_command(
    sources: Sources,
    language: Language,
    out: Out,
    asked: dict[str, Any],
    model: Annotated[
        str | None,
        option("Whisper model to adapt; by default openai/whisper-large-v2 with a GPU and whisper-base without one."),
    ] = None,
    epochs: Epochs = None,
    recipe: Annotated[
        str, option("Settings of the training: standard, or published for those of LoRA's first publication.")
    ] = "standard",
    seeds: Annotated[
        int, option("Runs that differ in their seed and are merged; 3 take three times as long, and make fewer errors.")
    ] = 1,
    subset: Annotated[
        str | None, option("Subset of train to train on, such as 1h; by default chosen from hours and machine.")
    ] = None,
    baselines: Annotated[
        str, option("Other systems to compare with: full also fine-tunes every weight; by default none.")
    ] = "",
    language_token: LanguageToken = None,
    transcripts: Transcripts = True,
    as_json: Json = False,
) -> None:
    """Adapt Whisper to one language with one command.

    This prepares the speech, chooses settings, trains, evaluates, compares and transcribes a held-out recording.
    """
    from asr_lora.workflows.adapt import adapt

    wanted = [name for name in baselines.split(",") if name]
    done = adapt(
        sources, language=language, out=out, language_token=language_token, model=model, subset=subset,
        epochs=epochs, recipe=recipe, seeds=seeds, baselines=wanted, transcripts=transcripts, **asked,
    )  # fmt: skip
    print_adaptation(done, as_json)


@command(
    "asr-lora transcribe nl/runs/lora interview.mp3",
    "asr-lora transcribe nl/runs/lora recordings/ --format srt --out subtitles/",
)
def transcribe_command(
    model: Model,
    inputs: Annotated[list[str], typer.Argument(
        metavar="INPUT", help="Audio or video files, folders or patterns; - is standard input.")],
    formats: Annotated[list[str] | None, option(
        "Output format: txt (the default), srt, vtt, tsv or json; may be repeated.",
        "--format", metavar="NAME")] = None,
    out: Annotated[Path | None, option(
        "Folder for the output files; by default standard output.", metavar="FOLDER")] = None,
    language: Annotated[str | None, option(
        "Language to recognise; auto detects it for each file; by default the language that the model learnt.",
        metavar="LANG")] = None,
    words: Annotated[bool | None, option(
        "Measure the time of each word; by default only for srt and vtt.", "--words/--no-words")] = None,
    keep_existing: Annotated[bool, option(
        "Skip files whose outputs exist already, to continue an earlier command.", "--keep-existing")] = False,
    overwrite: Annotated[bool, option(
        "Replace files in FOLDER that no earlier transcription wrote, too.", "--overwrite")] = False,
    adapters: Adapters = None,
    route: Annotated[str | None, option(
        "Choice of the adapter for each file: language detects it, folder takes the file's folder, or a NAME.",
        section=ADAPTERS)] = None,
    engine: Engine = None,
    beams: Beams = None,
    fast: Fast = False,
    hotwords: Annotated[Path | None, option(
        "Text file of names and rare words, one per line, that become more likely.",
        "--hotwords", "--terms", metavar="FILE", section=DECODING)] = None,
    vad: Vad = True,
    fallback: Annotated[bool, option(
        "Decode doubtful windows again at higher temperatures.", "--fallback/--no-fallback", section=DECODING)] = True,
    timestamps: Annotated[bool, option(
        "Cut segments at the timestamps that Whisper predicts.",
        "--timestamps/--no-timestamps", section=DECODING)] = True,
    sequential: Annotated[bool, option(
        "Decode 30 s at a time, each with the text before it as context, as openai-whisper does (slower).",
        "--sequential", section=DECODING)] = False,
    language_token: LanguageToken = None,
    task: MaybeTask = None,
    context: MaybeContext = None,
    precision: MaybePrecision = Precision.AUTO,
    line_length: Annotated[int, option("Longest line of a subtitle, in characters.", section="Subtitles")] = 42,
    lines: Annotated[int, option("Most lines in one subtitle.", section="Subtitles")] = 2,
) -> None:  # fmt: skip
    """Transcribe audio or video to text, subtitles or JSON."""
    from asr_lora.transcription.subtitles import SubtitleRules
    from asr_lora.transcription.transcribe import transcribe

    formats = formats or ["txt"]
    if out is None and (len(formats) > 1 or keep_existing or overwrite):
        raise ConfigError("several formats, --keep-existing and --overwrite need a folder: add --out FOLDER")
    failed = 0
    for transcript in transcribe(
        model, inputs, formats=formats, out=out, language=language, language_token=language_token, task=task,
        context=context, precision=precision, adapters=_named_adapters(adapters or []), route=route,
        beams=beams_of(beams, fast),
        vad=vad, timestamps=timestamps, words=words, sequential=sequential, fallback=fallback, hotwords=hotwords,
        engine=engine, rules=SubtitleRules(line_length, lines), keep_existing=keep_existing, overwrite=overwrite,
        echo=functools.partial(show, end="") if out is None else None,
    ):  # fmt: skip
        if transcript.error:
            failed += 1
            say(f"error: {transcript.error}")
        if transcript.notice:
            say(transcript.notice)
        if transcript.written:
            show(*transcript.written, sep="\n")
    if failed:
        _fail(f"{failed} of the inputs could not be transcribed or written; the others are done", 1)


@command("asr-lora prepare cv-corpus-25.0-2026-03-09/ --language nl --out data/nl")
@with_speech_options
def prepare_command(
    sources: Sources, language: Language, out: Out, asked: dict[str, Any], as_json: Json = False
) -> None:
    """Convert speech from any source to a dataset folder.

    The folder holds parquet splits and nested low-data subsets.
    """
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


@command(
    "asr-lora check data/nl --model openai/whisper-small --with-audio",
    "asr-lora check configs/nl-large-v2-1h-lora.yaml --price-per-hour 0.5",
)
def check_command(
    subject: Annotated[Path, typer.Argument(
        metavar="CONFIG|DATASET", help="YAML file of a run, or dataset folder made by `prepare`.")],
    overrides: Overrides = None,
    price_per_hour: Annotated[float | None, option(
        "Price of this machine per hour, in any currency, to estimate the cost of the run.",
        min=0, section="Forecast of a run")] = None,
    probe: Annotated[bool | None, option(
        "Time a few real steps, which loads the model; on by default.",
        "--probe/--no-probe", section="Forecast of a run")] = None,
    model: Annotated[str | None, option(
        "Whisper model that scores the labels; a base model is best; by default none.",
        section="Labels of a dataset")] = None,
    without: Annotated[list[str] | None, option(
        "Rule to skip, such as too-fast; may be repeated.",
        "--skip-rule", "--without", metavar="RULE", section="Labels of a dataset")] = None,
    language_token: LanguageToken = None,
    precision: Annotated[Precision | None, option(
        "Number format of the scoring model's computation; by default auto.", section=MODEL)] = None,
    audio: Annotated[bool, option(
        "Embed the sound of the most suspicious utterances in the page.", "--with-audio", section=PAGE)] = False,
    transcripts: Annotated[bool | None, option(
        "Show the texts of utterances in the page; on by default.",
        "--with-transcripts/--without-transcripts", section=PAGE)] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Forecast a run, or find suspicious labels in a dataset.

    Given a config: memory, time and cost. Given a dataset folder: labels that a rule or a model doubts.
    """
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

        show(table(forecast))
    for sentence in forecast.warnings:
        say(f"warning: {sentence}")


@command(
    "asr-lora train configs/nl-large-v2-1h-lora.yaml",
    "asr-lora train configs/cs-base-1h-lora.yaml --set adapter.rank=8",
)
def train_command(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of a run, such as those in configs/.")],
    overrides: Overrides = None,
    resume: Annotated[
        bool,
        option("Continue an unfinished run from its last checkpoint.", "--resume/--no-resume", show_default=False),
    ] = False,
    as_json: Json = False,
) -> None:
    """Train an adapter, or every weight, from one YAML file."""
    settings = load_config(config, overrides)
    from asr_lora.training.train import train

    folder = train(settings, resume=resume)
    body = folder.read()
    if as_json:
        print_json(body)
        return
    for reason, ids in body.train.left_out.items():
        show(f"left out {len(ids)} utterances: {reason} (listed in {folder.manifest})")
    show(f"best dev {body.best.chosen_by} at step {body.best.step}: {folder.weights(body.method)}")


@command(
    "asr-lora evaluate openai/whisper-small data/nl --out reports/zero-shot",
    "asr-lora evaluate runs/nl data/nl --name lora --out reports/lora",
)
def evaluate_command(
    model: Model,
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="Dataset folder made by `prepare`.")],
    out: Out,
    split: Annotated[str | None, option("Split to score: train, dev or test; by default test.", metavar="NAME")] = None,
    name: Annotated[str | None, option("Name of the system in comparisons; by default MODEL.", metavar="NAME")] = None,
    language: MaybeLanguage = None,
    strength_sweep: Annotated[bool, option(
        "Score an adapter on dev at several strengths, and report the best one.", "--strength-sweep")] = False,
    normaliser: MaybeNormaliser = None,
    hotwords: Hotwords = None,
    beams: Beams = None,
    fast: Fast = False,
    engine: Engine = None,
    language_token: LanguageToken = None,
    task: MaybeTask = None,
    context: MaybeContext = None,
    precision: MaybePrecision = Precision.AUTO,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Score a model on a split of a dataset: WER, CER, MER, WIL."""
    if strength_sweep:
        _refuse_in_sweep(split, name, context, normaliser, hotwords)
        from asr_lora.workflows.promote import sweep_strengths

        swept = sweep_strengths(
            model, dataset, out=out, language=language, language_token=language_token, task=task, precision=precision,
            beams=beams_of(beams, fast),
        )  # fmt: skip
        print_sweep(swept, as_json)
        return
    from asr_lora.evaluation.evaluate import evaluate

    folder = evaluate(
        model, dataset, out=out, split=split or "test", name=name, language=language, language_token=language_token,
        task=task, context=context, precision=precision, beams=beams_of(beams, fast),
        engine=engine, normaliser=normaliser or "basic", hotwords=hotwords,
    )  # fmt: skip
    print_report(folder, as_json)


@command("asr-lora compare reports/zero-shot reports/lora --out reports/nl", "asr-lora compare --rerun reports/nl")
def compare_command(
    reports: Annotated[list[Path] | None, typer.Argument(
        metavar="REPORT", help="Report folders made by `evaluate`; the first is the reference.")] = None,
    out: Annotated[Path | None, option("Folder for the comparison and its page.", metavar="FOLDER")] = None,
    regression_sets: Annotated[list[Path] | None, option(
        "Report of one of the systems on a regression set, another dataset; may be repeated.",
        "--regression-set", "--guard", metavar="REPORT")] = None,
    price_per_hour: Annotated[float | None, option(
        "Price per hour of the machine that trained, in any currency, for a column of costs.", min=0)] = None,
    again: Annotated[Path | None, option(
        "Comparison folder whose numbers are computed again; differences are listed and give exit code 3.",
        "--rerun", metavar="FOLDER")] = None,
    normaliser: Annotated[str | None, option(
        "Normaliser of the main scores: none, basic, whisper or leaderboard; by default that of the reports.",
        metavar="NAME", section=SCORES)] = None,
    hotwords: Hotwords = None,
    transcripts: Transcripts = True,
    audio: Annotated[Path | None, option(
        "Dataset folder of the reports, to embed sound in the page.",
        "--with-audio", metavar="DATASET", section=PAGE)] = None,
    analysis: Annotated[Path | None, option(
        "Folder made by `analyze`, to show the spectra of the updates.", metavar="FOLDER", section=PAGE)] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Compare reports: one table, one verdict, one page.

    Every pair of systems is compared with a paired bootstrap over speakers.
    """
    from asr_lora.evaluation.compare import compare
    from asr_lora.evaluation.rerun import rerun

    if again is not None:
        if any((reports, out, normaliser, hotwords, regression_sets, price_per_hour is not None, audio, analysis)):
            raise ConfigError("--rerun takes the folder alone: asr-lora compare --rerun FOLDER")
        found = rerun(again)
        print_rerun(again, found, as_json)
        if found.differences:
            _fail(f"{again} does not agree with its hypotheses in {len(found.differences)} places", 3)
        return
    if out is None:
        raise ConfigError("say where to write with --out: asr-lora compare REPORT REPORT --out FOLDER")
    folder = compare(
        reports or [], out=out, transcripts=transcripts, normaliser=normaliser, hotwords=hotwords,
        regression_sets=regression_sets or (), price_per_hour=price_per_hour, audio=audio, analysis=analysis,
    )  # fmt: skip
    print_comparison(folder, as_json)


@command("asr-lora promote runs/nl --over runs/nl-before --regression-set data/de")
def promote_command(
    run: RunArgument,
    over: Annotated[str | None, option(
        "Model that the run must beat on dev; by default the run's base model.", metavar="MODEL")] = None,
    regression_sets: Annotated[list[Path] | None, option(
        "Dataset folder on which WER (CER where that leads) must not rise; may be repeated.",
        "--regression-set", "--guard", metavar="DATASET")] = None,
    tolerance: Annotated[float, option(
        "Largest allowed rise of WER (CER where that leads) on a regression set; 0.01 is one point.",
    )] = 0.01,
    force: Annotated[bool, option(
        "Promote the run even if it is refused, and record the reasons.",
        "--force/--no-force", show_default=False)] = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Accept a run only if it beats the model before it.

    It must be better on dev, and WER (CER where that leads) must not rise on any regression set.
    """
    from asr_lora.workflows.promote import promote

    try:
        folder = promote(run, over=over, regression_sets=regression_sets or (), tolerance=tolerance, force=force)
    except Refused as error:
        print_promotion(error.facts, as_json)
        raise
    print_promotion(folder.read(), as_json)
    if not as_json:
        show(folder.read().verdict)
        show(folder.manifest)


@command("asr-lora sweep configs/sweeps/rank.yaml --out sweeps/rank")
def sweep_command(
    file: Annotated[Path, typer.Argument(
        metavar="FILE", help="YAML file of a sweep, such as those in configs/sweeps/.")],
    out: Out,
    overrides: Overrides = None,
    split: Annotated[str, option("Split to score: dev, or test for dev and then test.", metavar="NAME")] = "dev",
    empty: Annotated[bool, option(
        "Write the table and the page without numbers, and train nothing.", "--empty")] = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Train, score and compare variants of one config."""
    from asr_lora.workflows.sweep import sweep_settings, write_empty

    if empty:
        planned = write_empty(file, out=out, overrides=overrides, split=split)
        show(planned.markdown(split).read_text(encoding="utf-8"))
        show(planned.page(split))
        return
    try:
        folder = sweep_settings(file, out=out, overrides=overrides, split=split)
    except Incomplete as error:
        if error.table and not as_json:
            show(error.table)
        raise
    if as_json:
        print_json(folder.read())
        return
    show(folder.markdown(split).read_text(encoding="utf-8"))
    show(f"dev chooses {folder.read().chosen_by_dev}")
    show(folder.page(split))


@command(
    "asr-lora merge runs/nl runs/nl-seed-1 runs/nl-seed-2 --out runs/nl-mean",
    "asr-lora merge runs/nl@0.6 runs/nl-full@0.4 --out runs/nl-mean",
)
def merge_command(
    runs: Annotated[list[str], typer.Argument(
        metavar="RUN...", help="Two or more run folders of one base; runs/a@0.6 gives one a share of 0.6.")],
    out: Out,
    rank: Annotated[int | None, option(
        "Rank to which the mean of adapters is compressed; by default the sum of their ranks, which is exact.",
        min=1)] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Average several runs into one, which usually makes fewer errors than the best of them."""
    from asr_lora.workflows.merge import merge

    folder = merge(runs, out=out, rank=rank)
    body = folder.read()
    if as_json:
        print_json(body)
        return
    if body.retained is not None and body.retained < 1:
        show(f"rank {rank} holds {100 * body.retained:.1f} % of the squared norm of the updates")
    show(f"{folder.caption()}: {folder.weights(body.method)}")
    show(f"Score it on dev with: asr-lora evaluate {out} DATASET --split dev --out FOLDER")


@command("asr-lora analyze runs/nl runs/nl-seed-1 --out reports/analysis")
def analyze_command(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN", help="Run folders or adapters that were trained from one base model."),
    ],
    out: Out,
    as_json: Json = False,
) -> None:
    """Measure what training changed in the weights."""
    from asr_lora.workflows.analyze import analyze

    folder = analyze(runs, out=out)
    if as_json:
        print_json(folder.read())
        return
    show(folder.markdown.read_text(encoding="utf-8"))
    show(folder.page)


@command("asr-lora export runs/nl --format ctranslate2 --quantise int8 --out exports/nl")
def export_command(
    run: Annotated[str, typer.Argument(
        metavar="RUN", help="Run folder (RUN@0.7 for a strength of 0.7), or any other model.")],
    out: Out,
    kind: Annotated[str, option(
        "Format to write: transformers, ctranslate2, ggml or adapter.", "--format", metavar="NAME")],
    dtype: Annotated[str | None, option(
        "Number format of weights that are not quantised: float16 (the default) or float32.", metavar="NAME")] = None,
    quantise: Annotated[str | None, option(
        "Quantisation: int8 for ctranslate2, q8_0 or q5_0 for ggml; by default none.", metavar="NAME")] = None,
    dataset: Annotated[Path | None, option(
        "Dataset whose dev split both engines transcribe; by default the run's own.",
        metavar="DATASET", section="Proof of equal output")] = None,
    utterances: Annotated[int, option(
        "Number of dev utterances that both engines transcribe.",
        "--utterances", "--clips", min=1, section="Proof of equal output")] = 50,
    tolerance: Annotated[float, option(
        "Largest allowed difference of WER (CER where that leads) between the engines; 0.01 is one point.",
        section="Proof of equal output")] = 0.005,
    language: MaybeLanguage = None,
    language_token: LanguageToken = None,
    task: MaybeTask = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Export a run for another engine, with a proof.

    Both engines transcribe the same utterances, and their WER (CER where that leads) may differ by no more than the
    tolerance.
    """
    from asr_lora.exporting.export import export
    from asr_lora.exporting.parity import parity_table

    try:
        folder = export(
            run, format=kind, out=out, dtype=dtype, quantise=quantise, dataset=dataset, utterances=utterances,
            tolerance=tolerance, language=language, language_token=language_token, task=task,
        )  # fmt: skip
    except Refused as error:
        print_json(error.facts) if as_json else show(parity_table(error.facts))
        raise
    body = folder.read()
    if as_json:
        print_json(body)
        return
    show(parity_table(body))
    for file in body.files:
        show(f"{file.bytes / 1e6:9.1f} MB  {folder.root / file.name}")
    show(folder.manifest)


@command("asr-lora push runs/nl --report reports/lora --to me/whisper-nl")
def push_command(
    run: RunArgument,
    to: Annotated[str, option("Repository owner/name on the hub, or a folder such as ./published.", metavar="PLACE")],
    exported: Annotated[Path | None, option(
        "Export folder made by `export`; by default the adapter is exported first.",
        "--export", metavar="FOLDER")] = None,
    reports: Annotated[list[Path] | None, option(
        "Report folder for the table of the model card; may be repeated.", "--report", metavar="REPORT")] = None,
    private: Annotated[bool, option("Create the repository as a private one.", "--private")] = False,
    dataset: Annotated[Path | None, option(
        "Dataset folder of the run, if it has moved since training.", metavar="DATASET")] = None,
    licence: Annotated[str | None, option(
        "License of the model, as the hub spells it, such as apache-2.0.",
        "--license", metavar="NAME", section="Model card")] = None,
    data_licence: Annotated[str | None, option(
        "License of the training speech, as the hub spells it, such as cc0-1.0.",
        "--data-license", metavar="NAME", section="Model card")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Publish a run with a model card, on the hub or in a folder."""
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
    show(*done.files, done.place, sep="\n")


@command(
    "asr-lora serve nl/runs/lora",
    "asr-lora serve --adapter nl=runs/nl --adapter cs=runs/cs",
)
def serve_command(
    model: Annotated[str | None, typer.Argument(
        metavar="MODEL", help="Model as for `transcribe`; by default the base model of the adapters.")] = None,
    adapters: Annotated[list[str] | None, option(
        "Adapter under the name that requests select it by, such as cs=runs/cs@0.7; may be repeated.",
        "--adapter", metavar="NAME=RUN")] = None,
    model_name: Annotated[list[str] | None, option(
        "Name of MODEL in the API instead of its own, such as whisper-1, which many clients always ask for; "
        "NAME=ADAPTER gives an adapter one more name; may be repeated.", metavar="NAME")] = None,
    host: Annotated[str, option(
        "Network address to listen on; addresses that other machines reach need an API key.")] = "127.0.0.1",
    port: Annotated[int, option("Port to listen on; 0 takes any free port.", min=0, max=65535)] = 8000,
    language: MaybeLanguage = None,
    engine: Engine = None,
    api_key_env: Annotated[str, option(
        "Environment variable that holds the key which clients must send.",
        metavar="NAME", section="Access")] = "ASR_LORA_API_KEY",
    no_api_key: Annotated[bool, option(
        "Accept requests from other machines without a key.", "--no-api-key", section="Access")] = False,
    max_upload_mb: Annotated[float, option("Largest upload, in megabytes.", min=0.001, section="Limits")] = 200,
    max_seconds: Annotated[float, option("Longest audio in one upload, in seconds.", min=1, section="Limits")] = 7200,
    concurrency: Annotated[int, option(
        "Requests that are decoded at the same time and share batches.", min=1, section="Limits")] = 8,
    queue: Annotated[int, option(
        "Requests that may wait; more are answered with status 429.", min=0, section="Limits")] = 16,
    timeout: Annotated[float, option(
        "Longest time from the end of an upload to its answer, in seconds.", min=1, section="Limits")] = 600,
    vad: Vad = True,
    language_token: LanguageToken = None,
    context: MaybeContext = None,
    precision: MaybePrecision = Precision.AUTO,
) -> None:  # fmt: skip
    """Serve a model and its adapters over HTTP.

    The API is OpenAI's for transcriptions; a web page records and transcribes too.
    """
    from asr_lora.serving.limits import Limits
    from asr_lora.serving.serve import serve

    limits = Limits(round(max_upload_mb * 2**20), max_seconds, concurrency, queue, timeout)
    serve(
        model, _named_adapters(adapters or []), names=model_name or [], host=host, port=port,
        key_variable=api_key_env, no_key=no_api_key, limits=limits, language=language,
        language_token=language_token, context=context, precision=precision, vad=vad, engine=engine,
    )  # fmt: skip


@command("asr-lora demo --out demo")
def demo_command(
    out: Annotated[Path, option("Folder for the results.", metavar="FOLDER")] = Path("demo"),
    source: Annotated[
        Path | None, option("Folder of other Italian speech; by default that of the package.", metavar="FOLDER")
    ] = None,
    epochs: Epochs = None,
    as_json: Json = False,
) -> None:
    """Run `adapt` on the Italian speech of the package.

    The model is openai/whisper-base from PyPI.
    """
    if source and not source.is_dir():
        raise ConfigError(f"--source: there is no folder {source}; leave --source out to take the package's own speech")
    from asr_lora.sources.demo import demo_speech
    from asr_lora.workflows.adapt import adapt

    done = adapt(
        source or demo_speech(), language="it", out=out, model="pypi:whisper-base", epochs=epochs, baselines=["full"]
    )
    print_adaptation(done, as_json)


def _refuse_options(given: dict[str, Any], before: str, after: str) -> None:
    if names := [name for name, value in given.items() if value is not None and value != []]:
        raise ConfigError(f"{before} {names[0]}, {after}")


def _refuse_in_sweep(
    split: str | None, name: str | None, context: Context | None, normaliser: str | None, hotwords: Path | None
) -> None:
    if split not in (None, "dev"):
        raise ConfigError(f"--strength-sweep chooses on dev, never on {split}: leave out --split {split}")
    if name or context:
        raise ConfigError("--strength-sweep names its systems and takes the model's own context: leave these out")
    if normaliser or hotwords:
        raise ConfigError("--strength-sweep chooses by the basic normaliser: leave out --normaliser and --hotwords")


def _named_adapters(given: list[str]) -> dict[str, str]:
    """Split NAME=RUN of each --adapter."""
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
            raise ConfigError(
                f"--adapter {text}: write NAME=RUN with a name that no other adapter has, such as cs=runs/cs"
            )
        named[name] = run
    return named


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
        show(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version of asr_lora and exit."),
    ] = False,
) -> None:
    """Adapt Whisper to a language or a domain, and measure the gain."""


def main() -> None:
    """Entry point of `asr-lora`."""
    if int(os.environ.get("RANK", "0")):  # only the first of several processes prints
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)
    accept_any_text()
    try:
        sys.exit(app(standalone_mode=False))
    except USAGE_ERROR as error:  # typer would print the words of the user as they are
        error.message = printable(error.message)
        error.show()
        sys.exit(error.exit_code)
