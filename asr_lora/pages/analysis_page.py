"""Show what training changed in the weights: one self-contained HTML page, Markdown tables, and CSV by matrix."""

import csv
import io
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from asr_lora.folders.measurements import AnalysedRun, AnalysisRecord, MatrixRecord, RunPair
from asr_lora.pages.charts import Figure, HeatMap, RankPlot
from asr_lora.pages.tables import Cell, Number, Table, percent, spreadsheet_safe
from asr_lora.pages.templating import render

RANKS = (1, 4, 16, 64)  # ranks whose share of the energy is shown
PAIRS_DRAWN = 6  # pairs of runs with a chart and a sentence; the table has all
DIRECTIONS_DRAWN = 32  # of each run in such a chart
MEDIANS = (
    "Matrices",
    "Change, % of its matrix",
    "Effective rank",
    "Stable rank",
    "Amplification",
    *(f"Held by rank {rank}, %" for rank in RANKS),
)
MATRIX_COLUMNS = (
    "run", "matrix", "half", "layer", "projection", "rows", "columns", "rank", "frobenius", "relative", "moved",
    "spectral", "effective_rank", "stable_rank", "directions", "amplification", "base_along_change", "base_along_own",
    "base_along_random", *(f"held_by_rank_{rank}" for rank in RANKS),
)  # fmt: skip
ORDER = ("self_attn", "encoder_attn", "q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")  # of projections


@dataclass(frozen=True)
class AnalysisView:
    """Everything that page, Markdown and CSV show of an analysis."""

    base: str
    names: Sequence[str]
    sentences: Sequence[str]
    runs: Table
    spectra: Sequence[Figure]
    maps: Sequence[tuple[str, Sequence[Figure]]]  # by run: its measures by layer and projection
    projections: Table
    pairs: Table
    pair_maps: Sequence[Figure]
    undrawn: int  # pairs in the table that have no chart
    matrices: Table


def analysis_view(record: AnalysisRecord) -> AnalysisView:
    runs, pairs = record.runs, record.pairs
    updates = [pair for pair in pairs if pair.of == "update"][:PAIRS_DRAWN]
    run_rows = [[run.name, run.method or run.kind, Number(run.seed, "d"), *_medians(run.matrices)] for run in runs]
    projection_rows = [
        [run.name, projection, *_medians(matrices)]
        for run in runs
        for projection, matrices in _by_projection(run).items()
    ]
    pair_columns = ("Runs", "Directions of", "Matrices", "Number of directions", "Shared", "By chance")
    return AnalysisView(
        base=record.base,
        names=[run.name for run in runs],
        sentences=[*map(_run_sentence, runs), *map(_pair_sentence, updates)],
        runs=Table("Runs", ("Run", "Method", "Seed", *MEDIANS), run_rows),
        spectra=spectrum_figures(record),
        maps=[(run.name, [_map(run, measure) for measure in MEASURES]) for run in runs],
        projections=Table("By projection", ("Run", "Projection", *MEDIANS), projection_rows),
        pairs=Table("Directions that runs share", pair_columns, [row for pair in pairs for row in _pair_rows(pair)]),
        pair_maps=[_pair_map(pair) for pair in pairs[:PAIRS_DRAWN]],
        undrawn=max(0, len(pairs) - PAIRS_DRAWN),
        matrices=Table("Every matrix", MATRIX_COLUMNS, [row for run in runs for row in _matrix_rows(run)]),
    )


def render_analysis_page(view: AnalysisView) -> str:
    return render("analysis.html.j2", view=view)


def render_analysis_markdown(view: AnalysisView) -> str:
    """Render the sentences, and the tables of runs, projections and pairs."""
    return render("analysis.md.j2", view=view)


def matrices_csv(view: AnalysisView) -> str:
    """Write every matrix of every run, a line each, with all figures; empty where a number does not apply."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(view.matrices.columns)
    for row in view.matrices.rows:
        values = [cell.value if isinstance(cell, Number) else spreadsheet_safe(str(cell), "'") for cell in row]
        table.writerow(["" if value is None else value for value in values])
    return text.getvalue()


def spectrum_figures(record: AnalysisRecord) -> list[Figure]:
    """Chart how singular values fall, and how much of the energy an update of each rank holds, a line for each run."""
    values = {run.name: _typical([_relative_values(matrix) for matrix in run.matrices]) for run in record.runs}
    held = {
        run.name: [100 * share for share in _typical([matrix.energy_held for matrix in run.matrices])]
        for run in record.runs
    }
    across, up = "singular value, by size", "over the largest, median matrix"
    return [
        Figure("How fast singular values fall", RankPlot(values, across, up, logarithmic=True)),
        Figure("Energy that an update of each rank holds", RankPlot(held, "rank", "energy held, %, median matrix")),
    ]


def _run_sentence(run: AnalysedRun) -> str:
    matrices = run.matrices
    most = max(matrices, key=lambda matrix: matrix.moved)
    factor = _median([_amplification(matrix) for matrix in matrices])
    amplified = f" and is {factor:.3g} times what the base had along its directions" if factor is not None else ""
    moved = statistics.median(matrix.moved for matrix in matrices)
    rank = statistics.median(matrix.effective_rank for matrix in matrices)
    sentences = [
        f"{run.name} changed {len(matrices)} matrices: the median change is {100 * moved:.2g} % of its matrix, has "
        f"an effective rank of {rank:.3g}{amplified}.",
        f"Most changed is {_matrix_name(most)} ({100 * most.moved:.2g} %).",
    ]
    if run.kind == "full":
        shares = [f"rank {rank} would hold {100 * share:.0f} %" for rank, share in _held_by(matrices).items()]
        sentences.append(f"Of the energy of the median change, the best update of {', of '.join(shares)}.")
        sentences.append(
            f"{100 * run.energy_outside:.2g} % of the energy of all that changed lies outside these matrices, in "
            "embeddings, convolutions, norms and biases."
        )
    if run.unchanged:
        sentences.append(f"{len(run.unchanged)} matrices did not change.")
    return " ".join(sentences)


def _pair_sentence(pair: RunPair) -> str:
    first, last = pair.shown[0], pair.shown[-1]
    shared = (
        f"{pair.a} and {pair.b} share {first.phi:.2f} of the first direction of the update "
        f"(by chance {first.by_chance:.2g})"
    )
    if last is first:
        return f"{shared}."
    return f"{shared}, {last.phi:.2f} of the first {last.directions} ({last.by_chance:.2g})."


def _matrix_name(matrix: MatrixRecord) -> str:
    return f"{matrix.half} layer {matrix.layer} {matrix.projection}" if matrix.half else matrix.matrix


def _medians(matrices: Sequence[MatrixRecord]) -> list[Cell]:
    """Medians over matrices, in the order of MEDIANS."""
    held = _held_by(matrices)
    return [
        Number(len(matrices), "d"),
        percent(statistics.median(matrix.moved for matrix in matrices), ".2f"),
        Number(statistics.median(matrix.effective_rank for matrix in matrices)),
        Number(statistics.median(matrix.stable_rank for matrix in matrices)),
        Number(_median([_amplification(matrix) for matrix in matrices]), ".2f"),
        *(percent(held.get(rank), ".0f") for rank in RANKS),
    ]


def _by_projection(run: AnalysedRun) -> dict[str, list[MatrixRecord]]:
    """Group the matrices by projection, the encoder's first."""

    def order(matrix: MatrixRecord) -> tuple[bool, list[int]]:
        words = matrix.projection.split(".")
        return matrix.half != "encoder", [ORDER.index(word) if word in ORDER else len(ORDER) for word in words]

    found: dict[str, list[MatrixRecord]] = {}
    for matrix in sorted(run.matrices, key=order):
        found.setdefault(f"{matrix.half} {matrix.projection}".strip(), []).append(matrix)
    return found


def _pair_rows(pair: RunPair) -> list[list[Cell]]:
    names, of = f"{pair.a}, {pair.b}", "A" if pair.of == "a" else pair.of
    return [
        [
            names, of, Number(pair.matrices, "d"), Number(row.directions, "d"), Number(row.phi, ".3f"),
            Number(row.by_chance, ".3f"),
        ]
        for row in pair.shown
    ]  # fmt: skip


def _matrix_rows(run: AnalysedRun) -> list[list[Cell]]:
    """One row for each matrix, in the order of MATRIX_COLUMNS; amplification along all directions that are kept."""
    rows: list[list[Cell]] = []
    for matrix in run.matrices:
        found = matrix.amplification[-1] if matrix.amplification else None
        along = (found.factor, found.base, found.base_own, found.base_random) if found else (None,) * 4
        rows.append(
            [
                run.name,
                matrix.matrix,
                matrix.half,
                Number(matrix.layer, "d"),
                matrix.projection,
                *(Number(value, "d") for value in (*matrix.shape, matrix.rank)),
                *(
                    Number(value, ".4g")
                    for value in (
                        matrix.frobenius, matrix.relative, matrix.moved, matrix.spectral, matrix.effective_rank,
                        matrix.stable_rank,
                    )
                ),
                Number(found.directions if found else None, "d"),
                *(Number(value, ".4g") for value in along),
                *(Number(_held_at(matrix, rank), ".4g") for rank in RANKS),
            ]
        )  # fmt: skip
    return rows


def _amplification(matrix: MatrixRecord) -> float | None:
    """Along all directions that are kept."""
    return matrix.amplification[-1].factor if matrix.amplification else None


MEASURES: dict[str, Callable[[MatrixRecord], float | None]] = {
    "Change, % of its matrix": lambda matrix: 100 * matrix.moved,
    "Effective rank of the change": lambda matrix: matrix.effective_rank,
    "Amplification of the base along the change": _amplification,
}


def _held_at(matrix: MatrixRecord, rank: int) -> float | None:
    """Share of the energy in the best update of a rank; all of it where there are fewer singular values."""
    shares = matrix.energy_held
    return shares[min(rank, len(shares)) - 1] if shares else None


def _held_by(matrices: Sequence[MatrixRecord]) -> dict[int, float]:
    """Share of the energy that each rank of RANKS holds of the median matrix."""
    shares = {rank: _median([_held_at(matrix, rank) for matrix in matrices]) for rank in RANKS}
    return {rank: share for rank, share in shares.items() if share is not None}


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _relative_values(matrix: MatrixRecord) -> list[float]:
    return [value / matrix.singular_values[0] for value in matrix.singular_values[: matrix.rank]]


def _typical(lists: Sequence[Sequence[float]]) -> list[float]:
    """The median over matrices at each place, as far as half of the matrices reach."""
    known = [values for values in lists if values]
    reach = sorted(map(len, known))[len(known) // 2] if known else 0
    return [statistics.median(values[place] for values in known if place < len(values)) for place in range(reach)]


def _map(run: AnalysedRun, measure: str) -> Figure:
    """One of MEASURES by layer (across) and projection (down)."""
    found = _by_projection(run)
    layers = sorted({matrix.layer for matrix in run.matrices})
    table = []
    for matrices in found.values():
        values = {matrix.layer: MEASURES[measure](matrix) for matrix in matrices}
        table.append([values.get(layer) for layer in layers])
    return Figure(measure, HeatMap(table, list(found), [str(layer) for layer in layers], "layer", measure))


def _pair_map(pair: RunPair) -> Figure:
    table = [row[:DIRECTIONS_DRAWN] for row in pair.phi[:DIRECTIONS_DRAWN]]
    rows, columns = ([str(place) for place in range(1, size + 1)] for size in (len(table), len(table[0])))
    of = "A" if pair.of == "a" else "The update"
    title = f"{of}: first i directions of {pair.a} (down) and j of {pair.b} (across)"
    return Figure(title, HeatMap(table, rows, columns, "j", "phi(i, j), mean over matrices"))
