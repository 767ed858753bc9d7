"""Becomes a program whose standard error output is of no use: stderr.py full|broken PROGRAM ARGS."""

import os
import signal
import sys

if sys.argv[1] == "full":
    bad = os.open("/dev/full", os.O_WRONLY)
else:
    gone, bad = os.pipe()
    os.close(gone)
os.dup2(bad, 2)
os.close(bad)
# Python ignores it; who is exec'ed would too.
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
os.execv(sys.argv[2], sys.argv[2:])
