"""What training changed in the weights -> one self-contained HTML page, the same in Markdown, a line a matrix as CSV.

All of them are drawn from what analysis.json says.
"""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from asr_lora.pages.charts import curves, heat_map
from asr_lora.pages.templating import environment

HELD = (1, 4, 16, 64)  # ranks whose share of the energy is shown
MAPS_SHOWN = 6  # pairs of runs that are drawn, and that sentences are about; the table has all
CELLS_DRAWN = 32  # directions of each run in such a drawing
RUN_COLUMNS = (
    "Run",
    "Method",
    "Seed",
    "Matrices",
    "Change, % of its matrix",
    "Effective rank",
    "Stable rank",
    "Amplification",
    *(f"Held by rank {rank}, %" for rank in HELD),
)
PROJECTION_COLUMNS = ("Run", "Projection", *RUN_COLUMNS[3:])
PAIR_COLUMNS = ("Runs", "Directions of", "Matrices", "How many", "Shared", "By chance")
MATRIX_COLUMNS = (
    "run",
    "matrix",
    "half",
    "layer",
    "projection",
    "rows",
    "columns",
    "rank",
    "frobenius",
    "relative",
    "moved",
    "spectral",
    "effective_rank",
    "stable_rank",
    "directions",
    "amplification",
    "base_along_change",
    "base_along_own",
    "base_along_random",
    *(f"held_by_rank_{rank}" for rank in HELD),
)
MEASURES = ("change, % of its matrix", "effective rank of the change", "amplification of the base along the change")
ORDER = ("self_attn", "encoder_attn", "q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")  # of projections


def render_analysis_page(body: dict[str, Any]) -> str:
    """Render the page of an analysis."""
    runs = body["runs"]
    return environment().get_template("analysis.html.j2").render(
        **_context(body),
        runs=[(run, [(measure, _map(run, measure)) for measure in MEASURES]) for run in runs],
        spectra=drawn_spectra(body),
        maps=_pair_maps(body["pairs"]),
        undrawn=max(0, len(body["pairs"]) - MAPS_SHOWN),
        matrix_columns=MATRIX_COLUMNS,
        matrices=[[_cell(value) for value in row] for run in runs for row in _matrix_rows(run)],
    )  # fmt: skip


def drawn_spectra(body: dict[str, Any]) -> list[tuple[str, str]]:
    """Title and SVG of how singular values fall, and of what an update of fewer of them holds, a line a run."""
    runs = body["runs"]
    values = {run["name"]: _typical(run, _relative_values) for run in runs}
    held = {run["name"]: [100 * share for share in _typical(run, _held)] for run in runs}
    across = "singular value, by size"
    return [
        ("How fast singular values fall", curves(values, across, "over the largest, median matrix", logarithmic=True)),
        ("Energy that an update of a rank holds", curves(held, "rank", "energy held, %, median matrix")),
    ]


def render_analysis_markdown(body: dict[str, Any]) -> str:
    """Render what is said in words, and the tables of runs, projections and pairs, as Markdown."""
    return environment(autoescape=False).get_template("analysis.md.j2").render(**_context(body))


def matrices_csv(body: dict[str, Any]) -> str:
    """Every matrix of every run, a line each, in the order of MATRIX_COLUMNS; empty where a number does not apply."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(MATRIX_COLUMNS)
    for run in body["runs"]:
        table.writerows(["" if value is None else value for value in row] for row in _matrix_rows(run))
    return text.getvalue()


def _context(body: dict[str, Any]) -> dict[str, Any]:
    runs, updates = body["runs"], [pair for pair in body["pairs"] if pair["of"] == "update"]
    return {
        "base": body["base"],
        "names": [run["name"] for run in runs],
        "sentences": [*map(_run_sentence, runs), *map(_pair_sentence, updates[:MAPS_SHOWN])],
        "run_columns": RUN_COLUMNS,
        "run_rows": [
            [run["name"], run["method"] or run["kind"], _or_dash(run["seed"]), *_middle(run["matrices"])]
            for run in runs
        ],
        "projection_columns": PROJECTION_COLUMNS,
        "projection_rows": [
            [run["name"], projection, *_middle(matrices)]
            for run in runs
            for projection, matrices in _by_projection(run).items()
        ],
        "pair_columns": PAIR_COLUMNS,
        "pair_rows": [row for pair in body["pairs"] for row in _pair_rows(pair)],
    }


# In words.


def _run_sentence(run: Mapping[str, Any]) -> str:
    matrices = run["matrices"]
    most = max(matrices, key=lambda matrix: float(matrix["moved"]))
    factor = _median([_amplification(matrix) for matrix in matrices])
    amplified = f" and is {factor:.3g} times what the base had along its directions" if factor is not None else ""
    moved, rank = (statistics.median(matrix[key] for matrix in matrices) for key in ("moved", "effective_rank"))
    words = [
        f"{run['name']} changed {len(matrices)} matrices: the median change is {100 * moved:.2g} % of its matrix, has "
        f"an effective rank of {rank:.3g}{amplified}.",
        f"Most changed is {_spoken(most)} ({100 * most['moved']:.2g} %).",
    ]
    if run["kind"] == "full":
        shares = [f"rank {rank} would hold {100 * share:.0f} %" for rank, share in _held_by(matrices)]
        words.append(f"Of the energy of the median change, the best update of {', of '.join(shares)}.")
        words.append(
            f"{100 * run['energy_outside']:.2g} % of the energy of all that changed lies beside these matrices, in "
            "embeddings, convolutions, norms and biases."
        )
    if run["unchanged"]:
        words.append(f"{len(run['unchanged'])} matrices did not change.")
    return " ".join(words)


def _pair_sentence(pair: Mapping[str, Any]) -> str:
    first, last = pair["shown"][0], pair["shown"][-1]
    words = (
        f"{pair['a']} and {pair['b']} share {first['phi']:.2f} of the first direction of the update "
        f"(by chance {first['by_chance']:.2g})"
    )
    if last is first:
        return f"{words}."
    return f"{words}, {last['phi']:.2f} of the first {last['directions']} ({last['by_chance']:.2g})."


def _spoken(matrix: Mapping[str, Any]) -> str:
    return f"{matrix['half']} layer {matrix['layer']} {matrix['projection']}" if matrix["half"] else matrix["matrix"]


# In tables.


def _middle(matrices: Sequence[Mapping[str, Any]]) -> list[str]:
    """Medians over matrices, in the order of RUN_COLUMNS from "Matrices" on."""
    factor = _median([_amplification(matrix) for matrix in matrices])
    held = dict(_held_by(matrices))
    return [
        str(len(matrices)),
        f"{100 * statistics.median(matrix['moved'] for matrix in matrices):.2f}",
        f"{statistics.median(matrix['effective_rank'] for matrix in matrices):.1f}",
        f"{statistics.median(matrix['stable_rank'] for matrix in matrices):.1f}",
        _or_dash(factor, ".2f"),
        *(_or_dash(100 * held[rank] if rank in held else None, ".0f") for rank in HELD),
    ]


def _by_projection(run: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Matrices of each projection, the encoder's first."""

    def order(matrix: Mapping[str, Any]) -> tuple[bool, list[int]]:
        words = matrix["projection"].split(".")
        return matrix["half"] != "encoder", [ORDER.index(word) if word in ORDER else len(ORDER) for word in words]

    found: dict[str, list[Mapping[str, Any]]] = {}
    for matrix in sorted(run["matrices"], key=order):
        found.setdefault(f"{matrix['half']} {matrix['projection']}".strip(), []).append(matrix)
    return found


def _pair_rows(pair: Mapping[str, Any]) -> list[list[str]]:
    names, what = f"{pair['a']}, {pair['b']}", "A" if pair["of"] == "a" else pair["of"]
    return [
        [names, what, str(pair["matrices"]), str(row["directions"]), f"{row['phi']:.3f}", f"{row['by_chance']:.3f}"]
        for row in pair["shown"]
    ]


def _matrix_rows(run: Mapping[str, Any]) -> list[list[Any]]:
    """One line a matrix, in the order of MATRIX_COLUMNS; amplification along all directions that are kept."""
    rows = []
    for matrix in run["matrices"]:
        found = matrix["amplification"][-1] if matrix["amplification"] else {}
        rows.append(
            [
                run["name"],
                *(matrix[key] for key in ("matrix", "half", "layer", "projection")),
                *matrix["shape"],
                *(matrix[key] for key in MATRIX_COLUMNS[7:14]),
                *(found.get(key) for key in ("directions", "factor", "base", "base_own", "base_random")),
                *(_held_at(matrix, rank) for rank in HELD),
            ]
        )
    return rows


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _or_dash(value: float | None, form: str = "") -> str:
    return "–" if value is None else f"{value:{form}}"


# Numbers.


def _amplification(matrix: Mapping[str, Any]) -> float | None:
    """Along all directions that are kept."""
    return matrix["amplification"][-1]["factor"] if matrix["amplification"] else None


def _held_at(matrix: Mapping[str, Any], rank: int) -> float | None:
    """Share of the energy that the best update of a rank holds; all of it where there are fewer singular values."""
    shares: list[float] = matrix["energy_held"]
    return shares[min(rank, len(shares)) - 1] if shares else None


def _held_by(matrices: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """Each rank of HELD and the share that it holds of the median matrix."""
    shares = ((rank, _median([_held_at(matrix, rank) for matrix in matrices])) for rank in HELD)
    return [(rank, share) for rank, share in shares if share is not None]


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _held(matrix: Mapping[str, Any]) -> list[float]:
    shares: list[float] = matrix["energy_held"]
    return shares


def _relative_values(matrix: Mapping[str, Any]) -> list[float]:
    values = matrix["singular_values"]
    return [value / values[0] for value in values[: matrix["rank"]]]


def _typical(run: Mapping[str, Any], of: Any) -> list[float]:
    """The median over matrices at each place, as far as half of the matrices reach."""
    lists = [values for matrix in run["matrices"] if (values := of(matrix))]
    reach = sorted(map(len, lists))[len(lists) // 2] if lists else 0
    return [statistics.median(values[place] for values in lists if place < len(values)) for place in range(reach)]


# Drawn.


def _map(run: Mapping[str, Any], measure: str) -> str:
    """One of MEASURES, layers across, projections down."""

    def value(matrix: Mapping[str, Any]) -> float | None:
        if measure == MEASURES[0]:
            return 100 * float(matrix["moved"])
        return float(matrix["effective_rank"]) if measure == MEASURES[1] else _amplification(matrix)

    found = _by_projection(run)
    layers = sorted({matrix["layer"] for matrix in run["matrices"]})
    table = []
    for matrices in found.values():
        values = {matrix["layer"]: value(matrix) for matrix in matrices}
        table.append([values.get(layer) for layer in layers])
    return heat_map(table, list(found), [str(layer) for layer in layers], across="layer", measure=measure)


def _pair_maps(pairs: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Title and SVG of the first pairs."""
    drawn = []
    for pair in pairs[:MAPS_SHOWN]:
        table = [row[:CELLS_DRAWN] for row in pair["phi"][:CELLS_DRAWN]]
        rows, columns = ([str(place) for place in range(1, size + 1)] for size in (len(table), len(table[0])))
        what = "A" if pair["of"] == "a" else "the update"
        title = f"{what[0].upper()}{what[1:]}: first i directions of {pair['a']} (down) and j of {pair['b']} (across)"
        drawn.append((title, heat_map(table, rows, columns, across="j", measure="phi(i, j), mean over matrices")))
    return drawn
