"""Knowledge representing, reconstructed from the paper's abstract; the equation is this project's."""

import torch.nn.functional as F
from torch import Tensor, nn

from dgd.objectives.maps import pool
from dgd.objectives.term import Requires, Term


class KnowledgeRepresenting(Term):
    """A term that reconstructs knowledge representing (KR); it is not the paper's method, and its results are no test of that.

    Of 1911.05329 (ICCVW 2019) only the abstract was found: no equations, code or hyper-parameters. It says that the
    distribution of the teacher's parameters is prior knowledge; that it is aggregated to a more abstract level, against
    residuals that accumulate in deep layers; that the student learns with gradients penalised by a sparse recoding penalty; and
    that all this can be combined with knowledge from logits. We read "recoding" as a learned map from the student's features to
    the teacher's, and "aggregation" as a coarser grid. With pairs g of stages from the deepest, features F_s and F_t, and
    images i,

        L = sum_g ( mean_i || R_g a(F_s)_i - a(F_t)_i ||^2 + sparsity / C_t * ||R_g||_1 ),    a(F) = A_g F / || A_g F ||

    - A_g averages over the cells of the next deeper stage's grid (one cell for the deepest), because the networks themselves
      continue on that grid: differences of position within a cell are not passed on.
    - R_g is a learned C_t x C_s matrix, the same at every position. It commutes with A_g and is applied after it, which is
      cheaper.
    - The student's features are normalised before R_g: normalised after it, the loss would not depend on the scale of R_g, and
      the penalty could be reduced to nothing by shrinking all of R_g.
    - The student's gradient goes through R_g, so a sparse R_g passes each of the teacher's channels to few of the student's.

    Args:
        sparsity: Weight of the L1 penalty, per row of R_g. The default is ours and was not tuned. The penalty is minimised by
            subgradient steps, so entries come near zero without reaching it.
    """

    source = "1911.05329 (ICCVW 2019), abstract only; the equation is this project's"
    status = "reconstruction"
    deviations = (
        "The equation is this project's: of the paper only the abstract was found.",
        "Features are compared, where the abstract speaks of the distribution of the teacher's parameters.",
    )
    requires = Requires(teacher="eval", features=True)

    def __init__(self, sparsity: float = 0.01):
        super().__init__()
        if sparsity < 0:
            raise ValueError(f"kr: sparsity is {sparsity}; it must be 0 or more")
        self.sparsity = sparsity

    def setup(self, example, setting) -> None:
        """Build R_g for every teacher and stage, deepest first."""
        if not all(output.stages for output in (example.own, *example.teachers)):
            raise ValueError("kr: a network has no stages; the term compares feature maps")
        self.recodings = nn.ModuleList(
            nn.ModuleList(
                nn.Conv2d(own.shape[1], theirs.shape[1], 1, bias=False) for own, theirs in pairs(example.own, teacher)
            )
            for teacher in example.teachers
        )

    def forward(self, batch) -> Tensor:
        """Return a scalar, 0 or more, the mean over teachers."""
        loss = 0.0
        for recodings, teacher in zip(self.recodings, batch.teachers, strict=True):
            grid = (1, 1)
            for recode, (own, theirs) in zip(recodings, pairs(batch.own, teacher), strict=True):
                a_own, a_theirs = (F.normalize(pool(x, grid).float(), dim=(1, 2, 3)) for x in (own, theirs))
                with self.autocast():
                    recoded = recode(a_own)
                distance = (recoded.float() - a_theirs).square().sum((1, 2, 3)).mean()
                loss = loss + distance + self.sparsity * recode.weight.float().abs().sum() / len(recode.weight)
                grid = tuple(min(sizes) for sizes in zip(own.shape[2:], theirs.shape[2:], strict=True))
        return loss / len(batch.teachers)


def pairs(own, theirs) -> list[tuple[Tensor, Tensor]]:
    """Return the paired stages of two `Output`s, deepest first; stages that only one of them has are left out."""
    return list(zip(reversed(own.stages), reversed(theirs.stages), strict=False))


TERM = KnowledgeRepresenting
