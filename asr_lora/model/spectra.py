"""Analyse the change of a weight matrix: its singular values, its directions, and how it amplifies the base.

The measures are those of the LoRA paper (arXiv 2106.09685, sections 7.2 and 7.3). All of them are computed in
float64. A change of low rank is never formed: QR of both factors leaves a core of rank x rank.
"""

from dataclasses import dataclass

import torch

MOST = 64  # directions of a change that are kept
COUNTS = (1, 4, 16, 64)  # numbers of directions that tables show
SEED = 0  # of the random directions


@dataclass(frozen=True)
class Spectrum:
    """Singular values of a change, and the directions of the largest of them, at most as many as its rank."""

    values: torch.Tensor  # (n,), largest first
    left: torch.Tensor  # (out, k), orthonormal columns
    right: torch.Tensor  # (in, k), orthonormal columns

    @property
    def rank(self) -> int:
        """The number of singular values that are not zero, by NumPy's tolerance for this shape."""
        return _rank(self.values, len(self.left), len(self.right))

    @property
    def norm(self) -> float:
        """Frobenius norm."""
        return float(torch.linalg.vector_norm(self.values))


@dataclass(frozen=True)
class Amplification:
    """Frobenius norms of the base along the first directions U, V of a change dW, and along other directions."""

    directions: int
    change: float  # of dW along them
    base: float  # of U^T W V
    base_own: float  # of W along as many of its own first directions
    base_random: float  # of W along as many random ones

    @property
    def factor(self) -> float | None:
        """The change along its directions divided by the base along them; None where the base has nothing there."""
        return self.change / self.base if self.base else None


def spectrum_of_product(b: torch.Tensor, a: torch.Tensor) -> Spectrum:
    """Compute the spectrum of B A, from B (out, rank) and A (rank, in)."""
    if not a.numel():
        return Spectrum(torch.zeros(0, dtype=torch.float64), _none(len(b)), _none(a.shape[1]))
    q_b, r_b = torch.linalg.qr(b.double())
    q_a, r_a = torch.linalg.qr(a.double().T)
    left, values, right = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    return _kept(q_b @ left, values, q_a @ right.T)


def spectrum_of_matrix(change: torch.Tensor) -> Spectrum:
    """Compute the spectrum of a change (out, in) of any rank."""
    left, values, right = torch.linalg.svd(change.double(), full_matrices=False)
    return _kept(left, values, right.T)


def _kept(left: torch.Tensor, values: torch.Tensor, right: torch.Tensor) -> Spectrum:
    count = min(MOST, _rank(values, len(left), len(right)))
    return Spectrum(values, left[:, :count].clone(), right[:, :count].clone())


def _rank(values: torch.Tensor, rows: int, columns: int) -> int:
    if not len(values):
        return 0
    return int((values > values[0] * max(rows, columns) * torch.finfo(torch.float64).eps).sum())


def _none(length: int) -> torch.Tensor:
    return torch.zeros(length, 0, dtype=torch.float64)


def effective_rank(values: torch.Tensor) -> float:
    """Return the exponential of the entropy of normalised singular values (Roy and Vetterli, EUSIPCO 2007).

    It is r for r equal values, and 0 for none.
    """
    total = values.sum()
    if not len(values) or total == 0:
        return 0.0
    shares = values[values > 0] / total
    return float(torch.exp(-(shares * torch.log(shares)).sum()))


def stable_rank(values: torch.Tensor) -> float:
    """Return the squared Frobenius norm divided by the squared spectral norm; it is at most the rank."""
    if not len(values) or values[0] == 0:
        return 0.0
    return float((values / values[0]).square().sum())


def energy_held(values: torch.Tensor) -> torch.Tensor:
    """Return the share of the squared Frobenius norm in the best update of rank 1, 2, ...: (n,), the last is 1."""
    energy = values.square().cumsum(0)
    return energy / energy[-1] if len(energy) and energy[-1] > 0 else torch.zeros_like(values)


def similarity(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Compare subspaces by phi(i, j) = ||U_i^T V_j||_F^2 / min(i, j), from 0 (orthogonal) to 1 (contained).

    Args:
        first: (n, p), orthonormal columns; the first i of them span a subspace.
        second: (n, q), likewise.

    Returns:
        (p, q), phi at row i - 1 and column j - 1.
    """
    overlap = (first.T @ second).square().cumsum(0).cumsum(1)
    rows, columns = (torch.arange(1, size + 1, dtype=overlap.dtype) for size in overlap.shape)
    return overlap / torch.minimum(rows[:, None], columns[None, :])


def similarity_by_chance(i: int, j: int, dimensions: float) -> float:
    """Return the mean of phi(i, j) between random subspaces, in which each pair of directions shares 1 / dimensions."""
    return max(i, j) / dimensions


def amplifications(weight: torch.Tensor, own: torch.Tensor, change: Spectrum) -> list[Amplification]:
    """Compare a change with its base along the change's first 1, 4, 16, ... directions, and along all that are kept.

    Args:
        weight: (out, in) of the base, W.
        own: singular values of W, largest first.
        change: what training added to W.
    """
    most = change.left.shape[1]
    if not most:
        return []
    weight = weight.double()
    drawn = torch.Generator().manual_seed(SEED)
    u, v = (torch.linalg.qr(torch.randn(side, most, dtype=torch.float64, generator=drawn)).Q for side in weight.shape)
    along, random = change.left.T @ weight @ change.right, u.T @ weight @ v
    return [
        Amplification(
            count,
            change=float(torch.linalg.vector_norm(change.values[:count])),
            base=float(torch.linalg.matrix_norm(along[:count, :count])),
            base_own=float(torch.linalg.vector_norm(own[:count])),
            base_random=float(torch.linalg.matrix_norm(random[:count, :count])),
        )
        for count in sorted({*(count for count in COUNTS if count < most), most})
    ]
