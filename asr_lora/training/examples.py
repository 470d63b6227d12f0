"""Plan the training examples of each optimiser step from seed and step alone, before any audio is read."""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from asr_lora.audio.features import FULL_SECONDS, context_seconds
from asr_lora.config import AugmentationSettings, Context, ExampleSettings

STEPS_PER_POOL = 16  # utterances are sorted by length among those of so many steps, and no further
MAX_TEXT_TOKENS = 448 - 40  # of utterances joined into one window; the rest is for prompt, timestamps and end token
PACKED_SECONDS = (8.0, 28.0)  # shortest and longest such window, drawn uniformly
NO_SPEECH_SECONDS = (1.0, 10.0)
GAP_SECONDS = 0.5  # longest silence between two joined utterances


@dataclass(frozen=True)
class Example:
    """One row of a batch."""

    utterances: tuple[int, ...]  # several are joined, with timestamps; none is an example without speech
    seconds: float  # length of its sound after the change of speed
    context: float  # seconds that the encoder sees, silent tail included
    seed: int  # seed of all random choices when the audio is read
    timestamps: bool = False
    speed: float = 1.0


@dataclass(frozen=True)
class ScheduleSettings:
    """Settings that turn utterances into examples, and examples into steps."""

    batch_seconds: float  # most seconds in a step, short tails and padding included; at least one example
    context: Context
    seed: int
    examples: ExampleSettings = field(default_factory=ExampleSettings)
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    own_context: bool = False  # own context for each example in whole seconds, for a cache of outputs


def schedule(seconds: Sequence[float], tokens: Sequence[int], settings: ScheduleSettings) -> Iterator[list[Example]]:
    """Yield the examples of each optimiser step without end, each epoch in another order.

    Each utterance occurs once in an epoch. Utterances are shuffled, sorted by length within pools of some steps,
    grouped up to `batch_seconds`, and the steps are shuffled. All follows from the seed, so a resumed run skips the
    first n steps. Examples of a step share one context however they are grouped later, so that smaller micro-batches
    or more processes change no number; padded examples have the full 30 s.

    Args:
        seconds: length of each utterance.
        tokens: number of tokens of each utterance's text.
        settings: of the examples and steps.
    """
    epoch = 0
    while True:
        generator = random.Random(f"{settings.seed}:{epoch}")
        examples = _epoch(seconds, tokens, settings, generator)
        cost = sum(example.context for example in examples)
        pool = max(1, round(STEPS_PER_POOL * settings.batch_seconds * len(examples) / cost))
        steps: list[list[Example]] = []
        for start in range(0, len(examples), pool):
            by_length = sorted(examples[start : start + pool], key=lambda example: example.seconds)
            steps += _packed(by_length, settings.batch_seconds)
        generator.shuffle(steps)
        for step in steps:
            yield _with_contexts(step, settings, generator)
        epoch += 1


def plain_examples(seconds: Sequence[float]) -> list[Example]:
    """Return one example for each utterance, with the context that `ScheduleSettings.own_context` gives it."""
    return [
        Example((index,), length, _whole(context_seconds(length, Context.TRUE_LENGTH)), seed=0)
        for index, length in enumerate(seconds)
    ]


def padding(steps: Sequence[Sequence[Example]]) -> float:
    """Share of padding in the seconds that the encoder sees."""
    seen = sum(example.context for step in steps for example in step)
    return 1.0 - sum(example.seconds for step in steps for example in step) / seen


def micro_batches(
    step: Sequence[Example], micro_batch_seconds: float, *, rank: int = 0, world_size: int = 1
) -> list[list[Example]]:
    """Split a process's share of a step into batches of one context, of `micro_batch_seconds` or one example."""
    share = sorted(step, key=lambda example: (example.context, example.seconds))[rank::world_size]
    batches: list[list[Example]] = []
    for example in share:
        last = batches[-1] if batches else []
        fits = (len(last) + 1) * example.context <= micro_batch_seconds + 1e-6
        if last and last[0].context == example.context and fits:
            last.append(example)
        else:
            batches.append([example])
    return batches


def _epoch(
    seconds: Sequence[float], tokens: Sequence[int], settings: ScheduleSettings, generator: random.Random
) -> list[Example]:
    """All examples of an epoch, shuffled, each with the context of its own length."""
    order = list(range(len(seconds)))
    generator.shuffle(order)
    timed = round(settings.examples.timestamps * len(order))
    examples = []
    for index in order[timed:]:
        speed = generator.choice(settings.augmentation.speeds)
        if seconds[index] / speed > FULL_SECONDS:
            speed = 1.0
        examples.append(_example((index,), seconds[index] / speed, settings, generator, speed=speed))
    for group in _groups(order[:timed], seconds, tokens, generator):
        examples.append(_example(group, sum(seconds[i] for i in group), settings, generator, timestamps=True))
    for _ in range(round(settings.examples.no_speech * len(order))):
        examples.append(_example((), generator.uniform(*NO_SPEECH_SECONDS), settings, generator))
    generator.shuffle(examples)
    return examples


def _example(
    utterances: tuple[int, ...],
    seconds: float,
    settings: ScheduleSettings,
    generator: random.Random,
    *,
    timestamps: bool = False,
    speed: float = 1.0,
) -> Example:
    # The longest gaps; the real ones are drawn when the audio is read.
    seconds += GAP_SECONDS * max(0, len(utterances) - 1)
    context = context_seconds(seconds, settings.context)
    return Example(utterances, seconds, context, generator.getrandbits(63), timestamps, speed)


def _groups(
    order: Sequence[int], seconds: Sequence[float], tokens: Sequence[int], generator: random.Random
) -> Iterator[tuple[int, ...]]:
    """Group utterances that are joined in one window (arXiv 2412.15726)."""
    group: list[int] = []
    length, text, limit = 0.0, 0, generator.uniform(*PACKED_SECONDS)
    for index in order:
        more, words = seconds[index] + GAP_SECONDS, tokens[index] + 2  # each is between two timestamps
        if group and (length + more > limit or text + words > MAX_TEXT_TOKENS):
            yield tuple(group)
            group, length, text, limit = [], 0.0, 0, generator.uniform(*PACKED_SECONDS)
        group.append(index)
        length, text = length + more, text + words
    if group:
        yield tuple(group)


def _packed(examples: Sequence[Example], batch_seconds: float) -> Iterator[list[Example]]:
    step: list[Example] = []
    for example in examples:  # shortest first, so the newest is the longest
        if step and (len(step) + 1) * example.context > batch_seconds:
            yield step
            step = []
        step.append(example)
    if step:
        yield step


def _with_contexts(step: Sequence[Example], settings: ScheduleSettings, generator: random.Random) -> list[Example]:
    """Give the examples of a step the longest one's context, or each its own, and pad some of them to 30 s."""
    longest = max(example.context for example in step)
    placed = []
    for example in step:
        pad = settings.context is Context.TRUE_LENGTH and generator.random() < settings.examples.padded
        own = _whole(example.context) if settings.own_context else longest
        placed.append(replace(example, context=FULL_SECONDS if pad else own))
    return placed


def _whole(seconds: float) -> float:
    return min(float(math.ceil(seconds)), FULL_SECONDS)
