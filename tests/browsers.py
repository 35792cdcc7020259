"""Chromium for tests, which are skipped where there is none.

It is found, in this order, at the debugging address in FAKD_BROWSER, as Playwright installs it, as
the system's own, or as part of Qt (pip install PyQt6 PyQt6-WebEngine).
"""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")

QT = """
import os, sys
os.environ["QT_QPA_PLATFORM"] = "offscreen"
os.environ["QTWEBENGINE_REMOTE_DEBUGGING"] = sys.argv[1]
os.environ["QTWEBENGINE_CHROMIUM_FLAGS"] = "--no-sandbox --disable-gpu --remote-allow-origins=*"
from PyQt6.QtWebEngineWidgets import QWebEngineView
from PyQt6.QtWidgets import QApplication
application = QApplication(sys.argv[:1])
view = QWebEngineView()
view.resize(1280, 900)
view.setHtml("<p>ready</p>")
view.show()
application.exec()
"""
SYSTEM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def chromium(driver):
    """Open a page of whatever Chromium there is."""
    if address := os.environ.get("FAKD_BROWSER"):
        yield attached(driver, address)
        return
    options = [{}, *({"executable_path": path} for path in map(shutil.which, SYSTEM) if path)]
    for option in options:
        try:
            browser = driver.chromium.launch(args=["--no-sandbox"], **option)
        except playwright.Error:
            continue
        yield browser.new_page()
        browser.close()
        return
    if importlib.util.find_spec("PyQt6") and importlib.util.find_spec("PyQt6.QtWebEngineWidgets"):
        with qt() as address:
            yield attached(driver, address)
        return
    pytest.skip("needs Chromium: playwright install chromium, or pip install PyQt6-WebEngine")


@contextmanager
def qt():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-c", QT, address]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield f"http://{address}"
        finally:
            process.terminate()


def attached(driver, address):
    for attempt in range(40):
        try:
            browser = driver.chromium.connect_over_cdp(address, no_defaults=True)
            return browser.contexts[0].pages[0]
        except (playwright.Error, IndexError):
            if attempt == 39:
                raise
            time.sleep(0.5)
    return None


@contextmanager
def watched(page):
    """Keep what is said, asked and what goes wrong in a page."""
    events = {"console": [], "errors": [], "requests": []}
    listeners = {
        "console": lambda message: events["console"].append(message.text),
        "pageerror": lambda error: events["errors"].append(str(error)),
        "request": lambda request: events["requests"].append(request.url),
    }
    for name, listener in listeners.items():
        page.on(name, listener)
    yield events
    for name, listener in listeners.items():
        page.remove_listener(name, listener)


def violations(page):
    """Name what axe finds that bars somebody."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="needs pip install axe-playwright-python"
    )
    found = axe.Axe().run(page).response["violations"]
    return [(each["id"], each["nodes"][0]["html"]) for each in found]
