"""Counts and times of a server, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
SPEEDS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)


class Metrics:
    """What is counted. Labels are names of this server, never what a client sends."""

    type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("asr_lora_requests", "Requests answered.", ["route", "status"], registry=self.registry)
        self.errors = Counter("asr_lora_errors", "Requests refused or failed.", ["code"], registry=self.registry)
        self.audio = Counter(
            "asr_lora_audio_seconds", "Seconds of audio transcribed.", ["model"], registry=self.registry
        )
        self.latency = Histogram(
            "asr_lora_request_seconds",
            "From the end of an upload to the answer.",
            ["model"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.speed = Histogram(
            "asr_lora_rtfx", "Seconds of audio a second of work.", ["model"], buckets=SPEEDS, registry=self.registry
        )
        self.waiting = Gauge("asr_lora_queue_length", "Requests that wait.", registry=self.registry)
        self.working = Gauge("asr_lora_working", "Requests that are transcribed.", registry=self.registry)
        self.spooled = Gauge("asr_lora_upload_bytes", "Bytes of uploads that are here.", registry=self.registry)
        self.connections = Gauge("asr_lora_connections", "Connections that are open.", registry=self.registry)

    def text(self) -> bytes:
        return generate_latest(self.registry)
