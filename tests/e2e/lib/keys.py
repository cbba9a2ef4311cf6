#!/usr/bin/env python3
"""Where the SDK gets its credentials from, and a proxy in front of a bucket, in one small server on loopback.

    keys.py PORT-FILE LOG      keys from the environment: KEYS_ID, KEYS_SECRET

GET /container   as the credentials endpoint of ECS and EKS
/latest/...      as the metadata service of an EC2 instance
POST /           as STS, for a web identity
CONNECT          as an HTTPS proxy

One line a request goes to LOG.
"""
import json
import os
import select
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

UNTIL = "2099-01-01T00:00:00Z"
ID, SECRET = os.environ["KEYS_ID"], os.environ["KEYS_SECRET"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, body, kind="text/plain"):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("x-aws-ec2-metadata-token-ttl-seconds", "21600")
        self.end_headers()
        self.wfile.write(body.encode())

    def credentials(self):
        told = {"Code": "Success", "AccessKeyId": ID, "SecretAccessKey": SECRET, "Token": "", "Expiration": UNTIL}
        self.answer(json.dumps(told), "application/json")

    def do_PUT(self):
        self.answer("a-token")

    def do_GET(self):
        if self.path.rstrip("/").endswith("security-credentials"):
            self.answer("a-role")
        else:
            self.credentials()

    def do_POST(self):
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        print("web identity" if "WebIdentityToken=a-web-token" in asked else asked, file=LOG, flush=True)
        self.answer(
            '<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
            "<AssumeRoleWithWebIdentityResult><Credentials>"
            f"<AccessKeyId>{ID}</AccessKeyId><SecretAccessKey>{SECRET}</SecretAccessKey>"
            f"<SessionToken></SessionToken><Expiration>{UNTIL}</Expiration>"
            "</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
            "text/xml",
        )

    def do_CONNECT(self):
        host, port = self.path.rsplit(":", 1)
        with socket.create_connection((host, int(port))) as target:
            self.send_response(200)
            self.end_headers()
            ends = [self.connection, target]
            while True:
                for end in select.select(ends, [], [])[0]:
                    moved = end.recv(1 << 16)
                    if not moved:
                        self.close_connection = True
                        return
                    ends[1 - ends.index(end)].sendall(moved)

    def log_message(self, _format, *_):
        print(self.command, self.path, file=LOG, flush=True)


LOG = open(sys.argv[2], "a", encoding="utf-8")
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
with open(sys.argv[1], "w", encoding="utf-8") as port_file:
    port_file.write(str(server.server_address[1]))
server.serve_forever()
