"""An echo server that systemd has started: activated.py HOW. Its listener is number 3.

HOW: accept, poll, epoll, asyncio, copy (a duplicate is used), prefork, or look: it serves one
client and prints what the process has open.
"""

import asyncio
import os
import select
import socket
import sys
import threading

HOW = sys.argv[1]
assert os.environ.pop("LISTEN_PID") == str(os.getpid())
assert os.environ.pop("LISTEN_FDS") == "1"


def echo(sock):
    with sock:
        while piece := sock.recv(65536):
            sock.sendall(piece)


def serve(listener, wait=lambda: None):
    while True:
        wait()
        threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()


async def answer(reader, writer):
    while piece := await reader.read(65536):
        writer.write(piece)
        await writer.drain()
    writer.close()


async def serve_asyncio(listener):
    server = await asyncio.start_server(answer, sock=listener)
    await server.serve_forever()


if HOW == "copy":
    serve(socket.fromfd(3, socket.AF_INET, socket.SOCK_STREAM))
listener = socket.socket(fileno=3)
if HOW == "accept":
    serve(listener)
elif HOW == "poll":
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    serve(listener, lambda: poll.poll())
elif HOW == "epoll":
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN)
    serve(listener, lambda: epoll.poll())
elif HOW == "asyncio":
    listener.setblocking(False)
    asyncio.run(serve_asyncio(listener))
elif HOW == "prefork":
    for _ in range(2):
        if os.fork() == 0:
            break
    while True:
        echo(listener.accept()[0])
elif HOW == "look":
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.poll()
    echo(listener.accept()[0])
    listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    tasks, numbers = os.listdir("/proc/self/task"), os.listdir("/proc/self/fd")
    print(listens, len(tasks), sorted(map(int, numbers)), flush=True)
