"""Connections under gevent and eventlet, which replace sockets and threads before or after the package is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

SETUP = """
import sys
library, order = sys.argv[1:]

def patch():
    if library == "gevent":
        from gevent import monkey
        monkey.patch_all()
    else:
        import warnings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import eventlet
            eventlet.monkey_patch()

if order == "first":
    patch()
import os, socket, threading, time
from chatanywhere import Timeout
from chatanywhere._http.dialing import dial, socket_options
from chatanywhere._http.names import resolve
from chatanywhere._http.scope import CallScope
from chatanywhere._http.sockets import Handle, has_ended, shut_down, was_not_read
if order == "late":
    patch()

def scope(**limits):
    call = CallScope(Timeout(**limits))
    call.connecting()
    return call

def spawn(function):
    thread = threading.Thread(target=function)  # a greenlet
    thread.start()
    return thread

def raised(function, *args):
    try:
        function(*args)
    except BaseException as error:
        return error

def descriptors():
    return len(os.listdir("/proc/self/fd"))

listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]

full = socket.socket()
full.bind(("127.0.0.1", 0))
full.listen(0)
full_port = full.getsockname()[1]
waiting = [socket.socket() for _ in range(4)]
for each in waiting:
    each.setblocking(False)
    each.connect_ex(full.getsockname())
"""

CASES = {
    "connects, by address and by name, to a socket of the library's": """
for host in ("127.0.0.1", "localhost"):
    with dial(scope(), host, port, socket_options(Timeout())) as sock:
        server, _ = listener.accept()
        with server:
            assert type(sock).__module__.partition(".")[0].strip("_") == library, type(sock)
            assert sock.gettimeout() is None
            spawn(lambda: server.sendall(b"x"))
            assert sock.recv(1) == b"x"
""",
    "refused": """
waiting.pop().close()
closed = socket.create_server(("127.0.0.1", 0))
closed_port = closed.getsockname()[1]
closed.close()
assert isinstance(raised(dial, scope(), "127.0.0.1", closed_port), ConnectionRefusedError)
""",
    "others run while it waits, and the limit holds": """
ticks = []
def tick():
    for _ in range(20):
        ticks.append(time.sleep(0.01))
spawn(tick)
before = descriptors()
began = time.monotonic()
call = scope(connect=0.5)
assert isinstance(raised(dial, call, "127.0.0.1", full_port), TimeoutError)
assert call.failure().phase == "connect"
assert 0.45 < time.monotonic() - began < 5
assert len(ticks) == 20
assert descriptors() <= before
""",
    "cancel": """
call = scope(connect=None, total=20)
def cancel():
    time.sleep(0.2)
    call.cancel()
spawn(cancel)
began = time.monotonic()
assert isinstance(raised(dial, call, "127.0.0.1", full_port), ConnectionAbortedError)
assert time.monotonic() - began < 5
""",
    "the library's Timeout": """
module = __import__(library)
before = descriptors()
began = time.monotonic()
with module.Timeout(0.2) as timeout:
    assert raised(dial, scope(), "127.0.0.1", full_port) is timeout
assert time.monotonic() - began < 5
time.sleep(0.01)
assert descriptors() <= before
""",
    "kill": """
module = __import__(library)
before = descriptors()
greenlet = module.spawn(dial, scope(), "127.0.0.1", full_port)
time.sleep(0.2)
greenlet.kill()
time.sleep(0.01)
assert descriptors() <= before
""",
    "a second address": """
real = socket.getaddrinfo
infos = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", each)) for each in (full_port, port)]
socket.getaddrinfo = lambda *args, flags=0, **kwargs: real(*args, flags=flags, **kwargs) if flags else infos
with dial(scope(), "api.example", 80) as sock:
    assert sock.getpeername()[1] == port
""",
    "lookups are shared and limited": """
asked = []
real = socket.getaddrinfo
def hang(*args, flags=0, **kwargs):
    if flags:
        return real(*args, flags=flags, **kwargs)
    asked.append(args)
    time.sleep(0.5)
    return infos
infos = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))]
socket.getaddrinfo = hang
found = []
waiters = [spawn(lambda: found.append(resolve(scope(), "api.example", 80))) for _ in range(10)]
assert isinstance(raised(resolve, scope(connect=0.1), "api.example", 80), TimeoutError)
call = scope()
spawn(call.cancel)
assert isinstance(raised(resolve, call, "api.example", 80), ConnectionAbortedError)
for each in waiters:
    each.join()
assert found == [infos] * 10
assert len(asked) == 1
""",
    "what the system knows": """
sock = dial(scope(), "127.0.0.1", port)
server, _ = listener.accept()
assert not has_ended(sock)
spawn(lambda: (time.sleep(0.1), shut_down(sock)))
assert sock.recv(1) == b""
server.close()
assert has_ended(sock)
sock.close()
assert has_ended(sock)
with dial(scope(), "127.0.0.1", port) as sock:
    server, _ = listener.accept()
    server.close()
    assert has_ended(sock)
    sock.sendall(b"POST")
    assert sock.recv(1) == b""
    assert was_not_read(sock)
call = scope()
with dial(call, "127.0.0.1", port) as sock, Handle(call, sock):
    server, _ = listener.accept()
    spawn(lambda: (time.sleep(0.1), call.cancel()))
    assert sock.recv(1) == b""
    server.close()
""",
}


@pytest.mark.parametrize("order", ["first", "late"])
@pytest.mark.parametrize("library", ["gevent", "eventlet"])
@pytest.mark.parametrize("case", CASES)
def test_connections_are_made_by_greenlets(library: str, order: str, case: str) -> None:
    """Whether the library patches first or late, each of these works and makes only its own greenlet wait."""
    done = subprocess.run(
        [sys.executable, "-c", SETUP + CASES[case], library, order], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
