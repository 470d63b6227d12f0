"""Find the scripts of a language, and the script of a letter."""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache

_LANGUAGES_OF = {  # every language that Whisper has a token for; some use several scripts
    "Latin": "en de es fr pt tr pl ca nl sv it id fi vi ms cs ro da hu no hr lt la mi cy sk lv sl et br eu is bs sq sw"
    " gl sn yo so af oc uz fo ht tk nn mt lb mg tl haw ln ha jw su sr az tt kk",
    "Cyrillic": "ru uk bg sr mk be kk mn tg tt ba uz az bs tk",
    "Arabic": "ar fa ur ps sd pa",
    "Devanagari": "hi mr ne sa sd",
    "Han": "zh yue ja ko",
    "Hiragana": "ja",
    "Katakana": "ja",
    "Bopomofo": "zh yue",
    "Hangul": "ko",
    "Bengali": "bn as",
    "Hebrew": "he yi",
    "Gurmukhi": "pa",
    "Greek": "el",
    "Tamil": "ta",
    "Thai": "th",
    "Telugu": "te",
    "Malayalam": "ml",
    "Kannada": "kn",
    "Armenian": "hy",
    "Mongolian": "mn",
    "Sinhala": "si",
    "Khmer": "km",
    "Georgian": "ka",
    "Gujarati": "gu",
    "Ethiopic": "am",
    "Lao": "lo",
    "Tibetan": "bo",
    "Myanmar": "my",
    "Javanese": "jw",
    "Sundanese": "su",
}
SCRIPTS = frozenset({*_LANGUAGES_OF, "Oriya", "Syriac", "Thaana", "Nko", "Tifinagh", "Cherokee", "Canadian", "Yi"})
UNSPACED = frozenset({"Han", "Hiragana", "Katakana", "Bopomofo", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan"})
_RENAMED = {"Cjk": "Han", "Ideographic": "Han"}
_WIDTHS = ("Fullwidth", "Halfwidth")


def scripts_of(language: str, texts: Iterable[str] = ()) -> frozenset[str]:
    """Return the scripts of a language. For a language outside the table: each script of 10 % of the letters or more.

    Args:
        language: code, as `asr_lora.language.spoken_language` returns it.
        texts: texts of the dataset, read only where the table does not have the language.
    """
    known = frozenset(script for script, codes in _LANGUAGES_OF.items() if language in codes.split())
    if known:
        return known
    counts = Counter(script for text in texts for char in text if (script := script_of(char)))
    return frozenset(script for script, count in counts.items() if count >= counts.total() / 10)


@cache
def script_of(char: str) -> str:
    """Return the script of a letter by its Unicode name, such as "Latin"; "" for other characters and scripts."""
    if not unicodedata.category(char).startswith("L"):
        return ""
    words = unicodedata.name(char, "").title().split()
    if words and words[0] in _WIDTHS:
        words = words[1:]
    name = _RENAMED.get(words[0], words[0]) if words else ""
    return name if name in SCRIPTS else ""
