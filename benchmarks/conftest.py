"""Options and fixtures of the speed measurements under pytest."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.setting import Setting, add_options, decode_configs, step_cases
from nesf.saved import choose_device

torch._dynamo.config.recompile_limit = 64  # type: ignore[attr-defined]  # many cases share the fields' code; above the limit torch falls back to eager


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the shared options, and how often the cases of a group take turns."""
    group = parser.getgroup("nesf")
    add_options(group.addoption)
    group.addoption(
        "--turns",
        default=3,
        type=int,
        metavar="N",
        help="how often the cases of a group are measured one after the other",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every case once a turn, so that phases of a busy machine affect all of them."""
    if "turn" in metafunc.fixturenames:
        metafunc.parametrize("turn", range(metafunc.config.getoption("--turns")))
    if "step_case" in metafunc.fixturenames:
        metafunc.parametrize(
            "step_case", step_cases(choose_device(metafunc.config.getoption("--device")))
        )
    if "decode_case" in metafunc.fixturenames:
        metafunc.parametrize("decode_case", ["plain", *decode_configs()])


def pytest_benchmark_update_json(
    config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]
) -> None:
    """Add memory and threads of the process that measured."""
    output_json["environment"] = config.stash[SETTING].environment()


SETTING = pytest.StashKey[Setting]()


@pytest.fixture(scope="session")
def setting(request: pytest.FixtureRequest) -> Setting:
    """Return dataset, model and device of the options."""
    request.config.stash[SETTING] = Setting.of(
        request.config.option, ("python", "-m", "benchmarks"), ()
    )
    return request.config.stash[SETTING]


@pytest.fixture(scope="session")
def cache() -> dict[Any, Any]:
    """Return what one turn keeps for the next: above all compiled functions."""
    return {}
