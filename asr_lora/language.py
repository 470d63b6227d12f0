"""Look languages up by name or code, and fix the language and task that Whisper's decoder is forced to."""

import difflib
import re
from dataclasses import dataclass
from enum import StrEnum

from asr_lora.errors import ConfigError

# Other codes of languages that Whisper has: outdated ones, Bokmål and Filipino (which Whisper has as Norwegian and
# Tagalog), Mandarin, and Javanese, whose code in Whisper is not that of ISO 639.
SAME_LANGUAGE = {"iw": "he", "in": "id", "ji": "yi", "mo": "ro", "nb": "no", "fil": "tl", "cmn": "zh", "jv": "jw"}
CODE = re.compile(r"[a-z]{2,3}(-[a-z0-9]+)*")  # as in ISO 639, with script or region


class Task(StrEnum):
    TRANSCRIBE = "transcribe"
    TRANSLATE = "translate"


@dataclass(frozen=True)
class ForcedPrompt:
    """The language and task that the tokens of the decoder's prompt force; `forced_prompt` makes one from names."""

    language: str | None  # code of the spoken language; None: an English-only model, whose prompt has no language
    token: str | None = None  # code of the language whose token is borrowed; None: the language has its own
    task: Task = Task.TRANSCRIBE

    @property
    def forced_language(self) -> str | None:
        """Code of the language whose token is in the prompt; None for an English-only model."""
        return self.token or self.language

    @property
    def options(self) -> list[str]:
        """The language and the borrowed token as options of the command line."""
        words = ["--language", self.language] if self.language else []
        return [*words, "--language-token", self.token] if self.token else words


def forced_prompt(language: str, token: str | None = None, task: Task | None = None) -> ForcedPrompt:
    """Make the prompt for a language given by name or code.

    Args:
        language: the spoken language.
        token: name or code of the language whose token is borrowed; it wins over the language's own token.
        task: transcribe when not given.

    Raises:
        ConfigError: a language is unknown, or Whisper has no token for the spoken one and none is borrowed.
    """
    code = spoken_language(language)
    if token is None:
        whisper_language(code)
    borrowed = None if token is None else whisper_language(token, "language_token")
    return ForcedPrompt(code, None if borrowed == code else borrowed, task or Task.TRANSCRIBE)


def whisper_language(name: str, setting: str = "language") -> str:
    """Return Whisper's code of a language given by name or code: "Dutch", "nl" and "nl-NL" are all "nl".

    Raises:
        ConfigError: Whisper has no such language; the message begins with the `setting` that named it.
    """
    if code := _whisper_code(name):
        return code
    if setting == "language" and CODE.fullmatch(_plain(name)):
        raise ConfigError(
            f"language: Whisper has no {name!r}{_two_letters(name)}. Set model.language_token, or --language-token, to "
            "a related language that it has, such as nl for Frisian."
        )
    raise ConfigError(f"{setting}: Whisper has no {name!r}{_near(name)} Use a name or code such as 'Dutch' or 'nl'.")


def spoken_language(name: str) -> str:
    """Return the code of any language: Whisper's where it has one, else the code as given, such as "fy" of "fy-NL".

    Raises:
        ConfigError: the name is neither known to Whisper nor a code; it may be misspelt.
    """
    code = _plain(name)
    if not _whisper_code(name) and CODE.fullmatch(code):
        return code.split("-")[0]
    return whisper_language(name)


def language_name(code: str) -> str:
    """Return the English name, in lower case, of a language that Whisper has; the code of any other language."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    return str(LANGUAGES.get(code, code))


def missing_token(language: str) -> str | None:
    """Return a notice about a language that Whisper has no token for; None where it has one."""
    if _whisper_code(language):
        return None
    return (
        f"Whisper has no token for {language!r}{_two_letters(language)}: train, evaluate and adapt need the token of a "
        "related language, such as nl for Frisian; set model.language_token or --language-token"
    )


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-")


def _whisper_code(name: str) -> str | None:
    from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

    wanted = name.strip().lower()
    for code in (wanted, _plain(name).split("-")[0]):
        candidate = SAME_LANGUAGE.get(code, code)
        if candidate in LANGUAGES:
            return candidate
        if candidate in TO_LANGUAGE_CODE:
            return str(TO_LANGUAGE_CODE[candidate])
    return None


def _near(name: str) -> str:
    from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

    near = difflib.get_close_matches(name.strip().lower(), [*TO_LANGUAGE_CODE, *LANGUAGES], n=1)
    return f"; did you mean {near[0]!r}?" if near else "."


def _two_letters(code: str) -> str:
    """Return a hint for a three-letter code: Whisper has codes of two letters, so "deu" may be its "de"."""
    return " (if it also has a code of two letters, use that)" if len(_plain(code).split("-")[0]) > 2 else ""
