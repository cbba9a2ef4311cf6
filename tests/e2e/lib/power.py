#!/usr/bin/env python3
"""What a power cut could leave of a store, at every moment of a recorded run.

    power.py TRACE STORE BEFORE [--without-each-sync]

TRACE is what `strace -f -y -s 4096` recorded of a server over its first requests; BEFORE is a copy of the STORE before the
first delete, to know what the deleted objects named. It is replayed into a model of a
filesystem that keeps two states apart: what is there for every process, and what has been synced. The model promises
as little as POSIX does: bytes of a file survive when the file was synced after they were written, a name survives when
its folder was synced after it was made, and a sync covers only what had ended before it began. Anything else may have
reached the disk, or not.

After every step, each of these must hold:
  - whatever a client was told with a 201 is durable: bytes, name, and every folder up to the root of the store;
  - whatever a client was told with a 202 is deleted does not come back;
  - a name that may be seen below the store, durable or not, has all its bytes durable;
  - what a manifest or a tag that may be seen names is durable.

With --without-each-sync the run is checked again with each sync left out in turn, and with each done only after the
answers: all of these must be found broken.
"""
import json
import os
import re
import sys
from collections import Counter

LINE = re.compile(r"^(\d+)\s+(.*)$")
RESUMED = re.compile(r"^<\.\.\. (\w+) resumed>(.*)$")
CALL = re.compile(r"^(\w+)\((.*)$")
RESULT = re.compile(r"\)\s+= (-?\d+|\?)")
STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
FD = re.compile(r"^(\d+)<([^>]*)>")


class Event:
    """One end of a system call: `begins` or `ends`."""

    def __init__(self, end, thread, name, arguments, result=None):
        self.end, self.thread, self.name, self.arguments, self.result = end, thread, name, arguments, result
        self.twin = None


def text_of(literal):
    return literal.encode("latin-1").decode("unicode_escape", "replace")


def read_trace(path):
    """Begins and ends of calls, in the order in which they happened."""
    events, open_calls = [], {}
    with open(path, encoding="latin-1") as lines:
        for line in lines:
            match = LINE.match(line.rstrip("\n"))
            if not match:
                continue
            thread, rest = match.groups()
            resumed = RESUMED.match(rest)
            if resumed:
                begun = open_calls.pop(thread, None)
                if begun is None or begun.name != resumed.group(1):
                    continue
                begun_arguments = begun.arguments + resumed.group(2)
                finish(events, begun, begun_arguments)
                continue
            call = CALL.match(rest)
            if not call:
                continue
            begun = Event("begins", thread, call.group(1), call.group(2))
            events.append(begun)
            if rest.endswith("<unfinished ...>"):
                begun.arguments = begun.arguments[: -len("<unfinished ...>")]
                open_calls[thread] = begun
            else:
                finish(events, begun, begun.arguments)
    return events


def finish(events, begun, arguments):
    found = list(RESULT.finditer(arguments))
    result = int(found[-1].group(1)) if found and found[-1].group(1) != "?" else -1
    begun.arguments = arguments
    ended = Event("ends", begun.thread, begun.name, arguments, result)
    begun.twin, ended.twin = ended, begun
    begun.result = result
    events.append(ended)


class File:
    """Writes are numbered; `synced` of them are durable."""

    def __init__(self):
        self.written, self.synced = 0, 0
        self.covers = {}


class Folder:
    """Names as every process sees them, and as they were when the folder was last synced."""

    def __init__(self):
        self.live, self.durable = {}, {}
        self.covers = {}


class Broken(Exception):
    pass


class Model:
    def __init__(self, store, before):
        self.store = store.rstrip("/")
        self.before = before.rstrip("/")
        self.root = Folder()
        self.acknowledged, self.pushed = {}, set()
        self.deleted = {}
        self.requests = {}
        self.steps = 0

    # Paths.

    def parts(self, path):
        path = os.path.normpath(path)
        if path == self.store:
            return []
        if not path.startswith(self.store + "/"):
            return None
        return path[len(self.store) + 1 :].split("/")

    def find(self, path):
        """What is live at a path. What was there before the record began is durable, and appears when it is named."""
        parts = self.parts(path)
        if parts is None:
            return None
        node = self.root
        for part in parts:
            if not isinstance(node, Folder) or part not in node.live:
                return None
            node = node.live[part]
        return node

    def folder(self, path):
        """The folder of a path, which the record may have found in place."""
        parts = self.parts(path)
        if parts is None:
            return None, None
        node = self.root
        for part in parts[:-1]:
            if part not in node.live:
                node.live[part] = node.durable[part] = Folder()
            node = node.live[part]
        return node, parts[-1]

    def may_come_back(self, path):
        node = self.root
        for part in self.parts(path):
            if not isinstance(node, Folder) or part not in node.durable:
                return False
            node = node.durable[part]
        return True

    def durable(self, path):
        node = self.root
        for part in self.parts(path):
            if not isinstance(node, Folder) or part not in node.durable:
                return False
            # Another object under the name, not synced yet: the old one may come back. For what is written once that
            # is the same; only a name that is gone altogether is lost.
            node = node.durable[part]
        return not isinstance(node, File) or node.synced >= node.written > 0

    # Steps.

    def begins(self, event):
        name, arguments = event.name, event.arguments
        if name in ("fsync", "fdatasync"):
            node = self.by_descriptor(arguments)
            if isinstance(node, File):
                node.covers[id(event)] = node.written
            elif isinstance(node, Folder):
                node.covers[id(event)] = dict(node.live)
        elif name in ("write", "writev", "sendto", "sendmsg") and is_socket(arguments):
            self.answer(arguments)

    def ends(self, event):
        name, arguments, result = event.name, event.arguments, event.result
        if result is None or result < 0:
            return
        strings = STRING.findall(arguments)
        if name in ("openat", "open", "creat") and "O_CREAT" in arguments and strings:
            folder, last = self.folder(strings[0])
            if folder is not None and last not in folder.live:
                folder.live[last] = File()
        elif name in ("mkdir", "mkdirat"):
            folder, last = self.folder(strings[0])
            if folder is not None:
                folder.live[last] = Folder()
        elif name in ("rename", "renameat", "renameat2"):
            self.place(strings[0], strings[1], True)
        elif name in ("link", "linkat"):
            self.place(strings[0], strings[1], False)
        elif name in ("unlink", "unlinkat", "rmdir"):
            folder, last = self.folder(strings[0])
            if folder is not None:
                folder.live.pop(last, None)
        elif name in ("write", "writev", "pwrite64", "pwritev", "copy_file_range", "ftruncate", "utimensat"):
            node = self.by_descriptor(arguments)
            if isinstance(node, File):
                node.written += 1
        elif name in ("fsync", "fdatasync"):
            node = self.by_descriptor(arguments)
            covered = node.covers.pop(id(event.twin), None) if node is not None else None
            if isinstance(node, File) and covered is not None:
                node.synced = max(node.synced, covered)
            elif isinstance(node, Folder) and covered is not None:
                node.durable = covered
        elif name in ("recvfrom", "read", "readv", "recvmsg") and is_socket(arguments) and strings:
            line = text_of(strings[0]).split("\r\n", 1)[0]
            if line.endswith(" HTTP/1.1"):
                self.requests[descriptor(arguments)] = line
                # From here on it may be there or not.
                for path in self.deletes(line):
                    self.acknowledged.pop(path, None)

    def by_descriptor(self, arguments):
        match = FD.match(arguments)
        if not match:
            return None
        path = match.group(2)
        return self.find(path) if self.parts(path) is not None else None

    def place(self, old, new, moves):
        node = self.find(old)
        folder, last = self.folder(new)
        if folder is None or node is None:
            return
        folder.live[last] = node
        if moves:
            source, name = self.folder(old)
            source.live.pop(name, None)

    def answer(self, arguments):
        strings = STRING.findall(arguments)
        text = text_of("".join(strings))
        request = self.requests.get(descriptor(arguments), "")
        if text.startswith("HTTP/1.1 202"):
            self.deleted.update((path, request) for path in self.deletes(request))
        if not text.startswith("HTTP/1.1 201"):
            return
        location = re.search(r"(?im)^location: *(\S+)", text).group(1)
        repo, kind, digest = re.match(r".*/v2/(.+)/(blobs|manifests)/(\S+)$", location).groups()
        paths = [self.blob(digest) if kind == "blobs" else self.manifest(repo, digest)]
        asked = re.match(r"PUT /v2/.+/manifests/(\S+) ", request)
        if asked and ":" not in asked.group(1):
            paths.append(f"{self.store}/t/default/repos/{repo}/!/tags/{asked.group(1)}")
        for path in paths:
            self.acknowledged[path] = request
            self.pushed.add(path)

    def deletes(self, request):
        """What a request deletes: of a manifest, the tags that point to it as well."""
        asked = re.match(r"DELETE /v2/(.+)/(blobs|manifests)/(\S+) ", request)
        if not asked:
            return
        repo, kind, reference = asked.groups()
        tags = f"t/default/repos/{repo}/!/tags"
        if kind == "blobs":
            yield self.blob(reference)
        elif ":" not in reference:
            yield f"{self.store}/{tags}/{reference}"
        else:
            yield self.manifest(repo, reference)
            for tag in os.listdir(f"{self.before}/{tags}"):
                if content(f"{self.before}/{tags}/{tag}")["digest"] == reference:
                    yield f"{self.store}/{tags}/{tag}"

    def blob(self, digest):
        algorithm, hexes = digest.split(":")
        return f"{self.store}/t/default/blobs/{algorithm}/{hexes[:2]}/{hexes}"

    def manifest(self, repo, digest):
        return f"{self.store}/t/default/repos/{repo}/!/manifests/{digest.replace(':', '/')}"

    # What must hold.

    def check(self):
        self.steps += 1
        for path, request in self.acknowledged.items():
            if not self.durable(path):
                raise Broken(f"{path} was acknowledged to `{request}` and is not durable")
        for path, request in self.deleted.items():
            if self.may_come_back(path):
                raise Broken(f"{path} was deleted by `{request}` and may come back")
        for path in self.seen(self.root, self.store):
            node = self.find(path)
            if isinstance(node, File) and node.synced < node.written:
                raise Broken(f"{path} can be seen and its bytes are not durable")
            for named in self.names(path):
                if not self.durable(named):
                    raise Broken(f"{path} can be seen, and names {named}, which is not durable")

    def seen(self, folder, path):
        for name, node in {**folder.durable, **folder.live}.items():
            if path == self.store and name == ".larder":
                continue
            if isinstance(node, Folder):
                yield from self.seen(node, f"{path}/{name}")
            else:
                yield f"{path}/{name}"

    def names(self, path):
        """What the file at a path names, by its bytes before the first delete: they are written once."""
        match = re.match(rf"{re.escape(self.store)}/t/default/repos/(.+)/!/(manifests|tags)/", path)
        if not match:
            return
        repo, kind = match.groups()
        named = content(self.before + path[len(self.store) :])
        if kind == "tags":
            yield self.manifest(repo, named["digest"])
            return
        for blob in [named.get("config")] + named.get("layers", []):
            if blob:
                yield self.blob(blob["digest"])
        for child in named.get("manifests", []):
            yield self.manifest(repo, child["digest"])


def content(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def descriptor(arguments):
    return arguments.split(",", 1)[0]


def is_socket(arguments):
    return re.search(r"<(socket|TCP)", descriptor(arguments)) is not None


def replay(events, stores, without=None, late=None):
    """Replays the record; `without` leaves a sync out, `late` puts one behind everything else."""
    model = Model(*stores)
    moved = [event for event in events if late and event in (late, late.twin)]
    for event in [event for event in events if event not in moved] + moved:
        if without and event in (without, without.twin):
            continue
        (model.begins if event.end == "begins" else model.ends)(event)
        model.check()
    return model


def in_store(event, store):
    match = FD.match(event.arguments)
    return bool(match) and (match.group(2) + "/").startswith(store + "/")


def kinds(paths):
    """How many of each kind."""
    counted = Counter(kind for path in paths for kind in ("blobs", "manifests", "tags") if f"/{kind}/" in path)
    return dict(sorted(counted.items()))


def told(counted):
    return ", ".join(f"{count} {kind}" for kind, count in counted.items())


def behind_nothing(events):
    """Syncs of threads that found nothing to remove: somebody else may have removed it just before, but not here."""
    found_nothing = {}
    for event in events:
        if event.end == "ends" and event.name in ("unlink", "unlinkat"):
            found_nothing[event.thread] = event.result < 0
        elif event.end == "begins" and event.name == "fsync" and found_nothing.pop(event.thread, False):
            yield event


def main():
    trace, store, before = sys.argv[1], os.path.realpath(sys.argv[2]), os.path.realpath(sys.argv[3])
    events, stores = read_trace(trace), (store, before)
    model = replay(events, stores)
    pushed, deleted = kinds(model.pushed), kinds(model.deleted)
    print(f"{model.steps} moments, pushed: {told(pushed)}, deleted: {told(deleted)}; nothing broken at any of them")
    if len(pushed) < 3 or len(deleted) < 3:
        sys.exit("the record lacks a blob, a manifest or a tag")
    if "--without-each-sync" not in sys.argv:
        return
    syncs = [
        event
        for event in events
        if event.end == "begins" and event.name in ("fsync", "fdatasync") and in_store(event, store)
    ]
    # Before the first request, the store itself is made.
    first = next(at for at, event in enumerate(events) if event.name in ("recvfrom", "read") and " HTTP/1.1" in event.arguments)
    for_nothing = set(map(id, behind_nothing(events)))
    syncs = [event for event in syncs if events.index(event) > first and id(event) not in for_nothing]
    unnoticed = []
    for sync in syncs:
        for doctored in ({"without": sync}, {"late": sync}):
            try:
                replay(events, stores, **doctored)
            except Broken:
                continue
            unnoticed.append(f"{next(iter(doctored))} {sync.name}({descriptor(sync.arguments)})")
    print(f"{len(syncs)} syncs, each left out and each done late: {len(unnoticed)} not noticed")
    if not syncs or unnoticed:
        sys.exit("\n".join(unnoticed))


if __name__ == "__main__":
    try:
        main()
    except Broken as broken:
        sys.exit(f"BROKEN: {broken}")
