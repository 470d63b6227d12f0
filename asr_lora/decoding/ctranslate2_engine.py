"""Transcribe with CTranslate2, the engine of faster-whisper: 8-bit weights on a CPU, float16 on a GPU.

Windows are batched. A model that was trained on true lengths gets no padding to 30 s: CTranslate2's encoder takes
features of any length, though faster-whisper always gives it 30 s.
"""

import os
import shutil
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from asr_lora.audio.decode import SAMPLE_RATE
from asr_lora.audio.features import FRAMES_PER_SECOND, context_frames, log_mel
from asr_lora.config import Context, Precision
from asr_lora.decoding.decoding_options import DecodingOptions
from asr_lora.decoding.engine import Adapters, EncodedWindows
from asr_lora.decoding.hypothesis import Hypothesis
from asr_lora.decoding.search import default_batch_seconds, loop_end, plain_text
from asr_lora.decoding.word_times import STEP_SECONDS, require_alignment_heads
from asr_lora.errors import ConfigError, DataError, first_line
from asr_lora.folders.atomic import replacing_folder
from asr_lora.folders.digests import fingerprint, folder_bytes
from asr_lora.language import ForcedPrompt
from asr_lora.model.adapters.multi_lora import BASE
from asr_lora.model.ctranslate2_export import write_ctranslate2
from asr_lora.model.ctranslate2_import import WEIGHTS
from asr_lora.model.find_model import AdapterSet, NamedModel, find_model, model_identity
from asr_lora.model.open_model import open_model
from asr_lora.model.whisper import Whisper, load_meta_whisper
from asr_lora.system.cache import cache_folder
from asr_lora.system.device import default_device
from asr_lora.system.locks import alone
from asr_lora.system.progress import say

ENCODED_SECONDS = 16.0  # encoded at once on a CPU, where more leaves its caches: reports/engines
ALIGNED_SECONDS = 60.0  # aligned at once: CTranslate2 keeps the attention of every head of every layer
TOKENS, TOKENS_PER_SECOND = 20, 8  # first limit of a window; one that has not ended by then is decoded again
MOST_CACHED_BYTES = 20 * 2**30  # of converted models: whisper-large-v2 in 8 bits takes 1.6 GB
STORED = {"int8": "int8_float32", "float16": "float16", "float32": "float32"}  # computing type -> weights on disk
Key = TypeVar("Key", bound=Hashable)
Found = TypeVar("Found")


@dataclass(frozen=True)
class CTranslate2Engine:
    """A Whisper in CTranslate2: one model for each adapter, which is merged into it."""

    whisper: Whisper  # without weights
    models: Mapping[str | None, Any]  # ctranslate2.models.Whisper by name of the adapter
    device: torch.device
    dtype: str
    name = "ctranslate2"
    takes_processors = False

    @property
    def batch_seconds(self) -> float:
        return 2 * default_batch_seconds(self.whisper, self.device)  # only the decoder sees all of it at once

    def encode(self, waveforms: Sequence[np.ndarray], frames: int, adapters: Adapters) -> EncodedWindows:
        on_cpu = self.device.type == "cpu"
        at_once = max(1, int(ENCODED_SECONDS * FRAMES_PER_SECOND / frames)) if on_cpu else len(waveforms)

        def encode(adapter: str | None, rows: list[int]) -> list[torch.Tensor]:
            found: list[torch.Tensor] = []
            for some in _few(rows, at_once):
                features = torch.stack([log_mel(waveforms[row], self.whisper.mel_bins, frames) for row in some])
                found += self._tensor(self.models[adapter].encode(_view(features)))
            return found

        return EncodedWindows(torch.stack(_by_key(adapters, encode)), adapters)

    def search(
        self, windows: EncodedWindows, prompts: Sequence[Sequence[int]], options: DecodingOptions
    ) -> list[Hypothesis]:
        """Decode windows once, see `Engine.search`.

        Loops are cut off where `EndLoops` would have ended them, so their mean log-probability is that of the whole
        loop. A sample depends on the samples before it.

        Raises:
            ConfigError: there are processors, which CTranslate2 does not support.
        """
        if options.processors:
            raise ConfigError("CTranslate2 lets nothing change the scores of tokens: take --engine torch")
        limit, temperature = options.max_new_tokens, options.temperature
        likely = min(limit, int(TOKENS + TOKENS_PER_SECOND * windows.outputs.shape[1] * STEP_SECONDS))
        limits = (likely, limit) if options.beams == 1 else (limit,)  # a beam that is cut short may end otherwise

        def decode(adapter: str | None, rows: list[int]) -> list[Hypothesis]:
            found: dict[int, Hypothesis] = {}
            for most in limits:
                left = [row for row in rows if row not in found]
                results = left and self.models[adapter].generate(
                    _view(windows.outputs[left]), [list(prompts[row]) for row in left], beam_size=options.beams,
                    sampling_topk=0 if temperature else 1, sampling_temperature=temperature or 1.0,
                    max_length=_most_tokens(most, len(prompts[0])), return_scores=True, return_no_speech_prob=True,
                )  # fmt: skip
                for row, result in zip(left, results, strict=True):
                    tokens = result.sequences_ids[0]
                    end, count = loop_end(tokens), max(1, len(tokens))
                    if end is not None or len(tokens) < most or most == limit:
                        text = plain_text(self.whisper, tokens[:end])
                        mean = result.scores[0] * count / (count + 1)  # CTranslate2's mean does not count the end
                        found[row] = Hypothesis(tuple(tokens[:end]), text, mean, result.no_speech_prob, temperature)
            return [found[row] for row in rows]

        return _by_key(windows.adapters, decode)

    def texts(self, waveforms: Sequence[np.ndarray], options: DecodingOptions) -> list[str]:
        longest = max(len(waveform) for waveform in waveforms) / SAMPLE_RATE
        windows = self.encode(waveforms, context_frames(longest, self.whisper.context), [None] * len(waveforms))
        found = self.search(windows, [self.whisper.prompt_tokens] * len(waveforms), options)
        return [hypothesis.text for hypothesis in found]

    def detect_languages(self, windows: EncodedWindows) -> list[str]:
        def detect(adapter: str | None, rows: list[int]) -> list[str]:
            ranked = self.models[adapter].detect_language(_view(windows.outputs[rows]))
            return [likeliest[0][0].strip("<|>") for likeliest in ranked]

        return _by_key(windows.adapters, detect)

    def token_times(
        self,
        windows: EncodedWindows,
        prompts: Sequence[Sequence[int]],
        tokens: Sequence[Sequence[int]],
        seconds: Sequence[float],
    ) -> list[np.ndarray]:
        require_alignment_heads(self.whisper)
        # (steps, token and frame); where there is no token, the end begins at once.
        paths = [np.array(result.alignments or [(0, 0)]) for result in self._align(windows, prompts, tokens, seconds)]
        return [path[np.flatnonzero(np.diff(path[:, 0], prepend=-1)), 1] * STEP_SECONDS for path in paths]

    def token_scores(
        self, windows: EncodedWindows, prompts: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]]
    ) -> list[np.ndarray]:
        seconds = [windows.outputs.shape[1] * STEP_SECONDS] * len(tokens)
        aligned = self._align(windows, prompts, tokens, seconds)
        return [np.log(np.maximum(result.text_token_probs, np.finfo(np.float32).tiny)) for result in aligned]

    def _align(
        self,
        windows: EncodedWindows,
        prompts: Sequence[Sequence[int]],
        tokens: Sequence[Sequence[int]],
        seconds: Sequence[float],
    ) -> list[Any]:
        """Return CTranslate2's alignment of each window: the frames and the probabilities of its tokens."""
        at_once = max(1, int(ALIGNED_SECONDS / (windows.outputs.shape[1] * STEP_SECONDS)))

        def align(key: tuple[str | None, tuple[int, ...]], rows: list[int]) -> list[Any]:
            adapter, prompt = key
            found: list[Any] = []
            for some in _few(rows, at_once):
                found += self.models[adapter].align(
                    _view(windows.outputs[some]), list(prompt[:-1]), [list(tokens[row]) for row in some],
                    [max(2, int(seconds[row] * FRAMES_PER_SECOND)) for row in some],
                )  # fmt: skip
            return found

        return _by_key(list(zip(windows.adapters, map(tuple, prompts), strict=True)), align)

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
    """Return the max_length for so many new tokens: CTranslate2 takes half of it at most, less the prompt."""
    return max(2 * new, new + prompt)


def _by_key(keys: Sequence[Key], work: Callable[[Key, list[int]], Sequence[Found]]) -> list[Found]:
    """Do work on the rows of each key together, and return the results in the order of the rows."""
    found: dict[int, Found] = {}
    for key in dict.fromkeys(keys):
        rows = [row for row, other in enumerate(keys) if other == key]
        found |= dict(zip(rows, work(key, rows), strict=True))
    return [found[row] for row in range(len(keys))]


def open_ctranslate2(
    model: NamedModel, prompt: ForcedPrompt, *, context: Context | None = None, precision: Precision = Precision.AUTO
) -> CTranslate2Engine:
    """Load a model, converted first where it is not yet.

    Raises:
        ConfigError: the package is missing, or `asr_lora.model.open_model.open_model` raises it.
        DataError: the model cannot be used.
    """
    computes = _computing_type(precision)
    folder = _converted(model, prompt, computes)
    whisper = load_meta_whisper(str(folder), prompt, context=context or model.context)
    return CTranslate2Engine(
        replace(whisper, source=model.name), {None: _load(folder, computes)}, default_device(), computes
    )


def open_ctranslate2_adapters(adapters: AdapterSet, precision: Precision = Precision.AUTO) -> CTranslate2Engine:
    """Load a base, and once more with each adapter merged into it; raises as `open_ctranslate2`."""
    computes = _computing_type(precision)
    folders: dict[str | None, Path] = {BASE: _converted(find_model(adapters.base), adapters.prompt, computes)}
    for name, model in adapters.models.items():
        folders[name] = _converted(model, adapters.selections[name].prompt, computes)
    whisper = load_meta_whisper(str(folders[BASE]), adapters.prompt)
    models = {name: _load(path, computes) for name, path in folders.items()}
    return CTranslate2Engine(whisper, models, default_device(), computes)


def _computing_type(precision: Precision) -> str:
    """Return the type that CTranslate2 computes in, by its own name."""
    if precision is Precision.BF16:
        raise ConfigError("--precision bf16: CTranslate2 computes in int8 or float16 (auto), or float32, here")
    if precision is Precision.FP32:
        return "float32"
    return "int8" if default_device().type == "cpu" else "float16"


def _converted(model: NamedModel, prompt: ForcedPrompt, computes: str) -> Path:
    """Return a model's folder in CTranslate2's format: its own, or one that is converted once and kept in the cache."""
    folder = Path(model.base).expanduser()
    if model.weights is None and not model.parts and (folder / WEIGHTS).is_file():
        return folder
    folder = cache_folder() / "ctranslate2" / _cache_key(model, STORED[computes])
    if (folder / WEIGHTS).is_file():
        os.utime(folder)
        return folder
    with alone(folder.with_name(f".{folder.name}.lock"), "", wait=True):
        if (folder / WEIGHTS).is_file():  # another process has made it in the meantime
            return folder
        whisper = open_model(model, prompt, precision=Precision.FP32)
        say(f"converting {model.name} for CTranslate2 ({computes}), once: {folder}")
        with replacing_folder(folder) as draft:
            write_ctranslate2(whisper, draft, STORED[computes])
        _forget_oldest(folder.parent, keep=folder)
    return folder


def _forget_oldest(cache: Path, *, keep: Path) -> None:
    """Remove the converted models that were used longest ago, while all of them together take too much disk space."""
    folders = [path for path in cache.iterdir() if path.is_dir()]  # there are locks beside them
    kept = sorted(folders, key=lambda folder: folder.stat().st_mtime, reverse=True)
    sizes = {folder: folder_bytes(folder) for folder in kept}
    for folder in reversed(kept):
        if folder != keep and sum(sizes.values()) > MOST_CACHED_BYTES:
            shutil.rmtree(folder, ignore_errors=True)
            del sizes[folder]


def _cache_key(model: NamedModel, stored: str) -> str:
    """Return the name of a converted model in the cache; earlier versions used the same, so it is found again."""
    quantise = "int8" if stored.startswith("int8_") else None
    recipe = {"format": "ctranslate2", "dtype": stored.removeprefix("int8_"), "quantise": quantise}
    return fingerprint(model_identity(model), recipe, metadata.version("ctranslate2"))


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
