"""Tests that mostly wait, told all at once: minutes of waiting on one cluster take as long as the longest of them."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.slurm.cluster import DevCluster

_nodes: dict[tuple[str, str], threading.Lock] = {}
_lock = threading.Lock()


def story(function: Callable[..., None]) -> Callable[..., None]:
    """A test that runs in a thread, from when the first story of its file is wanted. It may ask for fixtures."""

    def test(told: dict[str, Future[None]]) -> None:
        told[function.__name__].result()

    functools.update_wrapper(test, function, updated=())
    del test.__wrapped__  # pytest would look there for the fixtures
    test.story = function  # type: ignore[attr-defined]
    return test


def begin_all(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[None]]]:
    """The stories of this file among the tests that were chosen. Fixtures are made here, in the main thread."""
    chosen = [item for item in request.session.items if getattr(item, "module", None) is request.module]
    stories = {item.name: item.function.story for item in chosen if hasattr(item.function, "story")}
    wanted = {name: inspect.signature(story).parameters for name, story in stories.items()}
    arguments = {name: {p: request.getfixturevalue(p) for p in parameters} for name, parameters in wanted.items()}
    for cluster in {id(v): v for row in arguments.values() for v in row.values() if isinstance(v, DevCluster)}.values():
        cluster.user_python()  # made at first use, which is to be none of two at once
    with ThreadPoolExecutor(len(stories)) as pool:
        yield {name: pool.submit(story, **arguments[name]) for name, story in stories.items()}


@contextmanager
def alone_on(cluster: DevCluster, node: str) -> Iterator[str]:
    """No other story may preempt the jobs on this node meanwhile, nor be preempted."""
    with _lock:
        lock = _nodes.setdefault((str(cluster.folder), node), threading.Lock())
    with lock:
        yield node
