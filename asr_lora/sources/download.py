"""A dataset of Mozilla Data Collective -> its archive on disk, checked against the platform's checksum.

The platform's own client, `datacollective` (extra `mdc`), speaks to it and goes on with what a broken connection left.
What it leaves to us: it never hashes what came, takes the server's word for the name of the file, reads a `.env` file
wherever it finds one, and reports on standard output.
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
PAUSES = (1.0, 5.0, 15.0, 60.0)  # seconds before each new try after a broken connection; counted anew where bytes came
TERMS = ("license", "licenseAbbreviation", "licenseUrl", "restrictions", "forbiddenUsage", "additionalConditions")


def mdc_dataset(source: str | Path) -> str | None:
    """Give the dataset that `mdc:<dataset>` names; None for any other source."""
    text = str(source)
    return text.removeprefix(SCHEME) if text.startswith(SCHEME) else None


def fetch(dataset: str, folder: Path) -> Path:
    """Download a dataset's archive, or find it where an earlier call has put it.

    What a dataset is, its licence and its terms are said before anything is downloaded. A broken connection is tried
    again, and what came is kept for the next call. An archive that is there and was checked is not asked for again.

    Args:
        dataset: id or slug, as in the address of the dataset's page.
        folder: where downloads are kept; each dataset has a folder of its own in it.

    Returns:
        The archive.

    Raises:
        ConfigError: no key in the environment, no `datacollective`, not the name of a dataset, no space; another
            process is downloading it.
        DataError: the platform refuses (key, terms, price, gone, too many requests), fails, or sends something else
            than its checksum promises.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}", dataset):
        raise ConfigError(
            f"{SCHEME}{dataset}: write the id or slug that ends the address of the dataset's page, {SITE}"
        )
    home = DownloadFolder(folder / dataset)
    if home.complete and home.whole(record := home.read()):
        return home.archive(record.file)
    client = _client()
    page = f"{SITE}/datasets/{dataset}"
    with _in_one_sentence(dataset, page):
        details = client.get_dataset_details(dataset)
    name = _safe_name(details.filename, dataset)
    _say_terms(details, page)
    _require_space(home, name, details)
    with alone(home.lock, f"{SCHEME}{dataset} is being downloaded by another process: wait until it ends"):
        if not _left_whole(home, name, details):
            with _progress(home.part(name), int(details.sizeBytes or 0)), _in_one_sentence(dataset, page):
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
    """Import the platform's client, with all that it needs in place.

    Raises:
        ConfigError: no key, an address that would send it in the clear, or no client.
    """
    if not os.environ.get(KEY, "").strip():
        raise ConfigError(f"{KEY} is not set: make a key at {SITE}/api-reference, then: export {KEY}=...")
    address = urlsplit(os.environ.get(ADDRESS, SITE))
    if address.scheme != "https" and address.hostname not in LOCAL_HOSTS:
        raise ConfigError(f"{ADDRESS} must begin with https://, or the key could be read on its way")
    # A .env file in this folder or above could otherwise send the key to an address of its own.
    os.environ.setdefault("PYTHON_DOTENV_DISABLED", "1")
    try:
        import datacollective
    except ImportError as error:
        raise ConfigError(
            f"{SCHEME} needs the package datacollective: pip install 'asr_lora[mdc]' ({error})"
        ) from error
    return datacollective


def _safe_name(name: str | None, dataset: str) -> str:
    """Check a file name that the platform gives: it becomes a path on this disk."""
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
        say("licence: none is named")
    for name, text in terms.items():
        say(f"{name}: {' '.join(text.split())}")
    say(f"terms, to be agreed to there once: {page}")


def _require_space(home: DownloadFolder, name: str, details: Any) -> None:
    there = next(path for path in (home.root, *home.root.parents) if path.exists())
    have = max(_size(home.part(name)), _size(home.archive(name)))
    lacking = int(details.sizeBytes or 0) - have - shutil.disk_usage(there).free
    if lacking > 0:
        raise ConfigError(f"{there} lacks {lacking / 1e9:.1f} GB for {name}: make room there or name another folder")


def _left_whole(home: DownloadFolder, name: str, details: Any) -> bool:
    """Whether an earlier call was stopped after the last byte; the client would ask for more and be refused."""
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
    """Let the client download, again where the connection breaks."""
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
                "Run the same command again to go on"
            )
        tqdm.write(f"the connection broke after {kept / 1e6:.1f} MB: going on", file=sys.stderr)
        time.sleep(PAUSES[failures - 1])


def _may_pass(error: BaseException) -> bool:
    import requests

    if isinstance(error, requests.HTTPError):
        return error.response is not None and error.response.status_code >= 500
    return isinstance(error, requests.RequestException)


def _checked(home: DownloadFolder, name: str, promised: str | None, dataset: str) -> str:
    """Return the archive's SHA-256; remove the archive where it is not what the platform promises.

    Raises:
        DataError: it was another.
    """
    found, expected = sha256_file(home.archive(name)), _sha256_of(promised)
    if expected is None:
        say(f"warning: the platform gives no SHA-256 of {name}, so it could not be checked; it has {found}")
    elif found != expected:
        home.archive(name).unlink()
        raise DataError(
            f"{SCHEME}{dataset}: {name} came with SHA-256 {found} where the platform promises {expected}; it was "
            "removed. Run the same command again to download it anew"
        )
    return found


def _sha256_of(promised: str | None) -> str | None:
    text = (promised or "").strip().lower().removeprefix("sha256:")
    return text if re.fullmatch(r"[0-9a-f]{64}", text) else None


@contextmanager
def _progress(part: Path, total: int) -> Iterator[None]:
    """Show how much of a file has come, by its size on disk: the client's own bar would write to standard output."""
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
def _in_one_sentence(dataset: str, page: str) -> Iterator[None]:
    """Turn what the client raises into a sentence; texts of its errors may hold signed addresses, so none is shown."""
    import requests
    from datacollective.errors import AuthenticationError, RateLimitError, ResourceRemovedError

    what = f"{SCHEME}{dataset}"
    try:
        yield
    except AuthenticationError as error:
        raise ConfigError(
            f"{what}: the key in {KEY} is not accepted: make a new one at {SITE}/api-reference"
        ) from error
    except RateLimitError as error:
        after = error.response.headers.get("Retry-After", "") if error.response is not None else ""
        when = f"in {after} s" if after.isdigit() else "in some minutes"
        raise DataError(f"{what}: too many requests: run the same command again {when}") from error
    except ResourceRemovedError as error:
        raise DataError(f"{what} was removed from the platform: look for a newer release at {SITE}/datasets") from error
    except FileNotFoundError as error:
        if error.errno is not None:
            raise  # of this disk, not of the platform
        raise DataError(
            f"{what}: there is no such dataset: see how its page's address ends, {SITE}/datasets"
        ) from error
    except PermissionError as error:
        if error.errno is not None:
            raise
        raise DataError(f"{what}: no access: sign in at {page}, agree to the terms, and run this again") from error
    except requests.HTTPError as error:
        raise DataError(f"{what}: {_answer(error, page)}") from error
    except (requests.ConnectionError, requests.Timeout) as error:
        remedy = "look at the network, then run the same command again"
        raise DataError(f"{what}: the platform cannot be reached ({type(error).__name__}): {remedy}") from error
    except (requests.RequestException, ValueError, TypeError, AttributeError, RuntimeError) as error:
        remedy = f"pip install --upgrade datacollective, or download it by hand from {page}"
        raise DataError(
            f"{what}: the platform's answer is not understood ({type(error).__name__}): {remedy}"
        ) from error


def _answer(error: Any, page: str) -> str:
    status = error.response.status_code if error.response is not None else 0
    if status == 402:
        return f"it has a price: buy it at {page}, and run this again"
    if status >= 500:
        return f"the platform fails ({status}): run the same command again later"
    return f"the platform refuses ({status}): download it by hand from {page}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
