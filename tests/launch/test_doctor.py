"""Each finding appears where it should and nowhere else; the probe leaves neither a job nor a folder."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dlcluster import __version__
from dlcluster.doctor_text import doctor_json, doctor_text
from dlcluster.errors import PreconditionError, SubmissionError, UsageError
from dlcluster.launch import doctor_machine, file_systems
from dlcluster.launch.doctor import examine
from dlcluster.launch.doctor_checks import Wanted, access_findings, partition_findings, site_findings, span
from dlcluster.launch.doctor_machine import folder_findings, machine_findings, reach_finding, skew_finding
from dlcluster.launch.file_systems import FileSystem, Reach, file_system_of
from dlcluster.launch.findings import Finding, Level, worst
from dlcluster.launch.partitions import parse_nodes, parse_partitions
from dlcluster.launch.probe import Probe, probe_script
from dlcluster.launch.probe_findings import End, findings_of
from dlcluster.launch.site import parse_config, site_of
from tests.launch.fake_slurm import FakeSlurm, output
from tests.support import REPOSITORY, wait_until

OK, NOTE, WARNING, PROBLEM = Level.OK, Level.NOTE, Level.WARNING, Level.PROBLEM
NOTHING = Wanted()


@pytest.fixture
def fake(tmp_path, monkeypatch):
    made = FakeSlurm(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(made.folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(socket, "gethostname", lambda: "laptop")
    monkeypatch.setattr(file_systems, "MOUNTS", tmp_path / "mounts")
    (tmp_path / "mounts").write_text("1 0 0:1 / / rw - nfs4 server:/ rw,hard\n")
    return made


def start_cluster(fake, config="config_22_05", **changes):
    text = output(config) + "".join(f"\n{key} = {value}" for key, value in changes.items())
    fake.cluster(text, output("partitions_22_05"), output("nodes_22_05"))


def site(name="config_22_05", **changes):
    return site_of({**parse_config(output(name)), **changes})


def partitions(old="", new=""):
    nodes = parse_nodes(output("nodes_22_05"))
    return parse_partitions(output("partitions_22_05").replace(old, new) if old else output("partitions_22_05"), nodes)


def levels(findings):
    """The worst level of each name."""
    found = {}
    for finding in findings:
        found[finding.name] = worst([Finding(found.get(finding.name, OK), "", "", ""), finding])
    return found


def named(findings, name):
    return [finding for finding in findings if finding.name == name]


# --- the whole


def test_a_laptop_without_slurm(fake, tmp_path):
    found = examine(tmp_path / "runs", with_torch=False)
    assert not found.has_problem and found.site is None
    assert named(found.findings, "slurm")[0].found == "no Slurm on this machine: sweeps run here"
    assert {f.topic for f in found.findings} == {"this machine", "run directory", "slurm"}
    assert not (tmp_path / "runs").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bin", "mounts"]
    assert doctor_text(found.findings).endswith("\nno problems")


def test_a_cluster(fake, tmp_path):
    start_cluster(fake)
    found = examine(tmp_path / "runs", with_torch=False)
    assert not found.has_problem, doctor_text(found.findings)
    assert found.accounts == ("a",) and len(found.partitions) == 6
    said = json.loads(json.dumps(doctor_json(found)))
    assert said["site"]["version"] == [22, 5, 8] and said["site"]["chunk_size"] == said["site"]["max_array_size"]
    assert said["partitions"][0]["nodes"][0]["gpus"] == [["", 2]]
    assert {f["level"] for f in said["findings"]} <= {"ok", "note", "warning", "problem"}
    assert said["worst"] == "warning"
    assert "submit_host" not in levels(found.findings)


def test_a_scheduler_that_is_down_is_a_problem(fake, tmp_path):
    start_cluster(fake)
    fake.program("scontrol", fake.answers("down", output("down_22_05")) + " >&2; exit 1")
    [finding] = [f for f in examine(tmp_path / "runs", with_torch=False).findings if f.topic == "slurm"]
    assert finding.level is PROBLEM and "Unable to contact slurm controller" in finding.found and finding.advice


def test_without_accounting_nobody_is_asked_about_accounts(fake, tmp_path):
    start_cluster(fake, "config_22_05_odd")
    found = examine(tmp_path / "runs", with_torch=False)
    assert levels(found.findings)["accounting"] is NOTE
    assert not [call for call in fake.calls if call.startswith("sacctmgr")]


def test_an_accounting_database_that_is_silent(fake, tmp_path):
    start_cluster(fake)
    assert "accounts" not in levels(examine(tmp_path / "runs", with_torch=False).findings)
    fake.program("sacctmgr", "exit 1")
    found = examine(tmp_path / "runs", with_torch=False)
    assert levels(found.findings)["accounts"] is NOTE and not found.has_problem


def test_inside_a_job(fake, tmp_path, monkeypatch):
    start_cluster(fake)
    assert "inside" not in levels(examine(tmp_path / "runs", with_torch=False).findings)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert "inside job 7" in named(examine(tmp_path / "runs", with_torch=False).findings, "inside")[0].found


def test_a_submit_host_that_is_a_node(fake, tmp_path, monkeypatch):
    start_cluster(fake)
    monkeypatch.setattr(socket, "gethostname", lambda: "head.cluster.org")
    (tmp_path / "mounts").write_text("1 0 0:1 / / rw - ext4 /dev/sda rw\n")
    found = levels(examine(tmp_path / "runs", with_torch=False).findings)
    assert found["submit_host"] is NOTE and found["reach"] is OK


def test_a_disk_of_this_machine_under_slurm(fake, tmp_path):
    start_cluster(fake)
    (tmp_path / "mounts").write_text("1 0 0:1 / / rw - ext4 /dev/sda rw\n")
    [finding] = named(examine(tmp_path / "runs", with_torch=False).findings, "reach")
    assert finding.level is PROBLEM and "n1, n2, n3 and 1 more" in finding.found


# --- the configuration

QUIET = {"KillWait": "30 sec"}


@pytest.mark.parametrize(
    ("name", "changes", "level"),
    [
        ("version", {"SLURM_VERSION": "20.11.9"}, WARNING),
        ("srun_cpus", {}, NOTE),
        ("arrays", {"MaxArraySize": "0"}, WARNING),
        ("job_count", {"MaxJobCount": "500"}, WARNING),
        ("kill_wait", {"KillWait": "8 sec"}, NOTE),
        ("accounting", {"AccountingStorageType": "accounting_storage/none"}, NOTE),
        ("accounting", {"AccountingStorageType": ""}, NOTE),
        ("job_env", {"AccountingStoreFlags": "job_script,job_env"}, WARNING),
        ("requeue_exit", {"RequeueExit": "70-75"}, WARNING),
        ("requeue_exit_hold", {"RequeueExitHold": "1"}, WARNING),
        ("memory", {"ConstrainRAMSpace": "no"}, NOTE),
        ("proctrack", {"ProctrackType": "proctrack/linuxproc"}, NOTE),
        ("select", {"SelectType": "select/cons_res"}, NOTE),
        ("rate_limit", {"SlurmctldParameters": "rl_enable"}, NOTE),
    ],
)
def test_what_a_setting_means(name, changes, level):
    assert levels(site_findings(site(**{**QUIET, **changes})))[name] is level
    other = site(**QUIET, SLURM_VERSION="24.05.1")
    assert levels(site_findings(other)).get(name, OK) is OK


def test_exit_codes_are_named():
    [finding] = named(site_findings(site("config_22_05_odd")), "requeue_exit")
    assert "1 (user_exception), 74 (io_lost), 75 (interrupted), 76 (fenced)" in finding.found
    assert "requeue_exit" not in levels(site_findings(site(RequeueExit="0,99")))  # codes that are not ours


def test_requeue_is_possible_everywhere():
    assert named(site_findings(site(JobRequeue="0")), "requeue")[0].level is OK
    assert "--requeue" in named(site_findings(site(JobRequeue="0")), "requeue")[0].found
    assert "121 s" in named(site_findings(site(AuthInfo="")), "requeue")[0].found


# --- preemption


def preemption_of(name, *, config=None, old="", new=""):
    found = partition_findings(site(**(config or {})), partitions(old, new), NOTHING)
    [finding] = [f for f in named(found, "preemption") if name in f.found.split(":")[0].replace(",", "").split()]
    return finding


SIGNAL = {"SlurmctldParameters": "preempt_send_user_signal"}


def test_grace_without_a_signal_means_save_often():
    finding = preemption_of("lowg")
    assert finding.level is WARNING and "only at the end of the grace time, 8 s before" in finding.found
    assert "Slurm requeues the job" in finding.found and "save often" in finding.advice
    assert "does not requeue" in preemption_of("lowc").found


def test_grace_with_a_signal_is_time_to_save():
    finding = preemption_of("lowg", config=SIGNAL)
    assert finding.level is OK and "about 28 s to save" in finding.found and "none that ends within" in finding.found
    newer = preemption_of("lowg", config={**SIGNAL, "SLURM_VERSION": "24.05.0"})
    assert "none that ends within" not in newer.found
    assert "none that ends within" not in preemption_of("lowc", config=SIGNAL).found


def test_no_grace_leaves_the_time_until_the_kill():
    for config in ({}, SIGNAL):
        finding = preemption_of("low", config=config)
        assert finding.level is NOTE and "8 s to save, without an earlier warning" in finding.found
    assert "5 s to save" in preemption_of("low", config={"KillWait": "2 sec"}).found


def test_nobody_preempts_a_partition_that_is_on_top_or_where_it_is_off():
    assert preemption_of("high").found.endswith(": none")
    assert preemption_of("low", config={"PreemptType": "preempt/none"}).level is OK
    assert "no partition" in preemption_of("low", old="PriorityTier=10", new="PriorityTier=1").found


def test_suspended_trials_and_the_qos():
    assert "suspended" in preemption_of("low", old="PreemptMode=REQUEUE", new="PreemptMode=SUSPEND").found
    assert "the QOS of a job decides" in preemption_of("low", config={"PreemptType": "preempt/qos"}).found


# --- partitions


@pytest.mark.parametrize(
    ("name", "wanted", "change", "level"),
    [
        ("wanted", Wanted(partition="gpu"), (), PROBLEM),
        ("wanted", NOTHING, ("Default=YES", "Default=NO"), NOTE),
        ("time", Wanted(time_s=86_401), (), PROBLEM),
        ("wanted_gpus", Wanted(gpus=3), (), PROBLEM),
        ("wanted_gpus", Wanted(gpus=1, partition="lp"), (), PROBLEM),
        ("partition", NOTHING, ("State=UP", "State=DOWN"), WARNING),
    ],
)
def test_what_a_sweep_wants(name, wanted, change, level):
    assert levels(partition_findings(site(), partitions(*change), wanted))[name] is level
    fine = Wanted(partition="low", gpus=2, time_s=86_400)
    assert levels(partition_findings(site(), partitions(), fine)).get(name, OK) is OK


def test_no_partition_at_all():
    assert levels(partition_findings(site(), (), NOTHING)) == {"none": PROBLEM}


def test_nodes_that_take_no_jobs():
    nodes = parse_nodes(output("nodes_22_05").replace("State=IDLE", "State=DOWN*"))
    found = partition_findings(site(), parse_partitions(output("partitions_22_05"), nodes), NOTHING)
    assert "no node can take jobs" in named(found, "partition")[0].found


def test_no_gpus():
    nodes = parse_nodes(output("nodes_22_05").replace("Gres=gpu:2", "Gres=(null)"))
    bare = parse_partitions(output("partitions_22_05"), nodes)
    assert levels(partition_findings(site(), bare, NOTHING))["gpus"] is NOTE
    assert levels(partition_findings(site(), bare, Wanted(gpus=1)))["gpus"] is PROBLEM
    assert "gpus" not in levels(partition_findings(site(), partitions(), Wanted(gpus=1)))


def test_who_may_submit():
    def found(accounts, wanted=NOTHING, closed=(), **config):
        return levels(access_findings(site(**config), partitions(*closed), wanted, ["staff"], accounts))

    strict = {"AccountingStorageEnforce": "associations"}
    assert found((), **strict) == {"account": PROBLEM}
    assert found(()) == {} and found(None, **strict) == {}
    assert found(("a",)) == {"account": OK}
    assert found(("a",), Wanted(account="b")) == {"account": PROBLEM}
    closed = ("AllowGroups=ALL", "AllowGroups=ml")
    assert found(("a",), closed=closed) == {"account": OK, "access": WARNING}
    assert found(None, closed=closed) == {"access": WARNING}


def test_spans():
    assert [span(s) for s in (0, 28, 90, 86_400, 200_000)] == ["0 s", "28 s", "1 min 30 s", "1 d", "2 d 7 h"]


# --- this machine and the folder


def test_gpus_of_this_machine(fake, monkeypatch):
    assert named(machine_findings(with_torch=False), "gpus")[0].found == "no GPU"
    fake.program(
        "nvidia-smi",
        'case "$1" in -L) echo GPU 0: A; echo GPU 1: A;; *) echo "A, 80 MiB, 550"; echo "A, 80 MiB, 550";; esac',
    )
    assert named(machine_findings(with_torch=False), "gpus")[0].found == "2 GPUs: 2 x A (80 MiB), driver 550"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert named(machine_findings(with_torch=False), "gpus")[0].level is NOTE


@pytest.mark.parametrize(
    ("version", "tried", "gpus", "level"),
    [
        (None, None, [], NOTE),
        ("2.6", {"ok": False, "message": "ImportError: libcudart"}, [], PROBLEM),
        ("2.6", {"ok": True, "version": "2.6", "cuda": "none", "n_gpus": 0, "seconds": 1}, [], OK),
        ("2.6", {"ok": True, "version": "2.6", "cuda": "none", "n_gpus": 0, "seconds": 1}, ["0"], WARNING),
        ("2.6", {"ok": True, "version": "2.6", "cuda": "12.4", "n_gpus": 1, "seconds": 1}, ["0", "1"], WARNING),
        ("2.6", {"ok": True, "version": "2.6", "cuda": "12.4", "n_gpus": 2, "seconds": 1}, ["0", "1"], OK),
    ],
)
def test_torch(version, tried, gpus, level, monkeypatch):
    monkeypatch.setattr(doctor_machine, "torch_version", lambda: version)
    monkeypatch.setattr(doctor_machine, "try_torch", lambda: tried)
    assert doctor_machine.torch_finding(gpus).level is level


def test_torch_is_tried_in_another_process(tmp_path, monkeypatch):
    from dlcluster.launch.probe_report import try_torch

    (tmp_path / "torch.py").write_text("raise ImportError('broken on purpose')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    before = "torch" in sys.modules
    assert try_torch() == {"ok": False, "message": "ImportError: broken on purpose"}
    (tmp_path / "torch.py").write_text("import time; time.sleep(60)")
    assert not try_torch(0.3)["ok"]
    assert ("torch" in sys.modules) is before


def test_a_folder_that_is_no_good(fake, tmp_path):
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    [finding] = folder_findings(tmp_path / "open")
    assert finding.level is PROBLEM and finding.advice.startswith("chmod o-w")
    assert levels(folder_findings(tmp_path / "fine"))["place"] is OK


def test_little_space(fake, tmp_path, monkeypatch):
    assert doctor_machine.space_finding(tmp_path).level is OK
    monkeypatch.setattr(doctor_machine, "SCARCE_BYTES", 1 << 60)
    assert doctor_machine.space_finding(tmp_path).level is WARNING


@pytest.mark.parametrize(
    ("mount", "expected"),
    [
        ("nfs4 s:/ rw,hard", {"file_system": OK}),
        ("nfs s:/ rw,soft,timeo=10", {"file_system": OK, "soft_mount": WARNING}),
        ("nfs s:/ rw,acdirmax=600", {"file_system": OK, "blind": WARNING}),
        ("nfs s:/ rw,actimeo=30", {"file_system": OK}),
        ("tmpfs none rw", {"file_system": WARNING}),
        ("fuse.s3fs s3 rw", {"file_system": PROBLEM}),
        ("lustre mds:/fs rw", {"file_system": OK}),
        ("strangefs x rw", {"file_system": OK}),
    ],
)
def test_file_systems(fake, tmp_path, mount, expected):
    (tmp_path / "mounts").write_text(f"1 0 0:1 / / rw - {mount}\n")
    found = levels(folder_findings(tmp_path))
    assert {k: v for k, v in found.items() if k in ("file_system", "soft_mount", "blind")} == expected


def test_the_mount_that_counts(tmp_path):
    where = tmp_path / "a b"
    where.mkdir()
    lines = [
        "1 0 0:1 / / rw - ext4 /dev/sda rw",
        f"2 1 0:2 / {str(where).replace(' ', chr(92) + '040')} rw,noatime shared:7 - autofs systemd rw",
        f"3 1 0:3 / {str(where).replace(' ', chr(92) + '040')} rw,noatime shared:7 master:2 - nfs4 s:/x rw,vers=4.2",
        f"4 1 0:4 / {where}c rw - xfs /dev/sdb rw",
        "rubbish",
        "5 1 - x",
    ]
    found = file_system_of(where / "runs" / "lr", "\n".join(lines))
    assert found == FileSystem("nfs4", str(where), "s:/x", ("rw", "noatime", "rw", "vers=4.2"))
    assert file_system_of(tmp_path, "\n".join(lines)).kind == "ext4"
    assert file_system_of(tmp_path, "") is None
    assert file_system_of(where, "\n".join(lines[:2])).reach is Reach.UNKNOWN  # mounted when somebody looks
    assert file_system_of(Path("/proc")).kind == "proc"  # of this very machine


def test_reach_of_file_systems():
    nodes = parse_nodes(output("nodes_22_05"))
    kinds = {kind: FileSystem(kind, "/").reach for kind in ("nfs4", "beegfs", "ext4", "tmpfs", "strangefs")}
    assert list(kinds.values()) == [Reach.SHARED, Reach.SHARED, Reach.THIS_MACHINE, Reach.THIS_MACHINE, Reach.UNKNOWN]
    assert reach_finding(FileSystem("nfs4", "/"), nodes).level is OK
    assert reach_finding(FileSystem("ext4", "/"), nodes).level is PROBLEM
    assert reach_finding(FileSystem("ext4", "/"), ()).level is OK
    assert reach_finding(FileSystem("strangefs", "/"), nodes).level is NOTE
    assert reach_finding(None, nodes).level is NOTE
    here = [replace(node, host=socket.gethostname()) for node in nodes]
    assert reach_finding(FileSystem("ext4", "/"), here).level is OK


def test_clocks(tmp_path, monkeypatch):
    assert skew_finding(0.0).level is OK and skew_finding(-4.0).level is OK
    assert "60 s ahead of" in skew_finding(60.0).found and "60 s behind" in skew_finding(-60.0).found
    assert doctor_machine.clock_skew(tmp_path) == 0.0
    real = time.time
    monkeypatch.setattr(doctor_machine.time, "time", lambda: real() + 3600)
    assert 3590 < doctor_machine.clock_skew(tmp_path) < 3610
    assert list(tmp_path.iterdir()) == []


# --- the words


def test_the_text_groups_findings_and_counts():
    found = [
        Finding(OK, "a", "x", "fine"),
        Finding(PROBLEM, "b", "y", "bad", "mend it"),
        Finding(WARNING, "a", "z", "so so"),
    ]
    assert doctor_text(found).splitlines() == [
        *("a:", "  ok       fine", "  warning  so so", "b:", "  problem  bad", "           -> mend it"),
        "1 problem, 1 warning: sweeps cannot run like this",
    ]
    assert doctor_text(found[:1]).endswith("no problems")
    assert doctor_text(found[2:]).endswith("1 warning: sweeps can run")


# --- the probe

SBATCH = """
for script; do :; done
/bin/bash "$script" > "${script%/job.sh}/7.log" 2>&1
echo Welcome
echo 7
"""


@pytest.fixture
def probing(fake, tmp_path):
    start_cluster(fake)
    fake.program("sbatch", SBATCH)
    fake.program("squeue", 'echo "COMPLETED|None|n1"')
    fake.program("scontrol", 'echo "JobId=7 JobState=COMPLETED Reason=None ExitCode=0:0 NodeList=n1"')
    fake.program("scancel", "")
    return fake


def run_probe(tmp_path, launch=None, **options):
    said = []
    options = {"sleep": lambda _seconds: None, **options}
    found = Probe(launch or {}, partitions()[0], said.append, **options).run(tmp_path / "runs")
    return found, said


def test_the_probe_tells_what_a_node_sees_and_leaves_nothing(probing, tmp_path):
    found, said = run_probe(tmp_path, {"cpus": len(os.sched_getaffinity(0))})
    assert levels(found) == {"place": OK, "python": OK, "cpus": OK}, found
    assert said == ["job 7 submitted: it looks at a compute node (Ctrl-C cancels it)"]
    assert not (tmp_path / "runs").exists()
    assert not [call for call in probing.calls if call.startswith("scancel")]


def test_a_slow_import_does_not_look_like_a_wrong_clock(probing, tmp_path, monkeypatch):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "torch.py").write_text(
        "import time; time.sleep(1.5); __version__ = '9'\n"
        "class version: cuda = None\nclass cuda: device_count = staticmethod(lambda: 0)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'lib'}:{REPOSITORY}")
    monkeypatch.setattr("dlcluster.launch.probe_findings.MAX_SKEW_S", 1.0)
    found, _said = run_probe(tmp_path, {"pass_env": ["PYTHONPATH"]}, with_torch=True)
    assert levels(found)["torch"] is OK and "clock" not in levels(found)


def test_the_probe_leaves_other_runs_alone(probing, tmp_path):
    (tmp_path / "runs" / "lr").mkdir(parents=True)
    run_probe(tmp_path)
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["lr"]


def test_the_probe_asks_for_little(tmp_path):
    launch = {"gpus": 8, "cpus": 4, "partition": "low", "account": "a", "qos": "q", "nodes": 4, "time": 9e9}
    text = probe_script(tmp_path / "dlcluster-probe-1", launch, partitions()[0], True)
    for option in ("nodes=1", "gpus-per-node=1", "time=00:02:00", "partition=low", "account=a", "qos=q", "mem=2G"):
        assert f"#SBATCH --{option}\n" in text
    assert "--torch" in text.splitlines()[-1] and text.splitlines()[-1].startswith("exec ")
    nameless = replace(partitions()[0], nodes=(replace(partitions()[0].nodes[0], memory_mb=1),))
    assert "--mem" not in probe_script(tmp_path, {}, nameless, False)
    with pytest.raises(UsageError, match="partition"):
        probe_script(tmp_path, {"partition": "a b"}, None, False)


def test_a_probe_that_is_refused(probing, tmp_path):
    probing.program("sbatch", "echo 'sbatch: error: invalid partition specified: x' >&2; exit 1")
    with pytest.raises(SubmissionError, match=r"^the probe was not accepted: sbatch: invalid partition"):
        run_probe(tmp_path)
    probing.program("sbatch", "echo Welcome")
    with pytest.raises(SubmissionError, match="no job id: 'Welcome'"):
        run_probe(tmp_path)
    assert not (tmp_path / "runs").exists()


def test_a_probe_in_a_folder_that_cannot_be_made(probing, tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(PreconditionError, match="runs"):
        run_probe(tmp_path)


def test_a_probe_that_waits_too_long_is_cancelled(probing, tmp_path):
    probing.program("sbatch", "echo 8")
    probing.program("squeue", 'case "$*" in *%A*) echo 8;; *) echo "PENDING|Priority|";; esac')
    found, said = run_probe(tmp_path, deadline_s=0.0)
    assert levels(found) == {"waiting": WARNING}
    assert said[1:] == ["  pending, Priority", "the job was cancelled"]
    assert "scancel 8" in probing.calls and not (tmp_path / "runs").exists()


def test_ctrl_c_cancels_the_probe(probing, tmp_path):
    probing.program("sbatch", "echo 8")
    probing.program("squeue", 'case "$*" in *%A*) echo 8;; *) echo "PENDING|Priority|";; esac')

    def interrupt(_seconds):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_probe(tmp_path, sleep=interrupt)
    assert probing.calls[-1] == "scancel 8" and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_killed_probe_leaves_no_job(probing, tmp_path, number):
    probing.program("sbatch", "echo 8")
    probing.program("squeue", 'case "$*" in *%A*) echo 8;; *) echo "PENDING|Priority|";; esac')
    code = (
        "import signal, sys, pathlib; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from dlcluster.launch.probe import Probe\n"
        "Probe({}, None, print).run(pathlib.Path(sys.argv[1]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "runs")],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: any(c.startswith("sbatch") for c in probing.calls), "the submission")
    process.send_signal(number)
    assert process.wait(20) != 0
    assert probing.calls[-1] == "scancel 8" and not (tmp_path / "runs").exists()


def test_a_job_that_cannot_be_cancelled_is_named(probing, tmp_path):
    probing.program("sbatch", "echo 8")
    probing.program("squeue", "exit 1")
    _found, said = run_probe(tmp_path, deadline_s=0.0)
    assert "scancel --name=dlcluster-probe-" in said[-1]


def test_a_report_that_appears_late(probing, tmp_path):
    probing.program("sbatch", "echo 7")
    [finding], _said = run_probe(tmp_path)
    assert finding.level is PROBLEM and "has not appeared within 90 s" in finding.found


@pytest.mark.parametrize(
    ("end", "log", "name"),
    [
        (End("FAILED", "0:53", "JobLaunchFailure", "n1"), "", "place"),
        (End("FAILED", "127:0", "NonZeroExitCode", "n1"), "exec: /x/python: not found", "python"),
        (End("FAILED", "1:0", "NonZeroExitCode", "n1"), "python: No module named dlcluster", "dlcluster"),
        (End("FAILED", "78:0"), "dlcluster worker: setup failed: module load x (exit code 1)", "setup"),
        (End("TIMEOUT", "0:0", "TimeLimit", "n1"), "", "end"),
        (End("GONE"), "", "end"),
    ],
)
def test_why_a_probe_failed(end, log, name):
    [finding] = findings_of(end, None, log, {})
    assert (finding.name, finding.level) == (name, PROBLEM) and finding.advice


REPORT = {"node": "n1", "python": "3.11.2", "dlcluster": __version__, "n_cpus": 2, "n_gpus": 1, "file_system": "nfs4"}


@pytest.mark.parametrize(
    ("report", "launch", "name", "level"),
    [
        ({"n_cpus": 1}, {"cpus": 2}, "cpus", WARNING),
        ({"n_cpus": 4}, {"cpus": 2}, "cpus", NOTE),
        ({"n_gpus": 0}, {"gpus": 1, "cpus": 2}, "gpus", PROBLEM),
        ({"dlcluster": "0.0.1", "package": "/old"}, {"cpus": 2}, "dlcluster", WARNING),
        ({"skew_s": 100.0}, {"cpus": 2}, "clock", NOTE),
        ({"torch": {"ok": False, "message": "no"}}, {"cpus": 2}, "torch", PROBLEM),
        ({"torch": {"ok": True, "n_gpus": 0}}, {"cpus": 2}, "torch", WARNING),
    ],
)
def test_what_a_report_means(report, launch, name, level):
    done = End("COMPLETED", "0:0", "None", "n1")
    assert levels(findings_of(done, {**REPORT, **report}, "", launch))[name] is level
    fine = {**REPORT, "torch": {"ok": True, "n_gpus": 1}}
    assert set(levels(findings_of(done, fine, "", {"cpus": 2, "gpus": 1})).values()) == {OK}


def test_a_job_that_ends_badly_after_its_report():
    found = findings_of(End("TIMEOUT", "0:0"), REPORT, "slow", {"cpus": 2})
    assert levels(found)["end"] is NOTE
