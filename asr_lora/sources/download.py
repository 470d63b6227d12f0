"""Download an archive of Mozilla Data Collective, and check it against the platform's checksum.

The platform's client, `datacollective` (extra `mdc`), downloads it and continues after a broken connection. It does not
hash the archive, trusts the server's file name, reads any `.env` file and prints to standard output: this module
prevents or replaces that.
"""

import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from asr_lora.errors import ConfigError, DataError
from asr_lora.folders.digests import sha256_file
from asr_lora.folders.source_folder import DownloadFolder, DownloadRecord
from asr_lora.system.locks import alone
from asr_lora.system.progress import say

SCHEME = "mdc:"
KEY, ADDRESS = "MDC_API_KEY", "MDC_API_URL"
SITE = "https://mozilladatacollective.com"
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
PAUSES = (1.0, 5.0, 15.0, 60.0)  # seconds before each new try; tries are counted from the last bytes that arrived
TERMS = ("license", "licenseAbbreviation", "licenseUrl", "restrictions", "forbiddenUsage", "additionalConditions")


def mdc_dataset(source: str | Path) -> str | None:
    """Return the dataset of a source called `mdc:<dataset>`; None for any other source."""
    text = str(source)
    return text.removeprefix(SCHEME) if text.startswith(SCHEME) else None


def fetch(dataset: str, folder: Path) -> Path:
    """Download the archive of a dataset, unless an earlier call has downloaded and checked it.

    Name, licence and terms of the dataset are printed first. After a broken connection the download continues, in this
    call or in the next.

    Args:
        dataset: id or slug, as in the address of the dataset's page.
        folder: folder of all downloads, in which each dataset has its own.

    Returns:
        The path of the archive.

    Raises:
        ConfigError: the key or `datacollective` is missing, the name or the key is not accepted, the disk is too small,
            or another process downloads the dataset.
        DataError: the platform fails or does not give access (terms, price, removed, too many requests), or the
            SHA-256 of the archive differs from the one that the platform states.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}", dataset):
        raise ConfigError(
            f"{SCHEME}{dataset} is no dataset: write the id or slug at the end of the address of its page on {SITE}"
        )
    home = DownloadFolder(folder / dataset)
    if home.complete and home.whole(record := home.read()):
        return home.archive(record.file)
    client = _client()
    page = f"{SITE}/datasets/{dataset}"
    with _as_own_errors(dataset, page):
        details = client.get_dataset_details(dataset)
    name = _safe_name(details.filename, dataset)
    _say_terms(details, page)
    _require_space(home, name, details)
    with alone(home.lock, f"{SCHEME}{dataset} is being downloaded by another process: wait until it ends"):
        if not _left_whole(home, name, details):
            with _progress(home.part(name), int(details.sizeBytes or 0)), _as_own_errors(dataset, page):
                _download(client, dataset, home, name)
        digest = _checked(home, name, details.checksum, dataset)
        archive = home.archive(name)
        home.write(
            DownloadRecord(
                dataset=dataset, file=name, bytes=archive.stat().st_size, sha256=digest,
                checked=digest == _sha256_of(details.checksum), terms=_terms(details), page=page,
            )
        )  # fmt: skip
    return archive


def _client() -> Any:
    """Import the platform's client.

    Raises:
        ConfigError: the key is not set, the address would send it unencrypted, or the client is not installed.
    """
    if not os.environ.get(KEY, "").strip():
        raise ConfigError(f"{KEY} is not set: make a key at {SITE}/api-reference, then: export {KEY}=...")
    address = urlsplit(os.environ.get(ADDRESS, SITE))
    if address.scheme != "https" and address.hostname not in LOCAL_HOSTS:
        raise ConfigError(f"{ADDRESS} must begin with https://, since others could read the key otherwise")
    # Else a .env file in this folder or above could send the key to another address.
    os.environ.setdefault("PYTHON_DOTENV_DISABLED", "1")
    try:
        import datacollective
    except ImportError as error:
        raise ConfigError(
            f"{SCHEME} needs the package datacollective: pip install 'asr_lora[mdc]' ({error})"
        ) from error
    return datacollective


def _safe_name(name: str | None, dataset: str) -> str:
    """Check the file name that the platform gives, since it becomes a path on this disk."""
    if not name or name in (".", "..") or not re.fullmatch(r"[\w][\w .+@=-]{0,200}", name):
        raise DataError(f"{SCHEME}{dataset}: the platform gives no usable file name ({name!r}): download it by hand")
    return name


def _terms(details: Any) -> dict[str, str]:
    found = {name: details.get(name) or (details.model_extra or {}).get(name) for name in TERMS}
    return {name: str(value) for name, value in found.items() if value}


def _say_terms(details: Any, page: str) -> None:
    terms = _terms(details)
    owner = f", by {details.organization.name}" if details.organization and details.organization.name else ""
    size = f", {float(details.sizeBytes) / 1e9:.2f} GB" if details.sizeBytes else ""
    say(f"{details.get('name') or details.id}{owner}{size}")
    if not terms:
        say("licence: none is stated")
    for name, text in terms.items():
        say(f"{name}: {' '.join(text.split())}")
    say(f"accept the terms once at: {page}")


def _require_space(home: DownloadFolder, name: str, details: Any) -> None:
    there = next(path for path in (home.root, *home.root.parents) if path.exists())
    have = max(_size(home.part(name)), _size(home.archive(name)))
    lacking = int(details.sizeBytes or 0) - have - shutil.disk_usage(there).free
    if lacking > 0:
        raise ConfigError(
            f"{there} lacks {lacking / 1e9:.1f} GB for {name}: free space there, or set MDC_DOWNLOAD_PATH to another "
            "folder"
        )


def _left_whole(home: DownloadFolder, name: str, details: Any) -> bool:
    """Whether an earlier call was stopped after the last byte, where the client would fail: it would ask for more."""
    part = home.part(name)
    if home.archive(name).is_file():
        return True
    if details.sizeBytes and _size(part) >= details.sizeBytes:
        if sha256_file(part) == _sha256_of(details.checksum):
            part.replace(home.archive(name))
            return True
        part.unlink()
    return False


def _download(client: Any, dataset: str, home: DownloadFolder, name: str) -> None:
    """Download with the client, and try again after a broken connection."""
    from datacollective.errors import DownloadError

    failures = 0
    while True:
        before = _size(home.part(name))
        try:
            client.download_dataset(dataset, download_directory=str(home.root), show_progress=False)
            return
        except DownloadError as error:
            if error.__cause__ is None or not _may_pass(error.__cause__):
                raise (error.__cause__ or error) from None  # the client wraps Ctrl-C and a full disk alike
        kept = _size(home.part(name))
        failures = 1 if kept > before else failures + 1
        if failures > len(PAUSES):
            raise DataError(
                f"{SCHEME}{dataset}: the connection broke {failures} times in a row; {kept / 1e6:.1f} MB are kept. "
                "Run the same command again to continue"
            )
        tqdm.write(f"the connection broke after {kept / 1e6:.1f} MB; the download continues", file=sys.stderr)
        time.sleep(PAUSES[failures - 1])


def _may_pass(error: BaseException) -> bool:
    import requests

    if isinstance(error, requests.HTTPError):
        return error.response is not None and error.response.status_code >= 500
    return isinstance(error, requests.RequestException)


def _checked(home: DownloadFolder, name: str, promised: str | None, dataset: str) -> str:
    """Return the archive's SHA-256, and remove an archive with a wrong one.

    Raises:
        DataError: the SHA-256 differs from the one that the platform states.
    """
    found, expected = sha256_file(home.archive(name)), _sha256_of(promised)
    if expected is None:
        say(f"warning: the platform states no SHA-256 of {name}, so it is not checked; it has {found}")
    elif found != expected:
        home.archive(name).unlink()
        raise DataError(
            f"{SCHEME}{dataset}: {name} has the SHA-256 {found}, but the platform states {expected}. The file was "
            "removed: run the same command again"
        )
    return found


def _sha256_of(promised: str | None) -> str | None:
    text = (promised or "").strip().lower().removeprefix("sha256:")
    return text if re.fullmatch(r"[0-9a-f]{64}", text) else None


@contextmanager
def _progress(part: Path, total: int) -> Iterator[None]:
    """Show the progress by the size of the file: the client's own bar would write to standard output."""
    done = threading.Event()
    with tqdm(total=total or None, initial=_size(part), desc="download", unit="B", unit_scale=True) as bar:

        def watch() -> None:
            while not done.wait(0.5):
                if size := _size(part):
                    bar.update(size - bar.n)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


@contextmanager
def _as_own_errors(dataset: str, page: str) -> Iterator[None]:
    """Raise our errors for the client's, whose texts are not shown since they may contain signed addresses."""
    import requests
    from datacollective.errors import AuthenticationError, RateLimitError, ResourceRemovedError

    what = f"{SCHEME}{dataset}"
    try:
        yield
    except AuthenticationError as error:
        raise ConfigError(
            f"{what}: the platform does not accept the key in {KEY}: make a new one at {SITE}/api-reference"
        ) from error
    except RateLimitError as error:
        after = error.response.headers.get("Retry-After", "") if error.response is not None else ""
        when = f"in {after} s" if after.isdigit() else "in some minutes"
        raise DataError(f"{what}: too many requests: run the same command again {when}") from error
    except ResourceRemovedError as error:
        raise DataError(f"{what} was removed from the platform: look for a newer release at {SITE}/datasets") from error
    except FileNotFoundError as error:
        if error.errno is not None:
            raise  # the error is of this disk, not of the platform
        raise DataError(
            f"{what}: there is no such dataset: write the end of the address of its page, {SITE}/datasets"
        ) from error
    except PermissionError as error:
        if error.errno is not None:
            raise
        raise DataError(
            f"{what}: no access: sign in at {page}, accept the terms, and run the same command again"
        ) from error
    except requests.HTTPError as error:
        raise DataError(f"{what}: {_answer(error, page)}") from error
    except (requests.ConnectionError, requests.Timeout) as error:
        remedy = "check the network, and run the same command again"
        raise DataError(f"{what}: the platform cannot be reached ({type(error).__name__}): {remedy}") from error
    except (requests.RequestException, ValueError, TypeError, AttributeError, RuntimeError) as error:
        remedy = f"pip install --upgrade datacollective, or download it by hand from {page}"
        raise DataError(
            f"{what}: the platform's answer has an unknown form ({type(error).__name__}): {remedy}"
        ) from error


def _answer(error: Any, page: str) -> str:
    status = error.response.status_code if error.response is not None else 0
    if status == 402:
        return f"it has a price: buy it at {page}, and run the same command again"
    if status >= 500:
        return f"the platform has an error ({status}): run the same command again later"
    return f"the platform gives no access ({status}): download it by hand from {page}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
