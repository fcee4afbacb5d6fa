"""Run something as a user who may see and do little."""

import json
import os
import pwd
import sys
import traceback
from collections.abc import Callable
from typing import Any


def as_nobody(work: Callable[[], Any]) -> Any:
    """What `work` gives (a JSON value) in a child process that has become `nobody`. Needs root.

    A fork, not a program: the interpreter itself may lie where `nobody` cannot read.
    """
    account = pwd.getpwnam("nobody")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            os.setgroups([])
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
            told = {"value": work()}
        except BaseException:
            told = {"error": traceback.format_exc()}
        with os.fdopen(writing, "w") as out:
            json.dump(told, out)
        sys.stderr.flush()
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        answer = json.load(file)
    os.waitpid(child, 0)
    assert "error" not in answer, answer["error"]
    return answer["value"]
