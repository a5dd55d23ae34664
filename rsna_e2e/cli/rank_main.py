"""One rank under torchrun: the command line, with an exit code that survives torchrun.

Usage: torchrun ... -m rsna_e2e.cli.rank_main EXIT_CODE_FILE VERB ...
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rsna_e2e import cli
from rsna_e2e.training.launch import PREEMPTED


def main(arguments: Sequence[str]) -> int:
    """Run the command line, and return what torchrun should see.

    torchrun turns every failure into 1 and starts the ranks again. A code of 2 or more is final: it is
    written to EXIT_CODE_FILE for the launcher. To save and stop on a signal is no failure here. torch's `record` is not
    used: it writes what failed to a file that torchrun may find half written where a rank dies, and then it ends too.
    """
    try:
        code = cli.main(arguments[1:])
    except SystemExit as parsing:  # argparse
        code = parsing.code if isinstance(parsing.code, int) else 1
    if code > 1 and code != PREEMPTED:
        written = Path(arguments[0]).with_suffix(f".{os.getpid()}")
        written.write_text(str(code))
        written.replace(arguments[0])
    return 0 if code == PREEMPTED else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
