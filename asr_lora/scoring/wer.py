"""Word and character error rate: counts by jiwer, pooled over the corpus. The only place that counts errors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jiwer

from asr_lora.scoring.normalize import basic


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
    def rate(self) -> float:
        """Edits over reference length; with an empty reference 0.0 without edits and 1.0 with any."""
        return self.edits / self.reference if self.reference else float(self.edits > 0)

    def __add__(self, other: "Errors") -> "Errors":
        return Errors(
            self.substitutions + other.substitutions,
            self.insertions + other.insertions,
            self.deletions + other.deletions,
            self.reference + other.reference,
        )


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> list[Errors]:
    """Count word errors of each utterance. An empty reference counts every hypothesis word as an insertion."""
    return _errors(references, hypotheses, jiwer.process_words, lambda text: len(text.split()))


def character_errors(references: Sequence[str], hypotheses: Sequence[str]) -> list[Errors]:
    """Count character errors of each utterance, blanks included, a character being a Unicode code point."""
    return _errors(references, hypotheses, jiwer.process_characters, len)


def _errors(
    references: Sequence[str],
    hypotheses: Sequence[str],
    process: Callable[..., jiwer.WordOutput | jiwer.CharacterOutput],
    length: Callable[[str], int],
) -> list[Errors]:
    found = []
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        if not reference.strip():  # jiwer refuses an empty reference
            found.append(Errors(insertions=length(hypothesis.strip())))
            continue
        out = process(reference, hypothesis)
        found.append(Errors(out.substitutions, out.insertions, out.deletions, length(reference)))
    return found


@dataclass(frozen=True)
class Word:
    """One place of an alignment: a word said alike ("equal"), or wrong ("sub"), added ("ins") or missing ("del")."""

    text: str
    kind: str


def align(reference: str, hypothesis: str) -> list[Word]:
    """Align words: those of the hypothesis in order, the missing ones of the reference in their places."""
    said, heard = reference.split(), hypothesis.split()
    if not said or not heard:
        return [*(Word(word, "ins") for word in heard), *(Word(word, "del") for word in said)]
    words = []
    for chunk in jiwer.process_words(reference, hypothesis).alignments[0]:
        kind = {"equal": "equal", "substitute": "sub", "insert": "ins", "delete": "del"}[chunk.type]
        missing = said[chunk.ref_start_idx : chunk.ref_end_idx]
        written = heard[chunk.hyp_start_idx : chunk.hyp_end_idx]
        words += [Word(word, kind) for word in (missing if kind == "del" else written)]
    return words


def total(errors: Sequence[Errors]) -> Errors:
    """Pool the counts of many utterances."""
    return sum(errors, Errors())


@dataclass(frozen=True)
class Scores:
    """Corpus error rates, as written (raw) and after `normalize.basic`."""

    wer: float
    cer: float
    raw_wer: float
    raw_cer: float


def corpus_scores(references: Sequence[str], hypotheses: Sequence[str]) -> Scores:
    """Score a corpus: what training selects by on dev and what `evaluate` reports, from the same counts."""
    clean = [basic(text) for text in references], [basic(text) for text in hypotheses]
    return Scores(
        wer=total(word_errors(*clean)).rate,
        cer=total(character_errors(*clean)).rate,
        raw_wer=total(word_errors(references, hypotheses)).rate,
        raw_cer=total(character_errors(references, hypotheses)).rate,
    )
