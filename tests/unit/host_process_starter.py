"""Starts one service for ever, to be killed at it: HOME INSTANCE COMMAND…"""

import os
import sys
from pathlib import Path

from domain.specs import RuntimeKind, ServiceSpec
from workers.runtimes.host_process import HostProcess


def main() -> None:
    home, instance, *command = sys.argv[1:]
    runtime = HostProcess(Path(home), instance, os.environ)
    spec = ServiceSpec(id="g.a", name="a", group="g", runtime=RuntimeKind.PROCESS, command=tuple(command))
    print("ready", flush=True)
    sys.stdin.readline()
    runtime.start(spec)
    print("started", flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main()
