"""Count requests and measure their times, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
SPEEDS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)


class ServerMetrics:
    """All metrics of the server. Their labels are names that the server knows, never text that a client sends."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("asr_lora_requests", "Requests answered.", ["route", "status"], registry=registry)
        self.errors = Counter("asr_lora_errors", "Requests refused or failed.", ["code"], registry=registry)
        self.audio = Counter("asr_lora_audio_seconds", "Seconds of audio transcribed.", ["model"], registry=registry)
        self.empty = Counter("asr_lora_empty_transcripts", "Recordings without text.", ["model"], registry=registry)
        self.latency = Histogram(
            "asr_lora_request_seconds", "Seconds from the end of an upload to the answer.", ["model"], buckets=SECONDS,
            registry=registry,
        )  # fmt: skip
        self.speed = Histogram(
            "asr_lora_rtfx", "Seconds of audio transcribed per second.", ["model"], buckets=SPEEDS, registry=registry
        )
        self.waiting = Gauge("asr_lora_queue_length", "Requests in the queue.", registry=registry)
        self.working = Gauge("asr_lora_working", "Requests being transcribed.", registry=registry)
        self.spooled = Gauge("asr_lora_upload_bytes", "Bytes of uploads held.", registry=registry)
        self.connections = Gauge("asr_lora_connections", "Open connections.", registry=registry)

    def text(self) -> bytes:
        return generate_latest(self.registry)
