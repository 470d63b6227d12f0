"""What is measured of an utterance's sound, and what of sound and text is suspicious: rules, and what they found.

A rule is a name, a sentence, and a function that finds it. Whatever it finds is a question to the owner of the data, so
nothing is left out for it unless `prepare` is told to (`--drop`).
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from asr_lora.audio.decode import SILENCE_PEAK
from asr_lora.labels.text_rules import TEXT_RULES, shown
from asr_lora.text import sentence_key

CLIPPED = 0.999  # of full scale: at or above it a sample has hit the ceiling
QUIETEST_DB = -120.0
CLIPPED_SHARE = 1e-3  # of the samples: fewer are a loud moment
QUIET_DB = -50.0  # of full scale, in any dataset
QUIET_BELOW_DB = 20.0  # the dataset's median, and MANY_SPREADS of its own
SLOWEST, FASTEST = 0.4, 40.0  # letters a second, in any language
MANY_SPREADS = 4.0  # robust standard deviations from the median: beyond it something is wrong rather than rare
LEAST_SPREAD = 0.15  # of log pace: a corpus read by a machine would else flag every hesitation
ENOUGH = 20  # utterances that a median and its spread are taken of
TO_SIGMA = 1.4826  # median absolute deviation -> standard deviation, for a normal distribution

RULES: dict[str, str] = {
    "left-out": "prepare could not use it; dropped.jsonl has the list",
    "unreadable": "its audio does not decode",
    "silent": "nothing can be heard",
    "quiet": "far quieter than the others",
    "clipped": "samples at the ceiling: distorted",
    "too-fast": "more text than can be said in that time: text of another clip, or the sound is cut",
    "too-slow": "far less text than the time holds: text of another clip, or the text is cut",
    "no-words": "nothing in the text can be said",
    "too-many-tokens": "the text may not fit Whisper's decoder, and train leaves it out if so",
    "wrong-script": "words in a script that the language is not written in",
    "mixed-letters": "look-alike letters of two alphabets in one word",
    "digits": "numbers in figures: nothing says how they were read",
    "symbols": "signs that are read as a word, or not at all",
    "markup": "tags, entities, addresses, or marks in brackets",
    "brackets": "words in round brackets: were they read?",
    "normal-form": "marks apart from their letters (NFD), or without one: other tokens for the same word",
    "mojibake": "text read in the wrong encoding, or control characters",
    "repeated": "the same words again and again",
    "duplicate-audio": "the same samples twice in a split",
    "reread": "a speaker reads a sentence twice in a split",
    "leaked-audio": "held out, and its very samples are also in another split",
    "leaked-sentence": "held out, and its sentence is also in another split",
    "leaked-speaker": "held out, and its speaker is also in another split",
    "unheard-text": "with --model: the text is hardly likelier with the sound than without it",
    "unlikely-text": "with --model: far less likely than the other texts",
    "text-ends-early": "with --model: the sound goes on where the text ends",
    "sound-ends-early": "with --model: the end of the text is hardly likelier with the sound than without it",
    "misheard": "with --model: the model hears far more of it otherwise than of the other utterances",
}
LEAKED = {"clip": "leaked-audio", "sentence": "leaked-sentence", "speaker": "leaked-speaker"}  # as leaks.jsonl says it
NO_LABEL = frozenset({"left-out", *LEAKED.values()})  # what these find is no fault of a label
MODEL_RULES = tuple(rule for rule, meaning in RULES.items() if meaning.startswith("with --model"))


@dataclass(frozen=True, slots=True)
class Sound:
    """What decoding an utterance showed."""

    seconds: float
    peak: float  # of full scale, 0 to 1
    loudness_db: float  # root mean square, dB of full scale
    clipped: float  # share of samples at the ceiling
    digest: str  # of the samples: equal ones sound the same


@dataclass(frozen=True, slots=True)
class Label:
    """An utterance of a prepared dataset, as the rules see it."""

    id: str
    split: str
    text: str
    speaker: str  # "": not known
    sound: Sound | None  # None: its audio does not decode

    @property
    def letters(self) -> int:
        """Letters and figures: what takes time to say."""
        return sum(char.isalnum() for char in self.text)

    @property
    def sentence(self) -> int:
        """Stands for the text without case and punctuation: equal ones are read alike."""
        return sentence_key(self.text)


@dataclass(frozen=True)
class Finding:
    """What a rule found in an utterance."""

    rule: str
    split: str
    id: str
    detail: str
    text: str = ""


@dataclass(frozen=True)
class Norms:
    """What is normal in a dataset, robustly: medians, and spreads from the median absolute deviation."""

    lead: float  # seconds around the words, whatever their number
    rate: float  # letters a second
    pace_spread: float  # of log(seconds / expected seconds)
    loudness_db: float
    loudness_spread: float

    def expected_seconds(self, letters: int) -> float:
        return self.lead + letters / self.rate


def measure(waveform: np.ndarray, sample_rate: int) -> Sound:
    """Measure samples, shape (samples,), float32 in about [-1, 1]."""
    size = np.abs(waveform)
    power = float(np.mean(np.square(waveform, dtype=np.float64))) if len(waveform) else 0.0
    pcm = np.round(np.clip(waveform, -1.0, 1.0) * 32767).astype("<i2")
    return Sound(
        seconds=len(waveform) / sample_rate,
        peak=float(size.max(initial=0.0)),
        loudness_db=max(QUIETEST_DB, 10 * float(np.log10(power))) if power else QUIETEST_DB,
        clipped=float(np.mean(size >= CLIPPED)) if len(waveform) else 0.0,
        digest=hashlib.sha256(pcm.tobytes()).hexdigest()[:16],
    )


def norms_of(labels: Iterable[Label]) -> Norms | None:
    """What is normal among these; None: too few to say.

    Short texts have a lower pace than long ones, since silence surrounds both alike. So the time of an utterance is
    taken as a lead and a time for each letter: of all leads that is taken which leaves the least spread.
    """
    sounds = [(label.sound, label.letters) for label in labels if label.sound and label.sound.seconds and label.letters]
    if len(sounds) < ENOUGH:
        return None
    seconds = np.array([sound.seconds for sound, _ in sounds])
    letters = np.array([count for _, count in sounds], dtype=np.float64)
    fits = []
    for lead in np.linspace(0.0, 2.0, 21):
        spoken = seconds > lead + 0.1
        if spoken.sum() >= ENOUGH:
            rate = float(np.median(letters[spoken] / (seconds[spoken] - lead)))
            _, spread = median_and_spread(np.log(seconds / (lead + letters / rate)))
            fits.append((spread, float(lead), rate))
    if not fits:
        return None
    spread, lead, rate = min(fits)
    loudness, loudness_spread = median_and_spread(np.array([sound.loudness_db for sound, _ in sounds]))
    return Norms(lead, rate, max(spread, LEAST_SPREAD), loudness, loudness_spread)


def median_and_spread(values: np.ndarray) -> tuple[float, float]:
    """Median, and the standard deviation that the median absolute deviation stands for: of values, shape (any,)."""
    middle = float(np.median(values))
    return middle, TO_SIGMA * float(np.median(np.abs(values - middle)))


def find(labels: Sequence[Label], scripts: frozenset[str]) -> Iterator[Finding]:
    """Yield what every rule finds in labels that needs no model, utterance by utterance and then across them.

    Args:
        labels: of all splits.
        scripts: that the language is written in; empty: not known.
    """
    norms = norms_of(labels)
    for label in labels:
        for rule, look in TEXT_RULES.items():
            if detail := look(label.text, scripts):
                yield finding(rule, label, detail)
        for rule, detail in _sound_findings(label, norms):
            yield finding(rule, label, detail)
    yield from _twice(labels)


def finding(rule: str, label: Label, detail: str) -> Finding:
    return Finding(rule, label.split, label.id, detail, label.text)


def _sound_findings(label: Label, norms: Norms | None) -> Iterator[tuple[str, str]]:
    sound = label.sound
    if sound is None:
        yield "unreadable", "its audio does not decode"
        return
    if sound.peak < SILENCE_PEAK:
        yield "silent", f"peak {sound.peak:.5f} of full scale"
    elif sound.loudness_db < QUIET_DB or (norms and sound.loudness_db < _quietest(norms)):
        usual = f"; half of the others are above {norms.loudness_db:.0f}" if norms else ""
        yield "quiet", f"{sound.loudness_db:.0f} dB{usual}"
    if sound.clipped > CLIPPED_SHARE:
        yield "clipped", f"{100 * sound.clipped:.1f} % of the samples"
    if label.letters and sound.seconds:
        yield from _pace_findings(label.letters, sound.seconds, norms)


def _quietest(norms: Norms) -> float:
    return norms.loudness_db - max(QUIET_BELOW_DB, MANY_SPREADS * norms.loudness_spread)


def _pace_findings(letters: int, seconds: float, norms: Norms | None) -> Iterator[tuple[str, str]]:
    pace = letters / seconds
    away, usual = 0.0, ""
    if norms:
        expected = norms.expected_seconds(letters)
        away, usual = float(np.log(seconds / expected)) / norms.pace_spread, f"; usually {expected:.1f} s"
    detail = f"{letters} letters in {seconds:.1f} s{usual}"
    if pace > FASTEST or away < -MANY_SPREADS:
        yield "too-fast", detail
    elif pace < SLOWEST or away > MANY_SPREADS:
        yield "too-slow", detail


def _twice(labels: Iterable[Label]) -> Iterator[Finding]:
    """The same samples twice in a split; a sentence read twice there by one speaker."""
    heard: dict[tuple[str, str], Label] = {}
    read: dict[tuple[str, str, int], Label] = {}
    for label in labels:
        if label.sound:
            first = heard.setdefault((label.split, label.sound.digest), label)
            if first is not label:
                other = "" if first.text == label.text else f", whose text is {shown(first.text)}"
                yield finding("duplicate-audio", label, f"sounds as {first.id}{other}")
                continue
        if label.speaker:
            first = read.setdefault((label.split, label.speaker, label.sentence), label)
            if first is not label:
                yield finding("reread", label, f"as {first.id}")


def sentences_of_many(labels: Iterable[Label]) -> int:
    """Sentences read more than once within a split: normal where several speakers read the same prompts."""
    readings = Counter((label.split, label.sentence) for label in labels)
    return sum(count > 1 for count in readings.values())
