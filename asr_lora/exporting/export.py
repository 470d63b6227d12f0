"""Export a run for another engine, and check that its transcripts there agree with ours."""

from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from asr_lora.config import Context, Precision
from asr_lora.dataset.reading import Split, read_split
from asr_lora.decoding.engine import TorchEngine, decode_split
from asr_lora.decoding.search import GREEDY
from asr_lora.errors import ConfigError, Refused
from asr_lora.exporting.formats import public_base, write_export
from asr_lora.exporting.other_engines import open_export, require_engine
from asr_lora.exporting.parity import parity
from asr_lora.exporting.recipe import Format, find_export_recipe
from asr_lora.folders.atomic import replacing_folder
from asr_lora.folders.dataset_folder import DatasetFolder
from asr_lora.folders.digests import fingerprint
from asr_lora.folders.run_folder import ExportFolder, ExportRecord
from asr_lora.language import Task
from asr_lora.model.find_model import NamedModel, find_model, model_identity
from asr_lora.model.open_model import open_model
from asr_lora.model.whisper import Whisper
from asr_lora.system.locks import owning
from asr_lora.system.renamed import renamed_keywords

SPLIT = "dev"
UTTERANCES = 50
TOLERANCE = 0.005  # of WER, absolute: half a point
OURS = "asr_lora, float32, 30 s"


@renamed_keywords(clips="utterances")
@owning(lambda *_, out, **__: ExportFolder(out))
def export(
    model: str | NamedModel,
    *,
    format: str,  # noqa: A002
    out: Path,
    dtype: str | None = None,
    quantise: str | None = None,
    dataset: Path | None = None,
    utterances: int = UTTERANCES,
    tolerance: float = TOLERANCE,
    language: str | None = None,
    language_token: str | None = None,
    task: Task | None = None,
) -> ExportFolder:
    """Write a run in another engine's format, and let that engine and ours transcribe the same utterances.

    Both decode greedily, with the same forced language and task, on 30 s of context, as other engines do. Ours runs
    the merged float32 weights. Where the leading rate differs by more than `tolerance`, in whichever direction,
    nothing is left in `out`. An export of the same weights, recipe and utterances is not made again.

    Args:
        model: see `asr_lora.model.find_model`; perhaps with a strength, or found by `find_model`.
        format: transformers, ctranslate2, ggml or adapter.
        dtype: float16 or float32, for weights that are not quantised; default float16.
        quantise: int8 for ctranslate2, q8_0 or q5_0 for ggml; default none.
        dataset: its dev split is transcribed; default: the run's own dataset.
        utterances: number of utterances, spread evenly over the split; all of them if there are fewer.
        tolerance: largest difference of WER (of CER where that leads), as a share: 0.01 is one point.

    Raises:
        Refused: the rates differ by more than the tolerance; `facts` is the record that was not written.
        ConfigError: format, type and quantisation do not go together, a package is not installed, or `out` holds
            something else.
        DataError: the model or the dataset cannot be used.
    """
    recipe = find_export_recipe(format, dtype, quantise)
    if not 0 <= tolerance < 1 or utterances < 1:
        raise ConfigError("--tolerance is a share of WER, from 0 to below 1, and --utterances is at least 1")
    engine = require_engine(recipe.format)
    place = find_model(model)
    if recipe.format is Format.ADAPTER and place.strength is None:
        raise ConfigError(f"{place.name} has no adapter: take --format transformers, ctranslate2 or ggml")
    home = export_dataset(place, dataset)
    manifest, split = DatasetFolder(home).read(), read_split(home, SPLIT).evenly(utterances)
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
        theirs = [transcribe(split.waveform(index)) for index in tqdm(range(len(split)), desc=engine, unit="utterance")]
        record = ExportRecord(
            fingerprint=stamp,
            model=Path(place.name).name,  # no folder of this machine is named, since the record may be published
            weights_digest=place.run.weights_digest if place.run else None,
            base=public_base(place.base),
            strength=place.strength,
            language=whisper.prompt.language or "en",
            language_token=whisper.prompt.token,
            task=whisper.prompt.task,
            context=place.context,
            **asdict(recipe),
            files=draft.listed(),
            dataset={"sha256": digest, "split": SPLIT, "seconds": round(sum(split.seconds), 1)},
            reference=OURS,
            engine=engine,
            parity=parity(split.texts, ours, theirs, str(prompt.language), tolerance),
        )
        if not record.parity.passed:
            raise Refused(_refusal(place.name, record, out), record)
        draft.write(record)
    return folder


def export_dataset(place: NamedModel, dataset: Path | None) -> Path:
    """Return the dataset that is given, or the run's own.

    Raises:
        ConfigError: no dataset is given, and no run names one.
    """
    if dataset is None and place.run is None:
        raise ConfigError(f"{place.name} was trained elsewhere: name a dataset of its language with --dataset")
    return dataset or place.run.config.data.dataset  # type: ignore[union-attr]


def _transcribe(whisper: Whisper, split: Split) -> list[str]:
    found = [""] * len(split)
    with tqdm(total=len(split), desc=OURS, unit="utterance") as bar:
        for indices, texts in decode_split(TorchEngine(whisper), split, GREEDY):
            for index, text in zip(indices, texts, strict=True):
                found[index] = text
            bar.update(len(indices))
    return found


def _refusal(model: str, record: ExportRecord, out: Path) -> str:
    found, rate = record.parity, record.parity.lead.upper()
    return (
        f"{model} is not exported: in {record.engine} its {rate} is {100 * found.drift:+.2f} points from ours on "
        f"{found.clips} utterances, and {100 * found.tolerance:.2f} are tolerated, so nothing is written to {out}. "
        "Quantise less, or raise --tolerance, best with more --utterances"
    )
