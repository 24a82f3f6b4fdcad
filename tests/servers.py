"""Servers for tests, which end with the process that started them, however that one ends.

A worker of pytest-xdist is killed where the run is interrupted, so no fixture would end them.
"""

from __future__ import annotations

import subprocess
import sys

# Nobody writes to the standard input; it ends when the process at its other end does.
GUARDED = """
import os, runpy, signal, sys, threading

def end():
    os.read(0, 1)  # and not sys.stdin.read(), whose lock would be in the way of an orderly end
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=end, daemon=True).start()
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def start(module: str, *arguments: str, **options) -> subprocess.Popen:
    """`python -m module arguments` with options of Popen."""
    command = [sys.executable, "-c", GUARDED, module, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, **options)
