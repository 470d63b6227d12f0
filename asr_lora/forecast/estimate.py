"""Estimate memory, time and cost of a run from its schedule, its model's sizes and measured steps."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from asr_lora.folders.tabular import Column, Tabular
from asr_lora.training.examples import Example, micro_batches

KEPT_BYTES, KEPT_SHARE, KEPT_STEPS = 5.9e8, 0.34, 8  # see `kept_bytes`
FRAMES_A_SECOND = 50  # that the encoder's blocks see


@dataclass(frozen=True)
class ModelSize:
    """The sizes of a model that decide the amount of computation."""

    width: int
    encoder_layers: int
    decoder_layers: int
    vocabulary: int


@dataclass(frozen=True)
class ScheduleSummary:
    """Numbers that follow from the schedule of a run."""

    steps: int
    epochs: float
    utterances: int  # used for training
    left_out: dict[str, int]  # by reason
    hours: float  # of the utterances
    padding: float  # share of padding in the audio that the encoder sees
    micro_batches: int  # most in one step
    evaluations: int  # of dev, the one of averaged weights included
    dev_utterances: int


@dataclass(frozen=True)
class MemoryForecast:
    """Bytes, by part. Not all parts are there at once, so the peaks are less than their sum."""

    weights: int
    gradients: int
    optimiser: int
    activations: int  # saved by the largest micro-batch's forward for its backward
    other: int  # interpreter and libraries
    data: int  # pages of the dataset that reading leaves in memory
    kept: int  # freed, but not given back by the C library and the kernels' caches
    loading: int  # the four peaks
    step: int
    decoding: int
    saving: int
    available: int | None = None

    @property
    def peak(self) -> int:
        return max(self.loading, self.step, self.decoding, self.saving)

    @property
    def wanted(self) -> int:
        """Memory beyond the interpreter and libraries, which are loaded already."""
        return self.peak - self.other

    @property
    def fits(self) -> bool:
        """Whether that much is available, or the system does not state what is."""
        return self.available is None or self.wanted <= self.available


@dataclass(frozen=True)
class TimeForecast:
    """Seconds."""

    load: float
    encode: float  # of a frozen encoder's outputs, before the first step
    step: float  # mean over the schedule
    evaluation: float  # one, of all dev utterances
    final: float
    steps: int
    evaluations: int

    @property
    def total(self) -> float:
        return self.load + self.encode + self.steps * self.step + self.evaluations * self.evaluation + self.final

    @property
    def dev_share(self) -> float:
        """Share of the time that goes to decoding dev."""
        return self.evaluations * self.evaluation / self.total


@dataclass(frozen=True)
class Forecast(Tabular):
    """Memory, time and cost that `asr-lora train` will take."""

    columns = (Column("quantity", "Quantity"), Column("value", "", "g"), Column("unit", ""), Column("text", "Forecast"))

    method: str
    trainable: int  # parameters
    total: int
    plan: ScheduleSummary
    memory: MemoryForecast
    time: TimeForecast | None  # None: not probed, or it would not fit
    price_per_hour: float | None
    warnings: tuple[str, ...]

    def entries(self) -> Iterable[object]:
        """Return the main quantities, with their numbers for pandas and the text that a notebook shows."""
        time = self.time
        numbers = {
            "parameters": (self.trainable, "parameters"),
            "utterances": (self.plan.utterances, "utterances"),
            "steps": (self.plan.steps, "steps"),
            "evaluations": (self.plan.evaluations, "evaluations"),
            "memory": (self.memory.peak, "bytes"),
            **{name: (size, "bytes") for name, size in _parts(self.memory)},
            **({"time": (time.total, "s"), "a step": (time.step, "s"), "encoding once": (time.encode, "s"),
                "an evaluation": (time.evaluation, "s"), "cost": (self.cost, "")} if time else {}),
        }  # fmt: skip
        for label, text in _lines(self):
            value, unit = numbers.get(label.strip(), (None, ""))
            yield {"quantity": label.strip(), "value": value, "unit": unit, "text": text}

    def caption(self) -> str:
        time = f"{self.time.total / 60:.1f} minutes" if self.time else "a time that was not measured"
        return f"{self.method}: {self.plan.steps:,} steps, {_gigabytes(self.memory.peak)} of memory, {time}"

    @property
    def cost(self) -> float | None:
        """Cost in the currency of the price; None without a price or a probe."""
        if self.time is None or self.price_per_hour is None:
            return None
        return self.time.total / 3600 * self.price_per_hour

    def to_dict(self) -> dict[str, Any]:
        """Return the forecast as JSON values, in bytes and seconds."""
        body = asdict(self)
        body["memory"] |= {"peak": self.memory.peak}
        if self.time is not None:
            body["time"] |= {"total": self.time.total}
        return body | {"cost": self.cost}


def evaluations(steps: int, every: int, average_last: int) -> int:
    """Number of dev evaluations: every `every` steps, after the last step, and for averaged weights."""
    return math.ceil(steps / every) + (1 if average_last > 1 else 0)


def utterances(schedule: Sequence[Sequence[Example]]) -> int:
    """Number of utterances in a schedule, repetitions counted."""
    return sum(len(example.utterances) for step in schedule for example in step)


def step_work(
    step: Sequence[Example],
    tokens: Sequence[int],
    size: ModelSize,
    *,
    micro_batch_seconds: float = math.inf,
    encoded: bool = False,
) -> float:
    """Multiplications of the forward pass of a step, to compare steps by.

    Args:
        step: the examples of the step.
        tokens: number of decoder tokens of each example.
        size: the sizes of the model.
        micro_batch_seconds: audio in memory at once; the forward of a longer example runs twice, a third more work.
        encoded: whether the encoder's outputs come from a cache.
    """
    square = size.width**2
    a_token = 14 * size.decoder_layers * square + size.width * size.vocabulary
    work = 0.0
    for example, count in zip(step, tokens, strict=True):
        frames = FRAMES_A_SECOND * example.context
        a_frame: float = 2 * size.decoder_layers * square  # its keys and values
        if not encoded:
            a_frame += size.encoder_layers * (12 * square + 2 * frames * size.width)  # the latter: attention
        work += (frames * a_frame + count * a_token) * (4 / 3 if example.context > micro_batch_seconds else 1)
    return work


def largest(
    schedule: Sequence[Sequence[Example]], tokens: Sequence[Sequence[int]], seconds: float
) -> list[list[Example]]:
    """The micro-batches that may take the most memory: most audio, most tokens, and most of both.

    Args:
        schedule: the examples of each step.
        tokens: number of decoder tokens of each of these examples.
        seconds: audio in memory at once.
    """
    given = {
        id(example): count
        for step, counts in zip(schedule, tokens, strict=True)
        for example, count in zip(step, counts, strict=True)
    }
    batches = [batch for step in schedule for batch in micro_batches(step, seconds)]
    audio = [sum(example.context for example in batch) for batch in batches]
    text = [len(batch) * max(given[id(example)] for example in batch) for batch in batches]
    both = [a / max(audio) + t / max(text) for a, t in zip(audio, text, strict=True)]
    # A single example longer than `seconds` is computed with checkpointing, so it may need less.
    kinds = [[place for place, one in enumerate(audio) if (one > seconds + 1e-6) is long] for long in (False, True)]
    places = {max(kind, key=measure.__getitem__) for kind in kinds if kind for measure in (audio, text, both)}
    return [batches[place] for place in sorted(places)]


def representative(work: Sequence[float], count: int) -> list[int]:
    """Places of `count` steps spread evenly over the schedule's steps in order of their work, the middle one first."""
    order = sorted(range(len(work)), key=work.__getitem__)
    picked = [order[(2 * place + 1) * len(order) // (2 * count)] for place in range(count)]
    middle = count // 2
    return [picked[middle], *picked[:middle], *picked[middle + 1 :]]


def mean_step_seconds(seconds: Sequence[float], work: Sequence[float], mean_work: float) -> float:
    """Seconds of the mean step of a schedule, from some steps' seconds and work."""
    return sum(seconds) / sum(work) * mean_work


def kept_bytes(step_bytes: int, steps: int) -> int:
    """Bytes of freed memory that a process keeps on a CPU, where batches have many shapes.

    The C library cannot give back holes between blocks, and kernels made for a shape are kept for the next time;
    `train` trims both, so what is kept stops growing. Fitted to runs of whisper-base (reports/forecast); a rule of
    thumb elsewhere.

    Args:
        step_bytes: peak of a step, without weights.
        steps: number of steps of the run.
    """
    return round((KEPT_BYTES + KEPT_SHARE * step_bytes) * (1 - math.exp(-steps / KEPT_STEPS)))


def table(forecast: Forecast) -> str:
    """Lay out a forecast as text, one quantity a line."""
    return "\n".join(f"{name:20}{text}" for name, text in _lines(forecast))


def _lines(forecast: Forecast) -> list[tuple[str, str]]:
    plan, memory = forecast.plan, forecast.memory
    return [
        (
            "parameters",
            f"{forecast.trainable:,} of {forecast.total:,} train ({forecast.trainable / forecast.total:.1%})",
        ),
        ("utterances", f"{plan.utterances:,}, {plan.hours:.2f} hours"),
        *[("  left out", f"{count:,}: {reason}") for reason, count in plan.left_out.items()],
        ("steps", f"{plan.steps:,}, {plan.epochs:.2f} epochs, {plan.padding:.1%} padding"),
        ("evaluations", f"{plan.evaluations}, of {plan.dev_utterances:,} dev utterances"),
        ("memory", f"{_gigabytes(memory.peak)} at most{_of(memory)}"),
        *[(f"  {name}", _gigabytes(size)) for name, size in _parts(memory)],
        *_time_rows(forecast),
    ]


def _parts(memory: MemoryForecast) -> list[tuple[str, int]]:
    return [
        ("weights", memory.weights),
        ("gradients", memory.gradients),
        ("optimiser", memory.optimiser),
        ("activations", memory.activations),
        ("libraries", memory.other),
        ("data", memory.data),
        ("kept when freed", memory.kept),
        ("peak of a step", memory.step),
        ("peak of decoding", memory.decoding),
    ]


def _of(memory: MemoryForecast) -> str:
    return "" if memory.available is None else f" ({_gigabytes(memory.available)} available)"


def _time_rows(forecast: Forecast) -> list[tuple[str, str]]:
    time = forecast.time
    if time is None:
        return [("time", "not measured")]
    rows = [
        ("time", f"{time.total / 60:.1f} minutes"),
        ("  a step", f"{time.step:.2f} s"),
        ("  an evaluation", f"{time.evaluation:.1f} s"),
    ]
    if time.encode:
        rows.append(("  encoding once", f"{time.encode:.1f} s"))
    return rows if forecast.cost is None else [*rows, ("cost", f"{forecast.cost:.2f}")]


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
