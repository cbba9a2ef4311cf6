#!/usr/bin/env python3
"""Clients that push blobs until the server is gone, and one that looks whether all they were told is true.

    uploads.py push HOST:PORT CLIENTS SEED ACKNOWLEDGED   appends `digest size` to a file for each 201
    uploads.py pause HOST:PORT SECONDS                    stops so long in the middle of one blob; it must be taken
    uploads.py verify HOST:PORT ACKNOWLEDGED              reads every blob named there, byte for byte
"""
import hashlib
import http.client
import os
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

# Whole in one portion of the server, in several, and in many.
SIZES = (3_000, 100_000, 700_000, 3_000_000)


def push_until_cut(host, seed, acknowledged, lock):
    rng = random.Random(seed)
    try:
        connection = http.client.HTTPConnection(host, timeout=30)
        while True:
            body = rng.randbytes(rng.choice(SIZES))
            digest = "sha256:" + hashlib.sha256(body).hexdigest()
            connection.request("POST", "/v2/killed/blobs/uploads/", headers={"Content-Length": "0"})
            begun = connection.getresponse()
            begun.read()
            location = begun.headers["Location"]
            mark = "&" if "?" in location else "?"
            connection.request("PUT", f"{location}{mark}digest={digest}", body=body)
            answer = connection.getresponse()
            # The status line is the acknowledgement.
            if answer.status != 201:
                print(f"PUT was answered {answer.status}", file=sys.stderr)
                os._exit(1)
            with lock:
                acknowledged.write(f"{digest} {len(body)}\n")
                acknowledged.flush()
            answer.read()
    except (OSError, http.client.HTTPException, TypeError):
        return


def push(host, clients, seed, path):
    lock = threading.Lock()
    with open(path, "a", encoding="ascii") as acknowledged:
        threads = [
            threading.Thread(target=push_until_cut, args=(host, f"{seed}.{number}", acknowledged, lock))
            for number in range(int(clients))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def pause(host, seconds):
    connection = http.client.HTTPConnection(host, timeout=60)
    connection.request("POST", "/v2/paused/blobs/uploads/", headers={"Content-Length": "0"})
    begun = connection.getresponse()
    begun.read()
    location, body = begun.headers["Location"], random.Random(1).randbytes(3_000_000)
    mark = "&" if "?" in location else "?"
    connection.putrequest("PUT", f"{location}{mark}digest=sha256:{hashlib.sha256(body).hexdigest()}")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[:100])
    time.sleep(float(seconds))
    connection.send(body[100:])
    answer = connection.getresponse()
    print(f"after {seconds} s: {answer.status}")
    sys.exit(0 if answer.status == 201 else 1)


def verify(host, path):
    local = threading.local()

    def look(line):
        digest, size = line.split()
        if not hasattr(local, "connection"):
            local.connection = http.client.HTTPConnection(host, timeout=60)
        local.connection.request("GET", f"/v2/killed/blobs/{digest}")
        answer = local.connection.getresponse()
        body = answer.read()
        good = answer.status == 200 and len(body) == int(size)
        if good and "sha256:" + hashlib.sha256(body).hexdigest() == digest:
            return None
        return f"{digest}: {answer.status}, {len(body)} of {size} bytes"

    with open(path, encoding="ascii") as lines, ThreadPoolExecutor(4) as pool:
        lines = list(lines)
        wrong = [said for said in pool.map(look, lines) if said]
    for said in wrong:
        print(said, file=sys.stderr)
    print(f"{len(lines)} acknowledged, {len(wrong)} wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    {"push": push, "pause": pause, "verify": verify}[sys.argv[1]](*sys.argv[2:])
