"""What the labels of a data set are, and what follows from it: the term that learns them.

Nothing here needs torch.
"""

TERMS = {"classification": "ce", "regression": "mse"}
"""The term of each task that compares outputs with labels: a method's `ce` stands for it."""

DATASETS = {"digits-rotation": "regression"}
"""Tasks of data sets by kind; of all others the labels are classes."""


def of_dataset(dataset: str) -> str:
    """Return the task of a data set, such as `cifar10` or `imagefolder:<path>`."""
    return DATASETS.get(dataset.partition(":")[0], "classification")
