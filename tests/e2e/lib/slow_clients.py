"""Clients that hold a server up: unfinished handshakes, and heads of requests that never end, byte by byte.

slow_clients.py PORT HANDSHAKES HEADS HEAD_BYTES SECONDS

Prints "open" when all of them are, and in the end how many of each kind the server has closed meanwhile.
"""

import socket
import ssl
import sys
import time

port, handshakes, heads, head_bytes, seconds = map(int, sys.argv[1:])
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE


def connect():
    return socket.create_connection(("127.0.0.1", port), timeout=30)


shaking = []
for _ in range(handshakes):
    client = connect()
    client.sendall(b"\x16\x03\x01")
    shaking.append(client)

asking = []
for _ in range(heads):
    client = context.wrap_socket(connect())
    client.sendall(b"GET /v2/ HTTP/1.1\r\nHost: a\r\nX-Filler: " + b"a" * head_bytes)
    asking.append(client)
print("open", flush=True)

until = time.monotonic() + seconds
closed = set()
while time.monotonic() < until:
    for client in asking:
        if client in closed:
            continue
        try:
            client.sendall(b"a")
        except OSError:
            closed.add(client)
    time.sleep(1)


def is_closed(client):
    client.settimeout(0.01)
    try:
        return client.recv(1) == b""
    except (TimeoutError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True


print(sum(map(is_closed, shaking)), len(closed), flush=True)
