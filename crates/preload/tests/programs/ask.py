"""A client of an echo server: ask.py PORT GREETING TEXT; prints the answer when it is right.

With a greeting it waits for it before it says anything.
"""

import select
import socket
import sys

GREETING, TEXT = sys.argv[2].encode(), sys.argv[3].encode()


def exactly(sock, length):
    got = b""
    while len(got) < length:
        piece = sock.recv(length - len(got))
        assert piece, "an end too early"
        got += piece
    return got


for _ in range(2):
    sock = socket.socket()
    # The registration comes before the connect, as in nginx and libuv.
    epoll = select.epoll()
    epoll.register(sock, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
    sock.setblocking(False)
    error = sock.connect_ex(("127.0.0.1", int(sys.argv[1])))
    if error:
        while not any(event & select.EPOLLOUT for _, event in epoll.poll(20)):
            pass
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        assert error == 0, f"connect: {error}"
    sock.setblocking(True)
    assert exactly(sock, len(GREETING)) == GREETING
    sock.sendall(TEXT)
    assert exactly(sock, len(TEXT)) == TEXT
    assert sock.getpeername()[1] == int(sys.argv[1])
    sock.close()
print("answered", flush=True)
