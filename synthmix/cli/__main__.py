"""``python -m synthmix.cli``: what the tasks of a cluster and the workers of ``synthmix run`` start."""

import atexit
import os
import sys

from synthmix.cli import main

if __name__ == "__main__":
    status = main()
    # Python takes seconds to take torch's modules apart, and the next level of a sweep waits for this process.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
