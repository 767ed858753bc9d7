"""Runs programs while it has a session with an echo server: spawns.py PORT.

CPython starts them from a child that shares its memory, and closes all numbers there.
"""

import os
import socket
import subprocess
import sys

sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
copy = sock.dup()


def exactly(length):
    got = b""
    while len(got) < length:
        piece = copy.recv(length - len(got))
        assert piece, "an end too early"
        got += piece
    return got


for at in range(12):
    keep = () if at % 3 else (copy.fileno(),)
    subprocess.run(["true"], check=True, close_fds=at % 2 == 0, pass_fds=keep)
    if at % 4 == 0:
        assert subprocess.check_output(["echo", "text"]) == b"text\n"
    text = os.urandom(200_000)
    sock.sendall(text)
    assert exactly(len(text)) == text
    assert os.get_inheritable(sock.fileno()) is False
print("the same", flush=True)
