from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack

import pytest

from tests.slurm.cluster import DevCluster, install, why_not_here
from tests.slurm.stories import begin_all


@pytest.fixture(scope="session")
def slurm_programs() -> None:
    """Skips the test where no cluster can be started."""
    if reason := why_not_here():
        pytest.skip(reason)
    install()


@pytest.fixture(scope="session")
def make_cluster(slurm_programs: None) -> Iterator[Callable[..., DevCluster]]:
    """`make_cluster("no-accounting")`: one cluster per combination of variants, kept up until the session ends."""
    with ExitStack() as stack:

        @functools.cache
        def make(*variants: str) -> DevCluster:
            return stack.enter_context(DevCluster(*variants))

        yield make


@pytest.fixture(scope="session")
def cluster(make_cluster: Callable[..., DevCluster]) -> DevCluster:
    """The default variant: accounting, cgroups, preemption."""
    return make_cluster()


@pytest.fixture(scope="module")
def told(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[None]]]:
    """All `@story` tests of a file, which run beside each other."""
    yield from begin_all(request)
