"""Many machines: a crew of Ray actors that makes tensors, sums, draws and scores.

Importing this package does not load Ray.
"""

from stockpot.cluster.connecting import LOCAL, open_cluster
from stockpot.cluster.sharing import Node, RayCrew

__all__ = ["LOCAL", "Node", "RayCrew", "open_cluster"]
