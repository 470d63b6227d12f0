"""Count word and character errors: aligned by jiwer, pooled over the corpus. No other module counts errors.

Empty references. Every word of a hypothesis is then an insertion, which counts in the pooled rate. A rate over no
reference words at all is 0.0 where nothing was inserted and 1.0 where anything was: never a division by zero.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jiwer

from asr_lora.metrics.normalize import Normaliser, without_idle_blanks


@dataclass(frozen=True)
class Errors:
    """Edits against the number of reference words (or characters)."""

    substitutions: int = 0
    insertions: int = 0
    deletions: int = 0
    reference: int = 0

    @property
    def edits(self) -> int:
        return self.substitutions + self.insertions + self.deletions

    @property
    def hits(self) -> int:
        return self.reference - self.substitutions - self.deletions

    @property
    def hypothesis(self) -> int:
        """Number of words (or characters) in the hypothesis."""
        return self.hits + self.substitutions + self.insertions

    @property
    def rate(self) -> float:
        """Edits over reference length (WER, CER); with an empty reference 0.0 without edits and 1.0 with any."""
        return self.edits / self.reference if self.reference else float(self.edits > 0)

    @property
    def match_rate(self) -> float:
        """Match error rate: edits over hits and edits, from 0 to 1."""
        return self.edits / (self.hits + self.edits) if self.hits + self.edits else 0.0

    @property
    def information_lost(self) -> float:
        """Word information lost: 1 - hits² / (reference words x hypothesis words), from 0 to 1."""
        if not self.edits:
            return 0.0
        return 1.0 - self.hits**2 / (self.reference * self.hypothesis) if self.hits else 1.0

    def __add__(self, other: "Errors") -> "Errors":
        return Errors(
            self.substitutions + other.substitutions,
            self.insertions + other.insertions,
            self.deletions + other.deletions,
            self.reference + other.reference,
        )


class Step(NamedTuple):
    """One step of an alignment: a unit of the reference and of the hypothesis; None where there is none."""

    reference: str | None
    hypothesis: str | None

    @property
    def kind(self) -> str:
        """Return "equal", "sub" (substitution), "ins" (insertion) or "del" (deletion)."""
        if self.reference is None:
            return "ins"
        if self.hypothesis is None:
            return "del"
        return "equal" if self.reference == self.hypothesis else "sub"


Alignment = list[Step]


def align_words(references: Sequence[str], hypotheses: Sequence[str]) -> list[Alignment]:
    """Align the words of each utterance."""
    return _align(references, hypotheses, jiwer.process_words)


def align_characters(references: Sequence[str], hypotheses: Sequence[str]) -> list[Alignment]:
    """Align the characters of each utterance, a character being a Unicode code point.

    Blanks count, except beside letters of scripts without blanks, which no hypothesis can get right.
    """
    given, found = ([without_idle_blanks(text) for text in side] for side in (references, hypotheses))
    return _align(given, found, jiwer.process_characters)


def _align(
    references: Sequence[str],
    hypotheses: Sequence[str],
    process: Callable[..., jiwer.WordOutput | jiwer.CharacterOutput],
) -> list[Alignment]:
    if not references and not hypotheses:
        return []  # jiwer reads an empty list as one empty text
    out = process(list(references), list(hypotheses))
    return [_steps(*one) for one in zip(out.references, out.hypotheses, out.alignments, strict=True)]


def _steps(reference: Sequence[str], hypothesis: Sequence[str], chunks: Sequence[jiwer.AlignmentChunk]) -> Alignment:
    steps: Alignment = []
    for chunk in chunks:
        missing = reference[chunk.ref_start_idx : chunk.ref_end_idx]
        written = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type in ("equal", "substitute"):
            steps += map(Step, missing, written)
        else:
            steps += [Step(unit, None) for unit in missing] + [Step(None, unit) for unit in written]
    return steps


def count_errors(alignment: Alignment) -> Errors:
    """Count the errors of one utterance."""
    kinds = [step.kind for step in alignment]
    return Errors(kinds.count("sub"), kinds.count("ins"), kinds.count("del"), len(kinds) - kinds.count("ins"))


def character_errors(references: Sequence[str], hypotheses: Sequence[str]) -> list[Errors]:
    """Count character errors of each utterance, see `align_characters`."""
    return [count_errors(steps) for steps in align_characters(references, hypotheses)]


@dataclass(frozen=True)
class MarkedWord:
    """A word of an alignment with its `Step.kind`, as pages show it."""

    text: str
    kind: str


def align(reference: str, hypothesis: str) -> list[MarkedWord]:
    """Align words: those of the hypothesis in order, the missing ones of the reference in their places."""
    (steps,) = align_words([reference], [hypothesis])
    return [
        MarkedWord((step.reference if step.hypothesis is None else step.hypothesis) or "", step.kind) for step in steps
    ]


def total(errors: Sequence[Errors]) -> Errors:
    """Pool the counts of many utterances."""
    return sum(errors, Errors())


@dataclass(frozen=True)
class Rates:
    """Error rates of a corpus after one normaliser, with the counts that they come from."""

    wer: float
    cer: float
    mer: float  # match error rate
    wil: float  # word information lost
    substitutions: int
    insertions: int
    deletions: int
    reference_words: int
    character_edits: int
    reference_characters: int


@dataclass(frozen=True)
class Scored:
    """References and hypotheses of one system after a normaliser, aligned and counted by utterance."""

    normaliser: str  # label
    references: list[str]
    hypotheses: list[str]
    alignments: list[Alignment]  # of words
    words: list[Errors]
    characters: list[Errors]

    @property
    def rates(self) -> Rates:
        """Rates that are pooled over all utterances."""
        word, character = total(self.words), total(self.characters)
        return Rates(
            wer=word.rate,
            cer=character.rate,
            mer=word.match_rate,
            wil=word.information_lost,
            substitutions=word.substitutions,
            insertions=word.insertions,
            deletions=word.deletions,
            reference_words=word.reference,
            character_edits=character.edits,
            reference_characters=character.reference,
        )


def score(references: Sequence[str], hypotheses: Sequence[str], normaliser: Normaliser) -> Scored:
    """Normalise, align and count."""
    references, hypotheses = normaliser.pairs(references, hypotheses)
    alignments = align_words(references, hypotheses)
    words = [count_errors(steps) for steps in alignments]
    characters = character_errors(references, hypotheses)
    return Scored(normaliser.label, references, hypotheses, alignments, words, characters)
