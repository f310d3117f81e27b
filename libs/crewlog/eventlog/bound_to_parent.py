"""Runs a program that ends when the process that started it ends, however that ends: on Linux, the kernel sees to it.

    python -I -S bound_to_parent.py <process id of the parent> <program> <arguments>

It is a script of its own because it has to be quick, and because forking a process with threads must do nothing else.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, *program = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):
            sys.exit("the process that started this one is gone")
    os.execv(program[0], program)


if __name__ == "__main__":
    main()
