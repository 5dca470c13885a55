"""redis-cli on a terminal against a running server; the port is the argument.

On a terminal redis-cli asks for COMMAND DOCS (or, where that fails, for INFO and COMMAND), and
shows the arguments of a command while it is typed.
"""

import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time

DEADLINE_S = 20


def spawn(args, term):
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            # Of a terminal without a size redis-cli asks where its cursor is.
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
            os.environ |= {"TERM": term, "REDISCLI_HISTFILE": "/dev/null"}
            os.execvp("redis-cli", ["redis-cli", *args])
        except OSError as error:
            print(f"redis-cli: {error}; install redis-tools", flush=True)
        os._exit(127)
    return pid, terminal


def read_until(terminal, words):
    """Everything printed up to `words`; fails when they do not come."""
    seen = b""
    end = time.monotonic() + DEADLINE_S
    while words not in seen:
        ready, _, _ = select.select([terminal], [], [], max(0, end - time.monotonic()))
        try:
            read = os.read(terminal, 65536) if ready else b""
        except OSError:
            read = b""
        if not read:
            sys.exit(f"no {words!r} in {seen!r}")
        seen += read
    return seen


def session(args, term, steps):
    pid, terminal = spawn(args, term)
    read_until(terminal, b"> ")
    for typed, expected in steps:
        os.write(terminal, typed)
        read_until(terminal, expected)
    os.write(terminal, b"quit\r")
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    if status != 0:
        sys.exit(f"redis-cli {args} ended with status {status}")


def main():
    port = sys.argv[1]
    for version in ("-2", "-3"):
        session(
            ["-p", port, version],
            "dumb",
            [
                (b"SET key value\r", b"OK"),
                (b"GET key\r", b'"value"'),
                (b"GET absent\r", b"(nil)"),
                (b"nonsense\r", b"ERR unknown command 'nonsense'"),
                (b"help mset\r", b"Stores several values atomically."),
                (b"help client list\r", b"[ID client-id [client-id ...]]"),
                (b"help @string\r", b"STRLEN"),
            ],
        )
    # The hint comes before the command is ended.
    session(["-p", port], "xterm", [(b"mset ", b"key value [key value ...]"), (b"a 1\r", b"OK")])


main()
