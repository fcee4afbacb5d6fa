"""Holds a port and does nothing with it: the stranger of `clos demo`."""

import signal
import socket
import sys

if __name__ == "__main__":
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", int(sys.argv[1])))
    held.listen()
    print("held", flush=True)
    # Not for ever, should nobody come to end it.
    signal.alarm(120)
    signal.pause()
