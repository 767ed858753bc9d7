"""A plain server of several clients: prints its port, greets if told to, and echoes.

plain_echo.py GREETING [WORD]

With a word it echoes only what begins so, and is silent to all else.
"""

import socket
import sys
import threading

GREETING = sys.argv[1].encode()
WORD = sys.argv[2].encode() if len(sys.argv) > 2 else b""


def serve(sock):
    with sock:
        try:
            sock.sendall(GREETING)
            while piece := sock.recv(65536):
                if piece.startswith(WORD):
                    sock.sendall(piece)
        except OSError:
            pass


listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
