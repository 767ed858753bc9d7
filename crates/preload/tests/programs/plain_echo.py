"""A plain server of several clients: prints its port, greets if told to, and echoes.

plain_echo.py GREETING [WORD]

With a word it echoes only what begins so, and is silent to all else, but for who asks "how many?":
it tells the place that this connection has among all.
"""

import itertools
import socket
import sys
import threading

GREETING = sys.argv[1].encode()
WORD = sys.argv[2].encode() if len(sys.argv) > 2 else b""


def serve(sock, nth):
    with sock:
        try:
            sock.sendall(GREETING)
            while piece := sock.recv(65536):
                if piece == b"how many?":
                    sock.sendall(b"%d\n" % nth)
                elif piece.startswith(WORD):
                    sock.sendall(piece)
        except OSError:
            pass


listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
for nth in itertools.count():
    threading.Thread(target=serve, args=(listener.accept()[0], nth), daemon=True).start()
