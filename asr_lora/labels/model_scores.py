"""What a model thinks of labels, and which of these opinions make a label suspicious."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from asr_lora.labels.rules import ENOUGH, Finding, Label, finding, median_and_spread

HARDLY = 0.5  # nats a token: a sound that says the text adds more to its likelihood than this
TAIL_TOKENS = 8  # of a text whose last third says something
FEW_TOKENS = 3  # a shorter text says too little for a verdict
ENDS_LATE = 4.6  # nats: the model gives the end of the text less than one in a hundred
FAR = 3.5  # robust standard deviations from the median of the dataset
LEAST_CER = 0.5  # below it, a label may well be what was said, in another spelling


@dataclass(frozen=True)
class ModelScore:
    """What a model thinks of one label; losses are in nats, the text given (teacher-forced)."""

    split: str
    id: str
    tokens: int  # of the text, without the end token
    loss: float  # a token of the text, with the sound
    silent_loss: float  # the same with silence in the sound's place
    tail_gain: float  # what the sound adds to the likelihood of the last third of the text, nats a token
    end_loss: float  # of the end token: the text is over
    hypothesis: str
    cer: float  # of the hypothesis, after the normaliser

    @property
    def gain(self) -> float:
        """Nats a token that the sound adds to the likelihood of the text: near zero where it says something else."""
        return self.silent_loss - self.loss


def doubt(opinion: ModelScore) -> float:
    """How much a model doubts a label: what labels are ranked by, highest first."""
    return opinion.loss - opinion.gain


def judged(opinions: Sequence[ModelScore], labels: Sequence[Label]) -> Iterator[Finding]:
    """Yield findings that follow from opinions on a dataset, those most doubted first.

    What is normal is taken from the dataset itself: a language that the model hardly knows has high losses throughout,
    and its sound adds little. What the sound adds is else the same everywhere: nothing, where it says something else.
    """
    known = {(label.split, label.id): label for label in labels}
    enough = [opinion for opinion in opinions if opinion.tokens >= FEW_TOKENS]
    loss_limit = _limit([opinion.loss for opinion in enough])
    cer_limit = max(LEAST_CER, _limit([opinion.cer for opinion in enough]))
    hardly = min(HARDLY, float(np.median([opinion.gain for opinion in enough])) / 4) if enough else HARDLY
    for opinion in sorted(opinions, key=lambda opinion: (-doubt(opinion), opinion.split, opinion.id)):
        long_enough = opinion.tokens >= FEW_TOKENS
        found = {
            "unheard-text": opinion.gain < hardly and long_enough,
            "sound-ends-early": opinion.tail_gain < hardly <= opinion.gain and opinion.tokens >= TAIL_TOKENS,
            "unlikely-text": opinion.loss > loss_limit and opinion.gain >= hardly and long_enough,
            "text-ends-early": opinion.end_loss > ENDS_LATE,
            "misheard": opinion.cer > cer_limit and long_enough,
        }
        for rule in (rule for rule, so in found.items() if so):
            yield finding(rule, known[opinion.split, opinion.id], _detail(rule, opinion))


def _detail(rule: str, opinion: ModelScore) -> str:
    return {
        "unheard-text": f"{opinion.loss:.1f} nats a token with the sound, {opinion.silent_loss:.1f} with silence",
        "sound-ends-early": f"the sound adds {opinion.gain:.1f} nats a token, but {opinion.tail_gain:.1f} at its end",
        "unlikely-text": f"{opinion.loss:.1f} nats a token",
        "text-ends-early": f"{opinion.end_loss:.1f} nats for its end; heard: {opinion.hypothesis}",
        "misheard": f"CER {100 * opinion.cer:.0f} %; heard: {opinion.hypothesis}",
    }[rule]


def _limit(values: Sequence[float]) -> float:
    """What is far above the median of values; infinite where there are too few."""
    if len(values) < ENOUGH:
        return float("inf")
    middle, spread = median_and_spread(np.array(values))
    return middle + FAR * spread
