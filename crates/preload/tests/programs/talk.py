"""One end of a conversation: sends its bytes, ends that direction, and checks what comes.

talk.py server HOW MIB           prints its port, serves one client
talk.py client HOW MIB PORT [HOST]   connects
HOW: blocking, files, select, poll, epoll, edge, asyncio
"""

import asyncio
import random
import select
import socket
import sys
import threading

ROLE, HOW, MIB = sys.argv[1], sys.argv[2], int(sys.argv[3])
LENGTH = MIB << 20
HOST = sys.argv[5] if len(sys.argv) > 5 else "127.0.0.1"
MINE, THEIRS = (b"server", b"client") if ROLE == "server" else (b"client", b"server")


def content(name):
    return random.Random(name).randbytes(LENGTH)


def listen():
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    return listener


def open_blocking():
    if ROLE == "server":
        return listen().accept()[0]
    return socket.create_connection((HOST, int(sys.argv[4])))


def blocking():
    sock = open_blocking()

    def write():
        sock.sendall(content(MINE))
        sock.shutdown(socket.SHUT_WR)

    writer = threading.Thread(target=write)
    writer.start()
    got = bytearray()
    while piece := sock.recv(65536):
        got += piece
    writer.join()
    sock.close()
    return got


def files():
    sock = open_blocking()
    out, inp = sock.makefile("wb"), sock.makefile("rb")

    def write():
        out.write(content(MINE))
        out.flush()
        sock.shutdown(socket.SHUT_WR)

    writer = threading.Thread(target=write)
    writer.start()
    got = inp.read()
    writer.join()
    return got


def by_readiness(wait):
    """Drives a non-blocking socket; `wait` gives whether it is readable and writable."""
    sock = open_blocking()
    sock.setblocking(False)
    out, at, got, ended = content(MINE), 0, bytearray(), False
    shut, ends = False, False
    ready = wait(sock)
    while not (ended and shut):
        readable, writable = ready(not ended, not shut)
        ends = ends or readable & select.EPOLLRDHUP != 0
        assert readable or writable, "woken for nothing"
        if readable and not ended:
            try:
                while True:
                    piece = sock.recv(65536)
                    got += piece
                    ended = not piece
                    # A short read has emptied the queue, unless an end is known to lie behind it.
                    if ended or len(piece) < 65536 and not ends:
                        break
            except BlockingIOError:
                pass
        if writable and not shut:
            try:
                while at < len(out):
                    at += sock.send(out[at : at + 65536])
                sock.shutdown(socket.SHUT_WR)
                shut = True
            except BlockingIOError:
                pass
    sock.close()
    return got


def by_select(sock):
    def ready(read, write):
        r, w, _ = select.select([sock] if read else [], [sock] if write else [], [], 30)
        return bool(r), bool(w)

    return ready


def by_poll(sock):
    poll = select.poll()

    def ready(read, write):
        poll.register(sock, read * select.POLLIN | write * select.POLLOUT)
        events = sum(event for _, event in poll.poll(30000))
        return bool(events & ~select.POLLOUT), bool(events & select.POLLOUT)

    return ready


def by_epoll(sock):
    epoll = select.epoll()
    epoll.register(sock, 0)

    def ready(read, write):
        epoll.modify(sock, read * select.EPOLLIN | write * select.EPOLLOUT)
        events = sum(event for _, event in epoll.poll(30))
        return bool(events & ~select.EPOLLOUT), bool(events & select.EPOLLOUT)

    return ready


def by_edge(sock):
    epoll = select.epoll()
    epoll.register(sock, select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET)

    def ready(_read, _write):
        events = sum(event for _, event in epoll.poll(30))
        return events & ~select.EPOLLOUT, events & select.EPOLLOUT

    return ready


async def converse(reader, writer):
    async def write():
        writer.write(content(MINE))
        await writer.drain()
        writer.write_eof()

    got, _ = await asyncio.gather(reader.read(), write())
    writer.close()
    return got


async def by_asyncio():
    if ROLE == "client":
        return await converse(*await asyncio.open_connection(HOST, int(sys.argv[4])))
    done = asyncio.get_running_loop().create_future()

    async def serve(reader, writer):
        try:
            done.set_result(await converse(reader, writer))
        except Exception as error:
            done.set_exception(error)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    return await done


def main():
    ways = {"select": by_select, "poll": by_poll, "epoll": by_epoll, "edge": by_edge}
    if HOW == "blocking":
        got = blocking()
    elif HOW == "files":
        got = files()
    elif HOW == "asyncio":
        got = asyncio.run(by_asyncio())
    else:
        got = by_readiness(ways[HOW])
    if bytes(got) != content(THEIRS):
        sys.exit(f"{ROLE}: {len(got)} bytes came that differ from the {LENGTH} that were sent")
    print("the same", flush=True)


main()
