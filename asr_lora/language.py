"""Names and codes of languages, as Whisper knows them."""

import difflib

from asr_lora.errors import ConfigError


def whisper_language(name: str) -> str:
    """Return Whisper's code of a language given by name or code: "Dutch", "nl" and "nl-NL" are all "nl".

    Raises:
        ConfigError: Whisper has no such language.
    """
    from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

    wanted = name.strip().lower()
    for candidate in (wanted, wanted.replace("_", "-").split("-")[0]):
        if candidate in LANGUAGES:
            return candidate
        if candidate in TO_LANGUAGE_CODE:
            return str(TO_LANGUAGE_CODE[candidate])
    near = difflib.get_close_matches(wanted, [*TO_LANGUAGE_CODE, *LANGUAGES], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"language: Whisper has no {name!r}{hint} Use a name or code such as 'Dutch' or 'nl'.")
