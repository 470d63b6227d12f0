"""Do segment timestamps survive training? Three dev utterances in a row, their boundaries known, in a padded window.

    python tests/benchmarks/timestamps.py DATASET MODEL [MODEL …]

Each model transcribes the windows with timestamps through Transformers' own `generate`. Printed: windows with any inner
timestamp, boundaries found within half a second, and the median distance from a boundary to the nearest timestamp.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
import torch

from asr_lora.config import Context
from asr_lora.dataset.reading import read_split
from asr_lora.language import forced_prompt
from asr_lora.model.open_model import open_model

GAP_SECONDS = 0.3
WINDOWS = 20


def boundaries(lengths: list[float]) -> list[float]:
    """Where the first two of three utterances end, and the last two begin."""
    ends, now = [], 0.0
    for length in lengths[:-1]:
        now += length
        ends += [now, now + GAP_SECONDS]
        now += GAP_SECONDS
    return ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--language", default=None)
    options = parser.parse_args()
    dev = read_split(options.dataset, "dev")
    short = [index for index, seconds in enumerate(dev.seconds) if 2.0 < seconds < 8.0][: 3 * WINDOWS]
    groups = [short[start : start + 3] for start in range(0, len(short) - 2, 3)]
    print("| model | windows with inner timestamps | boundaries within 0.5 s | median distance, s |")
    print("| --- | ---: | ---: | ---: |")
    for name in options.models:
        whisper = open_model(name, forced_prompt(options.language), context=Context.FULL)
        settings = whisper.core.generation_config
        zero = settings.no_timestamps_token_id + 1
        inner, distances = 0, []
        from transformers import WhisperFeatureExtractor

        extractor = WhisperFeatureExtractor(feature_size=whisper.mel_bins)
        for group in groups:
            silence = np.zeros(int(GAP_SECONDS * 16_000), dtype=np.float32)
            pieces = [piece for index in group for piece in (dev.waveform(index), silence)]
            features = extractor(np.concatenate(pieces), sampling_rate=16_000, return_tensors="pt").input_features
            with torch.inference_mode():
                tokens = whisper.core.generate(
                    features.to(whisper.dtype), return_timestamps=True, language=whisper.prompt.forced_language,
                    task="transcribe", num_beams=1, max_new_tokens=200,
                )[0]  # fmt: skip
            times = [(int(token) - zero) * 0.02 for token in tokens if int(token) >= zero]
            wanted = boundaries([dev.seconds[index] for index in group])
            within = [time for time in times if 0.3 < time < wanted[-1] + 0.5]
            inner += bool(within)
            distances += [min((abs(time - edge) for time in times), default=30.0) for edge in wanted]
        near = sum(distance <= 0.5 for distance in distances) / len(distances)
        print(f"| {name} | {inner} of {len(groups)} | {100 * near:.0f} % | {statistics.median(distances):.2f} |")


if __name__ == "__main__":
    main()
