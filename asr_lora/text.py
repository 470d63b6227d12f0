"""What may be done to a transcript before it is stored. Nothing is, unless it was asked for."""

import hashlib
import unicodedata
from dataclasses import asdict, dataclass

APOSTROPHES = dict.fromkeys(map(ord, "’‘ʼʹ′`´＇"), "'")
SPOKEN = "%‰&@#§*/"  # punctuation to Unicode, words to whoever reads it aloud
WITHIN_WORDS = "'’ʼ-‐‑"  # part of a word where letters stand on both sides


@dataclass(frozen=True)
class TextCleaning:
    """Explicit choices, all off by default."""

    lower_case: bool = False
    strip_punctuation: bool = False
    nfc: bool = False
    apostrophes: bool = False

    def apply(self, text: str) -> str:
        """Change a transcript as chosen; runs of white space are always one space."""
        if self.nfc:
            text = unicodedata.normalize("NFC", text)
        if self.apostrophes:
            text = text.translate(APOSTROPHES)
        if self.lower_case:
            text = text.lower()
        if self.strip_punctuation:
            text = without_punctuation(text)
        return " ".join(text.split())

    def chosen(self) -> list[str]:
        """Names of the choices that were made."""
        return [name for name, on in asdict(self).items() if on]


def without_punctuation(text: str) -> str:
    """Take out punctuation; apostrophes and hyphens within words stay, and so do signs that are read aloud."""
    kept = []
    for place, letter in enumerate(text):
        heard = not unicodedata.category(letter).startswith("P") or letter in SPOKEN
        if heard or (letter in WITHIN_WORDS and _in_word(text, place)):
            kept.append(letter)
        elif letter not in WITHIN_WORDS:
            kept.append(" ")
    return "".join(kept)


def _in_word(text: str, place: int) -> bool:
    return 0 < place < len(text) - 1 and all(_is_letter(text[near]) for near in (place - 1, place + 1))


def _is_letter(letter: str) -> bool:
    return unicodedata.category(letter)[0] in "LMN"


def sentence_key(text: str) -> int:
    """A number that is equal for sentences that differ in case, punctuation, normal form, joiners or spaces only.

    Returns:
        64 bits of a SHA-256, signed, as a database keeps integers.
    """
    plain = unicodedata.normalize("NFC", unicodedata.normalize("NFKC", text).casefold())
    letters = (letter for letter in plain if letter not in WITHIN_WORDS and unicodedata.category(letter) != "Cf")
    words = " ".join("".join(letter if _is_letter(letter) else " " for letter in letters).split()) or text
    return int.from_bytes(hashlib.sha256(words.encode(errors="surrogatepass")).digest()[:8], signed=True)
