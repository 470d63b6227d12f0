"""Text normalisation before words are compared: named and versioned, as a score means nothing without it."""

import re
import unicodedata

NORMALISER = "basic-1"  # name and version: change the version with every change of what `basic` returns

_APOSTROPHES = re.compile(r"(?<=\w)[’‘ʼ`´](?=\w)")


def basic(text: str) -> str:
    """Lower-case, drop punctuation and symbols, keep what distinguishes words.

    Unlike Whisper's BasicTextNormalizer it keeps combining marks (Devanagari, Thai and others lose their vowels
    without them), bracketed text, and apostrophes within a word (arXiv 2409.02449). Hyphens part words. Numbers stay
    as written.
    """
    text = unicodedata.normalize("NFC", _APOSTROPHES.sub("'", text)).lower()
    kept = []
    for place, char in enumerate(text):
        category = unicodedata.category(char)
        within = 0 < place < len(text) - 1 and text[place - 1].isalnum() and text[place + 1].isalnum()
        if category[0] in "LMN" or (char == "'" and within):
            kept.append(char)
        elif category != "Cf":  # joiners and direction marks vanish; all else parts words
            kept.append(" ")
    return unicodedata.normalize("NFC", " ".join("".join(kept).split()))
