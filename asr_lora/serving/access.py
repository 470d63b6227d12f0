"""What every request passes: meant for this server, from whom, with which key; and headers that every answer has."""

import hmac
import ipaddress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from urllib.parse import SplitResult, urlsplit

from asr_lora.serving.api_errors import Refusal

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
class Door:
    """Who may come in."""

    host: str  # that is listened on
    key: str | None = None  # None: nobody is asked for one

    def admit(self, headers: Any, path: str) -> None:
        """Let a request pass.

        On loopback, where no key may be needed, a page of another site could still reach this server through the
        browser: by a name of its own that it lets point here, or by a plain form. Both say so in their headers.

        Args:
            headers: of the request, by lower-case name.
            path: of it.

        Raises:
            Refusal: it is meant for another host, comes from another site, or has no or another key.
        """
        host = (_parts(f"//{headers.get('host', '')}").hostname or "").lower()
        if is_loopback(self.host) and host not in LOOPBACK_NAMES | {self.host.strip("[]").lower()}:
            raise Refusal(421, "wrong_host", "this server answers on this machine only: use http://localhost")
        if not _own_page(headers):
            raise Refusal(403, "wrong_origin", "this server answers no pages of other sites")
        if self.key is not None and (path.startswith("/v1/") or path == "/metrics"):
            self._require_key(headers.get("authorization", ""))

    def _require_key(self, given: str) -> None:
        assert self.key is not None
        kind, _, key = given.partition(" ")
        same = hmac.compare_digest(_digest(key.strip()), _digest(self.key))
        if kind.lower() != "bearer" or not same:
            raise Refusal(
                401, "invalid_api_key", "the API key is missing or wrong: send Authorization: Bearer KEY",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _own_page(headers: Any) -> bool:
    """Whether a request comes from this server's own page, or from no page at all."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none") or headers.get("sec-fetch-mode") == "navigate"
    origin = headers.get("origin")
    return origin is None or _parts(origin).netloc.lower() == headers.get("host", "").lower()


def _parts(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _digest(key: str) -> bytes:
    """Of one length, whatever the key's, so that comparing takes one time."""
    return sha256(key.encode("utf-8", "surrogateescape")).digest()
