#!/usr/bin/env python3
"""Looks at pages in headless Chromium, over its debugging pipe.

    browser.py CHROMIUM AXE OUT URL=NAME...

Each page is shown at the width of a phone and of a desk, light and dark. A page fails when it is wider than the screen,
when the browser complains (a blocked script or style, a missing file), or when axe finds something serious.
Screenshots go to OUT.
"""

import base64
import json
import os
import subprocess
import sys
import tempfile

WIDTHS = {"phone": 390, "desktop": 1280}
HEIGHTS = {"phone": 844, "desktop": 800}
SCHEMES = ["light", "dark"]
SERIOUS = {"serious", "critical"}
# Pictures of long pages end here, in pixels.
PICTURE_MAX = 6000


class Browser:
    def __init__(self, chromium, profile):
        to_browser, from_us = os.pipe()
        to_us, from_browser = os.pipe()

        # The browser reads commands from descriptor 3 and answers on 4.
        def descriptors():
            os.dup2(to_browser, 100)
            os.dup2(from_browser, 101)
            os.dup2(100, 3)
            os.dup2(101, 4)

        arguments = [
            chromium, "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu",
            "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", f"--user-data-dir={profile}", "about:blank",
        ]
        self.process = subprocess.Popen(
            arguments, preexec_fn=descriptors, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_browser)
        os.close(from_browser)
        self.out = os.fdopen(from_us, "wb", buffering=0)
        self.into = os.fdopen(to_us, "rb")
        self.number = 0
        self.rest = b""
        self.session = None
        self.complaints = []
        self.loaded = False

    def receive(self):
        while b"\0" not in self.rest:
            piece = os.read(self.into.fileno(), 1 << 16)
            if not piece:
                sys.exit("the browser has gone")
            self.rest += piece
        message, self.rest = self.rest.split(b"\0", 1)
        message = json.loads(message)
        method, told = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.complaints.append(told["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(told["exceptionDetails"]["text"])
        return message

    def call(self, method, **params):
        self.number += 1
        command = {"id": self.number, "method": method, "params": params}
        if self.session:
            command["sessionId"] = self.session
        self.out.write(json.dumps(command).encode() + b"\0")
        while True:
            message = self.receive()
            if message.get("id") == self.number:
                if "error" in message:
                    sys.exit(f"{method}: {message['error']['message']}")
                return message["result"]

    def open(self):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def show(self, url, form, scheme):
        self.call("Emulation.setDeviceMetricsOverride", width=WIDTHS[form], height=HEIGHTS[form],
                  deviceScaleFactor=1, mobile=form == "phone")
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.loaded, self.complaints = False, []
        answer = self.call("Page.navigate", url=url)
        if "errorText" in answer:
            sys.exit(f"{url}: {answer['errorText']}")
        while not self.loaded:
            self.receive()

    def evaluate(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            sys.exit(json.dumps(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def picture(self, path, form):
        height = min(self.evaluate("document.documentElement.scrollHeight"), PICTURE_MAX)
        clip = {"x": 0, "y": 0, "width": WIDTHS[form], "height": height, "scale": 1}
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        with open(path, "wb") as file:
            file.write(base64.b64decode(taken["data"]))

    def close(self):
        self.session = None
        self.out.write(json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
        self.process.wait(timeout=20)


def look(browser, axe, url, name, form, scheme, out):
    browser.show(url, form, scheme)
    # Of a page that is not there, it says just that.
    said = [text for text in browser.complaints if name != "refused" or "status of 404" not in text]
    faults = [f"the browser says: {text}" for text in said]
    wide = browser.evaluate("document.scrollingElement.scrollWidth - innerWidth")
    if wide > 0:
        faults.append(f"{wide} pixels wider than the screen")
    browser.picture(os.path.join(out, f"{name}-{form}-{scheme}.png"), form)
    browser.evaluate(axe + ";0")
    found = browser.evaluate("axe.run().then(found => found.violations.map(one => "
                             "({id: one.id, impact: one.impact, help: one.help, at: one.nodes[0].target.join(' ')})))")
    for one in found:
        text = f"{one['impact']}: {one['id']} ({one['help']}) at {one['at']}"
        if one["impact"] in SERIOUS:
            faults.append(text)
        else:
            print(f"{name} {form} {scheme}: {text}")
    return faults


def main():
    chromium, axe, out, *pages = sys.argv[1:]
    with open(axe, encoding="utf-8") as file:
        axe = file.read()
    os.makedirs(out, exist_ok=True)
    bad = 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(chromium, profile)
        browser.open()
        for page in pages:
            url, name = page.rsplit("=", 1)
            for form in WIDTHS:
                for scheme in SCHEMES:
                    faults = look(browser, axe, url, name, form, scheme, out)
                    bad += len(faults)
                    for fault in faults:
                        print(f"{name} {form} {scheme}: {fault}")
        browser.close()
    print(f"{len(pages)} pages, {len(WIDTHS) * len(SCHEMES)} looks each: {bad} faults")
    sys.exit(1 if bad else 0)


main()
