"""A client that knows nothing of sessions: python3 shares.py WHAT PORT [MORE]."""

import asyncio
import errno
import os
import random
import select
import selectors
import socket
import struct
import sys
import threading

HERE = "127.0.0.1"
PATIENCE = 20


def connected(port):
    sock = socket.socket()
    sock.connect((HERE, port))
    return sock


def begun(port):
    """A socket whose connect is under way."""
    sock = socket.socket()
    sock.setblocking(False)
    result = sock.connect_ex((HERE, port))
    assert result == errno.EINPROGRESS, errno.errorcode[result]
    return sock


def outcome(sock):
    with selectors.DefaultSelector() as waits:
        waits.register(sock, selectors.EVENT_WRITE)
        assert waits.select(PATIENCE), "not in time"
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def echoes(sock, data):
    sock.settimeout(PATIENCE)
    sender = threading.Thread(target=sock.sendall, args=(data,))
    sender.start()
    back = b""
    while len(back) < len(data):
        piece = sock.recv(len(data) - len(back))
        assert piece, "it ended early"
        back += piece
    sender.join()
    assert back == data, "other bytes"


def error_of(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return error.errno
    return 0


def many(port):
    socks = []
    for turn in range(20):
        if turn % 2:
            sock = begun(port)
            assert outcome(sock) == 0
        else:
            sock = connected(port)
        socks.append(sock)
        assert sock.getpeername() == (HERE, port), sock.getpeername()
        assert sock.getsockname()[0] == HERE and sock.getsockname()[1] > 0
        assert error_of(sock.connect, (HERE, port)) == errno.EISCONN
    assert len({sock.getsockname() for sock in socks}) == 20
    for turn, sock in enumerate(socks):
        echoes(sock, random.Random(turn).randbytes(200_000))
    for sock in socks:
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
        assert error_of(sock.getpeername) == errno.ENOTCONN


def refused(port, nobody):
    assert error_of(connected, nobody) == errno.ECONNREFUSED
    sock = begun(nobody)
    assert outcome(sock) == errno.ECONNREFUSED
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0, "told once"
    assert error_of(sock.getpeername) == errno.ENOTCONN
    # The same number again.
    assert sock.connect_ex((HERE, port)) == errno.EINPROGRESS
    assert outcome(sock) == 0
    echoes(sock, b"after all")
    sock = begun(nobody)
    select.select([], [sock], [], PATIENCE)
    assert sock.connect_ex((HERE, port)) == errno.ECONNREFUSED, "a second connect tells it too"


def waiting(silent):
    """Somebody is there and does not answer."""
    sock = begun(silent)
    assert select.select([sock], [sock], [], 0.05) == ([], [], [])
    assert sock.connect_ex((HERE, silent)) == errno.EALREADY
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    assert error_of(sock.getpeername) == errno.ENOTCONN
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    assert select.select([], [sock], [], 0.05) == ([], [], [])
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 50_000))
    assert error_of(sock.connect, (HERE, silent)) == errno.EINPROGRESS
    assert error_of(sock.connect, (HERE, silent)) == errno.EALREADY


def numbers(port):
    first = connected(port)
    number = first.fileno()
    copies = [socket.socket(fileno=os.dup(number)), first.dup()]
    other = socket.socket()
    os.dup2(number, other.fileno())
    copies.append(other)
    first.close()
    for copy in copies:
        assert copy.getpeername() == (HERE, port)
    echoes(copies[0], b"by way of a copy")
    # What has the number next is something else.
    plain = socket.socket()
    assert plain.fileno() == number
    assert error_of(plain.getpeername) == errno.ENOTCONN
    assert plain.getsockname() == ("0.0.0.0", 0)
    for copy in copies:
        copy.close()
    # All that the program has; what it has not is spared.
    os.closerange(3, 4096)
    plain.detach()
    assert connected(port).fileno() == 3, "the lowest number is the program's"
    for turn in range(300):
        sock = connected(port)
        assert sock.getpeername() == (HERE, port)
        echoes(sock, b"%d" % turn)
        sock.close()


def forks(port):
    sock = connected(port)
    echoes(sock, b"of the parent")
    over = threading.Event()

    def busy():
        while not over.is_set():
            one = connected(port)
            echoes(one, b"busy")
            assert one.getpeername() == (HERE, port)
            one.close()

    threads = [threading.Thread(target=busy) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        child = os.fork()
        if child == 0:
            import signal

            signal.alarm(PATIENCE)
            try:
                assert sock.getpeername() == (HERE, port)
                echoes(sock, b"of the parent's, by a child")
                own = connected(port)
                assert own.getpeername() == (HERE, port)
                echoes(own, b"of the child's own")
            except BaseException as error:
                print(error, file=sys.stderr)
                os._exit(1)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    over.set()
    for thread in threads:
        thread.join()
    echoes(sock, b"of the parent again")


def exits(port):
    """The end of the process is the end of the connections, and no earlier."""
    for turn in range(3):
        sock = connected(port)
        sock.sendall(bytes([turn]) * 300_000)
        sock.detach()


def edge(port):
    sock = socket.socket()
    sock.setblocking(False)
    waits = select.epoll()
    waits.register(sock, select.EPOLLOUT | select.EPOLLIN | select.EPOLLET)
    waits.poll(0)
    assert sock.connect_ex((HERE, port)) == errno.EINPROGRESS
    events = waits.poll(PATIENCE)
    assert events == [(sock.fileno(), select.EPOLLOUT)], events
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    sock.send(b"there")
    events = waits.poll(PATIENCE)
    assert events[0][1] & select.EPOLLIN, events
    assert sock.recv(5) == b"there"


def loops(port):
    async def one(turn):
        reader, writer = await asyncio.open_connection(HERE, port)
        data = random.Random(turn).randbytes(300_000)
        writer.write(data)
        writer.write_eof()
        assert await reader.read() == data
        assert writer.get_extra_info("peername") == (HERE, port)
        writer.close()

    async def all_of_them():
        await asyncio.gather(*(one(turn) for turn in range(20)))

    asyncio.run(all_of_them())


globals()[sys.argv[1]](*map(int, sys.argv[2:]))
