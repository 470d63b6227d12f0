"""Up to 30 s of speech a clip, batched -> text. What `evaluate`, dev scoring in `train` and `transcribe` all call."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessorList
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutput

from asr_lora.audio.decode import SAMPLE_RATE
from asr_lora.audio.features import context_frames, context_seconds, log_mel
from asr_lora.dataset.reading import Split
from asr_lora.model.whisper import Whisper, evaluating

Processor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # tokens and scores -> scores, as transformers has it

MAX_BATCH = 32  # clips decoded together: one that loops keeps all of them waiting
LOOPS = [(period, max(5, math.ceil(15 / period))) for period in range(1, 9)]  # tokens, and how often: see EndLoops
MAX_NEW_TOKENS = 224  # half the text context, as in openai/whisper, decoding.py: DecodingOptions.sample_len


class EndLoops:
    """Ends a hypothesis that repeats itself, as Whisper does without end on what it cannot make out.

    A loop is one to eight tokens said five times over or more, fifteen tokens at least: no speech needs that. Only the
    looping clip ends; the others of its batch go on.
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
    """After how many tokens `EndLoops` ends a hypothesis; None: it does not loop."""
    for count in range(1, len(tokens) + 1):
        for period, repeats in LOOPS:
            tail = list(tokens[max(0, count - repeats * period) : count])
            if tail == tail[:period] * repeats:
                return count
    return None


class Confidence:
    """Adds up the log-probabilities of what is written, before a temperature changes them; for a beam of 1.

    A processor is shown scores before the choice, so the choice is counted when it is shown the next ones.
    """

    def __init__(self, end_token: int) -> None:
        self.end_token = end_token
        self.before: torch.Tensor | None = None  # log-probabilities that the last choice was made from

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Look at the scores, (rows, vocabulary), and leave them as they are."""
        self.count(input_ids)
        self.before = scores.float().log_softmax(-1)
        return scores

    def count(self, input_ids: torch.Tensor) -> None:
        """Count the last token of every row that had not ended."""
        if self.before is None:
            self.total = torch.zeros(len(input_ids), device=input_ids.device)
            self.tokens = torch.zeros_like(self.total)
            self.going = torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
            return
        chosen = input_ids[:, -1]
        self.total += self.before.gather(1, chosen[:, None])[:, 0].where(self.going, 0.0)
        self.tokens += self.going
        self.going &= chosen != self.end_token

    def means(self, sequences: torch.Tensor) -> list[float]:
        """Mean log-probability of every row's tokens, its end included, when all is written."""
        self.count(sequences)
        return [float(mean) for mean in self.total / self.tokens]


@dataclass(frozen=True)
class Written:
    """What a search wrote."""

    tokens: list[list[int]]  # of every row, without prompt, end token and what follows it
    log_probabilities: list[float]  # mean over its tokens and end; nan where nobody asked


def decode_batch(
    whisper: Whisper, waveforms: Sequence[np.ndarray], *, beams: int = 1, max_new_tokens: int = MAX_NEW_TOKENS
) -> list[str]:
    """Transcribe clips of at most 30 s.

    The decoder is given the prompt (language and task forced) and nothing of any reference. The encoder sees 30 s,
    or at `Context.TRUE_LENGTH` the longest clip and its tail.

    Args:
        waveforms: samples, each of shape (samples,), float32, 16 kHz.
        beams: width of the beam search; 1 is greedy.
        max_new_tokens: that a clip is given.

    Returns:
        One text a clip, without surrounding blanks.
    """
    longest = max(len(waveform) for waveform in waveforms) / SAMPLE_RATE
    with evaluating(whisper.model):
        states = encode_batch(whisper, waveforms, context_frames(longest, whisper.context))
        return decode_states(whisper, states, beams=beams, max_new_tokens=max_new_tokens)


def encode_batch(whisper: Whisper, waveforms: Sequence[np.ndarray], frames: int) -> torch.Tensor:
    """What the encoder says of clips, seeing so many frames of each: shape (batch, frames / 2, width)."""
    return whisper.encode(torch.stack([log_mel(waveform, whisper.mel_bins, frames) for waveform in waveforms]))


def decode_states(
    whisper: Whisper, states: torch.Tensor, *, beams: int = 1, max_new_tokens: int = MAX_NEW_TOKENS
) -> list[str]:
    """Transcribe what the encoder said of clips, shape (batch, frames / 2, width)."""
    prompts = torch.tensor([whisper.prompt] * len(states), device=whisper.device)
    written = search(whisper, states, prompts, beams=beams, max_new_tokens=max_new_tokens)
    return [plain_text(whisper, tokens) for tokens in written.tokens]


def plain_text(whisper: Whisper, tokens: Sequence[int]) -> str:
    """Text of tokens, without timestamps, special tokens and surrounding blanks."""
    return str(whisper.tokenizer.decode([token for token in tokens if token < whisper.end_token])).strip()


def search(
    whisper: Whisper,
    states: torch.Tensor,
    prompts: torch.Tensor,
    *,
    beams: int = 1,
    max_new_tokens: int = MAX_NEW_TOKENS,
    temperature: float = 0.0,
    processors: Sequence[Processor] = (),
    confidence: bool = False,
) -> Written:
    """Write what follows prompts, given what the encoder said: the one search beneath all decoding.

    Args:
        states: what the encoder said of clips, shape (batch, frames / 2, width).
        prompts: tokens given before the first one that is written, shape (batch, tokens).
        beams: width of the beam search; 1 is greedy.
        max_new_tokens: that a clip is given.
        temperature: 0 takes the likeliest token, above it one is drawn by chance, from torch's generator.
        processors: what else changes scores, before tokens are chosen.
        confidence: whether log-probabilities are wanted.
    """
    ears = Confidence(whisper.end_token) if confidence and beams == 1 else None
    given = [*processors, *([ears] if ears else []), EndLoops(prompts.shape[1], whisper.end_token)]
    with evaluating(whisper.model):
        # Whisper's own `generate` takes 3000 frames only; the one beneath it takes the encoder's states.
        found = GenerationMixin.generate(
            whisper.core,
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=torch.ones(states.shape[:2], dtype=torch.long, device=states.device),
            decoder_input_ids=prompts,
            decoder_attention_mask=torch.ones_like(prompts),
            generation_config=_generation(whisper, beams, max_new_tokens, temperature, confidence and beams > 1),
            logits_processor=LogitsProcessorList(given),
        )
        if confidence:
            means = ears.means(found.sequences) if ears else found.sequences_scores.tolist()
        else:
            means = [math.nan] * len(states)
    rows = found.sequences[:, prompts.shape[1] :].tolist()
    return Written([list(takewhile(lambda token: token != whisper.end_token, row)) for row in rows], means)


def decode_split(
    whisper: Whisper, split: Split, *, batch_seconds: float, beams: int = 1, rank: int = 0, world_size: int = 1
) -> Iterator[tuple[list[int], list[str]]]:
    """Transcribe the utterances of a split, those of like length together.

    Args:
        batch_seconds: of audio that the encoder sees at once, see `default_batch_seconds`.
        beams: as for `decode_batch`.
        rank: rank of this process; it takes every `world_size`-th batch.
        world_size: number of processes that share the split.

    Yields:
        Indices into the split and their texts, a batch at a time.
    """
    cost = [context_seconds(seconds, whisper.context) for seconds in split.seconds]
    for batch in islice(batches_by_length(split.seconds, cost, batch_seconds=batch_seconds), rank, None, world_size):
        yield batch, decode_batch(whisper, [split.waveform(index) for index in batch], beams=beams)


def default_batch_seconds(whisper: Whisper, device: torch.device | None = None) -> float:
    """Audio decoded at once: a few full windows of the smallest models, fewer of larger ones.

    More takes more memory and, on a CPU, more time.

    Args:
        device: where it is decoded; that of the model's weights when not given.
    """
    cuda = (device or whisper.device).type == "cuda"
    return 120.0 * min(1.0, 512 / int(whisper.core.config.d_model)) * (16.0 if cuda else 1.0)


def _generation(
    whisper: Whisper, beams: int, max_new_tokens: int, temperature: float, scores: bool
) -> GenerationConfig:
    settings = whisper.core.generation_config
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        num_beams=beams,
        do_sample=temperature > 0,
        **({"temperature": temperature, "top_k": 0} if temperature > 0 else {}),
        return_dict_in_generate=True,
        output_scores=scores,
        # What is not said here comes from the model's own settings, which a fine-tune on the hub may have changed.
        length_penalty=1.0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        suppress_tokens=settings.suppress_tokens,
        begin_suppress_tokens=settings.begin_suppress_tokens,
        eos_token_id=whisper.end_token,
        pad_token_id=whisper.end_token,
        decoder_start_token_id=whisper.prompt[0],
    )


def batches_by_length(seconds: Sequence[float], cost: Sequence[float], *, batch_seconds: float) -> Iterator[list[int]]:
    """Group indices of clips of like length, longest first, so that a lack of memory shows early.

    No clip is padded to more than twice its length.

    Args:
        seconds: length of each clip.
        cost: seconds of each that the encoder sees.
        batch_seconds: most of these in a batch, counted as its clips times its costliest; one clip may exceed it.
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
