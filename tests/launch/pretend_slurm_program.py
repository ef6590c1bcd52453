"""sbatch, squeue, sacct, scancel and scontrol in one small program, which goes by the name that it is called by.

Its folder holds `state.json` (settings and jobs, written by tests as well) and `calls.jsonl` (what it was asked).
"""

import fcntl
import json
import os
import sys
import time

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")


def main():
    folder, name = os.path.split(os.path.abspath(sys.argv[0]))
    stdin = "" if name != "sbatch" else sys.stdin.read()
    out, err, rc, delay = answer(folder, name, sys.argv[1:], stdin, dict(os.environ))
    time.sleep(delay)
    sys.stdout.write(out)
    sys.stderr.write(err)
    sys.exit(rc)


def answer(folder, name, argv, stdin, env):
    """Also called by tests that have no time to start a program."""
    with open(f"{folder}/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        call = {"program": name, "argv": argv, "env": env, "stdin": stdin, "cwd": os.readlink("/proc/self/cwd")}
        with open(f"{folder}/calls.jsonl", "a") as log:
            log.write(json.dumps(call) + "\n")
        state = read_state(folder)
        scripted = state["answers"].get(name) or []
        said = (scripted[0] if scripted[0].get("always") else scripted.pop(0)) if scripted else {}
        out, err, rc = "", "", 0
        if "rc" not in said or said.get("does_it"):
            out, err, rc = globals()[name](state, argv, stdin)
        write_state(folder, state)
    return said.get("out", out), said.get("err", err), said.get("rc", rc), said.get("delay", 0)


def read_state(folder):
    with open(f"{folder}/state.json") as file:
        return json.load(file)


def write_state(folder, state):
    with open(f"{folder}/state.json.new", "w") as file:
        json.dump(state, file)
    os.rename(f"{folder}/state.json.new", f"{folder}/state.json")


def sbatch(state, argv, stdin):
    import re

    text = stdin
    if argv[-1].startswith("/"):
        with open(argv[-1]) as file:
            text = file.read()
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", text, re.MULTILINE))
    match = re.fullmatch(r"(\d+)(?:-(\d+))?(?:%\d+)?", options.get("array", ""))
    last = int(match[2] or match[1]) if match else None
    if last is not None and last >= int(state["config"]["MaxArraySize"]):
        return "", "sbatch: error: Batch job submission failed: Invalid job array specification\n", 1
    n = 1 if last is None else last + 1
    n_there = sum(s[0] not in ENDED for job in state["jobs"] for s in job["states"].values())
    if n_there + n > state["max_submit"]:
        return (
            "",
            "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: "
            "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)\n",
            1,
        )
    job_id, state["next"] = state["next"], state["next"] + n
    if "--test-only" in argv:
        return "", f"sbatch: Job {job_id} to start at 2026-01-01T00:00:00 using 1 processors on nodes n1\n", 0
    after = next((a.partition("=")[2] for a in argv if a.startswith("--dependency=")), "")
    names = ["-"] if last is None else [str(index) for index in range(n)]
    job = {"id": job_id, "name": options["job-name"], "comment": options["comment"], "after": after}
    state["jobs"].append({**job, "options": options, "states": {name: ["PENDING", "Priority"] for name in names}})
    return f"{job_id}\n", "", 0


def squeue(state, _argv, _stdin):
    lines = []
    for job in state["jobs"]:
        for index, (word, reason) in job["states"].items():
            shown = "N/A" if index == "-" else index
            lines.append(f"{job['id']}|{shown}|{word}|{job['name']}|{job['comment']}|{reason}\n")
    return "".join(lines), "", 0


def sacct(state, argv, _stdin):
    if state["accounts"] is None:
        return "", "Slurm accounting storage is disabled\n", 1
    names = argv[argv.index("--name") + 1].split(",")
    return "".join(line + "\n" for line in state["accounts"] if line.split("|")[8] in names), "", 0


def scancel(state, argv, _stdin):
    for asked in argv:
        job_id, _, index = asked.partition("_")
        for job in state["jobs"]:
            for name, word in job["states"].items():
                if str(job["id"]) == job_id and (not index or name == index) and word[0] not in ENDED:
                    job["states"][name] = ["CANCELLED", "None"]
    return "", "", 0


def scontrol(state, _argv, _stdin):
    return "".join(f"{key:<23} = {value}\n" for key, value in state["config"].items()), "", 0


if __name__ == "__main__":
    main()
