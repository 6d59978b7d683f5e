"""A proxy that puts a server farther away: `python delay.py PORT MILLISECONDS` listens on 127.0.0.1 and says where.

Bytes are delayed by half the round trip in each direction and keep flowing meanwhile, as on a long line. A connection's
first bytes are held back by a whole round trip more: that is the time that connecting would have taken. For each line
on its standard input it answers with the connections and answered round trips since the last one. It runs as a process
of its own, on `select`, whose timeouts are exact to some µs: those of epoll are whole milliseconds.
"""

from __future__ import annotations

import ctypes
import select
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass, field

LOCALHOST = "127.0.0.1"
CHUNK = 1 << 18
END = b""
PR_SET_TIMERSLACK = 29


def wake_on_time() -> None:
    """Linux may wake a sleeper 50 µs late, twice in a round trip, to save power: not this process."""
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1000)


@dataclass(slots=True, eq=False)
class Way:
    """One direction of a connection: what is under way from `source` to `target`, each piece with its time."""

    source: socket.socket
    target: socket.socket
    connection: Connection
    from_client: bool
    pieces: deque[tuple[float, bytes]] = field(default_factory=deque)
    is_open: bool = True
    """Whether more may come."""
    is_stuck: bool = False
    """Whether the target's buffer was full."""
    has_spoken: bool = False


@dataclass(slots=True, eq=False)
class Connection:
    """Both directions; `awaits_answer` tells a question from the second half of one."""

    awaits_answer: bool = False


@dataclass(slots=True)
class Line:
    """Everything that the proxy knows."""

    server: int
    half: float
    """Seconds in one direction."""
    listening: socket.socket
    ways: dict[socket.socket, Way] = field(default_factory=dict)
    connections: int = 0
    round_trips: int = 0


def connect(line: Line) -> None:
    """Take in a client and connect to the server for it; one that cannot be reached is a closed connection."""
    client, _ = line.listening.accept()
    try:
        server = socket.create_connection((LOCALHOST, line.server))
    except OSError:
        client.close()
        return
    line.connections += 1
    connection = Connection()
    for source, target in ((client, server), (server, client)):
        source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        source.setblocking(False)
        line.ways[source] = Way(source, target, connection, from_client=source is client)


def take(line: Line, way: Way) -> None:
    """Read what has come and note when it is to arrive."""
    try:
        data = way.source.recv(CHUNK)
    except BlockingIOError:
        return
    except OSError:
        data = END
    due = time.monotonic() + line.half
    if way.from_client and not way.has_spoken:
        due += 2 * line.half
    elif way.pieces:
        due = max(due, way.pieces[-1][0])
    way.has_spoken = True
    way.is_open = data != END
    way.pieces.append((due, data))
    count(line, way, data)


def count(line: Line, way: Way, data: bytes) -> None:
    """A round trip is a question that was answered, in however many pieces; saying good-bye is none."""
    if data == END:
        return
    if way.from_client:
        way.connection.awaits_answer = True
    elif way.connection.awaits_answer:
        way.connection.awaits_answer = False
        line.round_trips += 1


def deliver(way: Way, now: float) -> None:
    """Hand on the pieces whose time has come."""
    way.is_stuck = False
    while way.pieces and way.pieces[0][0] <= now:
        due, data = way.pieces.popleft()
        try:
            if data == END:
                way.target.shutdown(socket.SHUT_WR)
            elif (sent := way.target.send(data)) < len(data):
                way.pieces.appendleft((due, data[sent:]))
        except BlockingIOError:
            way.pieces.appendleft((due, data))
            way.is_stuck = True
            return
        except OSError:  # the target has gone: nothing more can reach it
            way.pieces.clear()


def close_finished(line: Line) -> None:
    """Forget the connections in which both directions have ended."""
    for way in [way for way in line.ways.values() if way.from_client and not way.is_open]:
        back = line.ways[way.target]
        if not (back.is_open or back.pieces or way.pieces):
            for source in (way.source, back.source):
                del line.ways[source]
                source.close()


def wait(line: Line) -> list[object]:
    """Sleep until something can be read or delivered."""
    times = [way.pieces[0][0] for way in line.ways.values() if way.pieces and not way.is_stuck]
    timeout = max(0.0, min(times) - time.monotonic()) if times else None
    readable = [way.source for way in line.ways.values() if way.is_open]
    stuck = [way.target for way in line.ways.values() if way.is_stuck]
    ready, _, _ = select.select([sys.stdin, line.listening, *readable], stuck, [], timeout)
    return list(ready)


def report(line: Line) -> bool:
    """Answer a line of standard input; False at its end, which is the end of the proxy."""
    if not sys.stdin.readline():
        return False
    print(line.connections, line.round_trips, flush=True)
    line.connections = line.round_trips = 0
    return True


def step(line: Line) -> bool:
    """Do what is to do now; False in the end."""
    ready = wait(line)
    for readable in ready:
        if readable is line.listening:
            connect(line)
        elif isinstance(readable, socket.socket):
            take(line, line.ways[readable])
        elif not report(line):
            return False
    now = time.monotonic()
    for way in line.ways.values():
        deliver(way, now)
    close_finished(line)
    return True


def main() -> None:
    server, milliseconds = sys.argv[1:]
    wake_on_time()
    listening = socket.create_server((LOCALHOST, 0))
    line = Line(int(server), float(milliseconds) / 2000, listening)
    print(listening.getsockname()[1], flush=True)
    while step(line):
        pass


if __name__ == "__main__":
    main()
