#!/usr/bin/env python3
"""Holds a listening socket for a server, as systemd does for a unit with a socket: sd_listen_fds(3).

    held_socket.py HOST:PORT COMMAND...

Runs COMMAND with the socket, and again at SIGHUP, when it has ended after a SIGTERM. Ends with it at SIGTERM or SIGINT.
"""
import os
import signal
import socket
import subprocess
import sys

host, port = sys.argv[1].rsplit(":", 1)
listener = socket.create_server((host, int(port)), backlog=1024)
SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)
signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def start():
    # The shell puts its own id where that of the server belongs, and becomes the server.
    script = 'export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@"'
    unblock = lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    return subprocess.Popen(["sh", "-c", script, "sh", *sys.argv[2:]], pass_fds=(3,), preexec_fn=unblock)


os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
server = start()
while True:
    number = signal.sigwait(SIGNALS)
    server.terminate()
    server.wait()
    if number != signal.SIGHUP:
        sys.exit(server.returncode)
    server = start()
