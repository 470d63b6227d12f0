"""Check every request before it is handled (its host, origin and API key), and list the headers of every answer."""

import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import SplitResult, urlsplit

from asr_lora.serving.api_errors import ApiError

LOOPBACK_NAMES = {"localhost", "127.0.0.1", "::1"}
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; media-src blob:; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}


@dataclass(frozen=True)
class AccessPolicy:
    """Which requests this server handles."""

    host: str  # address that the server listens on
    key: str | None = None  # None: clients need no key

    def check(self, headers: Mapping[str, str], path: str, method: str = "POST") -> None:
        """Let a request pass or refuse it.

        On loopback, where no key may be needed, a page of another site could still reach this server through the
        user's browser: by a host name of its own that resolves to this machine (DNS rebinding), or by a plain form
        (cross-site request forgery). The headers of such requests show both.

        Args:
            headers: of the request, by lower-case name.
            path: of the request.
            method: of the request, in upper case.

        Raises:
            ApiError: the request names another host, comes from another site, or has a missing or wrong key.
        """
        host = (_split(f"//{headers.get('host', '')}").hostname or "").lower()
        if is_loopback(self.host) and host not in LOOPBACK_NAMES | {self.host.strip("[]").lower()}:
            raise ApiError(421, "wrong_host", "this server answers on this machine only: use http://localhost")
        if not _from_own_page(method, headers):
            raise ApiError(403, "wrong_origin", "this server answers no pages of other sites")
        if self.key is not None and (path.startswith("/v1/") or path == "/metrics"):
            self._require_key(headers.get("authorization", ""), self.key)

    def _require_key(self, authorization: str, expected: str) -> None:
        scheme, _, key = authorization.partition(" ")
        same = hmac.compare_digest(_digest(key.strip()), _digest(expected))
        if scheme.lower() != "bearer" or not same:
            raise ApiError(
                401, "invalid_api_key", "the API key is missing or wrong: send Authorization: Bearer KEY",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on this host."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _from_own_page(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a request comes from this server's own page, from no page at all, or opens the page from a link.

    A navigation with another method is a form that some page submits. The own page has none: it uses `fetch`.
    """
    if headers.get("sec-fetch-mode") == "navigate":
        return method in ("GET", "HEAD")
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is None or _split(origin).netloc.lower() == headers.get("host", "").lower() != ""


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _digest(key: str) -> bytes:
    """A digest of fixed length, so that a comparison takes the same time for every key."""
    return sha256(key.encode("utf-8", "surrogateescape")).digest()
