"""Becomes OPA, limited in memory and tied to the gateway's life. Run as a script, never imported.

``python -I -S launch.py PARENT_PID MEMORY_BYTES LIFELINE PROGRAM ARGUMENT…``

The gateway may die without a word (SIGKILL). Linux then kills this process by itself, and stays
told to across `exec`. Elsewhere (LIFELINE is ``pipe``) this process stays, reads standard input,
whose other end is the gateway's, and ends the program when that end is gone.
"""

import ctypes
import os
import resource
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1


def main(parent: int, memory: int, lifeline: str, command: list[str]) -> None:
    _limit(memory)
    if lifeline == "prctl":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
        # The gateway may have died before prctl was told of it.
        if os.getppid() != parent:
            sys.exit("the gateway is gone")
        os.execv(command[0], command)
    _watch(command)


def _limit(memory: int) -> None:
    """RLIMIT_DATA counts what can be written to; RLIMIT_AS would also count what the Go runtime
    only reserves, over a gigabyte from the start."""
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _watch(command: list[str]) -> None:
    # A SIGTERM that comes before the handler is there would leave the program behind.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    child = os.posix_spawn(
        command[0],
        command,
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
        setsigmask=[],
    )
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])

    def end_with_the_gateway() -> None:
        while os.read(0, 1):
            pass
        os.kill(child, signal.SIGKILL)

    threading.Thread(target=end_with_the_gateway, daemon=True).start()
    _, status = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
