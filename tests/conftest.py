"""Options and fixtures shared by all tests."""

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--mirror",
        default=None,
        help="folder with a copy of the official release (data/dataset_paper/... inside); tests that need it are skipped without",
    )
    parser.addoption(
        "--built-book",
        action="store_true",
        help="check the pages of the built book, and fail where there is none (make check-book)",
    )


@pytest.fixture(scope="session")
def mirror(request: pytest.FixtureRequest) -> Path:
    """A local copy of the official data release, or a skip."""
    folder = request.config.getoption("--mirror")
    if not folder:
        pytest.skip("needs --mirror DIR, a copy of the official data release")
    return Path(folder)
