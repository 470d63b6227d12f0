"""Run all jobs for one language, with settings chosen from the hours of speech and the machine.

The chosen configs are written to disk, and each stage is printed as the command that repeats it. A stage that is
complete is not run again.
"""

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr_lora.audio.features import context_seconds
from asr_lora.config import Context, Method, Recipe, RunConfig
from asr_lora.dataset.prepare import prepare
from asr_lora.dataset.reading import read_split
from asr_lora.errors import ConfigError
from asr_lora.evaluation.compare import compare
from asr_lora.evaluation.evaluate import evaluate
from asr_lora.folders.atomic import write_text
from asr_lora.folders.dataset_folder import DatasetFolder
from asr_lora.folders.digests import fingerprint
from asr_lora.folders.report_folder import ComparisonFolder
from asr_lora.folders.tabular import Tabular
from asr_lora.folders.workflow_folder import ZERO_SHOT, AdaptFolder, AdaptRecord
from asr_lora.language import ForcedPrompt, forced_prompt
from asr_lora.model.whisper import model_width
from asr_lora.system.device import default_device
from asr_lora.system.locks import owning
from asr_lora.system.progress import Stages, say
from asr_lora.text import TextCleaning
from asr_lora.training.train import train
from asr_lora.transcription.transcribe import Transcript, transcribe
from asr_lora.workflows.merge import merge

BATCH_SECONDS = 40.0  # about eight Common Voice utterances, the batch of the published recipe
MOST_STEPS = 5000  # of the published large-v2 experiment on all of Dutch
CPU_MICRO_BATCH_SECONDS = 20.0  # per micro-batch: on a CPU as fast as whole batches, within 6 GB
LITTLE_HOURS = (0.2, 2.0)  # of speech, between which speed perturbation was measured to help (reports/ablation-cs-1h)
CPU_HOURS = 1.5  # with more speech than this, a machine without a GPU trains on the 1 h subset
DEV_UTTERANCES = 128  # decoded at each dev evaluation
EVALUATIONS = 5  # during a run
LARGE_WIDTH = 1024  # of whisper-medium
MEAN = "lora-mean"  # of several seeds
RECIPE_WORDS = {
    Recipe.STANDARD: "LoRA on all linear layers, with label smoothing and timestamps (--recipe published: as in 2023)",
    Recipe.PUBLISHED: "LoRA on q_proj and v_proj, as it was first published for Whisper",
}
# Options of prepare whose names differ from its arguments.
OPTIONS = {"splits_from": "--from", "deltas": "--delta", "id_lists": "--ids"}


@dataclass(frozen=True)
class AdaptationPlan:
    """The chosen settings, and the reasons for them."""

    model: str
    prompt: ForcedPrompt
    subset: str
    width: int  # of the model, which decides the learning rate of full fine-tuning
    steps: int
    speeds: tuple[float, ...]
    recipe: Recipe
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Adaptation(Tabular):
    """The folder, the verdict and a sample transcript of an adaptation."""

    folder: AdaptFolder
    verdict: str
    table: str  # Markdown
    sample: Transcript
    sample_reference: str

    columns = ComparisonFolder.columns

    def __repr__(self) -> str:
        return f"Adaptation({str(self.folder.root)!r}): {self.verdict}"

    def entries(self) -> Iterable[object]:
        return ComparisonFolder(self.folder.comparison).entries()

    def caption(self) -> str:
        return self.verdict


@owning(lambda *_, out, **__: AdaptFolder(out))
def adapt(
    source: Path | str | Sequence[Path | str],
    *,
    language: str,
    out: Path,
    language_token: str | None = None,
    model: str | None = None,
    subset: str | None = None,
    epochs: float | None = None,
    recipe: str = Recipe.STANDARD,
    seeds: int = 1,
    baselines: Sequence[str] = (),
    transcripts: bool = True,
    **asked: Any,
) -> Adaptation:
    """Prepare, score the base model, train LoRA, score it, compare, and transcribe a held-out utterance.

    Args:
        source: one or several sources, as for `prepare`.
        language: name or code, such as "Dutch" or "nl".
        out: folder for all results; complete stages in it are reused.
        language_token: a related language whose token is borrowed, if Whisper has none for the language.
        model: any Whisper; default openai/whisper-large-v2 with a GPU, openai/whisper-base without.
        subset: a subset of train, such as "1h"; default: chosen from the hours of speech and the machine.
        epochs: passes over the speech; default: chosen from its hours.
        recipe: "standard", or "published" for LoRA as it was first published; see `asr_lora.config.RECIPES`.
        seeds: number of LoRA runs, which differ in their seed; more than one are merged, and the mean is used.
        baselines: "full" adds full fine-tuning of the same base on the same utterances; "zero-shot" is always included.
        transcripts: whether the comparison page shows references and hypotheses.
        asked: other arguments of `prepare`, such as locale, subsets and drop.

    Raises:
        ConfigError, DataError, Interrupted: a stage raises it; the same command continues where it stopped.
    """
    _require_choices(baselines, recipe, seeds)
    methods = [Method.LORA, *([Method.FULL] if Method.FULL in baselines else [])]
    prompt = forced_prompt(language, language_token)
    folder = AdaptFolder(out)
    stages = Stages(total=4 + 2 * len(methods) + (seeds + 1 if seeds > 1 else 0))

    sources = [source] if isinstance(source, str | Path) else source
    stages.begin("prepare", *sources, "--language", language, *prepare_options(asked), "--out", folder.dataset)
    dataset = prepare(sources, language=language, out=folder.dataset, **asked)
    for split in ("dev", "test"):
        dataset.split_file(split)  # all later stages need both
    plan = plan_adaptation(dataset, prompt, model, subset, epochs, Recipe(recipe))
    for reason in plan.reasons:
        say(f"      {reason}")
    configs = {method: _config(plan, method, folder) for method in methods}
    for method, config in configs.items():
        write_text(folder.config(method), config.to_yaml())

    systems = {ZERO_SHOT: plan.model}
    _evaluate(stages, plan, folder, plan.model, ZERO_SHOT)
    for method in methods:
        stages.begin("train", folder.config(method), "--resume")
        train(configs[method], resume=True)
        systems[method.value] = str(folder.run(method))
        _evaluate(stages, plan, folder, systems[method.value], method.value)

    if seeds > 1:
        systems[MEAN] = str(_mean_of_seeds(stages, configs[Method.LORA], folder, seeds))
        _evaluate(stages, plan, folder, systems[MEAN], MEAN)

    reports = [folder.report(name) for name in systems]
    words = [] if transcripts else ["--without-transcripts"]
    stages.begin("compare", *reports, *words, "--out", folder.comparison)
    comparison = compare(reports, out=folder.comparison, transcripts=transcripts)
    clip, reference = _held_out_utterance(dataset.root, folder)
    run = systems.get(MEAN, systems[Method.LORA.value])
    stages.begin("transcribe", run, clip, "--format", "srt", "--out", folder.transcripts)
    (sample,) = transcribe(run, [clip], formats=["srt"], out=folder.transcripts, overwrite=True)
    compared = comparison.read()
    chosen = {name: getattr(plan, name) for name in ("model", "subset", "steps", "recipe")}
    chosen |= {"run": run, "reasons": list(plan.reasons)}
    stamp = fingerprint(dataset.read().fingerprint, compared.fingerprint)
    folder.write(AdaptRecord(fingerprint=stamp, plan=chosen, commands=stages.commands, verdict=compared.verdict))
    table = ComparisonFolder(folder.comparison).markdown.read_text(encoding="utf-8")
    return Adaptation(folder, compared.verdict, table, sample, reference)


def _require_choices(baselines: Sequence[str], recipe: str, seeds: int) -> None:
    unknown = set(baselines) - {ZERO_SHOT, "untouched", Method.FULL}  # "untouched": its name in earlier versions
    if unknown:
        raise ConfigError(f"--baselines: {', '.join(sorted(unknown))} is not one of {ZERO_SHOT}, {Method.FULL}")
    if recipe not in list(Recipe):
        raise ConfigError(f"--recipe: {recipe} is not one of {', '.join(Recipe)}")
    if seeds < 1:
        raise ConfigError(f"--seeds {seeds}: train at least one run")


def prepare_options(asked: Mapping[str, Any]) -> list[str]:
    """Return arguments of `prepare` as the options of its command, without those that have their default."""
    usual = inspect.signature(prepare).parameters
    words: list[str] = []
    for name, value in asked.items():
        option = OPTIONS.get(name, f"--{name.replace('_', '-')}")
        if isinstance(value, TextCleaning):
            words += [f"--{rule.replace('_', '-')}" for rule in value.chosen()]
        elif (tuple(value) if isinstance(value, list) else value) == usual[name].default:
            continue
        elif name == "subsets":
            words += [option, ",".join(value)]
        elif value is True:
            words.append(option)
        else:
            each = value if isinstance(value, list | tuple) else [value]
            words += [word for item in each for word in (option, str(item))]
    return words


def plan_adaptation(
    dataset: DatasetFolder,
    prompt: ForcedPrompt,
    model: str | None,
    subset: str | None,
    epochs: float | None = None,
    recipe: Recipe = Recipe.STANDARD,
) -> AdaptationPlan:
    """Choose model, subset and steps from the hours of speech and the machine, unless they are given."""
    manifest = dataset.read()
    gpu = default_device().type == "cuda"
    reasons = []
    name = model or ("openai/whisper-large-v2" if gpu else "openai/whisper-base")
    if not model:
        reasons.append(f"model {name}, as there is {'a' if gpu else 'no'} GPU (--model chooses another)")
    if subset is None:
        hours = manifest.splits["train"].hours
        subset = "1h" if not gpu and hours > CPU_HOURS and "1h" in manifest.subsets else "all"
        if subset != "all":
            reasons.append(f"subset {subset} of {hours:.1f} h, as there is no GPU (--subset chooses another)")
    lengths = read_split(dataset.root, "train", subset=subset).seconds
    hours = sum(lengths) / 3600
    epochs = epochs or (10 if hours < 0.2 else 4 if hours <= 2 else 3)
    encoded = sum(context_seconds(seconds, Context.TRUE_LENGTH) for seconds in lengths)
    steps = min(MOST_STEPS, max(1, math.ceil(epochs * encoded / BATCH_SECONDS)))
    reasons.append(f"{hours:.2f} h of speech: {steps} steps of {BATCH_SECONDS:.0f} s, about {epochs:g} epochs")
    reasons.append("context true_length: the encoder sees as much as the longest utterance of a batch, not 30 s")
    speeds: tuple[float, ...] = (1.0,)
    if LITTLE_HOURS[0] <= hours <= LITTLE_HOURS[1]:
        speeds = (0.9, 1.0, 1.1)
        reasons.append("little speech: each utterance is played at 0.9, 1.0 or 1.1 of its speed")
    reasons.append(f"recipe {recipe}: {RECIPE_WORDS[recipe]}")
    width = model_width(name)
    return AdaptationPlan(name, prompt, subset, width, steps, speeds, recipe, tuple(reasons))


def _config(plan: AdaptationPlan, method: Method, folder: AdaptFolder) -> RunConfig:
    body: dict[str, Any] = {
        "out": folder.run(method),
        "method": method,
        "recipe": plan.recipe,
        "model": {
            "name": plan.model, "language": str(plan.prompt.language), "language_token": plan.prompt.token,
        },
        "data": {"dataset": folder.dataset, "subset": plan.subset, "dev_utterances": DEV_UTTERANCES},
        "optimiser": {"warmup_steps": min(50, plan.steps // 10)},
        "augmentation": {"speeds": plan.speeds},
        "training": {
            "steps": plan.steps,
            "batch_seconds": BATCH_SECONDS,
            "micro_batch_seconds": None if default_device().type == "cuda" else CPU_MICRO_BATCH_SECONDS,
            "evaluate_every_steps": max(1, math.ceil(plan.steps / EVALUATIONS)),
        },
    }  # fmt: skip
    if method is Method.FULL:
        # Full fine-tuning moves every weight, so its rate is small, smallest for large models (arXiv 2212.04356, D.1).
        body["optimiser"]["learning_rate"] = 1e-5 if plan.width >= LARGE_WIDTH else 2e-5
    return RunConfig.model_validate(body)


def _mean_of_seeds(stages: Stages, first: RunConfig, folder: AdaptFolder, seeds: int) -> Path:
    """Train more runs that differ from the first in their seed, and merge all of them; return the merged run."""
    runs = [str(first.out)]
    for seed in range(1, seeds):
        name = f"{Method.LORA}-seed-{seed}"
        training = first.training.model_copy(update={"seed": first.training.seed + seed})
        config = first.model_copy(update={"out": folder.run(name), "training": training})
        write_text(folder.config(name), config.to_yaml())
        stages.begin("train", folder.config(name), "--resume")
        train(config, resume=True)
        runs.append(str(config.out))
    stages.begin("merge", *runs, "--out", folder.run(MEAN))
    return merge(runs, out=folder.run(MEAN)).root


def _evaluate(stages: Stages, plan: AdaptationPlan, folder: AdaptFolder, model: str, name: str) -> None:
    report = folder.report(name)
    stages.begin("evaluate", model, folder.dataset, *plan.prompt.options, "--name", name, "--out", report)
    evaluate(
        model, folder.dataset, out=report, name=name, language=plan.prompt.language,
        language_token=plan.prompt.token,
    )  # fmt: skip


def _held_out_utterance(dataset: Path, folder: AdaptFolder) -> tuple[Path, str]:
    """Write the test utterance of median length as a file; return it and its reference."""
    test = read_split(dataset, "test")
    index = sorted(range(len(test)), key=lambda i: (test.seconds[i], test.ids[i]))[len(test) // 2]
    row: dict[str, Any] = test.rows[index]
    clip = folder.transcripts / row["audio"]["path"]
    clip.parent.mkdir(parents=True, exist_ok=True)
    clip.write_bytes(row["audio"]["bytes"])
    return clip, test.texts[index]
