"""Clean texts before they are stored, where the user asks for it, compare sentences, and show texts safely."""

import hashlib
import re
import unicodedata
from dataclasses import asdict, dataclass

APOSTROPHES = dict.fromkeys(map(ord, "’‘ʼʹ′`´＇"), "'")
SPOKEN = "%‰&@#§*/"  # Unicode calls these punctuation, but they are read as words
DOTTED = ("tr", "az", "crh", "gag")  # languages whose capitals of ı and i are I and İ
# What a terminal or a browser obeys instead of showing it: control characters but tab and newline, separators of lines,
# overrides of the direction, annotations, halves of characters. Joiners and direction marks stay: languages need them.
# Bytes of file names that are not UTF-8 (U+DC80 to U+DCFF in Python) stay too, since programs read printed names.
HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb\ud800-\udc7f\udd00-\udfff]")
WITHIN_WORDS = "'’ʼ-‐‑"  # part of a word where letters stand on both sides


@dataclass(frozen=True)
class TextCleaning:
    """Changes of a text, all off by default."""

    lower_case: bool = False
    strip_punctuation: bool = False
    nfc: bool = False
    apostrophes: bool = False

    def apply(self, text: str, language: str = "") -> str:
        """Change a text of a language, given by its code. Several spaces always become one."""
        if self.nfc:
            text = unicodedata.normalize("NFC", text)
        if self.apostrophes:
            text = text.translate(APOSTROPHES)
        if self.lower_case:
            text = lower_case(text, language)
        if self.strip_punctuation:
            text = without_punctuation(text)
        return " ".join(text.split())

    def chosen(self) -> list[str]:
        """Return the names of the changes that are on."""
        return [name for name, on in asdict(self).items() if on]


def lower_case(text: str, language: str) -> str:
    """Convert a text to lower case as its language, given by its code, does: I is ı in Turkish (SpecialCasing.txt)."""
    if language in DOTTED:
        text = text.replace("I\u0307", "i").replace("İ", "i").replace("I", "ı")
    return text.lower()


def printable(text: str) -> str:
    r"""Write hidden and control characters as in JSON, such as \u001b, so that JSON with them stays JSON."""
    return HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def without_punctuation(text: str) -> str:
    """Remove punctuation, except apostrophes and hyphens within words and signs that are read as words."""
    kept = []
    for place, letter in enumerate(text):
        spoken = not unicodedata.category(letter).startswith("P") or letter in SPOKEN
        if spoken or (letter in WITHIN_WORDS and _in_word(text, place)):
            kept.append(letter)
        elif letter not in WITHIN_WORDS:
            kept.append(" ")
    return "".join(kept)


def _in_word(text: str, place: int) -> bool:
    return 0 < place < len(text) - 1 and all(_is_letter(text[near]) for near in (place - 1, place + 1))


def _is_letter(letter: str) -> bool:
    return unicodedata.category(letter)[0] in "LMN"


def sentence_key(text: str) -> int:
    """Return a number that is equal for sentences that differ only in case, punctuation, normal form or spaces.

    I, İ, ı and i are one letter here, since Turkish pairs them otherwise than English. The number is a signed integer
    of 64 bits (of a SHA-256), as SQLite stores it.
    """
    plain = unicodedata.normalize("NFC", unicodedata.normalize("NFKC", text).casefold())
    plain = plain.replace("i\u0307", "i").replace("ı", "i")
    letters = (letter for letter in plain if letter not in WITHIN_WORDS and unicodedata.category(letter) != "Cf")
    words = " ".join("".join(letter if _is_letter(letter) else " " for letter in letters).split()) or text
    return int.from_bytes(hashlib.sha256(words.encode(errors="surrogatepass")).digest()[:8], signed=True)
