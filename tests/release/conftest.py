"""The packages of this checkout, built once for all tests."""

from __future__ import annotations

import pytest

from support.packages import Packages, build, once


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    return Packages.of(once(tmp_path_factory, "packages", build))
