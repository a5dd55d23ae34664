"""Runs a program as ranks that are forked from one process, which imports once what takes seconds.

Usage: torchrun's variables but for the rank in the environment, python rank_forks.py FILE|-m MODULE WORDS... Writes the
exit codes as JSON.
"""

import json
import os
import runpy
import sys
import traceback

import rsna_e2e.training.train  # noqa: F401  # torch, timm, and all else that ranks use


def run_rank(rank: int, words: list[str]) -> int:
    """Run the program in this process, as Python itself would."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    is_module = words[0] == "-m"
    sys.argv = words[1:] if is_module else words
    try:
        if is_module:
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    ranks = []
    for number in range(int(os.environ["WORLD_SIZE"])):
        ranks.append(os.fork())
        if ranks[-1] == 0:
            code = run_rank(number, sys.argv[1:])
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    sys.stdout.write(json.dumps([os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks]))
