"""Clusters of Dask's on this machine. What they serve over HTTP is for this machine only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import distributed


@contextmanager
def cluster_of(workers: int, threads: int, *, processes: bool = True) -> Iterator[distributed.LocalCluster]:
    """A cluster with so many workers: each a process of its own, with a nanny that begins it anew, or none of them."""
    with distributed.LocalCluster(
        n_workers=workers,
        threads_per_worker=threads,
        processes=processes,
        host="127.0.0.1" if processes else None,
        dashboard_address="127.0.0.1:0",
        worker_dashboard_address="127.0.0.1:0",
    ) as cluster:
        yield cluster
