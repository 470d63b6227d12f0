"""Transcribing by CTranslate2, the engine beneath faster-whisper: 8-bit weights on a CPU, float16 on a GPU.

Batched, and on as much of 30 s as there is of speech, where the model was trained for that: its encoder takes features
of any length, though faster-whisper gives it 30 s always.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata, util
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from asr_lora.audio.features import FRAMES_PER_SECOND, log_mel
from asr_lora.config import Context, Precision, Task
from asr_lora.decoding.engine import Adapters, Candidate, Decoding
from asr_lora.decoding.search import default_batch_seconds, loop_end
from asr_lora.decoding.word_times import STEP_SECONDS, require_alignment_heads
from asr_lora.errors import ConfigError, DataError, first_line
from asr_lora.exporting.formats import write_export
from asr_lora.exporting.recipe import Dtype, ExportRecipe, Format, Packing
from asr_lora.folders.atomic import replacing_folder
from asr_lora.folders.digests import fingerprint
from asr_lora.folders.run_folder import ExportFolder
from asr_lora.model.adapters.multi_lora import BASE
from asr_lora.model.ctranslate2_import import WEIGHTS
from asr_lora.model.locate import Place, Told, Voice, find_voices, locate, open_system, require_told, system_digest
from asr_lora.model.whisper import Whisper, sketch_whisper
from asr_lora.system.cache import cache_folder
from asr_lora.system.device import default_device
from asr_lora.system.progress import say

ENCODED_SECONDS = 16.0  # encoded at once on a CPU, where more leaves its caches: reports/engines
ALIGNED_SECONDS = 60.0  # aligned at once: it keeps what every head of every layer looks at
TOKENS, TOKENS_A_SECOND = 20, 8  # that a window is given at first; what has not ended by then is written anew
KEPT = {  # type of computing -> how weights are kept on disk
    "int8": ExportRecipe(Format.CTRANSLATE2, Dtype.FLOAT32, Packing.INT8),
    "float16": ExportRecipe(Format.CTRANSLATE2, Dtype.FLOAT16, None),
    "float32": ExportRecipe(Format.CTRANSLATE2, Dtype.FLOAT32, None),
}
Key = TypeVar("Key", bound=Hashable)
Found = TypeVar("Found")


@dataclass(frozen=True)
class CTranslate2Engine:
    """A Whisper in CTranslate2, once for each adapter that is merged into it."""

    whisper: Whisper  # without weights
    models: Mapping[str | None, Any]  # by adapter, as windows name it
    device: torch.device
    takes_processors = False

    @property
    def batch_seconds(self) -> float:
        return 2 * default_batch_seconds(self.whisper, self.device)  # only the decoder sees all of it at once

    def encode(self, waveforms: Sequence[np.ndarray], frames: int, adapters: Adapters) -> torch.Tensor:
        on_cpu = self.device.type == "cpu"
        at_once = max(1, int(ENCODED_SECONDS * FRAMES_PER_SECOND / frames)) if on_cpu else len(waveforms)

        def states(adapter: str | None, rows: list[int]) -> list[torch.Tensor]:
            found: list[torch.Tensor] = []
            for some in _few(rows, at_once):
                features = torch.stack([log_mel(waveforms[row], self.whisper.mel_bins, frames) for row in some])
                found += self._tensor(self.models[adapter].encode(_view(features)))
            return found

        return torch.stack(_by_key(adapters, states))

    def search(
        self, states: torch.Tensor, prompts: Sequence[Sequence[int]], adapters: Adapters, how: Decoding
    ) -> list[Candidate]:
        """Write what follows prompts, see `Engine.search`.

        Loops are cut off where `EndLoops` would have ended them, so their mean log-probability is that of the whole
        loop. What is drawn at a temperature depends on what was drawn before.

        Raises:
            ConfigError: there are processors, which CTranslate2 has no place for.
        """
        if how.processors:
            raise ConfigError("CTranslate2 has no place for what changes scores of tokens: take --engine torch")
        likely = min(how.max_new_tokens, int(TOKENS + TOKENS_A_SECOND * states.shape[1] * STEP_SECONDS))
        tries = (
            (likely, how.max_new_tokens) if how.beams == 1 else (how.max_new_tokens,)
        )  # a beam cut short may choose another

        def written(adapter: str | None, rows: list[int]) -> list[Candidate]:
            found: dict[int, Candidate] = {}
            for most in tries:
                left = [row for row in rows if row not in found]
                results = left and self.models[adapter].generate(
                    _view(states[left]), [list(prompts[row]) for row in left], beam_size=how.beams,
                    sampling_topk=0 if how.temperature else 1, sampling_temperature=how.temperature or 1.0,
                    max_length=_most_tokens(most, len(prompts[0])), return_scores=True, return_no_speech_prob=True,
                )  # fmt: skip
                for row, result in zip(left, results, strict=True):
                    tokens = result.sequences_ids[0]
                    end, count = loop_end(tokens), max(1, len(tokens))
                    if end is not None or len(tokens) < most or most == how.max_new_tokens:
                        mean = result.scores[0] * count / (count + 1)  # its own does not count the end
                        found[row] = Candidate(tokens[:end], mean, result.no_speech_prob)
            return [found[row] for row in rows]

        return _by_key(adapters, written)

    def languages(self, states: torch.Tensor, adapters: Adapters) -> list[str]:
        def heard(adapter: str | None, rows: list[int]) -> list[str]:
            ranked = self.models[adapter].detect_language(_view(states[rows]))
            return [likeliest[0][0].strip("<|>") for likeliest in ranked]

        return _by_key(adapters, heard)

    def token_times(
        self,
        states: torch.Tensor,
        prompts: Sequence[Sequence[int]],
        tokens: Sequence[Sequence[int]],
        seconds: Sequence[float],
        adapters: Adapters,
    ) -> list[np.ndarray]:
        require_alignment_heads(self.whisper)

        at_once = max(1, int(ALIGNED_SECONDS / (states.shape[1] * STEP_SECONDS)))

        def times(key: tuple[str | None, tuple[int, ...]], rows: list[int]) -> list[np.ndarray]:
            adapter, prompt = key
            found: list[np.ndarray] = []
            for some in _few(rows, at_once):
                results = self.models[adapter].align(
                    _view(states[some]), list(prompt[:-1]), [list(tokens[row]) for row in some],
                    [max(2, int(seconds[row] * FRAMES_PER_SECOND)) for row in some],
                )  # fmt: skip
                # (steps, token and frame); where there is no token, the end begins at once.
                paths = [np.array(result.alignments or [(0, 0)]) for result in results]
                found += [path[np.flatnonzero(np.diff(path[:, 0], prepend=-1)), 1] * STEP_SECONDS for path in paths]
            return found

        return _by_key(list(zip(adapters, map(tuple, prompts), strict=True)), times)

    def _tensor(self, view: Any) -> torch.Tensor:
        if self.device.type == "cpu":
            return torch.from_numpy(np.array(view))
        return torch.as_tensor(view, device=self.device)


def _few(rows: list[int], at_once: int) -> Iterator[list[int]]:
    return (rows[first : first + at_once] for first in range(0, len(rows), at_once))


def _view(tensor: torch.Tensor) -> Any:
    from ctranslate2 import StorageView

    tensor = tensor.contiguous()
    return StorageView.from_array(tensor.numpy() if tensor.device.type == "cpu" else tensor)


def _most_tokens(new: int, prompt: int) -> int:
    """The max_length that gives so many new tokens: CTranslate2 takes at most half of it, and the prompt off it."""
    return max(2 * new, new + prompt)


def _by_key(keys: Sequence[Key], work: Callable[[Key, list[int]], Sequence[Found]]) -> list[Found]:
    """Do work for the rows of each key, and put what comes of it in the order of the rows."""
    found: dict[int, Found] = {}
    for key in dict.fromkeys(keys):
        rows = [row for row, other in enumerate(keys) if other == key]
        found |= dict(zip(rows, work(key, rows), strict=True))
    return [found[row] for row in range(len(keys))]


def open_ctranslate2(
    model: str,
    *,
    language: str | None = None,
    language_token: str | None = None,
    task: Task | None = None,
    context: Context | None = None,
    precision: Precision = Precision.AUTO,
) -> CTranslate2Engine:
    """Load a model by any name, see `asr_lora.model.locate.open_system`, converted where it is not yet.

    Raises:
        ConfigError: the package is missing, or what `open_system` raises.
        DataError: the model cannot be used.
    """
    place, computes = locate(model), _computes(precision)
    told, task = require_told(place, language, language_token, task)
    folder = _converted(place, told, computes)
    whisper = sketch_whisper(
        str(folder), told.language, language_token=told.token, task=task, context=context or place.context
    )
    whisper = replace(whisper, source=place.name)
    return CTranslate2Engine(whisper, {None: _load(folder, computes)}, default_device())


def open_ctranslate2_voices(
    base: str,
    adapters: Mapping[str, str],
    *,
    task: Task | None = None,
    context: Context | None = None,
    precision: Precision = Precision.AUTO,
) -> tuple[CTranslate2Engine, dict[str, Voice]]:
    """Load a base, and once more with each adapter merged into it; see `asr_lora.model.locate.open_voices`."""
    computes = _computes(precision)
    places, voices = find_voices(base, adapters, context=context)
    told = {name: Told(str(voice.language), voice.told) for name, voice in voices.items()}
    first = next(iter(told.values()))
    folders: dict[str | None, Path] = {BASE: _converted(locate(base), first, computes)}
    folders |= {name: _converted(place, told[name], computes) for name, place in places.items()}
    whisper = sketch_whisper(str(folders[BASE]), str(first.token), task=task or Task.TRANSCRIBE)
    models = {name: _load(folder, computes) for name, folder in folders.items()}
    return CTranslate2Engine(whisper, models, default_device()), voices


def _computes(precision: Precision) -> str:
    """Type of computing, in CTranslate2's words."""
    if util.find_spec("ctranslate2") is None:
        raise ConfigError("--engine ctranslate2 needs a package: pip install 'asr_lora[ctranslate2]'")
    if precision is Precision.BF16:
        raise ConfigError("--precision bf16: CTranslate2 computes in int8 or float16 (auto), or float32, here")
    if precision is Precision.FP32:
        return "float32"
    return "int8" if default_device().type == "cpu" else "float16"


def _converted(place: Place, told: Told, computes: str) -> Path:
    """A model in CTranslate2's format: its own folder where it is one, or else made once and kept in the cache."""
    folder = Path(place.base).expanduser()
    if place.weights is None and (folder / WEIGHTS).is_file():
        return folder
    recipe = KEPT[computes]
    made_with = metadata.version("ctranslate2")
    folder = cache_folder() / "ctranslate2" / fingerprint(system_digest(place), asdict(recipe), made_with)
    if not (folder / WEIGHTS).is_file():
        say(f"converting {place.name} for CTranslate2 ({computes}), once: {folder}")
        whisper = open_system(
            place, language=told.language, language_token=told.token, precision=Precision.FP32
        ).whisper
        folder.parent.mkdir(parents=True, exist_ok=True)
        with replacing_folder(folder) as draft:
            write_export(place, whisper, recipe, ExportFolder(draft))
    return folder


def _load(folder: Path, computes: str) -> Any:
    import ctranslate2

    device = default_device()
    ctranslate2.set_random_seed(0)  # a file alone is transcribed the same each time
    try:
        return ctranslate2.models.Whisper(
            str(folder), device=device.type, device_index=device.index or 0, compute_type=computes,
            intra_threads=torch.get_num_threads(),
        )  # fmt: skip
    except (RuntimeError, ValueError) as error:
        raise DataError(f"CTranslate2 cannot load {folder} ({first_line(error)}): convert it again") from error
