"""How threads of numeric libraries wait, in this process and in the workers that it has started for it."""

import os

#: Threads of OpenMP that wait by spinning take the cores from those that work: on a machine with other work a small
#: step became hundreds of times slower. They are read when the library is loaded: GNU's, and Intel's or LLVM's.
_PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}

#: What `wait_passively` has set in this process: variables that the user had left alone.
SET_HERE: dict[str, str] = {}


def wait_passively() -> None:
    """Have threads sleep while they wait, here and in every process that is started from here."""
    SET_HERE.update({name: value for name, value in _PASSIVE.items() if name not in os.environ})
    os.environ.update(SET_HERE)
