"""A real HTTP server on this machine that stands in for the service, for tests and offline use."""

from .faults import Fault
from .replies import Reply
from .request import Request
from .server import LoopbackServer

__all__ = ["Fault", "LoopbackServer", "Reply", "Request"]
