"""Close idle HTTP connections; uvicorn alone waits for ever for the header of a request."""

from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0  # a new connection that sends no complete request header for this long is closed
KEEP_ALIVE_SECONDS = 75  # and one that has had its answer: clients use it again, and few of them repeat an upload


class TimeoutProtocol(H11Protocol):
    """Check now and then that a connection has begun or finished a request since the last check."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.loop.call_later(HEADER_SECONDS, self._check, self.cycle)

    def _check(self, last_cycle: Any) -> None:
        if self.transport.is_closing():
            return
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self.cycle is last_cycle:
            self.transport.close()
            return
        answered = idle and self.cycle is not None
        self.loop.call_later(
            KEEP_ALIVE_SECONDS if answered else HEADER_SECONDS, self._check, self.cycle if idle else None
        )
