#!/usr/bin/env python3
"""Pull requests that do everything at once that a server could stop at, until they are told to end.

    noisy.py hold HOST:PORT TOKEN     holds uploads and manifests open, announces, floods, guesses passwords
    noisy.py work HOST:PORT TOKEN     has configs parsed, views made and pages shown that are as dear as they can be
    noisy.py probe HOST:PORT TOKEN    pushes small blobs and fresh cache tags as main does, one after the other, and writes a
                                      line `kind status seconds` for each

The first two write `attacking` when all is under way, and at the end what was answered. All end on SIGTERM. TOKEN is the
password of a login.
"""
import base64
import collections
import hashlib
import http.client
import json
import os
import signal
import socket
import sys
import threading
import time

REPO = "org/app/cache"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.buildkit.cacheconfig.v0"

ended = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ended.set())
answers = collections.Counter()


def digest_of(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Client:
    def __init__(self, host, token):
        self.host = host
        self.auth = "Basic " + base64.b64encode(f"x:{token}".encode()).decode()

    def ask(self, method, path, body=b"", **headers):
        connection = http.client.HTTPConnection(self.host, timeout=60)
        try:
            connection.request(method, path, body=body, headers={"Authorization": self.auth, **headers})
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()

    def blob(self, data):
        return self.ask("POST", f"/v2/{REPO}/blobs/uploads/?digest={digest_of(data)}", data)

    def manifest(self, tag, manifest):
        data = json.dumps(manifest).encode()
        return self.ask("PUT", f"/v2/{REPO}/manifests/{tag}", data, **{"Content-Type": MANIFEST})

    def cache(self, tag, config, layers=()):
        """Pushes a cache manifest whose config and layers are there."""
        named = [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest_of(layer), "size": len(layer)}
                 for layer in layers]
        return self.manifest(tag, {"schemaVersion": 2, "mediaType": MANIFEST, "layers": named,
                                   "config": {"mediaType": CONFIG, "digest": digest_of(config), "size": len(config)}})

    def open(self, method, path, length):
        """Sends a head, and as little of the body as makes it a body."""
        host, port = self.host.rsplit(":", 1)
        connection = socket.create_connection((host, int(port)))
        size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        first = "1\r\n{\r\n" if length is None else "{"
        connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: {self.host}\r\nAuthorization: {self.auth}\r\n{size}\r\n\r\n{first}".encode())
        return connection


def repeat(what):
    """Does something again and again, whatever comes of it."""
    def run():
        while not ended.is_set():
            try:
                answers[what.__name__, what()] += 1
            except (OSError, http.client.HTTPException) as error:
                answers[what.__name__, type(error).__name__] += 1
    return run


def attack(kinds):
    threads = [threading.Thread(target=repeat(kind), daemon=True) for kind in kinds]
    for thread in threads:
        thread.start()
    print("attacking", flush=True)
    ended.wait()
    for (kind, status), count in sorted(answers.items(), key=str):
        print(kind, status, count)


def hold(client):
    uploads = iter(range(1 << 60))
    held = []
    for n in range(400):
        held.append(client.open("PATCH", f"/v2/{REPO}/blobs/uploads/{n:032x}", None))
        held.append(client.open("PUT", f"/v2/{REPO}/manifests/half-{n}", 4 << 20))
        held.append(client.open("POST", f"/v2/{REPO}/blobs/uploads/?digest={digest_of(b'%d' % n)}", 64 << 20))

    def drip():
        ended.wait(1)
        for connection in held[::3]:
            try:
                connection.sendall(b"1\r\n{\r\n")
            except OSError:
                pass

    def flood():
        """A body of unknown length, until it is refused."""
        connection = client.open("PATCH", f"/v2/{REPO}/blobs/uploads/{next(uploads) + (1 << 64):032x}", None)
        connection.settimeout(30)
        with connection:
            block = b"100000\r\n" + os.urandom(1 << 20) + b"\r\n"
            try:
                for _ in range(64):
                    connection.sendall(block)
                connection.sendall(b"0\r\n\r\n")
            except OSError:
                pass
            return connection.recv(64)[9:12].decode()

    def tiny():
        return client.blob(os.urandom(1))

    def wrong_password():
        wrong = Client(client.host, "wrong")
        wrong.auth = "Basic " + base64.b64encode(b"alice:" + os.urandom(8).hex().encode()).decode()
        return wrong.ask("GET", "/v2/")

    attack([drip, flood, tiny, wrong_password])


def work(client):
    tags = iter(range(1 << 60))
    # Valid, and as dear to parse and to unite as it can be: few digests, and many ways to each.
    layers = [b"layer %d" % n for n in range(64)]
    records = [{"digest": "sha256:%064x" % n, "layers": [{"layer": n % 64}]} for n in range(50)]
    records += [{"digest": "sha256:%064x" % (1000 + n % 40),
                 "inputs": [[{"link": (n * 7 + i * 31) % n} for i in range(6)] for _ in range(2)],
                 "layers": [{"layer": n % 64}]} for n in range(50, 12_000)]
    text = json.dumps({"layers": [{"blob": digest_of(layer), "parent": -1} for layer in layers], "records": records})
    dear = [text.replace(f"{1000:064x}", f"{5000 + n:064x}").encode() for n in range(8)]
    # Two million objects in six megabytes.
    many = b'{"layers":[],"records":[' + b",".join([b"{}"] * 2_000_000) + b"]}"
    for data in [*layers, *dear, many]:
        client.blob(data)
    client.cache("dear", dear[0], layers)

    def many_records():
        return client.cache(f"many-{next(tags)}", many)

    def dear_push():
        return client.cache("dear", dear[next(tags) % len(dear)], layers)

    def dear_view():
        return client.ask("GET", f"/v2/{REPO}/manifests/dear")

    def page():
        return client.ask("GET", f"/api/repo/{REPO}:dear")

    def large_manifest():
        return client.manifest(f"large-{next(tags)}", {
            "schemaVersion": 2, "mediaType": MANIFEST, "annotations": {"note": "x" * (3 << 20), "n": str(next(tags))},
            "layers": [], "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                                     "digest": digest_of(layers[0]), "size": len(layers[0])}})

    attack([many_records, many_records, dear_push, dear_view, page, page, large_manifest])


def probe(client):
    # The store keeps each once: on a slow machine, too, the disk is not filled by main.
    large = [os.urandom(23 << 20) for _ in range(12)]
    n = 0
    while not ended.is_set():
        n += 1
        layer = b"probe %d" % n
        config = json.dumps({"layers": [{"blob": digest_of(layer), "parent": -1}],
                             "records": [{"digest": digest_of(b"step %d" % n), "layers": [{"layer": 0}]}]}).encode()
        steps = [("blob", lambda: client.blob(layer)), ("large", lambda: client.blob(large[n // 4 % len(large)] if n % 4 == 1 else config)),
                 ("config", lambda: client.blob(config)), ("push", lambda: client.cache(f"probe-{n % 8}", config, [layer])),
                 ("view", lambda: client.ask("GET", f"/v2/{REPO}/manifests/probe-{n % 8}"))]
        for kind, step in steps:
            began = time.monotonic()
            try:
                status = step()
            except (OSError, http.client.HTTPException) as error:
                status = type(error).__name__
            print(kind, status, f"{time.monotonic() - began:.3f}", flush=True)
        ended.wait(0.2)


if __name__ == "__main__":
    {"hold": hold, "work": work, "probe": probe}[sys.argv[1]](Client(sys.argv[2], sys.argv[3]))
