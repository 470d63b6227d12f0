"""Rules on the audio and the text of labelled utterances, and what they find.

A finding is a question to the owner of the data. `prepare` leaves out what a rule finds only where `--drop` names it.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from asr_lora.audio.decode import SILENCE_PEAK
from asr_lora.labels.text_rules import TEXT_RULES, shown
from asr_lora.text import sentence_key

CLIPPED = 0.999  # of full scale: a sample at or above it is clipped
QUIETEST_DB = -120.0  # loudness of digital silence, dB of full scale
CLIPPED_SHARE = 1e-3  # share of clipped samples above which an utterance is distorted
QUIET_DB = -50.0  # dB of full scale: below it an utterance is quiet in any dataset
QUIET_BELOW_DB = 20.0  # dB below the dataset's median, and at least MANY_SPREADS of its spread
SLOWEST, FASTEST = 0.4, 40.0  # letters a second that are possible in any language
MANY_SPREADS = 4.0  # robust standard deviations from the median: beyond it a value is wrong rather than rare
LEAST_SPREAD = 0.15  # of log pace: else every hesitation would be a finding in a corpus of synthetic speech
ENOUGH = 20  # utterances that a median and its spread need
TO_SIGMA = 1.4826  # median absolute deviation -> standard deviation, for a normal distribution

RULES: dict[str, str] = {
    "left-out": "prepare could not use the utterance; dropped.jsonl has the reason",
    "unreadable": "the audio does not decode",
    "silent": "the audio is silent",
    "quiet": "the audio is far quieter than that of the other utterances",
    "clipped": "many samples are at full scale, so the audio is distorted",
    "too-fast": "the audio is too short for the text: the text is of another utterance, or the audio is cut",
    "too-slow": "the audio is too long for the text: the text is of another utterance, or the text is cut",
    "no-words": "the text has no letter and no number",
    "too-many-tokens": "the text may be too long for Whisper's decoder; train leaves it out if it is",
    "wrong-script": "words are in a script that the language does not use",
    "mixed-letters": "a word mixes look-alike letters of two alphabets",
    "digits": "numbers are in figures, so the text does not say how they were read",
    "symbols": "a sign may be read as a word or not at all",
    "markup": "the text has tags, entities, addresses or marks in brackets",
    "brackets": "words are in round brackets, which many readers leave out",
    "quotes": "a quotation mark is doubled or has no other, as half-escaped tables leave them",
    "normal-form": "marks are apart from their letters (NFD) or without one, which changes the tokens of a word",
    "mojibake": "the text was read in the wrong encoding, or has control characters",
    "repeated": "the text repeats the same words",
    "duplicate-audio": "another utterance of the split has the same samples",
    "reread": "the speaker reads the same sentence twice in the split",
    "leaked-audio": "the utterance is held out, and another split has the same samples",
    "leaked-sentence": "the utterance is held out, and another split has its sentence",
    "leaked-speaker": "the utterance is held out, and another split has its speaker",
    "unheard-text": "with --model: the text is hardly more likely with the audio than with silence",
    "unlikely-text": "with --model: the text is far less likely than the other texts",
    "text-ends-early": "with --model: the audio goes on after the end of the text",
    "sound-ends-early": "with --model: the end of the text is hardly more likely with the audio than with silence",
    "misheard": "with --model: the model's transcript differs far more than for the other utterances",
}
LEAKED = {"clip": "leaked-audio", "sentence": "leaked-sentence", "speaker": "leaked-speaker"}  # keys of leaks.jsonl
NO_LABEL = frozenset({"left-out", *LEAKED.values()})  # these rules find no fault of a label
MODEL_RULES = tuple(rule for rule, meaning in RULES.items() if meaning.startswith("with --model"))


@dataclass(frozen=True, slots=True)
class AudioMeasurements:
    """What `measure` finds in the decoded audio of an utterance."""

    seconds: float
    peak: float  # of full scale, 0 to 1
    loudness_db: float  # root mean square, dB of full scale
    clipped: float  # share of the samples that are clipped
    digest: str  # of the samples


@dataclass(frozen=True, slots=True)
class Label:
    """The text and the measured audio of an utterance of a prepared dataset."""

    id: str
    split: str
    text: str
    speaker: str  # "" where it is not known
    sound: AudioMeasurements | None  # None where the audio does not decode

    @property
    def letters(self) -> int:
        """Number of letters and figures of the text."""
        return sum(char.isalnum() for char in self.text)

    @property
    def sentence(self) -> int:
        """A number that is equal for texts that differ only in case and punctuation."""
        return sentence_key(self.text)

    def finding(self, rule: str, detail: str) -> "Finding":
        return Finding(rule, self.split, self.id, detail, self.text)


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
    """What is usual in a dataset: medians, and spreads from the median absolute deviation."""

    lead: float  # seconds of silence around the words
    rate: float  # letters a second
    pace_spread: float  # of log(seconds / expected seconds)
    loudness_db: float
    loudness_spread: float

    def expected_seconds(self, letters: int) -> float:
        return self.lead + letters / self.rate


def measure(waveform: np.ndarray, sample_rate: int) -> AudioMeasurements:
    """Measure samples, shape (samples,), float32 in about [-1, 1]."""
    size = np.abs(waveform)
    power = float(np.mean(np.square(waveform, dtype=np.float64))) if len(waveform) else 0.0
    pcm = np.round(np.clip(waveform, -1.0, 1.0) * 32767).astype("<i2")
    return AudioMeasurements(
        seconds=len(waveform) / sample_rate,
        peak=float(size.max(initial=0.0)),
        loudness_db=max(QUIETEST_DB, 10 * float(np.log10(power))) if power else QUIETEST_DB,
        clipped=float(np.mean(size >= CLIPPED)) if len(waveform) else 0.0,
        digest=hashlib.sha256(pcm.tobytes()).hexdigest()[:16],
    )


def norms_of(labels: Iterable[Label]) -> Norms | None:
    """Return what is usual among the labels; None where they are too few.

    Silence surrounds short and long texts alike, so short texts have fewer letters a second. The expected time of an
    utterance is therefore a lead plus a time for each letter. Of all leads, the one with the least spread is chosen.
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
    """Median and robust standard deviation (1.4826 times the median absolute deviation) of values, shape (n,)."""
    middle = float(np.median(values))
    return middle, TO_SIGMA * float(np.median(np.abs(values - middle)))


def apply_rules(labels: Sequence[Label], scripts: frozenset[str]) -> Iterator[Finding]:
    """Yield the findings of every rule that needs no model: first of single utterances, then of duplicates.

    Args:
        labels: the labels of all splits.
        scripts: scripts of the language; empty where they are not known.
    """
    norms = norms_of(labels)
    for label in labels:
        for rule, check in TEXT_RULES.items():
            if detail := check(label.text, scripts):
                yield label.finding(rule, detail)
        for rule, detail in _sound_findings(label, norms):
            yield label.finding(rule, detail)
    yield from _duplicates(labels)


def _sound_findings(label: Label, norms: Norms | None) -> Iterator[tuple[str, str]]:
    sound = label.sound
    if sound is None:
        yield "unreadable", "the audio does not decode"
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


def _duplicates(labels: Iterable[Label]) -> Iterator[Finding]:
    """Yield utterances with samples, or with speaker and sentence, of an earlier utterance of their split."""
    by_samples: dict[tuple[str, str], Label] = {}
    by_sentence: dict[tuple[str, str, int], Label] = {}
    for label in labels:
        if label.sound:
            first = by_samples.setdefault((label.split, label.sound.digest), label)
            if first is not label:
                other = "" if first.text == label.text else f", whose text is {shown(first.text)}"
                yield label.finding("duplicate-audio", f"same samples as {first.id}{other}")
                continue
        if label.speaker:
            first = by_sentence.setdefault((label.split, label.speaker, label.sentence), label)
            if first is not label:
                yield label.finding("reread", f"same sentence as {first.id}")


def count_reread_sentences(labels: Iterable[Label]) -> int:
    """Count sentences that a split has more than once, which is usual where several speakers read the same prompts."""
    readings = Counter((label.split, label.sentence) for label in labels)
    return sum(count > 1 for count in readings.values())
