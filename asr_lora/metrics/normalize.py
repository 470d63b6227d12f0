"""Normalise text before words are compared, by a name and version: a score means nothing without them.

- `none`: as written; words are separated by white space.
- `basic`: the package's own, for every language.
- `whisper`: Whisper's own; for English with its lists of numbers, contractions and spellings, for others without.
- `leaderboard`: as the Open ASR Leaderboard scores languages other than English (its `ml_normalizer` and
  `normalize_compound_pairs` of August 2026): Whisper's for other languages, then digits to words, then compounds that
  one side writes together and the other apart are joined on both. Two differences: utterances with an empty reference
  count, and compounds within longer mismatches are errors (there `kaldialign` with `merge_compounds` forgives them).
  English is refused, because the leaderboard scores it with lists of names and abbreviations of its own.

In Turkish and its kin, I becomes ı and İ becomes i before any of them lowers the case, though Whisper's own does not.
`whisper` and `leaderboard` replace combining marks by blanks, which lowers the error rates of Indic and Thai systems.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from importlib import resources

from asr_lora.errors import ConfigError
from asr_lora.text import DOTTED, lower_case

# Name and version: change the version with every change of what a normaliser returns.
NORMALISER = "basic-2"
LABELS = {"none": "none-1", "basic": NORMALISER, "whisper": "whisper-2", "leaderboard": "leaderboard-2"}
EXTRA = "pip install 'asr_lora[scores]'"

_APOSTROPHES = re.compile(r"(?<=\w)[’‘ʼ`´](?=\w)")
_BRACKETS = (re.compile(r"[<\[][^>\]]*[>\]]"), re.compile(r"\(([^)]+?)\)"))
# Scripts without blanks between words, by the first word of the names of their letters: there, CER leads.
_UNSPACED = (
    "CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR",
    "TIBETAN",
)  # fmt: skip


@dataclass(frozen=True)
class Normaliser:
    """The changes to references and hypotheses before they are compared."""

    label: str  # name and version
    clean: Callable[[str], str]
    joins: bool = False  # whether compounds are joined where only one side writes them together

    def pairs(self, references: Sequence[str], hypotheses: Sequence[str]) -> tuple[list[str], list[str]]:
        """Normalise references and hypotheses of the same utterances."""
        cleaned = [self.clean(text) for text in references], [self.clean(text) for text in hypotheses]
        if not self.joins:
            return cleaned
        joined = [join_compounds(reference, hypothesis) for reference, hypothesis in zip(*cleaned, strict=True)]
        return [reference for reference, _ in joined], [hypothesis for _, hypothesis in joined]


def find_normaliser(name: str, language: str) -> Normaliser:
    """Return a normaliser by name (`basic`) or label (`basic-2`), for the language that is spoken.

    Raises:
        ConfigError: there is no such normaliser, it is not for the language, or it needs a package that is missing.
    """
    plain = name if name in LABELS else name.rpartition("-")[0]
    if LABELS.get(plain, name) != name and plain != name:
        raise ConfigError(
            f"normaliser {name!r} is not of this version, which has {', '.join(LABELS.values())}: run evaluate again, "
            f"which only scores again, or name --normaliser {plain}"
        )
    if plain == "none":
        return Normaliser(LABELS[plain], as_written)
    if plain == "basic":
        return Normaliser(LABELS[plain], lambda text: basic(text, language))
    if plain == "whisper":
        return Normaliser(LABELS[plain], _with_dots(_whisper(language), language))
    if plain == "leaderboard":
        if language == "en":
            raise ConfigError(
                "normaliser leaderboard is that of other languages: English has lists of its own there, take whisper"
            )
        _number_words()
        return Normaliser(LABELS[plain], _with_dots(lambda text: _leaderboard(text, language), language), joins=True)
    raise ConfigError(f"there is no normaliser {name!r}; there are {', '.join(LABELS)}")


def as_written(text: str) -> str:
    """Change nothing but white space, which becomes single blanks."""
    return " ".join(text.split())


def basic(text: str, language: str = "") -> str:
    """Lower-case, drop punctuation and symbols, keep what distinguishes words.

    Full-width and half-width forms are one (NFKC), and a language given by its code lowers its own letters.

    Unlike Whisper's BasicTextNormalizer it keeps combining marks (Devanagari, Thai and others lose their vowels
    without them), bracketed text, and apostrophes within a word (arXiv 2409.02449). Hyphens separate words. Numbers
    stay as written.
    """
    text = unicodedata.normalize("NFKC", _APOSTROPHES.sub("'", text))  # before NFKC, which takes ´ apart
    text = lower_case(_APOSTROPHES.sub("'", text), language)
    kept = []
    for place, char in enumerate(text):
        category = unicodedata.category(char)
        within = 0 < place < len(text) - 1 and text[place - 1].isalnum() and text[place + 1].isalnum()
        if category[0] in "LMN" or (char == "'" and within):
            kept.append(char)
        elif category != "Cf":  # joiners and direction marks are dropped; all else separates words
            kept.append(" ")
    return unicodedata.normalize("NFKC", " ".join("".join(kept).split()))


def characters_lead(references: Sequence[str]) -> bool:
    """Whether most letters are of scripts without blanks between words, where WER would count phrases."""
    letters = [char for text in references for char in text if char.isalpha()]
    return 2 * sum(_unspaced(char) for char in letters) > len(letters)


def leading_rate(references: Sequence[str]) -> str:
    """Return the rate that decides: "cer" where most references are in a script without blanks between words."""
    return "cer" if characters_lead(references) else "wer"


def without_idle_blanks(text: str) -> str:
    """Remove the blanks beside letters of scripts without blanks, where punctuation or a line's end left them."""
    joined, *words = text.split(" ")
    for word in words:
        idle = _unspaced(joined[-1:]) or _unspaced(word[:1])
        joined += word if idle else f" {word}"
    return joined


@cache
def _unspaced(letter: str) -> bool:
    return bool(letter) and unicodedata.name(letter, "").startswith(_UNSPACED)


def _with_dots(clean: Callable[[str], str], language: str) -> Callable[[str], str]:
    """Lower the letters of Turkish and its kin by their own rule before another normaliser lowers the others."""
    return (lambda text: clean(lower_case(text, language))) if language in DOTTED else clean


@cache
def _whisper(language: str) -> Callable[[str], str]:
    """Whisper's normaliser, as transformers carries it."""
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    found: Callable[[str], str]
    if language != "en":
        found = BasicTextNormalizer()
        return lambda text: found(text).strip()
    try:
        spellings = resources.files("whisper_normalizer") / "normalizers" / "english.json"
        found = EnglishTextNormalizer(json.loads(spellings.read_text(encoding="utf-8")))
    except ModuleNotFoundError as error:
        raise ConfigError(f"normaliser whisper needs a list of English spellings: {EXTRA}") from error
    return lambda text: found(text).strip()


def _leaderboard(text: str, language: str) -> str:
    """Lower-case, without brackets, symbols and marks; whole numbers in words where num2words has the language."""
    text = text.lower()
    for brackets in _BRACKETS:
        text = brackets.sub("", text)
    composed = unicodedata.normalize("NFKC", text)
    text = "".join(" " if unicodedata.category(char)[0] in "MSP" else char for char in composed).lower()
    text = re.sub(r"\s+", " ", re.sub(r"[^\w\s]", "", text)).strip()
    text = re.sub(r"(\d)\s+(\d{3})\b", r"\1\2", text)  # 10 000 is one number
    return re.sub(r"\d+", lambda digits: _spelt(digits.group(), language), text)


@cache
def _number_words() -> Callable[..., str]:
    try:
        from num2words import num2words
    except ModuleNotFoundError as error:
        raise ConfigError(f"normaliser leaderboard needs the package num2words: {EXTRA}") from error
    spell: Callable[..., str] = num2words
    return spell


@cache
def _spelt(digits: str, language: str) -> str:
    try:
        return _number_words()(int(digits), lang=language)
    except Exception:  # noqa: BLE001 (a language or number that it does not have raises anything; the digits stay)
        return digits


def join_compounds(reference: str, hypothesis: str) -> tuple[str, str]:
    """Join words on both sides where a stretch differs in its blanks only."""
    spoken, written = reference.split(), hypothesis.split()
    new_spoken: list[str] = []
    new_written: list[str] = []
    for kind, i, j, k, m in SequenceMatcher(None, spoken, written).get_opcodes():
        if kind != "equal" and "".join(spoken[i:j]) == "".join(written[k:m]):
            new_spoken.append("".join(spoken[i:j]))
            new_written.append("".join(written[k:m]))
        else:
            new_spoken += spoken[i:j]
            new_written += written[k:m]
    return " ".join(new_spoken), " ".join(new_written)
