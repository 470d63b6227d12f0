"""Rules on the text of a label. Each rule is a function that returns what it found, or "" for nothing."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import lru_cache

from asr_lora.labels.scripts import UNSPACED, script_of

MAX_TEXT_TOKENS = 448 - 5  # the decoder's limit without start, language, task, no-timestamps and end
MAX_REPEATS = 4  # one word so many times in a row is a finding
REPEATED_WORDS, REPEATED_LETTERS = 3, 6  # items that are repeated at once: words, or letters in scripts without spaces
COMPARED = 400  # words of a text that are compared: the cost grows with their square
SHOWN = 40  # characters of a text in a finding
_MARKUP = re.compile(
    r"</?[A-Za-z][^<>]*>|<\|[^<>]*\|>|&(?:[A-Za-z]{2,8}|#\d{1,6}|#x[0-9A-Fa-f]{1,6});|https?://\S*|\bwww\.\S+"
    r"|\[[^\]]*\]|\{[^}]*\}|[\[\]{}]"
)
_BRACKETS = re.compile(r"\([^)]*\)|（[^）]*）|[()（）]")
_READ_SYMBOLS = "%&@#*/\\§‰_٪％＆＃＠"  # beside all of Unicode's currency, mathematical and other symbols
_SAID_SIGNS = "〇～"  # a zero among Chinese numerals; a long vowel in Japanese
_MARK_IN_WORD = re.compile(r'(?<=\w)"(?=\w)')  # of a Hebrew abbreviation
_STRAY_MARK = re.compile(r"(?:^|\s)(?=\S)(.)", re.DOTALL)
_WORD = re.compile(r"[^\W\d_]+")
_UTF8 = re.compile(r"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_MISREAD_AS = {"cp1252": 1, "cp1250": 1, "cp1251": 3}  # code page -> letters in a row that leave no doubt
_PUNCTUATION = "‘’‚“”„…–—"
_OTHER_LATIN = "ƏəƠơƯưȘșȚțẞ"  # of languages with many readers; besides, Latin up to U+017F and Vietnamese

TextRule = Callable[[str, frozenset[str]], str]


def no_words(text: str, _: frozenset[str]) -> str:
    """The text has no letter and no number."""
    return "" if any(unicodedata.category(char)[0] in "LN" for char in text) else shown(text) or "the text is empty"


def too_many_tokens(text: str, _: frozenset[str]) -> str:
    """The text has more bytes than the decoder takes tokens; it may still fit, since a token has one byte or more."""
    size = len(f" {text.strip()}".encode(errors="surrogatepass"))
    return f"{size} bytes may be more than {MAX_TEXT_TOKENS} tokens" if size > MAX_TEXT_TOKENS else ""


def wrong_script(text: str, scripts: frozenset[str]) -> str:
    """Whole words are in a script that the language does not use.

    Latin words within another script are usual (names, borrowed words) up to half of the letters.
    """
    if not scripts or (text.isascii() and "Latin" in scripts):
        return ""
    letters = Counter(script for char in text if (script := script_of(char)))
    strange = {script: count for script, count in letters.items() if script not in scripts}
    if 2 * strange.get("Latin", 0) <= letters.total():
        strange.pop("Latin", None)
    if not strange:
        return ""
    words = [word for word in _WORD.findall(text) if _scripts_in(word) and _scripts_in(word) <= strange.keys()]
    return f"{' and '.join(sorted(strange))}: {shown(' '.join(words))}" if words else ""


def mixed_letters(text: str, _: frozenset[str]) -> str:
    """A word mixes look-alike letters of two alphabets, such as a Latin a within Cyrillic."""
    if text.isascii():
        return ""
    alike = {"Latin", "Cyrillic", "Greek"}
    mixed = [word for word in _WORD.findall(text) if len(_scripts_in(word) & alike) > 1]
    return f"{' and '.join(sorted(_scripts_in(mixed[0]) & alike))} in {shown(mixed[0])}" if mixed else ""


def digits(text: str, _: frozenset[str]) -> str:
    """Numbers are in figures, so the text does not say how they were read."""
    return _some(char for char in text if unicodedata.category(char)[0] == "N" and char not in _SAID_SIGNS)


def symbols(text: str, _: frozenset[str]) -> str:
    """The text has signs that may be read as a word or not at all."""
    plain = _MARKUP.sub(" ", text)
    signs = (char for char in plain if char in _READ_SYMBOLS or unicodedata.category(char) in ("Sc", "Sm", "So"))
    return _some(char for char in signs if char not in _SAID_SIGNS)


def markup(text: str, _: frozenset[str]) -> str:
    """The text has tags, entities, addresses, or marks in square or curly brackets."""
    return _some(_MARKUP.findall(text))


def brackets(text: str, _: frozenset[str]) -> str:
    """Words are in round brackets, which many readers leave out."""
    return _some(_BRACKETS.findall(text))


def quotes(text: str, _: frozenset[str]) -> str:
    """Quotation marks are doubled, or one has no other, as half-escaped tables leave them."""
    marks = _MARK_IN_WORD.sub("", text).count('"')
    if '""' in text:
        return f'"" in {shown(text)}'
    return f'{marks} times "' if marks % 2 else ""


def normal_form(text: str, _: frozenset[str]) -> str:
    """A mark is apart from its letter (NFD) or has none, which changes the tokens of the word."""
    if text.isascii():
        return ""
    composed = unicodedata.normalize("NFC", text)
    if len(composed) < len(text):
        return f"{len(text) - len(composed)} marks apart from their letters; NFC joins them"
    stray = [char for char in _STRAY_MARK.findall(text) if unicodedata.category(char) in ("Mn", "Mc")]
    return f"a mark without a letter, U+{ord(stray[0]):04X}" if stray else ""


def mojibake(text: str, scripts: frozenset[str]) -> str:
    """UTF-8 was read in another encoding, or the text has replacement or control characters."""
    for char in text:
        if char in "\ufffd\ufeff" or unicodedata.category(char) in ("Cc", "Co", "Cs"):
            return f"the character U+{ord(char):04X}"
    return "" if text.isascii() else _misread(text, scripts)


def repeated(text: str, scripts: frozenset[str]) -> str:
    """A word comes four times in a row, or several words come twice in a row."""
    words = text.casefold().split()[:COMPARED]
    if len(words) < 4 and scripts & UNSPACED:
        return _repetition([char for char in text if char.isalnum()][:COMPARED], REPEATED_LETTERS, "")
    for place in range(len(words) - MAX_REPEATS + 1):
        if len(set(words[place : place + MAX_REPEATS])) == 1:
            return f"{shown(words[place])}, {MAX_REPEATS} times or more"
    return _repetition(words, 2 if len(words) == 4 else REPEATED_WORDS, " ")


TEXT_RULES: dict[str, TextRule] = {
    "no-words": no_words,
    "too-many-tokens": too_many_tokens,
    "wrong-script": wrong_script,
    "mixed-letters": mixed_letters,
    "digits": digits,
    "symbols": symbols,
    "markup": markup,
    "brackets": brackets,
    "quotes": quotes,
    "normal-form": normal_form,
    "mojibake": mojibake,
    "repeated": repeated,
}


def shown(text: str) -> str:
    """Return the beginning of a text, short enough for a finding."""
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _some(found: object) -> str:
    """Return the first different items as one text for a finding."""
    return shown(" ".join(dict.fromkeys(found)))  # type: ignore[call-overload]


def _repetition(items: list[str], least: int, blank: str) -> str:
    """Return the first sequence of `least` items or more that comes twice in a row; "" where there is none."""
    for length in range(least, len(items) // 2 + 1):
        run = 0
        for place in range(len(items) - length):
            run = run + 1 if items[place] == items[place + length] else 0
            if run == length:
                return f"{shown(blank.join(items[place + 1 : place + 1 + length]))}, twice"
    return ""


@lru_cache(maxsize=50_000)
def _scripts_in(word: str) -> frozenset[str]:
    return frozenset(script for char in word if (script := script_of(char)))


@lru_cache
def _bytes_of(codec: str) -> dict[int, str]:
    """Character -> byte of a code page, as a character below U+0100. Unused bytes stand for themselves."""
    table = {byte: chr(byte) for byte in range(256)}
    for byte in range(128, 256):
        table[ord(bytes([byte]).decode(codec, errors="ignore") or chr(byte))] = chr(byte)
    return table


def _misread(text: str, scripts: frozenset[str]) -> str:
    for codec, least in _MISREAD_AS.items():
        table = _bytes_of(codec)
        as_bytes = "".join(table.get(ord(char), "\0") for char in text)
        start = end = run = 0
        for match in _UTF8.finditer(as_bytes):
            try:
                meant = match[0].encode("latin-1").decode()
            except UnicodeDecodeError:  # an overlong or surrogate form
                continue
            if not _plausible(meant, scripts):
                continue
            adjoins = match.start() == end and run > 0
            start, end, run = (start if adjoins else match.start()), match.end(), (run + 1 if adjoins else 1)
            chance = len(match[0]) == 2 and text[end - 1] in _PUNCTUATION  # a capital, then a quotation mark
            if run >= least + chance:
                was = as_bytes[start:end].encode("latin-1").decode()
                return f"UTF-8 read as {codec}: {shown(text[start:end])} was {shown(was)}"
    return ""


def _plausible(char: str, scripts: frozenset[str]) -> bool:
    """Whether texts of these scripts use a character, so that its UTF-8 bytes are hardly there by accident."""
    if script_of(char) == "Latin":
        return ord(char) <= 0x17F or char in _OTHER_LATIN or 0x1EA0 <= ord(char) <= 0x1EF9
    return script_of(char) in scripts or char in "\ufeff\u00a0¡¿«»·°–—‘’‚“”„…€"
