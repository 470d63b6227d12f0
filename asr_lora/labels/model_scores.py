"""Find suspicious labels by model scores: teacher-forced losses, and the CER of the model's transcript."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from asr_lora.labels.rules import ENOUGH, Finding, Label, median_and_spread

LEAST_GAIN = 0.5  # nats a token: audio that belongs to a text adds more than this to its log-probability
TAIL_TOKENS = 8  # a text with fewer tokens has too short a last third
FEW_TOKENS = 3  # a text with fewer tokens says too little
ENDS_LATE = 4.6  # nats: the model gives the end of the text a probability below 1 %
FAR = 3.5  # robust standard deviations from the median of the dataset
LEAST_CER = 0.5  # below it, the label may well be right in another spelling


@dataclass(frozen=True)
class ModelScore:
    """How well a label agrees with a model. Losses are teacher-forced cross-entropies in nats."""

    split: str
    id: str
    tokens: int  # of the text, without the end token
    loss: float  # mean over the tokens of the text, given the audio
    silent_loss: float  # the same, given silence
    tail_gain: float  # mean gain over the last third of the tokens
    end_loss: float  # of the end token
    hypothesis: str
    cer: float  # of the hypothesis against the label, both normalised

    @property
    def gain(self) -> float:
        """Nats a token that the audio adds to the log-probability of the text: about zero where they do not match."""
        return self.silent_loss - self.loss


def suspicion(score: ModelScore) -> float:
    """How suspicious the model finds a label: its loss minus its gain, in nats a token."""
    return score.loss - score.gain


def findings_from_scores(scores: Sequence[ModelScore], labels: Sequence[Label]) -> Iterator[Finding]:
    """Yield what follows from model scores, the most suspicious label first.

    The limits come from the dataset itself, since a model that hardly knows the language has high losses and low gains
    throughout.
    """
    label_of = {(label.split, label.id): label for label in labels}
    usable = [score for score in scores if score.tokens >= FEW_TOKENS]
    loss_limit = _limit([score.loss for score in usable])
    cer_limit = max(LEAST_CER, _limit([score.cer for score in usable]))
    least_gain = min(LEAST_GAIN, float(np.median([score.gain for score in usable])) / 4) if usable else LEAST_GAIN
    for score in sorted(scores, key=lambda score: (-suspicion(score), score.split, score.id)):
        label, long_enough = label_of[score.split, score.id], score.tokens >= FEW_TOKENS
        loss, gain = f"{score.loss:.1f} nats a token", score.gain
        if long_enough and gain < least_gain:
            yield label.finding("unheard-text", f"{loss} with the audio, {score.silent_loss:.1f} with silence")
        if score.tokens >= TAIL_TOKENS and score.tail_gain < least_gain <= gain:
            detail = f"the audio adds {gain:.1f} nats a token, but {score.tail_gain:.1f} in the last third of the text"
            yield label.finding("sound-ends-early", detail)
        if long_enough and gain >= least_gain and score.loss > loss_limit:
            yield label.finding("unlikely-text", loss)
        if score.end_loss > ENDS_LATE:
            detail = f"{score.end_loss:.1f} nats for the end of the text; transcript: {score.hypothesis}"
            yield label.finding("text-ends-early", detail)
        if long_enough and score.cer > cer_limit:
            yield label.finding("misheard", f"CER {100 * score.cer:.0f} %; transcript: {score.hypothesis}")


def _limit(values: Sequence[float]) -> float:
    """Return FAR deviations above the median; infinity where there are too few values."""
    if len(values) < ENOUGH:
        return float("inf")
    middle, spread = median_and_spread(np.array(values))
    return middle + FAR * spread
