"""The job: measure what training changed in each matrix of some runs, and which directions two runs share.

The measures are those of the LoRA paper (arXiv 2106.09685, section 7); `model/spectra.py` computes them.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from asr_lora.config import AdapterSettings
from asr_lora.errors import ConfigError, DataError
from asr_lora.folders.atomic import write_text
from asr_lora.folders.digests import fingerprint, folder_digest
from asr_lora.folders.measurements import (
    AmplificationRecord,
    AnalysedRun,
    AnalysisRecord,
    MatrixRecord,
    RunPair,
    SharedDirections,
)
from asr_lora.folders.report_folder import AnalysisFolder
from asr_lora.language import ForcedPrompt
from asr_lora.model.adapters.merging import load_adapter
from asr_lora.model.adapters.updates import Update, updates
from asr_lora.model.find_model import NamedModel, find_trained
from asr_lora.model.spectra import (
    COUNTS,
    MOST,
    Spectrum,
    amplifications,
    effective_rank,
    energy_held,
    similarity,
    similarity_by_chance,
    spectrum_of_matrix,
    spectrum_of_product,
    stable_rank,
)
from asr_lora.model.targets import target_names
from asr_lora.model.whisper import load_whisper
from asr_lora.pages.analysis_page import (
    analysis_view,
    matrices_csv,
    render_analysis_markdown,
    render_analysis_page,
)
from asr_lora.system.locks import owning

ANY_PROMPT = ForcedPrompt("en")  # only weights are read, and every Whisper has English
FIGURES = 6  # significant figures of written numbers


@dataclass(frozen=True)
class Change:
    """One matrix of the base and its change."""

    name: str
    weight: torch.Tensor  # (out, in) of the base
    spectrum: Spectrum  # of the change; for DoRA without its magnitudes
    moved: float  # Frobenius norm of the whole change, DoRA's magnitudes included
    directions: torch.Tensor | None  # (in, k) of an adapter's A, as the paper compares them; None: no adapter


@dataclass(frozen=True)
class Shared:
    """Directions of one run that are compared with those of another run, by matrix: (in, k) each."""

    update: dict[str, torch.Tensor]
    a: dict[str, torch.Tensor]


@owning(lambda *_, out, **__: AnalysisFolder(out))
def analyze(runs: Sequence[str], *, out: Path) -> AnalysisFolder:
    """Write the results of `measure_changes` for some runs: analysis.json, index.html, table.md and matrices.csv.

    An analysis of the same weights is left as it is.

    Raises:
        ConfigError: as `measure_changes`; `out` holds something else.
        DataError: as `measure_changes`.
    """
    tuned = _find(runs)
    stamp = fingerprint({label: (run.base, folder_digest(run.trained_weights)) for label, run in tuned.items()})
    folder = AnalysisFolder(out)
    if folder.reusable(stamp):
        return folder
    folder.require_ours(folder.complete or folder.markdown.is_file())
    record = _measure_all(tuned).model_copy(update={"fingerprint": stamp})
    view = analysis_view(record)
    folder.manifest.unlink(missing_ok=True)
    write_text(folder.page, render_analysis_page(view))
    write_text(folder.markdown, render_analysis_markdown(view))
    write_text(folder.matrices, matrices_csv(view))
    folder.write(record)
    return folder


def measure_changes(runs: Sequence[str]) -> AnalysisRecord:
    """Measure what training changed in the weights of runs, and how much of it each two runs share.

    The change of an adapter is its update; that of full fine-tuning is the difference from the base in every linear
    layer of the blocks.

    Args:
        runs: run folders or adapter folders, trained from one base.

    Raises:
        ConfigError: no run, one named twice or with a strength, or runs of several bases.
        DataError: a run or its base cannot be used, or no linear layer differs from the base.
    """
    return _measure_all(_find(runs))


def _measure_all(tuned: dict[str, NamedModel]) -> AnalysisRecord:
    own: dict[str, torch.Tensor] = {}  # singular values of the base, computed once for all runs
    analysed, shared = [], {}
    for label, run in tuned.items():
        facts, shared[label] = _measure(label, run, own)
        analysed.append(facts)
    return AnalysisRecord(
        base=next(iter(tuned.values())).base,
        runs=analysed,
        pairs=[pair for a, b in itertools.combinations(shared, 2) for pair in _pairs(a, b, shared[a], shared[b])],
    )


def _find(runs: Sequence[str]) -> dict[str, NamedModel]:
    """Find the runs, and return them under their names in tables; all must have one base."""
    if not runs or len(set(runs)) < len(runs):
        raise ConfigError("name runs, each of them once: asr-lora analyze RUN [RUN ...] --out FOLDER")
    tuned = {label: find_trained(run) for label, run in zip(_labels(runs), runs, strict=True)}
    bases = sorted({run.base for run in tuned.values()})
    if len(bases) > 1:
        raise ConfigError(f"these runs were trained from {' and '.join(bases)}: analyse those of one base at a time")
    return tuned


def _labels(runs: Sequence[str]) -> list[str]:
    """Return the last part of each path, or the whole paths where two would have the same name."""
    last = [Path(run).name for run in runs]
    return last if len(set(last)) == len(last) else list(runs)


def _measure(label: str, tuned: NamedModel, own: dict[str, torch.Tensor]) -> tuple[AnalysedRun, Shared]:
    matrices, unchanged = [], []
    shared = Shared({}, {})
    changes, outside = _read(tuned)
    for change in tqdm(changes, desc=f"analyze {label}", unit="matrix"):
        if not change.spectrum.rank and not change.moved:
            unchanged.append(change.name)
            continue
        if change.name not in own:
            own[change.name] = torch.linalg.svdvals(change.weight.double())
        matrices.append(_matrix(change, own[change.name]))
        shared.update[change.name] = change.spectrum.right.float()
        if change.directions is not None:
            shared.a[change.name] = change.directions.float()
    if not matrices:
        raise DataError(f"{label}: no linear layer differs from {tuned.base}: train it for longer")
    run = tuned.run
    inside = sum(matrix.frobenius**2 for matrix in matrices)
    facts = AnalysedRun(
        name=label,
        weights=str(tuned.trained_weights),
        kind="adapter" if tuned.strength is not None else "full",
        method=run.method if run else None,
        seed=run.config.training.seed if run else None,
        trainable_parameters=run.parameters.trainable if run else None,
        unchanged=unchanged,
        energy_outside=_figures(outside / (inside + outside)),
        matrices=matrices,
    )
    return facts, shared


def _matrix(change: Change, own: torch.Tensor) -> MatrixRecord:
    spectrum, norm = change.spectrum, float(torch.linalg.vector_norm(own))
    half, layer, projection = _place(change.name)
    return MatrixRecord(
        matrix=change.name,
        half=half,
        layer=layer,
        projection=projection,
        shape=(change.weight.shape[0], change.weight.shape[1]),
        rank=spectrum.rank,
        frobenius=_figures(spectrum.norm),
        relative=_figures(spectrum.norm / norm),
        moved=_figures(change.moved / norm),
        spectral=_figures(float(spectrum.values[0])) if len(spectrum.values) else 0.0,
        effective_rank=_figures(effective_rank(spectrum.values)),
        stable_rank=_figures(stable_rank(spectrum.values)),
        singular_values=[_figures(value) for value in spectrum.values[:MOST].tolist()],
        energy_held=[_figures(share) for share in energy_held(spectrum.values)[:MOST].tolist()],
        amplification=[
            AmplificationRecord(
                directions=found.directions,
                factor=None if found.factor is None else _figures(found.factor),
                base=_figures(found.base),
                base_own=_figures(found.base_own),
                base_random=_figures(found.base_random),
            )
            for found in amplifications(change.weight, own, spectrum)
        ],
    )


def _place(name: str) -> tuple[str, int, str]:
    """Return half, layer and projection of a matrix; a matrix outside the blocks is its own projection."""
    found = re.fullmatch(r"model\.(encoder|decoder)\.layers\.(\d+)\.(.+)", name)
    if not found:
        return "", 0, name
    return found[1], int(found[2]), found[3]


# Changes of single runs.


def _read(tuned: NamedModel) -> tuple[Iterator[Change], float]:
    """Return every matrix that was trained, in the model's order, and the squared norm of all other changes."""
    if tuned.strength is not None:
        return _of_adapter(tuned), 0.0
    base, after = (load_whisper(source, ANY_PROMPT).core for source in (tuned.base, str(tuned.trained_weights)))
    ours, theirs = dict(base.named_parameters()), dict(after.named_parameters())
    if {name: value.shape for name, value in ours.items()} != {name: value.shape for name, value in theirs.items()}:
        raise DataError(
            f"{tuned.trained_weights} and {tuned.base} have different shapes: restore the base model of its training"
        )
    names = target_names(base, AdapterSettings(targets="linear"))  # type: ignore[arg-type]
    inside = {f"{name}.weight" for name in names}
    outside = sum(
        float((theirs[name] - value).detach().double().square().sum())
        for name, value in ours.items()
        if name not in inside
    )
    pairs = ((name, ours[f"{name}.weight"].detach(), theirs[f"{name}.weight"].detach()) for name in names)
    return (_of_difference(*pair) for pair in pairs), outside


def _of_adapter(tuned: NamedModel) -> Iterator[Change]:
    whisper = load_adapter(load_whisper(tuned.base, ANY_PROMPT), tuned.trained_weights)
    for name, (weight, update) in updates(whisper).items():
        spectrum = spectrum_of_product(update.b, update.a)
        yield Change(name, weight, spectrum, _moved(weight, update, spectrum), _directions(update.a))


def _of_difference(name: str, weight: torch.Tensor, after: torch.Tensor) -> Change:
    spectrum = spectrum_of_matrix(after - weight)
    return Change(name, weight, spectrum, spectrum.norm, None)


def _moved(weight: torch.Tensor, update: Update, spectrum: Spectrum) -> float:
    """Frobenius norm of W' - W, where W' = W + B A, and with DoRA has its rows scaled to the magnitudes."""
    if update.magnitudes is None:
        return spectrum.norm
    after = weight.double() + update.b.double() @ update.a.double()
    after *= (update.magnitudes.double() / torch.linalg.vector_norm(after, dim=1))[:, None]
    return float(torch.linalg.matrix_norm(after - weight.double()))


def _directions(a: torch.Tensor) -> torch.Tensor:
    """Right-singular directions of A (rank, in): (in, k)."""
    return spectrum_of_matrix(a).right if a.numel() else torch.zeros(a.shape[1], 0, dtype=torch.float64)


# Directions that runs share.


def _pairs(a: str, b: str, first: Shared, second: Shared) -> list[RunPair]:
    """Compare the directions of two runs: those of the update, and of A where both are adapters."""
    found = []
    for of in ("update", "a"):
        ours, theirs = getattr(first, of), getattr(second, of)
        names = [name for name in ours if name in theirs and ours[name].shape[1] and theirs[name].shape[1]]
        if names:
            found.append(_similarity(a, b, of, [(name, ours[name], theirs[name]) for name in names]))
    return found


def _similarity(a: str, b: str, of: str, both: list[tuple[str, torch.Tensor, torch.Tensor]]) -> RunPair:
    """Compute phi of two runs: its mean over matrices that have as many directions, and each matrix at some counts."""
    tables = [similarity(ours.double(), theirs.double()).numpy() for _, ours, theirs in both]
    rows, columns = (max(table.shape[axis] for table in tables) for axis in (0, 1))
    total, seen = np.zeros((rows, columns)), np.zeros((rows, columns), dtype=int)
    for table in tables:
        total[: table.shape[0], : table.shape[1]] += table
        seen[: table.shape[0], : table.shape[1]] += 1
    cells = (zip(*rows, strict=True) for rows in zip(total, seen, strict=True))
    mean = [[_figures(sum_ / n) if n else None for sum_, n in row] for row in cells]
    most = max(min(table.shape) for table in tables)
    counts = sorted({*(count for count in COUNTS if count < most), most})
    return RunPair(
        a=a,
        b=b,
        of=of,
        matrices=len(both),
        phi=mean,
        shown=[
            SharedDirections(
                directions=count,
                phi=_figures(total[count - 1, count - 1] / seen[count - 1, count - 1]),
                by_chance=_figures(similarity_by_chance(count, count, side)),
            )
            for count, side in zip(counts, (_typical_side(both, tables, count) for count in counts), strict=True)
        ],
        by_matrix=[
            {"matrix": name, "phi": {str(k): _figures(table[k - 1, k - 1]) for k in counts if k <= min(table.shape)}}
            for (name, _, _), table in zip(both, tables, strict=True)
        ],
    )


def _typical_side(both: list[tuple[str, torch.Tensor, torch.Tensor]], tables: list[np.ndarray], count: int) -> float:
    """Return the harmonic mean of the dimensions of these matrices, since chance overlap goes with 1 / dimensions."""
    sides = [len(ours) for (_, ours, _), table in zip(both, tables, strict=True) if min(table.shape) >= count]
    return len(sides) / sum(1 / side for side in sides)


def _figures(value: float) -> float:
    """Return a number with six significant figures, as it is written."""
    return float(f"{value:.{FIGURES}g}")
