"""What a model thinks of labels, and which of these opinions make a label suspicious."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from asr_lora.audio.checks import ENOUGH, Finding, Label, finding, median_and_spread

HARDLY = 0.5  # nats a token: a sound that says the text adds more to its likelihood than this
FEW_TOKENS = 3  # a shorter text says too little for a verdict
ENDS_LATE = 4.6  # nats: the model gives the end of the text less than one in a hundred
FAR = 3.5  # robust standard deviations from the median of the dataset
LEAST_CER = 0.5  # below it, a label may well be what was said, in another spelling


@dataclass(frozen=True)
class Opinion:
    """What a model thinks of one label; losses are in nats, the text given (teacher-forced)."""

    split: str
    id: str
    tokens: int  # of the text, without the end token
    loss: float  # a token of the text, with the sound
    silent_loss: float  # the same with silence in the sound's place
    end_loss: float  # of the end token: the text is over
    hypothesis: str
    cer: float  # of the hypothesis, after the normaliser

    @property
    def gain(self) -> float:
        """Nats a token that the sound adds to the likelihood of the text: near zero where it says something else."""
        return self.silent_loss - self.loss


def doubt(opinion: Opinion) -> float:
    """How much a model doubts a label: what labels are ranked by, highest first."""
    return opinion.loss - opinion.gain


def judged(opinions: Sequence[Opinion], labels: Sequence[Label]) -> Iterator[Finding]:
    """Yield findings that follow from opinions on a dataset, those most doubted first.

    What is normal is taken from the dataset itself, as a language that the model hardly knows has high losses
    throughout; what the sound adds needs no such measure.
    """
    known = {(label.split, label.id): label for label in labels}
    enough = [opinion for opinion in opinions if opinion.tokens >= FEW_TOKENS]
    loss_limit = _limit([opinion.loss for opinion in enough])
    cer_limit = max(LEAST_CER, _limit([opinion.cer for opinion in enough]))
    end_limit = max(ENDS_LATE, _limit([opinion.end_loss for opinion in enough]))
    for opinion in sorted(enough, key=lambda opinion: (-doubt(opinion), opinion.split, opinion.id)):
        label = known[opinion.split, opinion.id]
        if opinion.gain < HARDLY:
            detail = f"{opinion.loss:.1f} nats a token with the sound, {opinion.silent_loss:.1f} with silence"
            yield finding("unheard-text", label, detail)
        elif opinion.loss > loss_limit:
            yield finding(
                "unlikely-text", label, f"{opinion.loss:.1f} nats a token; above {loss_limit:.1f} is rare here"
            )
        if opinion.end_loss > end_limit:
            yield finding(
                "text-ends-early", label, f"{opinion.end_loss:.1f} nats for its end; heard: {opinion.hypothesis}"
            )
        if opinion.cer > cer_limit:
            yield finding("misheard", label, f"CER {100 * opinion.cer:.0f} %; heard: {opinion.hypothesis}")


def _limit(values: Sequence[float]) -> float:
    """What is far above the median of values of one sign, on the log scale; infinite where there are too few."""
    if len(values) < ENOUGH:
        return float("inf")
    middle, spread = median_and_spread(np.log(np.maximum(values, 1e-2)))
    return float(np.exp(middle + FAR * spread))
