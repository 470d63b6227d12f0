"""HTTP that does not wait for ever: uvicorn itself gives a client any time for the head of a request."""

from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0  # after which a connection without a request is closed


class ImpatientProtocol(H11Protocol):
    """Closes connections on which no request is made or finished between two looks."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.loop.call_later(HEAD_SECONDS, self._look, self.cycle)

    def _look(self, before: Any) -> None:
        if self.transport.is_closing():
            return
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self.cycle is before:
            self.transport.close()
            return
        self.loop.call_later(HEAD_SECONDS, self._look, self.cycle if idle else None)
