"""redis-cli on a terminal against a running server; the port is the argument.

On a terminal redis-cli asks for COMMAND DOCS (or, where that fails, for INFO and COMMAND), and
shows the arguments of a command while it is typed.
"""

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time

DEADLINE_S = 20


class Terminal:
    """A redis-cli on a terminal of its own, of which everything is awaited, its end too."""

    def __init__(self, args, term):
        self.prompt = f"127.0.0.1:{args[1]}> ".encode()
        self.unread = b""
        self.pid, self.file = pty.fork()
        if self.pid == 0:
            try:
                # Of a terminal without a size redis-cli asks where its cursor is.
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
                os.environ |= {"TERM": term, "REDISCLI_HISTFILE": "/dev/null"}
                os.execvp("redis-cli", ["redis-cli", *args])
            except OSError as error:
                print(f"redis-cli: {error}; install redis-tools", flush=True)
            os._exit(127)

    def read(self, end, awaited):
        """Whether redis-cli still had its terminal; fails when it is silent until `end`."""
        ready, _, _ = select.select([self.file], [], [], max(0, end - time.monotonic()))
        if not ready:
            self.fail(f"silent instead of {awaited!r}")
        try:
            read = os.read(self.file, 65536)
        except OSError:  # EIO: the other side has closed the terminal
            read = b""
        self.unread += read
        return read != b""

    def expect(self, words):
        """Reads past `words`; fails when they do not come."""
        end = time.monotonic() + DEADLINE_S
        while words not in self.unread:
            if not self.read(end, words):
                self.fail(f"ended before {words!r}")
        self.unread = self.unread.split(words, 1)[1]

    def expect_end(self):
        end = time.monotonic() + DEADLINE_S
        while self.read(end, "its end"):
            pass
        _, status = os.waitpid(self.pid, 0)
        os.close(self.file)
        if status != 0:
            sys.exit(f"redis-cli ended with status {status}: {self.unread!r}")

    def fail(self, problem):
        os.kill(self.pid, signal.SIGKILL)
        sys.exit(f"redis-cli: {problem}; it had printed {self.unread!r}")


def session(args, term, steps):
    terminal = Terminal(args, term)
    terminal.expect(terminal.prompt)
    for typed, expected in steps:
        os.write(terminal.file, typed)
        terminal.expect(expected)
        # Before its prompt redis-cli throws away what was typed already (TCSAFLUSH).
        if typed.endswith(b"\r"):
            terminal.expect(terminal.prompt)
    os.write(terminal.file, b"quit\r")
    terminal.expect_end()


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
