"""Transcribe up to 30 s of speech per row, in batches: what `evaluate`, dev scoring and `transcribe` all call."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessorList
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutput

from asr_lora.audio.decode import SAMPLE_RATE
from asr_lora.audio.features import context_frames, log_mel
from asr_lora.decoding.decoding_options import DecodingOptions
from asr_lora.model.whisper import Whisper, evaluating

GREEDY = DecodingOptions()
MAX_BATCH = 32  # rows decoded together: one that loops keeps all of them waiting
LOOPS = [(period, max(5, math.ceil(15 / period))) for period in range(1, 9)]  # tokens and repeats, see EndLoops


class EndLoops:
    """End a hypothesis that repeats itself, as Whisper does without end on speech that it cannot recognise.

    A loop is one to eight tokens, repeated five times or more and over fifteen tokens or more, which no speech needs.
    Only the looping row ends; the other rows of its batch go on.
    """

    def __init__(self, prompt_tokens: int, end_token: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.end_token = end_token

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Leave only the end token to rows that loop: (rows, tokens), (rows, vocabulary) -> (rows, vocabulary)."""
        written = input_ids[:, self.prompt_tokens :]
        looping = torch.zeros(len(written), dtype=torch.bool, device=written.device)
        for period, repeats in LOOPS:
            if written.shape[1] >= repeats * period:
                tail = written[:, -repeats * period :].reshape(len(written), repeats, period)
                looping |= (tail == tail[:, :1]).flatten(1).all(dim=1)
        only_end = torch.full_like(scores, -torch.inf)
        only_end[:, self.end_token] = 0.0
        return torch.where(looping[:, None], only_end, scores)


def loop_end(tokens: Sequence[int]) -> int | None:
    """Return after how many tokens `EndLoops` ends a hypothesis; None: it does not loop."""
    for count in range(1, len(tokens) + 1):
        for period, repeats in LOOPS:
            tail = list(tokens[max(0, count - repeats * period) : count])
            if tail == tail[:period] * repeats:
                return count
    return None


class MeanLogProbability:
    """Sum the log-probabilities of the chosen tokens, before a temperature changes them; for a beam of 1.

    A processor sees scores before the choice, so it counts each choice when it sees the next scores.
    """

    def __init__(self, end_token: int) -> None:
        self.end_token = end_token
        self.before: torch.Tensor | None = None  # log-probabilities from which the last token was chosen

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Record the scores, (rows, vocabulary), and return them unchanged."""
        self.count(input_ids)
        self.before = scores.float().log_softmax(-1)
        return scores

    def count(self, input_ids: torch.Tensor) -> None:
        """Add the last token of every row that had not ended."""
        if self.before is None:
            self.total = torch.zeros(len(input_ids), device=input_ids.device)
            self.tokens = torch.zeros_like(self.total)
            self.going = torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
            return
        chosen = input_ids[:, -1]
        self.total += self.before.gather(1, chosen[:, None])[:, 0].where(self.going, 0.0)
        self.tokens += self.going
        self.going &= chosen != self.end_token

    def of_rows(self, sequences: torch.Tensor) -> list[float]:
        """Return the mean log-probability of every row's tokens and its end, when all are written."""
        self.count(sequences)
        return [float(mean) for mean in self.total / self.tokens]


@dataclass(frozen=True)
class SearchResult:
    """Tokens and confidence of every row of a batch."""

    tokens: list[list[int]]  # without prompt, end token and what follows it
    log_probabilities: list[float]  # mean over a row's tokens and its end; nan where they were not asked for


def decode_batch(whisper: Whisper, waveforms: Sequence[np.ndarray], options: DecodingOptions = GREEDY) -> list[str]:
    """Transcribe recordings of at most 30 s in one batch.

    The decoder is given the prompt (language and task forced) and nothing of any reference. The encoder sees 30 s,
    or at `Context.TRUE_LENGTH` the longest recording and a short silent tail.

    Args:
        waveforms: samples, each of shape (samples,), float32, 16 kHz.

    Returns:
        One text per recording, without surrounding blanks.
    """
    longest = max(len(waveform) for waveform in waveforms) / SAMPLE_RATE
    with evaluating(whisper.model):
        encoder_outputs = encode_batch(whisper, waveforms, context_frames(longest, whisper.context))
        return decode_encoded(whisper, encoder_outputs, options)


def encode_batch(whisper: Whisper, waveforms: Sequence[np.ndarray], frames: int) -> torch.Tensor:
    """Run the encoder on recordings, each padded to so many frames: returns shape (batch, frames / 2, width)."""
    return whisper.encode(torch.stack([log_mel(waveform, whisper.mel_bins, frames) for waveform in waveforms]))


def decode_encoded(whisper: Whisper, encoder_outputs: torch.Tensor, options: DecodingOptions = GREEDY) -> list[str]:
    """Transcribe encoder outputs of shape (batch, frames / 2, width): one text per row."""
    prompts = torch.tensor([whisper.prompt_tokens] * len(encoder_outputs), device=whisper.device)
    return [plain_text(whisper, tokens) for tokens in search(whisper, encoder_outputs, prompts, options).tokens]


def plain_text(whisper: Whisper, tokens: Sequence[int]) -> str:
    """Return the text of tokens, without timestamps, special tokens and surrounding blanks."""
    return str(whisper.tokenizer.decode([token for token in tokens if token < whisper.end_token])).strip()


def search(
    whisper: Whisper,
    encoder_outputs: torch.Tensor,
    prompts: torch.Tensor,
    options: DecodingOptions,
    *,
    confidence: bool = False,
) -> SearchResult:
    """Write the tokens that follow prompts: the one search beneath all decoding with PyTorch.

    Args:
        encoder_outputs: shape (batch, frames / 2, width).
        prompts: tokens given before the first one that is written, shape (batch, tokens).
        options: its temperature is used, not its fallback; samples come from torch's generator.
        confidence: whether log-probabilities are computed.
    """
    beams = options.beams
    mean = MeanLogProbability(whisper.end_token) if confidence and beams == 1 else None
    given = [*options.processors, *([mean] if mean else []), EndLoops(prompts.shape[1], whisper.end_token)]
    with evaluating(whisper.model):
        # Whisper's own `generate` takes 3000 frames only; the one beneath it takes the encoder's outputs.
        found = GenerationMixin.generate(
            whisper.core,
            encoder_outputs=BaseModelOutput(last_hidden_state=encoder_outputs),
            attention_mask=torch.ones(encoder_outputs.shape[:2], dtype=torch.long, device=encoder_outputs.device),
            decoder_input_ids=prompts,
            decoder_attention_mask=torch.ones_like(prompts),
            generation_config=_generation(whisper, options, scores=confidence and beams > 1),
            logits_processor=LogitsProcessorList(given),
        )
        if confidence:
            means = mean.of_rows(found.sequences) if mean else found.sequences_scores.tolist()
        else:
            means = [math.nan] * len(encoder_outputs)
    rows = found.sequences[:, prompts.shape[1] :].tolist()
    return SearchResult([list(takewhile(lambda token: token != whisper.end_token, row)) for row in rows], means)


def default_batch_seconds(whisper: Whisper, device: torch.device | None = None) -> float:
    """Return the seconds of audio to decode at once: a few 30 s windows of the smallest models, fewer of larger ones.

    More takes more memory and, on a CPU, more time.

    Args:
        device: of the decoder; that of the model's weights when not given.
    """
    cuda = (device or whisper.device).type == "cuda"
    return 120.0 * min(1.0, 512 / int(whisper.core.config.d_model)) * (16.0 if cuda else 1.0)


def _generation(whisper: Whisper, options: DecodingOptions, *, scores: bool) -> GenerationConfig:
    settings = whisper.core.generation_config
    sampling = {"temperature": options.temperature, "top_k": 0} if options.temperature > 0 else {}
    return GenerationConfig(
        max_new_tokens=options.max_new_tokens,
        num_beams=options.beams,
        do_sample=options.temperature > 0,
        **sampling,
        return_dict_in_generate=True,
        output_scores=scores,
        # Whatever is missing here comes from the model's own settings, which a fine-tune on the hub may have changed.
        length_penalty=1.0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        suppress_tokens=settings.suppress_tokens,
        begin_suppress_tokens=settings.begin_suppress_tokens,
        eos_token_id=whisper.end_token,
        pad_token_id=whisper.end_token,
        decoder_start_token_id=whisper.prompt_tokens[0],
    )


def batches_by_length(seconds: Sequence[float], cost: Sequence[float], *, batch_seconds: float) -> Iterator[list[int]]:
    """Group indices of recordings of similar length, longest first, so that a lack of memory shows early.

    No recording is padded to more than twice its length.

    Args:
        seconds: length of each recording.
        cost: seconds of each that the encoder sees.
        batch_seconds: most of these in a batch: its size times its highest cost; a single recording may exceed it.
    """
    batch: list[int] = []
    for index in sorted(range(len(seconds)), key=lambda i: (-seconds[i], i)):
        if batch:
            longest = cost[batch[0]]
            full = len(batch) == MAX_BATCH or (len(batch) + 1) * longest > batch_seconds
            if full or cost[index] < longest / 2:
                yield batch
                batch = []
        batch.append(index)
    if batch:
        yield batch
