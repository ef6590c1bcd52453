"""What a site says is read right, asked for once an hour, and never guessed when nobody answers."""

import json
import os
import stat

import pytest

from dlcluster.errors import PreconditionError
from dlcluster.launch import site as sites
from dlcluster.launch.partitions import (
    Node,
    parse_accounts,
    parse_gpus,
    parse_nodes,
    parse_partitions,
    parse_records,
    parse_time,
    read_partitions,
    usable_accounts,
)
from dlcluster.launch.site import ask_slurm, parse_codes, parse_config, parse_version, read_site, site_of
from tests.launch.fake_slurm import FakeSlurm, output


@pytest.fixture
def fake(tmp_path, monkeypatch):
    made = FakeSlurm(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(made.folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    conf = tmp_path / "slurm.conf"
    conf.write_text("# SlurmctldHost=old\nClusterName=c\nSlurmctldHost=head(10.0.0.1)\n")
    monkeypatch.setenv("SLURM_CONF", str(conf))
    return made


@pytest.fixture
def cluster(fake):
    fake.cluster(output("config_22_05"), output("partitions_22_05"), output("nodes_22_05"), output("accounts_22_05"))
    return fake


def site(name="config_22_05", **changes):
    return site_of({**parse_config(output(name)), **changes})


# --- the configuration


def test_a_real_configuration():
    found = site()
    assert found.cluster == "dlcluster"
    assert found.version == (22, 5, 8) and found.version_text == "22.05.8"
    assert (found.max_array_size, found.max_array_tasks, found.max_job_count) == (2001, None, 20000)
    assert (found.min_job_age_s, found.kill_wait_s, found.window_s, found.requeue_delay_s) == (300, 8, 8, 6)
    assert found.job_requeue and found.has_accounting and found.has_cons_tres
    assert (found.preempt_mode, found.preempt_type) == (("REQUEUE",), "preempt/partition_prio")
    assert found.enforces == () and found.proctrack == "proctrack/cgroup"
    assert not (found.sends_user_signal or found.stores_job_env or found.stores_job_script or found.limits_requests)
    assert found.constrains_ram is True
    assert found.requeue_exit == found.requeue_exit_hold == frozenset()
    assert found.config_file == "/opt/slurm/slurm.conf"
    assert found.chunk_size == found.max_array_size


def test_a_real_configuration_with_everything_changed():
    found = site("config_22_05_odd")
    assert (found.max_array_size, found.max_array_tasks, found.chunk_size) == (17, 10, 10)
    assert found.sends_user_signal and not found.job_requeue and not found.has_accounting
    assert found.requeue_exit == {1, 74, 75, 76} and found.requeue_exit_hold == {81}
    assert found.proctrack == "proctrack/linuxproc"


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"AccountingStoreFlags": "job_comment,job_env"}, "stores_job_env", True),
        ({"AccountingStoreFlags": "job_script"}, "stores_job_script", True),
        ({"AccountingStorageEnforce": "associations,limits,qos"}, "enforces", ("associations", "limits", "qos")),
        ({"SlurmctldParameters": "rl_enable,rl_bucket_size=30"}, "limits_requests", True),
        ({"SlurmctldParameters": "idle_on_node_suspend,Preempt_send_user_signal"}, "sends_user_signal", True),
        ({"SelectType": "select/linear"}, "has_cons_tres", False),
        ({"PreemptMode": "GANG,SUSPEND"}, "preempt_mode", ("GANG", "SUSPEND")),
        ({"AuthInfo": ""}, "requeue_delay_s", 121),
        ({"KillWait": "2 sec"}, "window_s", 5),
        ({"MaxArraySize": "0"}, "chunk_size", 1),
        ({"ConstrainRAMSpace": ""}, "constrains_ram", None),
        ({"MaxJobCount": "rubbish"}, "max_job_count", 10_000),
        ({"PreemptType": ""}, "preempt_type", "preempt/none"),
    ],
)
def test_settings_of_other_sites(changes, field, value):
    assert getattr(site(**changes), field) == value


def test_odd_lines_are_no_settings():
    text = "Configuration data\n\nA=1\n  B   = x = y \nC =\nD = (null)\nSlurmctldHost[0] = h\n=no\nA = 2\n\x00\x07 = 3\nno key"
    assert parse_config(text) == {"A": "1", "B": "x = y", "C": "", "D": "", "SlurmctldHost[0]": "h"}
    assert site_of({}).max_array_size == 1001  # Slurm's own default


@pytest.mark.parametrize(
    ("text", "version"),
    [("slurm 22.05.8", (22, 5, 8)), ("23.11.0-0rc1", (23, 11, 0)), ("24.05", (24, 5)), ("", ()), ("slurm", ())],
)
def test_versions(text, version):
    assert parse_version(text) == version


def test_version_quirks():
    assert [sites.srun_ignores_cpus(v) for v in ((21, 8), (22, 5, 8), (23, 2, 1), (23, 11))] == [0, 1, 1, 0]
    assert [sites.forgets_early_leavers(v) for v in ((22, 5, 8), (23, 11), (24, 5), (25, 5))] == [1, 1, 0, 0]


def test_exit_codes():
    assert parse_codes("1,74-76") == {1, 74, 75, 76}
    assert parse_codes("") == parse_codes("none") == frozenset()


# --- asking


def test_without_slurm_there_is_no_site(fake):
    assert read_site() is None


def test_half_a_slurm_is_a_problem(fake):
    fake.program("sbatch", "")
    with pytest.raises(PreconditionError, match=r"scontrol, squeue, scancel not found"):
        read_site()


def test_asked_once_an_hour_and_kept_for_us_only(cluster, tmp_path):
    assert read_site() == read_site() == site()
    assert cluster.calls == ["scontrol show config"]
    [kept] = (tmp_path / "cache").rglob("site.json")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600 and stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert read_site(fresh=True) == site()
    assert len(cluster.calls) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: {**value, "time": value["time"] - 3601},
        lambda value: {**value, "time": value["time"] + 3600},  # of a host whose clock is ahead
        lambda value: {**value, "config": {}},
        lambda value: {**value, "config": None},
        lambda value: {"config": value["config"]},
        lambda value: [1],
        lambda value: {**value, "time": "now"},
    ],
)
def test_an_old_or_damaged_answer_is_asked_for_again(cluster, tmp_path, damage):
    read_site()
    [kept] = (tmp_path / "cache").rglob("site.json")
    kept.write_text(json.dumps(damage(json.loads(kept.read_text()))))
    assert read_site() == site()
    assert len(cluster.calls) == 2


def test_an_edited_configuration_is_seen_at_once(cluster, tmp_path):
    read_site()
    os.utime(tmp_path / "slurm.conf", (1, 1))
    read_site()
    assert len(cluster.calls) == 2


def test_two_clusters_with_one_home_do_not_share_an_answer(cluster, tmp_path, monkeypatch):
    first = sites.cache_folder()
    assert first.name.startswith("head-")
    (tmp_path / "slurm.conf").write_text("ControlMachine=other\n")
    assert sites.cache_folder() != first
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "gone.conf"))
    assert sites.cache_folder().parent == first.parent  # named after this host then


def test_a_cache_that_cannot_be_written_is_no_failure(cluster, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert read_site() == read_site() == site()


def test_a_scheduler_that_is_down(cluster):
    cluster.program("scontrol", cluster.answers("down", output("down_22_05")) + " >&2; exit 1")
    with pytest.raises(PreconditionError, match=r"^scontrol show config: slurm_load_ctl_conf error: Unable to contact"):
        read_site()


def test_a_scheduler_that_says_nothing(cluster, monkeypatch):
    cluster.program("scontrol", "exec /bin/sleep 60")
    with pytest.raises(PreconditionError, match=r"no answer within 0.2 s"):
        ask_slurm(["scontrol", "show", "config"], 0.2)


def test_an_answer_without_a_configuration(cluster):
    cluster.program("scontrol", "echo Welcome to the cluster")
    with pytest.raises(PreconditionError, match="no configuration"):
        read_site()


def test_what_would_change_the_answers_is_left_out(fake, monkeypatch):
    fake.program("scontrol", "/usr/bin/env")
    for name in ("SINFO_FORMAT", "SLURM_CLUSTERS", "SQUEUE_FORMAT", "SLURM_TIME_FORMAT", "SBATCH_PARTITION"):
        monkeypatch.setenv(name, "odd")
    monkeypatch.setenv("LC_ALL", "de_DE")
    said = ask_slurm(["scontrol"]).splitlines()
    assert not [line for line in said if "odd" in line]
    assert "LC_ALL=C" in said and "SLURM_BITSTR_LEN=0" in said and f"SLURM_CONF={os.environ['SLURM_CONF']}" in said


def test_complaints_are_printed_without_control_characters(fake):
    fake.program("scontrol", r"printf '\n\033[31mbad\a thing\nmore\n' >&2; exit 3")
    with pytest.raises(PreconditionError, match=r"^scontrol show: \[31mbad thing\n"):
        ask_slurm(["scontrol", "-o", "show"])


# --- partitions and nodes


def test_real_partitions(cluster):
    partitions = read_partitions()
    assert [p.name for p in partitions] == ["low", "lowg", "lowc", "high", "cg", "lp"]
    low, lowg, lowc, high, cg, lp = partitions
    assert low.is_default and not high.is_default and low.is_up
    assert (low.max_time_s, low.default_time_s, low.grace_s, lowg.grace_s) == (86_400, None, 0, 20)
    assert [p.preempt_mode for p in (low, lowc, high)] == [("REQUEUE",), ("CANCEL",), ("OFF",)]
    assert (low.tier, high.tier) == (1, 10)
    assert (low.gpus_per_node, cg.gpus_per_node, lp.gpus_per_node) == (2, 2, 0)
    assert [n.name for n in cg.nodes] == ["n1", "n2"] and len(low.nodes) == 4
    assert low.allowed_accounts == low.allowed_groups == low.allowed_qos == ()
    assert low.nodes[0] == Node("n1", "head", "IDLE", 8, 8000, (("", 2),), ("low", "lowg", "lowc", "high", "cg"))


def test_a_reason_cannot_pretend_to_be_a_setting():
    nodes = parse_nodes(output("nodes_22_05_odd"))
    assert [n.is_usable for n in nodes] == [True, True, True, False]
    assert nodes[3].gpus == () and nodes[3].state == "IDLE+DRAIN"
    assert parse_partitions(output("partitions_22_05_odd"), nodes)[5].state == "DRAIN"


@pytest.mark.parametrize(
    ("state", "usable"),
    [
        *(("IDLE", True), ("MIXED", True), ("ALLOCATED", True), ("IDLE+CLOUD+POWERED_DOWN", True), ("IDLE~", True)),
        *(("DOWN*", False), ("IDLE*", False), ("MIXED+DRAIN", False), ("DRAINED", False), ("FAILING", False)),
        ("IDLE+NOT_RESPONDING", False),
    ],
)
def test_nodes_that_take_jobs(state, usable):
    assert Node("n", "n", state, 1, 1, (), ()).is_usable is usable


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu:2", (("", 2),)),
        ("gpu", (("", 1),)),
        ("gpu:a100:4(S:0-1)", (("a100", 4),)),
        ("gpu:tesla:2(S:0,1),gpu:kepler:1,shard:8", (("tesla", 2), ("kepler", 1))),
        ("gpu:a100", (("a100", 1),)),
        ("gpu:0", ()),
        ("mps:100,craynetwork:4", ()),
        ("", ()),
    ],
)
def test_gpus(gres, gpus):
    assert parse_gpus(gres) == gpus


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("1-00:00:00", 86_400), ("00:30:00", 1800), ("2-12:30:01", 217_801), ("UNLIMITED", None), ("NONE", None)),
        *(("30", 1800), ("15:00", 900), ("1-6", 108_000), ("", None), ("soon", None)),
    ],
)
def test_times(text, seconds):
    assert parse_time(text) == seconds


def test_odd_records():
    assert list(parse_records("")) == list(parse_records("no keys here\n\n")) == []
    [record] = parse_records("A=1 Zz:Y=2 c=3 B= D=x y A=4")
    assert record == {"A": "1", "Zz:Y": "2 c=3", "B": "", "D": "x y"}
    assert parse_partitions("PartitionName= State=UP\nState=UP", ()) == ()
    assert parse_nodes("State=IDLE") == ()


def test_who_may_use_a_partition():
    text = "PartitionName=p AllowGroups=ml,ai AllowAccounts=x,y State=UP\nPartitionName=q DenyAccounts=x State=UP"
    p, q = parse_partitions(text, ())
    assert p.is_open_to(["ml"], ["y"]) and p.is_open_to(["ml"], [])
    assert not p.is_open_to(["bio"], ["y"]) and not p.is_open_to(["ml"], ["z"])
    assert q.is_open_to([], ["x", "y"]) and not q.is_open_to([], ["x"])


def test_accounts(cluster):
    assert usable_accounts() == ("dlc",)
    assert parse_accounts("b|a\na|a\nb|a\n\n|\n") == ("a", "b")
    cluster.program("sacctmgr", "exit 1")
    assert usable_accounts() is None
