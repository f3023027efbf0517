"""Fixtures that several test files share."""

import pytest

from tests.helpers import prepare_digits

LONG = ("test_workflow.py", "test_distributed.py", "test_regression.py", "test_memory.py")


def pytest_collection_modifyitems(items):
    """Run the files with the longest tests first, so that none of two workers ends with one while the other waits."""
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """Return the folder of 60 digits to train on, 30 to validate and 100 to test."""
    return prepare_digits(tmp_path_factory.mktemp("digits"), 100, train_images=60, validation_images=30)


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory):
    """Return the folder of 48 digits to train on and 50 to test, without a validation split."""
    return prepare_digits(tmp_path_factory.mktemp("few_digits"), 50, train_images=48, validation_images=0)
