"""Convert a loaded Whisper to a CTranslate2 folder, which faster-whisper runs too."""

import tempfile
from pathlib import Path

from asr_lora.errors import DataError
from asr_lora.model.adapters.files import save_weights
from asr_lora.model.whisper import Whisper

COPIED = ["tokenizer.json", "preprocessor_config.json"]  # files of a Transformers folder that faster-whisper reads


def write_ctranslate2(whisper: Whisper, out: Path, quantisation: str) -> None:
    """Write a merged model in CTranslate2's format.

    Args:
        quantisation: how weights are stored, as CTranslate2 names it: float32, float16, int8_float32 or int8_float16.

    Raises:
        DataError: CTranslate2 cannot convert the model.
    """
    from ctranslate2.converters import TransformersConverter

    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".merged-") as scratch:
        save_weights(whisper, Path(scratch))
        converter = TransformersConverter(scratch, copy_files=COPIED)
        try:
            converter.convert(str(out), quantization=quantisation, force=True)
        except ValueError as error:
            raise DataError(f"CTranslate2 cannot convert {whisper.source} ({error})") from error
