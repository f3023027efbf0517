"""Knowledge representing, as far as its abstract tells: our own equation."""

import torch.nn.functional as F
from torch import Tensor, nn

from dgd.objectives.maps import pool
from dgd.objectives.term import Requires, Term


class KnowledgeRepresenting(Term):
    """A reconstruction of knowledge representing (KR); not the paper's method, and not to be read as a test of it.

    Of 1911.05329 (ICCVW 2019) we found the abstract: neither equations, code nor hyper-parameters. It says that the
    distribution of the teacher's parameters is prior knowledge; that it is aggregated to a more abstract level, against
    residuals that accumulate in deep layers; that a sparse recoding penalty has the student learn with penalised gradients; and
    that all this can be combined with knowledge from logits. We read "recoding" as a learned map from the student's features to
    the teacher's, and "aggregation" as a coarser grid. Over pairs g of stages from the deepest, features F_s, F_t, images i,

        L = sum_g ( mean_i || R_g a(F_s)_i - a(F_t)_i ||^2 + sparsity / C_t * ||R_g||_1 ),    a(F) = A_g F / || A_g F ||

    - A_g averages over the cells of the next deeper stage's grid (one cell for the deepest), because that grid is what the
      networks themselves go on with: differences of place below it are not passed on.
    - R_g is a learned C_t x C_s matrix, the same at every place. It commutes with A_g and comes after it, which is cheaper.
    - The student's norm is taken before R_g: taken after it, the loss would not depend on the scale of R_g, and the penalty
      could be met by shrinking it all.
    - The student's gradient goes through R_g, so a sparse R_g passes each of the teacher's channels to few of the student's.

    Args:
        sparsity: Of the L1 penalty, per row of R_g. The default is ours and was not tuned. It is minimised by the
            subgradient, so entries come near to zero without being zero.
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
        """Make R_g for every teacher and stage, deepest first."""
        if not all(output.stages for output in (example.own, *example.teachers)):
            raise ValueError("kr: a network has no stages; the term compares feature maps")
        self.recodings = nn.ModuleList(
            nn.ModuleList(
                nn.Conv2d(own.shape[1], theirs.shape[1], 1, bias=False) for own, theirs in pairs(example.own, teacher)
            )
            for teacher in example.teachers
        )

    def forward(self, batch) -> Tensor:
        """Scalar, 0 or more; the mean over teachers."""
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
    """Stages of two `Output`s, deepest first; those that only one has are left out."""
    return list(zip(reversed(own.stages), reversed(theirs.stages), strict=False))


TERM = KnowledgeRepresenting
