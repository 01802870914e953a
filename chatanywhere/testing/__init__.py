"""A real HTTP server on this machine that stands in for the service, for tests and offline use."""

from .faults import Fault
from .server import LoopbackServer, Reply, Request

__all__ = ["Fault", "LoopbackServer", "Reply", "Request"]
