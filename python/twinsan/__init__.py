"""Twinsan's simulator: two nodes, their disks, their link, the arbiter and their hosts, on virtual time.

The nodes are the product's own code; only what is around them is simulated, from a seed. The same seed and the
same calls give the same run, to the last message.

    from twinsan import Cluster

    cluster = Cluster(seed=7)
    volume = cluster.create(sectors=32768)
    cluster.until_paired()
    written = cluster.write(volume, sector=0, count=8)
    cluster.kill("a")
    assert cluster.read(volume, sector=0, count=8, via="b") == [written] * 8
    cluster.start("a")
    cluster.check()

Addresses are sectors of 512 bytes, times are seconds of virtual time, nodes are "a" and "b". The content of a
sector is shown as a number: that of the write it comes from, 0 if it reads as zeros.
"""

from ._twinsan import (
    Broken,
    Cluster,
    ClusterError,
    PlanError,
    Refused,
    State,
    Unfinished,
    __version__,
)

__all__ = [
    "Broken",
    "Cluster",
    "ClusterError",
    "PlanError",
    "Refused",
    "State",
    "Unfinished",
    "__version__",
]
