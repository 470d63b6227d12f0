"""Score labels with a model: the teacher-forced loss of each text, and the transcript of the model itself."""

import functools
import math
from collections.abc import Collection, Iterator

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutput

from asr_lora.audio.features import FULL_SECONDS, context_seconds, frames_of
from asr_lora.config import Context
from asr_lora.dataset.reading import Split
from asr_lora.decoding.decoding_options import MAX_NEW_TOKENS, DecodingOptions
from asr_lora.decoding.search import batches_by_length, decode_encoded, default_batch_seconds, encode_batch
from asr_lora.labels.model_scores import ModelScore
from asr_lora.metrics.normalize import basic
from asr_lora.metrics.wer import character_errors
from asr_lora.model.whisper import Whisper, evaluating
from asr_lora.training.batches import IGNORED, TrainingSet, collated
from asr_lora.training.examples import plain_examples

# A base Whisper repeats itself where one second of silence follows the speech, but not where three do (whisper-base:
# the same WER as at 30 s). The shorter context costs less.
SILENT_TAIL_SECONDS = 5.0
SPARE_TOKENS = 20  # a hypothesis of twice the label's tokens and these already shows that the two differ


def score_labels(whisper: Whisper, data: Split, name: str, *, done: Collection[str] = ()) -> Iterator[list[ModelScore]]:
    """Yield the scores of a split's utterances, a batch at a time, longest first.

    The encoder runs once and the decoder three times: on the label with the audio, on the label with silence, and free.

    Args:
        whisper: the model.
        data: the utterances; those whose text is too long for the decoder are left out.
        name: of the split.
        done: ids that are scored already. A batch that holds only these is left out, and no other batch changes, so
            that scores are the same after an interruption: the batch of an utterance changes its last digits.
    """
    known, language = TrainingSet(data, whisper), whisper.prompt.language or "en"
    seconds = known.seconds
    contexts = [_context_seconds(length, whisper.context) for length in seconds]
    targets = [known.target(example) for example in plain_examples(seconds)]
    silence = functools.cache(functools.partial(_silence, whisper))
    for batch in batches_by_length(seconds, contexts, batch_seconds=default_batch_seconds(whisper)):
        if all(known.split.ids[index] in done for index in batch):
            continue
        inputs, labels = collated([targets[index] for index in batch])
        with evaluating(whisper.model):
            frames = frames_of(max(contexts[index] for index in batch))
            encoded = encode_batch(whisper, [known.split.waveform(index) for index in batch], frames)
            losses = token_losses(whisper, encoded, inputs, labels)
            quiet = silence(frames).expand(len(batch), -1, -1)
            silent_losses = token_losses(whisper, quiet, inputs, labels)
            limit = min(MAX_NEW_TOKENS, 2 * max(len(known.tokens[index]) for index in batch) + SPARE_TOKENS)
            texts = decode_encoded(whisper, encoded, DecodingOptions(max_new_tokens=limit))
        labels_of = [known.split.texts[index] for index in batch]
        errors = character_errors(*([basic(text, language) for text in side] for side in (labels_of, texts)))
        yield [
            ModelScore(
                split=name,
                id=known.split.ids[index],
                tokens=len(loss) - 1,
                loss=_mean(loss[:-1]),
                silent_loss=_mean(silent[:-1]),
                tail_gain=round(_mean(_last_third(silent[:-1])) - _mean(_last_third(loss[:-1])), 4),
                end_loss=round(loss[-1], 4),
                hypothesis=text,
                cer=round(error.rate, 4),
            )
            for index, loss, silent, text, error in zip(batch, losses, silent_losses, texts, errors, strict=True)
        ]


def token_losses(
    whisper: Whisper, encoded: torch.Tensor, inputs: torch.Tensor, labels: torch.Tensor
) -> list[list[float]]:
    """Compute the teacher-forced cross-entropy of each target token, in nats, row by row.

    Args:
        whisper: the model.
        encoded: encoder outputs, shape (batch, frames / 2, width).
        inputs: tokens of the decoder's input, shape (batch, tokens).
        labels: the token that follows each, same shape; IGNORED where it is no target.
    """
    inputs, labels = inputs.to(whisper.device), labels.to(whisper.device)
    logits = whisper.model(
        encoder_outputs=BaseModelOutput(last_hidden_state=encoded), decoder_input_ids=inputs, use_cache=False
    ).logits  # (batch, tokens, vocabulary)
    losses = torch.nn.functional.cross_entropy(
        logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
    )
    return [row[asked].tolist() for row, asked in zip(losses, labels != IGNORED, strict=True)]


def _context_seconds(seconds: float, context: Context) -> float:
    """Return the encoder context: as the model was trained, or with enough silence for a base model."""
    if context is Context.TRUE_LENGTH:
        return context_seconds(seconds, context)
    return min(float(math.ceil(seconds + SILENT_TAIL_SECONDS)), FULL_SECONDS)


def _silence(whisper: Whisper, frames: int) -> torch.Tensor:
    return encode_batch(whisper, [np.zeros(1, dtype=np.float32)], frames)


def _last_third(values: list[float]) -> list[float]:
    return values[2 * len(values) // 3 :]


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 4) if values else 0.0
