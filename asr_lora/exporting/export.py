"""The job: a run -> a folder that another engine runs, with the proof that it hears there what it hears here."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from asr_lora.config import Context, Precision
from asr_lora.dataset.reading import Split, read_split
from asr_lora.decoding.search import decode_split, default_batch_seconds
from asr_lora.errors import ConfigError, Refused
from asr_lora.exporting.formats import public_base, write_export
from asr_lora.exporting.other_engines import open_export, require_engine
from asr_lora.exporting.parity import Parity, parity
from asr_lora.exporting.recipe import Format, find_export_recipe
from asr_lora.folders.atomic import replacing_folder
from asr_lora.folders.dataset_folder import DatasetFolder
from asr_lora.folders.digests import fingerprint
from asr_lora.folders.run_folder import ExportFolder
from asr_lora.language import Task
from asr_lora.model.find_model import NamedModel, find_model, model_identity
from asr_lora.model.open_model import open_model
from asr_lora.model.whisper import Whisper

SPLIT = "dev"
CLIPS = 50
TOLERANCE = 0.005  # of WER, absolute: half a point
OURS = "asr_lora, float32, 30 s"


def export(
    model: str | NamedModel,
    *,
    format: str,  # noqa: A002
    out: Path,
    dtype: str | None = None,
    quantise: str | None = None,
    dataset: Path | None = None,
    clips: int = CLIPS,
    tolerance: float = TOLERANCE,
    language: str | None = None,
    language_token: str | None = None,
    task: Task | None = None,
) -> ExportFolder:
    """Write a run in another engine's format, and let that engine and ours transcribe the same clips.

    Both decode greedily, with the same forced language and task, on 30 s of context, as other engines do. Ours runs
    the merged float32 weights. Where the leading rate differs by more than `tolerance`, in whichever direction,
    nothing is left in `out`. An export of the same weights, recipe and clips is not made again.

    Args:
        model: see `asr_lora.model.find_model`; perhaps with a strength, or found by `find_model`.
        format: transformers, ctranslate2, ggml or adapter.
        dtype: float16 or float32, of what is not quantised; float16 when not given.
        quantise: int8 of ctranslate2, q8_0 or q5_0 of ggml.
        dataset: whose dev split is transcribed; the run's own when not given.
        clips: how many of it, evenly over the split; all where it has fewer.
        tolerance: of WER, or CER where that leads, as a share: 0.01 is one point.

    Raises:
        Refused: the other engine hears something else; the facts are those that export.json would have held.
        ConfigError: format, type and quantisation do not go together, a package is missing, or `out` holds something
            else.
        DataError: the model or the dataset cannot be used.
    """
    recipe = find_export_recipe(format, dtype, quantise)
    if not 0 <= tolerance < 1 or clips < 1:
        raise ConfigError("--tolerance is a share of WER, from 0 to below 1, and --clips is at least 1")
    engine = require_engine(recipe.format)
    place = find_model(model)
    if recipe.format is Format.ADAPTER and place.strength is None:
        raise ConfigError(f"{place.name} has no adapter: take --format transformers, ctranslate2 or ggml")
    home = export_dataset(place, dataset)
    manifest, split = DatasetFolder(home).read(), read_split(home, SPLIT).evenly(clips)
    prompt = place.prompt(language, language_token, task, default=manifest.language)
    spoken = {"language": prompt.language, "token": prompt.token}
    digest = manifest.splits[SPLIT].sha256
    stamp = fingerprint(model_identity(place), asdict(recipe), engine, digest, len(split), spoken, task, tolerance)
    folder = ExportFolder(out)
    if folder.reusable(stamp):
        return folder
    folder.require_ours(folder.complete)
    whisper = open_model(place, prompt, context=Context.FULL, precision=Precision.FP32)
    ours = _transcribe(whisper, split)
    with replacing_folder(out) as root:
        draft = ExportFolder(root)
        weights = write_export(place, whisper, recipe, draft)
        transcribe = open_export(recipe, weights, place.base, whisper)
        theirs = [transcribe(split.waveform(index)) for index in tqdm(range(len(split)), desc=engine, unit="clip")]
        found = parity(split.texts, ours, theirs, str(prompt.language), tolerance)
        facts = {
            "fingerprint": stamp,
            **_system_facts(place, whisper),
            **asdict(recipe),
            "files": draft.listed(),
            "dataset": {"sha256": digest, "split": SPLIT, "seconds": round(sum(split.seconds), 1)},
            "reference": OURS,
            "engine": engine,
            "parity": found.facts(),
        }
        if not found.passed:
            raise Refused(_refusal(place.name, engine, found, out), facts)
        draft.write(facts)
    return folder


def export_dataset(place: NamedModel, dataset: Path | None) -> Path:
    """The dataset that is given, or the run's own.

    Raises:
        ConfigError: neither.
    """
    if dataset is None and place.run is None:
        raise ConfigError(f"{place.name} was trained elsewhere: name a dataset of its language with --dataset")
    return dataset or place.run.config.data.dataset  # type: ignore[union-attr]


def _transcribe(whisper: Whisper, split: Split) -> list[str]:
    found = [""] * len(split)
    with tqdm(total=len(split), desc=OURS, unit="clip") as bar:
        for indices, texts in decode_split(whisper, split, batch_seconds=default_batch_seconds(whisper)):
            for index, text in zip(indices, texts, strict=True):
                found[index] = text
            bar.update(len(indices))
    return found


def _system_facts(place: NamedModel, whisper: Whisper) -> dict[str, Any]:
    """What was exported, in words that may be published: no folder of this machine is named."""
    return {
        "model": Path(place.name).name,
        "weights_digest": place.run.weights_digest if place.run else None,
        "base": public_base(place.base),
        "strength": place.strength,
        "language": whisper.prompt.language or "en",
        "language_token": whisper.prompt.token,
        "task": whisper.prompt.task,
        "context": place.context,
    }


def _refusal(model: str, engine: str, found: Parity, out: Path) -> str:
    rate = found.lead.upper()
    return (
        f"{model} is not exported: in {engine} its {rate} is {100 * found.drift:+.2f} points from ours on "
        f"{found.clips} clips, and {100 * found.tolerance:.2f} are tolerated, so nothing is written to {out}. Quantise "
        "less, or accept it with --tolerance, best on more --clips"
    )
