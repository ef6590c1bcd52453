"""Three processes, each the child of the one before and in a session of its own, that log every signal they get.

`python signal_logger.py FILE NAME...`: the first name is that of this process.
"""

import os
import signal
import subprocess
import sys

file, name, *others = sys.argv[1:]
watched = {signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT, signal.SIGINT, signal.SIGHUP}
signal.pthread_sigmask(signal.SIG_BLOCK, watched)
if others:
    subprocess.Popen([sys.executable, __file__, file, *others], start_new_session=True)
with open(file, "a") as log:
    print(name, "READY", flush=True, file=log)
    while True:
        info = signal.sigwaitinfo(watched)
        sender = "" if info.si_pid == os.getppid() else f"from {info.si_pid}"
        print(name, signal.Signals(info.si_signo).name, sender, flush=True, file=log)
