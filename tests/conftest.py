"""Options and fixtures shared by all tests."""

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--mirror",
        default=None,
        help="folder with a copy of the official release (data/dataset_paper/... inside); tests that need it are skipped without",
    )


@pytest.fixture(scope="session")
def mirror(request: pytest.FixtureRequest) -> Path:
    """A local copy of the official data release, or a skip."""
    folder = request.config.getoption("--mirror")
    if not folder:
        pytest.skip("needs --mirror DIR, a copy of the official data release")
    return Path(folder)
