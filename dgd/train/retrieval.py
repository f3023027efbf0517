"""Measure retrieval across inputs: of a test example of the student's input, is the nearest of the teacher's of its class?"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from dgd.data.loader import EVALUATION_BATCH
from dgd.train.features import Reader

SPACES = ("features", "probabilities")
"""What is compared: the inputs of the two classifiers, where they have one width, and the two outputs' softmax."""


def recall_at_1(queries: Tensor, gallery: Tensor, labels: Tensor, gallery_labels: Tensor) -> float:
    """Return the share in percent of queries whose nearest gallery row, by cosine, has their label; the first of equals.

    Args:
        queries: (N, D).
        gallery: (M, D).
        labels: Of the queries, (N,).
        gallery_labels: (M,).
    """
    nearest = (F.normalize(queries) @ F.normalize(gallery).T).argmax(1)
    return float((gallery_labels[nearest] == labels).double().mean() * 100)


@torch.no_grad()
def retrieval(group, dataset) -> dict[str, dict[str, float | None]] | None:
    """Return recall@1 between the test examples of the student's and of the teacher's input, in both directions.

    The first network and the first teacher are compared. Their features have a space in common where a term made one; of
    networks that learned apart they have none, but for what equal initial weights (the same shapes and seed) leave in common.

    Args:
        group: A `dgd.train.group.Group`; its first network is in this process.
        dataset: The data set, as the examples of the cell's input.

    Returns:
        `image->audio` and `audio->image`, by the inputs' names: space -> recall@1 in percent, None where the widths differ or
        features cannot be read. None as a whole for a group whose teachers take its own input, or which has none.
    """
    cell = group.cell
    if not cell.paired:
        return None
    networks = {cell.input: group.eval_networks[0], cell.teacher_input: group.teachers[0].network}
    found = {input: _outputs(group, network, dataset.of(input)) for input, network in networks.items()}
    one, other = networks
    return {
        f"{query}->{gallery}": {space: _recall(found[query], found[gallery], space) for space in SPACES}
        for query, gallery in ((one, other), (other, one))
    }


def _recall(query: Mapping[str, Tensor], gallery: Mapping[str, Tensor], space: str) -> float | None:
    there = space in query and space in gallery and query[space].shape[1] == gallery[space].shape[1]
    return recall_at_1(query[space], gallery[space], query["labels"], gallery["labels"]) if there else None


def _outputs(group, network, dataset) -> dict[str, Tensor]:
    """Return a network's probabilities, features where it has any, and labels, for all test examples of its input."""
    network.eval()
    settings = {"task": group.task, "input": dataset.input}
    try:
        with group.arithmetic.autocast():
            reader = Reader(network, group.example, features=True, **settings)
    except ValueError:
        reader = Reader(network, group.example, **settings)
    last = group.recipe.channels_last
    loader = dataset.loader("test", batch_size=EVALUATION_BATCH, device=group.device, channels_last=last)
    parts: dict[str, list[Tensor]] = {}
    for batch in loader.batches():
        with group.arithmetic.autocast():
            output = reader(batch.inputs)
        read = {"probabilities": output.answer.float().softmax(1), "features": output.pooled, "labels": batch.labels}
        for name, value in read.items():
            if value is not None:
                parts.setdefault(name, []).append(value if name == "labels" else value.float())
    return {name: torch.cat(values) for name, values in parts.items()}
