"""The bad input matrix: for each row the place, the code and the words of the message, within two seconds."""

# ruff: noqa: E501 - one row of the matrix in one line

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

from dlcluster.errors import SpecError
from dlcluster.spec.schema import load_spec

HEAD = "name: t\njob: jobs.digits\nobjective: {metric: acc, goal: maximize}\n"
SAMPLED = HEAD + "sampler: {kind: random, trials: 4}\n"
GRID = HEAD + "sampler: {kind: grid}\n"
COMMAND = "name: t\ncommand: python train.py\nobjective: {metric: acc, goal: maximize}\n"

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + k)}: &{chr(98 + k)} [{','.join(['*' + chr(97 + k)] * 9)}]\n" for k in range(8)
)

FILE_ROWS = {
    "2-empty": ("", r"sweep.yaml:1:1: error\[E203\] expected a mapping with keys name, question, job, space, .*got nothing"),
    "2-comments": ("# only\n# comments\n", r"expected a mapping .*got nothing"),
    "2-null": ("~", r"expected a mapping .*got nothing"),
    "2-list": ("- a\n- b\n", r":1:1: error\[E203\] expected a mapping .*got a list"),
    "2-scalar": ("hello", r"expected a mapping .*got text"),
    "2-number": ("3", r"expected a mapping .*got a number"),
    "3-tab": ("name: t\nspace:\n\tlr: 1\n", r":3:1: error\[E201\] invalid YAML.*\n     lr: 1\n    \^\n  hint: indent with spaces"),
    "3-colons": ("a: b: c\n", r":1:5: error\[E201\] invalid YAML: mapping values.*\n    a: b: c\n        \^"),
    "3-unclosed": ("name: [a, b\n", r":2:1: error\[E201\] invalid YAML: while parsing a flow sequence"),
    "3-at": ("name: @x\n", r":1:7: error\[E201\] .*\n    name: @x\n          \^\n  hint: .*quotes"),
    "3-percent": ("name: %x\n", r":1:7: error\[E201\]"),
    "3-directive": ("%x\nname: a\n", r":2:1: error\[E201\]"),
    "3-escape": ('name: "\\UFFFFFFFF"\n', r"error\[E201\] invalid YAML"),
    "4-latin1": (b"name: a\nquestion: caf\xe9\n", r":2:1: error\[E200\] not UTF-8 at byte 21 \(line 2\)"),
    "4-utf16": ("name: a\n".encode("utf-16"), r"error\[E200\] not UTF-8 at byte 0 \(line 1\)"),
    "4-utf16-no-bom": ("name: a\n".encode("utf-16-le"), r"not UTF-8 text: NUL at byte 1 \(line 1\)"),
    "4-nul": (b"name: a\nquestion: b\0\n", r":2:12: error\[E200\] not UTF-8 text: NUL at byte 19 \(line 2\)"),
    "4-escape": (b"name: a\x1b[31m\n", r":1:8: error\[E200\] .*U\+001B"),
    "5-bomb": (BOMB, r":1:4: error\[E201\] anchors/aliases are not supported \(line 1\)"),
    "5-recursive": ("a: &a [1, *a]\n", r"anchors/aliases are not supported \(line 1\)"),
    "5-alias": ("a: *b\n", r"anchors/aliases are not supported|undefined alias"),
    "5-merge": ("a: 1\nb:\n  <<: {x: 1}\n", r":3:3: error\[E201\] anchors/aliases are not supported \(line 3\)"),
    "6-deep": ("[" * 900_000, r"error\[E201\] nested more than 32 levels deep"),
    "6-deep-map": ("{a: " * 200_000, r"error\[E201\] nested more than 32 levels deep"),
    "6-deep-block": ("- " * 400_000, r"error\[E201\] nested more than 32 levels deep"),
    "6-nodes": ("[" + "[]," * 300_000 + "]", r"error\[E201\] more than \d+ values"),
    "6-keys": ("".join(f"k{k}: 1\n" for k in range(45_000)), r"error\[E201\] more than \d+ values"),
    "7-2MB": ("# x\n" * 500_000, r"error\[E200\] the file is larger than 1 MB"),
    "7-10MB-scalar": ("name: " + "a" * 10_000_000, r"the file is larger than 1 MB"),
    "7-1MB-scalar": ("name: " + "a" * 900_000, r":1:7: error\[E203\] name: expected at most 10000 characters"),
    "8-python": ("name: !!python/object/apply:os.system ['touch canary']\n", r":1:7: error\[E201\] tag not allowed: .*python"),
    "8-own": ("name: !foo bar\n", r":1:7: error\[E201\] tag not allowed: '!foo'"),
    "8-binary": ("name: !!binary aGk=\n", r"tag not allowed"),
    "8-misfit": ("name: !!int abc\n", r"tag not allowed: !!int does not fit 'abc'"),
    "9-two": ("name: a\n---\nname: b\n", r":2:1: error\[E201\] one document expected, second starts at line 2"),
    "10-duplicate": (SAMPLED + 'space:\n  lr: 1\n  "lr": 2\n', r":7:3: error\[E202\] space.lr: the key is there twice, in line 6 and in line 7"),
    "10-complex-key": ("[a]: b\n", r":1:1: error\[E201\] a key must be text"),
    "10-number-key": (SAMPLED + "space: {1: 3}\n", r":5:9: error\[E203\] a key must be text, got '1'"),
    "surrogate": ('name: "\\ud800"\n', r"half a character"),
}  # fmt: skip

SCHEMA_ROWS = {
    "14": ("spcae: {lr: 1}\n" + HEAD, r":1:1: error\[E202\] spcae: unknown key 'spcae'\. Did you mean 'space'\?"),
    "14-far": (HEAD + "zzz: 1\n", r":4:1: error\[E202\] zzz: unknown key 'zzz'\n  hint: known keys: name"),
    "14-later-feature": (HEAD + "stopping: {kind: asha}\n", r":4:1: error\[E202\] stopping: unknown key 'stopping'"),
    "14-nested": (HEAD + "launch: {parralel: 2}\n", r":4:10: error\[E202\] launch.parralel: unknown key .*Did you mean 'parallel'\?"),
    "14-nested-sampler": (HEAD + "sampler: {kind: random, trails: 2}\n", r":4:25: error\[E202\] sampler.trails: .*Did you mean 'trials'\?"),
    "15-name": ("job: a\nobjective: {metric: a, goal: maximize}\n", r"error\[E202\] the key 'name' is missing\n  hint: for example: name: lr"),
    "15-job": ("name: a\nobjective: {metric: a, goal: maximize}\n", r"expected exactly one of job and command, got none\n  hint: for example job: jobs"),
    "15-both": (HEAD + "command: ls\n", r":4:1: error\[E202\] command: expected exactly one of job and command, got both"),
    "15-objective": ("name: a\njob: a\n", r"the key 'objective' is missing\n  hint: for example: objective: \{metric: val_accuracy"),
    "15-trials": (HEAD + "sampler: {kind: sobol}\n", r":4:1: error\[E206\] sampler: the key 'trials' is missing"),
    "15-sampler": (HEAD + "space: {lr: [1, 2]}\n", r"the number of trials is missing\n  hint: .*trials: 30"),
    "16-list": (HEAD + "space: [lr]\n", r":4:8: error\[E203\] space: expected a mapping, got \['lr'\]"),
    "16-mapping": (HEAD + "where: {a: 1}\n", r":4:8: error\[E203\] where: expected a list, got a mapping"),
    "16-section": (HEAD + "launch: 3\n", r":4:9: error\[E203\] launch: expected a mapping, got 3"),
    "16-text": (HEAD + "sampler: {kind: random, trials: '10'}\n", r":4:33: error\[E203\] sampler.trials: expected an integer, got '10'\n  hint: remove the quotes"),
    "16-float": (HEAD + "sampler: {kind: random, trials: 10.0}\n", r":4:33: error\[E203\] sampler.trials: expected an integer, got 10.0\n  hint: write 10"),
    "16-bool": (HEAD + "sampler: {kind: random, trials: true}\n", r":4:33: error\[E203\] sampler.trials: expected an integer, got true"),
    "16-name": ("name: 10\njob: a\nobjective: {metric: a, goal: maximize}\n", r":1:7: error\[E203\] name: expected text, got 10\n  hint: put it in quotes"),
    "16-bool-field": (HEAD + "tensorboard: yes\n", r":4:14: error\[E203\] tensorboard: expected true or false, got 'yes'\n  hint: .*write true or false"),
    "16-where": (HEAD + "where: [3]\n", r":4:9: error\[E203\] where\[0\]: expected text, got 3"),
    "18": (SAMPLED + 'space: {lr: {uniform: ["1e-4", 1]}}\n', r":5:24: error\[E203\] space.lr.uniform\[0\]: expected a finite number, got '1e-4'\n  hint: remove the quotes"),
    "20": (SAMPLED + "space: {lr: {uniform: [null, 1]}}\n", r":5:24: error\[E203\] .*expected a finite number, got null"),
    "20-empty": (SAMPLED + "space:\n  lr:\n", r":6:\d+: error\[E203\] space.lr: null is not allowed"),
    "20-section": (HEAD + "sampler:\nspace: {a: [1, 2]}\n", r"error\[E203\] sampler: null is not allowed"),
    "20-fixed": (HEAD + "fixed: {a: null}\n", r":4:12: error\[E203\] fixed.a: null is not allowed"),
    "21-digits": (HEAD + f"fixed: {{a: {'9' * 5000}}}\n", r":4:12: error\[E203\] fixed.a: the number is out of range"),
    "21-64-bits": (HEAD + f"fixed: {{a: {2**63}}}\n", r"out of range"),
    "21-float": (SAMPLED + "space: {a: {uniform: [0, 1e400]}}\n", r":5:26: error\[E203\] .*out of range"),
    "21-trials": (HEAD + f"sampler: {{kind: random, trials: {2**64}}}\n", r"error\[E203\] sampler.trials: .*out of range"),
    "21-randint": (SAMPLED + f"space: {{a: {{randint: [0, {2**60}]}}}}\n", r"out of range: .*2\^53"),
    "22-bound": (SAMPLED + "space: {a: {uniform: [0, .inf]}}\n", r":5:26: error\[E203\] .*finite number"),
    "22-choice": (SAMPLED + "space: {a: [1, .nan]}\n", r":5:16: error\[E203\] space.a\[1\]: a finite number is expected, got '.nan'"),
    "22-word": (SAMPLED + "space: {a: [1, -inf]}\n", r"finite number"),
    "23": (SAMPLED + "space: {a: [2024-01-01, 3]}\n", r":5:13: error\[E203\] .*it is a date to some readers"),
    "unclear-octal": (SAMPLED + "space: {a: [017, 3]}\n", r":5:13: error\[E203\] space.a\[0\]: .*octal.*got '017'\n  hint: .*quotes"),
    "unclear-underscore": (SAMPLED + "space: {a: {randint: [1, 1_000]}}\n", r":5:26: error\[E203\] .*underscores"),
    "unclear-yes": (SAMPLED + "space: {a: [yes, no]}\n", r":5:13: error\[E203\] space.a\[0\]: .*got 'yes'"),
    "unclear-clock": (SAMPLED + "space: {a: [15:00, 3]}\n", r"base 60"),
    "unclear-fixed": (HEAD + "fixed: {a: {b: [off]}}\n", r":4:17: error\[E203\] fixed.a.b\[0\]"),
    "24-zero": (SAMPLED + "space:\n  lr: {loguniform: [0, 1.0]}\n", r"sweep.yaml:6:21: error\[E203\] space.lr.loguniform\[0\]: expected a number > 0 because the scale is logarithmic, got 0$"),
    "24-negative": (SAMPLED + "space: {lr: {lograndint: [-3, 8]}}\n", r"\[0\]: expected a number > 0 .*got -3"),
    "24-underflow": (SAMPLED + "space: {lr: {loguniform: [1e-400, 1]}}\n", r"expected a number > 0 .*got 0.0"),
    "25-low-high": (SAMPLED + "space: {lr: {uniform: [2, 1]}}\n", r":5:23: error\[E203\] space.lr.uniform: expected low < high, got low 2 > high 1"),
    "25-equal": (SAMPLED + "space: {lr: {uniform: [1, 1]}}\n", r"expected low < high, got 1 twice\n  hint: for a constant write the value: lr: 1"),
    "25-three": (SAMPLED + "space: {lr: {uniform: [1, 2, 3]}}\n", r"expected a list of 2 numbers, got a list of 3\n  hint: the form is uniform: \[low, high\]"),
    "25-step": (SAMPLED + "space: {lr: {quniform: [0, 1, 2]}}\n", r":5:31: error\[E203\] space.lr.quniform\[2\]: expected a step > 0"),
    "25-sd": (SAMPLED + "space: {lr: {normal: [0, 0]}}\n", r"normal\[1\]: expected a standard deviation > 0"),
    "25-lognormal": (SAMPLED + "space: {lr: {lognormal: [0, 900]}}\n", r"values would not be finite"),
    "25-within": (SAMPLED + "space: {lr: {normal: [0, 1], within: [90, 91]}}\n", r"space.lr.within: expected bounds that hold a part"),
    "25-within-kind": (SAMPLED + "space: {lr: {uniform: [0, 1], within: [0, 1]}}\n", r"within: only beside normal"),
    "25-integers": (SAMPLED + "space: {n: {randint: [1, 2.5]}}\n", r"randint\[1\]: expected an integer, got 2.5"),
    "26-unknown": (SAMPLED + "space: {lr: {loguniforn: [1, 2]}}\n", r":5:14: error\[E202\] space.lr.loguniforn: unknown distribution 'loguniforn'\n  hint: Did you mean 'loguniform'\?"),
    "26-two": (SAMPLED + "space: {lr: {uniform: [1, 2], choice: [1]}}\n", r"expected exactly one distribution, got uniform, choice"),
    "26-none": (SAMPLED + "space: {lr: {}}\n", r"expected exactly one distribution, got an empty mapping"),
    "27-empty": (SAMPLED + "space: {a: []}\n", r":5:12: error\[E203\] space.a: expected a list of at least one choice, got an empty list"),
    "27-twice": (SAMPLED + "space: {a: [1, 1.0]}\n", r":5:16: error\[E203\] space.a\[1\]: expected distinct choices, got 1.0, equal to choice 0"),
    "27-true": (SAMPLED + "space: {a: {choice: [1, true]}}\n", r"expected distinct choices, got true"),
    "27-nested": (SAMPLED + "space: {a: [{x: [1, 2]}, {x: [1.0, 2]}]}\n", r"expected distinct choices"),
    "29": (GRID + "space: {lr: {uniform: [0, 1]}}\n", r":5:13: error\[E206\] space.lr: .*continuous uniform\n  hint: .*quniform.*random"),
    "29-trials": (HEAD + "sampler: {kind: grid, trials: 3}\n", r":4:31: error\[E206\] sampler.trials: a grid has as many"),
    "30-product": (GRID + "space:\n" + "".join(f"  a{k}: {{randint: [1, 1000]}}\n" for k in range(3)), r":6:3: error\[E206\] space: expected at most 100000 trials, got 1000 x 1000 x 1000 = 1000000000 configs x 1 seeds"),
    "30-trials": (HEAD + "sampler: {kind: random, trials: 10000000000}\nspace: {a: [1, 2]}\n", r":4:33: error\[E206\] sampler.trials: expected at most 100000 trials, got 10000000000 configs x 1"),
    "30-seeds": (SAMPLED + "space: {a: [1, 2]}\nseeds: 90000\n", r"4 configs x 90000 seeds = 360000 trials"),
    "30-zero": (HEAD + "sampler: {kind: random, trials: 0}\n", r":4:33: error\[E203\] sampler.trials: expected a number >= 1, got 0"),
    "30-minus": (HEAD + "sampler: {kind: random, trials: -1}\n", r"sampler.trials: expected a number >= 1, got -1"),
    "34": (HEAD + "fixed: {seed: 3}\n", r":4:9: error\[E204\] fixed.seed: the name is reserved\n  hint: reserved names: .*seed.*trial_id"),
    "35-both": (SAMPLED + "space: {a: [1, 2]}\nfixed: {a: 3}\n", r":6:9: error\[E202\] fixed.a: 'a' is in space: as well"),
    "36-goal": ("name: t\njob: a\nobjective: {metric: acc, goal: maximise}\n", r":3:32: error\[E203\] objective.goal: expected maximize \| minimize, got 'maximise'\n  hint: Did you mean 'maximize'\?"),
    "36-direction": ("name: t\njob: a\nobjective: {metric: acc, gaol: minimize}\n", r"objective.gaol: unknown key 'gaol'. Did you mean 'goal'\?"),
    "36-metric": ("name: t\njob: a\nobjective: {goal: minimize}\n", r":3:12: error\[E202\] objective: the key 'metric' is missing\n  hint: for example: metric"),
    "36-kind": (HEAD + "sampler: {kind: rando, trials: 3}\n", r"sampler.kind: expected grid \| random \| sobol, got 'rando'\n  hint: Did you mean 'random'\?"),
    "36-executor": (HEAD + "launch: {executor: slrm}\n", r"launch.executor: expected local \| slurm \| submitit, got 'slrm'\n  hint: Did you mean 'slurm'\?"),
    "54-newline": (HEAD + 'launch: {executor: slurm, partition: "gpu\\n#SBATCH --qos=x"}\n', r":4:38: error\[E203\] launch.partition: expected the name of a partition without spaces"),
    "54-quote": (HEAD + "launch: {executor: slurm, account: \"a'b\"}\n", r"launch.account: expected an account without spaces, quotes"),
    "54-hash": (HEAD + 'launch: {executor: slurm, qos: "a#b"}\n', r"launch.qos: expected a quality of service without"),
    "54-mem": (HEAD + "launch: {executor: slurm, mem: 16 GB}\n", r"launch.mem: expected an amount of memory such as 16G, got '16 GB'"),
    "54-setup": (HEAD + 'launch: {executor: slurm, setup: ["a\\nb"]}\n', r"launch.setup\[0\]: expected one line of shell"),
    "trials_per_job": (HEAD + "launch: {executor: slurm, trials_per_job: push}\n", r"launch.trials_per_job: expected pull or a number of trials >= 1, got 'push'"),
    "trials_per_job-0": (HEAD + "launch: {executor: slurm, trials_per_job: 0}\n", r"launch.trials_per_job: expected pull or a number"),
    "retry": (HEAD + "launch: {executor: slurm, retry: {ohm: 1}}\n", r"launch.retry: expected reasons of cuda_oom, diverged"),
    "nodes": (HEAD + "launch: {nodes: 2}\n", r"expected one node with the local executor, got nodes 2"),
    "nodes-packed": (HEAD + "launch: {executor: slurm, nodes: 2, trials_per_gpu: 3}\n", r"expected trials_per_gpu 1 with several nodes, got 3.*\n  hint: small trials"),
    "processes-reused": (HEAD + "launch: {gpus: 2, reuse_process: true}\n", r"expected reuse_process false for trials of several processes"),
    "processes": (HEAD + "launch: {processes_per_node: 0}\n", r"launch.processes_per_node: expected a number >= 1, got 0"),
    "51-signal": (HEAD + "launch: {executor: slurm, time: 2d, margin: 20h}\n", r"launch.margin: out of range: expected a number <= 65535"),
    "40-home": (COMMAND + "cwd: ~/src\n", r":4:6: error\[E203\] cwd: expected a folder below the project root"),
    "40-variable": (COMMAND + "cwd: $HOME/src\n", r"cwd: expected a folder .*\n  hint: .*not expanded"),
    "40-parent": (COMMAND + "cwd: ../src\n", r"cwd: expected a folder"),
    "40-job-path": ("name: t\njob: ../digits.py\nobjective: {metric: a, goal: maximize}\n", r":2:6: error\[E203\] job: expected a path below"),
    "40-job": ("name: t\njob: python train.py --x\nobjective: {metric: a, goal: maximize}\n", r"job: expected a job such as"),
    "49": (HEAD + "launch: {grace: 15:00}\n", r":4:17: error\[E203\] launch.grace: ambiguous duration: MM:SS or HH:MM\?, got '15:00'\n  hint: write 15m, 0:15:00 or 15h"),
    "51": (HEAD + "launch: {time: 1m, margin: 60s}\n", r"margin shorter than the time, got margin 60 s and time 60 s"),
    "49-quoted": (HEAD + 'launch: {grace: "15:00"}\n', r"ambiguous duration"),
    "49-number": (HEAD + "launch: {grace: 30}\n", r"expected a duration such as 90s.*got 30\n  hint: a number needs a unit: 30s"),
    "metrics-groups": (COMMAND + "metrics: {a: 'loss .*'}\n", r":4:14: error\[E203\] metrics.a: .*exactly one group, this one has 0"),
    "metrics-regex": (COMMAND + "metrics: {a: '('}\n", r"metrics.a: expected a regular expression"),
    "metrics-job": (HEAD + "metrics: {a: '(x)'}\n", r"metrics: is for command: only"),
    "command-quote": ("name: t\ncommand: python 'x\nobjective: {metric: a, goal: maximize}\n", r"split by shell rules \(No closing quotation\)"),
    "command-empty": ("name: t\ncommand: []\nobjective: {metric: a, goal: maximize}\n", r"expected a program"),
    "env-slurm": (HEAD + "launch: {env: {SLURM_JOB_ID: 3}}\n", r":4:16: error\[E203\] launch.env.SLURM_JOB_ID: SLURM_\*"),
    "env-bool": (HEAD + "launch: {env: {A: true}}\n", r"launch.env.A: expected text or a number, got true"),
    "env-secret": (HEAD + "launch: {env: {HF_TOKEN: abc}}\n", r"secret"),
    "seeds-twice": (HEAD + "seeds: [1, 2, 1]\n", r":4:8: error\[E203\] seeds: expected distinct seeds, 1 is there 2 times"),
    "seeds-negative": (HEAD + "seeds: [0, -1]\n", r":4:12: error\[E203\] seeds\[1\]: expected a number >= 0"),
    "seeds-many": (HEAD + f"seeds: {2**40}\n", r"expected a number of seeds from 1"),
    "seeds-none": (HEAD + "seeds: []\n", r"at least one seed"),
    "where-name": (SAMPLED + "space: {hidden: [1, 2]}\nwhere: [hiden < 2]\n", r":6:9: error\[E205\] where\[0\]: 'hiden' is no parameter, at character 1 .*\n  hint: Did you mean 'hidden'\?"),
    "when-unknown": (SAMPLED + "space: {m: {uniform: [0, 1], when: {optimiser: sgd}}, optimizer: [sgd, adam]}\n", r"error\[E202\] space.m.when.optimiser: unknown parameter 'optimiser'\n  hint: Did you mean 'optimizer'\?"),
    "when-value": (SAMPLED + "space: {m: {uniform: [0, 1], when: {opt: sdg}}, opt: [sgd, adam]}\n", r"space.m.when.opt: expected a value that 'opt' can take, got 'sdg'\n  hint: Did you mean 'sgd'\?"),
    "when-circle": (SAMPLED + "space:\n  a: {choice: [1, 2], when: {b: 1}}\n  b: {choice: [1, 2], when: {a: 1}}\n", r"error\[E203\] space.a.when: the conditions go in a circle: a, b"),
    "when-itself": (SAMPLED + "space: {a: {choice: [1, 2], when: {a: 1}}}\n", r"circle: a"),
    "when-continuous": (SAMPLED + "space: {a: {choice: [1, 2], when: {b: 1}}, b: {uniform: [0, 1]}}\n", r"'b' is continuous"),
    "when-type": (SAMPLED + "space: {a: {choice: [1, 2], when: sgd}}\n", r"expected a mapping of parameters"),
}  # fmt: skip

NAME_ROWS = {
    "dot": ("'a.b'", r"names with '\.' or '-' are for command: jobs only"),
    "space": ("'a b'", r"U\+0020 ' ' at position 2"),
    "newline": ('"a\\nb"', r"space.a\\u000ab: .*U\+000A at position 2"),
    "equals": ("a=b", r"U\+003D '='"),
    "slash": ("a/b", r"U\+002F '/'"),
    "dash": ("-a", r"the first character '-'"),
    "digit": ("1a", r"the first character '1'"),
    "long": ("a" * 65, r"65 characters"),
    "empty": ("''", r"an empty name"),
    "nfd": ('"e\\u0301"', r"U\+0301 at position 2"),
    "umlaut": ("größe", r"U\+00F6"),
    "bidi": ('"a\\u202eb"', r"space.a\\u202eb: .*U\+202E"),
    "dunder": ("__class__", r"a word of Python"),
    "lambda": ("lambda", r"a word of Python.*\n  hint: call it lambda_"),
    "token": ("hf_token", r"secret"),
    "key": ("API_KEY", r"secret"),
    "password": ("db_password", r"secret"),
}


def assert_refused(path: Path, expected: str) -> str:
    before = sorted(os.listdir(path.parent))
    start = time.process_time()
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    seconds = time.process_time() - start
    message = str(caught.value)
    assert re.search(expected, message, re.MULTILINE), message
    assert caught.value.exit_code == 2
    assert all(c.isprintable() or c == "\n" for c in message)
    assert sorted(os.listdir(path.parent)) == before
    assert seconds < 2, f"{seconds:.1f} s"
    return message


@pytest.mark.parametrize("row", FILE_ROWS)
def test_a_file_that_cannot_be_read_is_refused_with_its_place(write, row):
    content, expected = FILE_ROWS[row]
    assert_refused(write(content), expected)


@pytest.mark.parametrize("row", SCHEMA_ROWS)
def test_a_wrong_key_or_value_is_refused_with_its_place(write, row):
    content, expected = SCHEMA_ROWS[row]
    message = assert_refused(write(content), expected)
    assert re.match(r"\S+sweep.yaml:\d+:\d+: error\[E\d{3}\] ", message)


@pytest.mark.parametrize("row", SCHEMA_ROWS)
def test_each_row_has_one_problem_only(write, row):
    content, _ = SCHEMA_ROWS[row]
    with pytest.raises(SpecError) as caught:
        load_spec(write(content))
    n_expected = {"36-direction": 2, "unclear-yes": 2, "seeds-twice": 1}.get(row, 1)
    assert len(caught.value.problems) == n_expected, str(caught.value)


@pytest.mark.parametrize("row", NAME_ROWS)
def test_a_bad_parameter_name_is_refused(write, row):
    name, expected = NAME_ROWS[row]
    message = assert_refused(write(f"{SAMPLED}space:\n  {name}: [1, 2]\n"), expected)
    assert re.search(r"sweep.yaml:6:3: error\[E204\] ", message)


def test_names_with_dots_and_dashes_are_for_commands(write):
    spec = load_spec(write(COMMAND + "fixed: {model.lr: 1, weight-decay: 2, n_tokens: 3, tokenizer: bpe}\n"))
    assert list(spec.fixed) == ["model.lr", "weight-decay", "n_tokens", "tokenizer"]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "No such file or directory"),
        (lambda path: path.mkdir(), "Is a directory"),
        (os.mkfifo, "not a regular file"),
    ],
)
def test_row_1_a_file_that_is_no_file(tmp_path, make, reason):
    path = tmp_path / "sweep.yaml"
    make(path)
    assert_refused(path, rf"sweep.yaml: error\[E200\] cannot read the spec: {reason}")


def test_row_1_no_permission(write):
    path = write(HEAD)
    path.chmod(0)
    path.parent.chmod(0o700)
    is_root = os.geteuid() == 0  # who may read everything
    if is_root:
        os.seteuid(65534)
    try:
        with pytest.raises(SpecError, match=r"sweep.yaml: error\[E200\] cannot read the spec: Permission denied"):
            load_spec(path)
    finally:
        if is_root:
            os.seteuid(0)


def test_row_1_a_path_with_a_nul():
    with pytest.raises(SpecError, match=r"E200.*cannot read the spec"):
        load_spec(Path("a\0b.yaml"))


@pytest.mark.parametrize("text", [HEAD.replace("\n", "\r\n"), "\ufeff" + HEAD, "---\n" + HEAD + "...\n"])
def test_rows_4_and_12_byte_order_mark_and_line_ends_are_accepted(write, text):
    assert load_spec(write(text)).name == "t"


def test_row_12_lines_are_counted_with_any_line_end(write):
    assert_refused(write((HEAD + "zzz: 1\n").replace("\n", "\r\n")), r":4:1: error\[E202\]")


def test_row_8_nothing_is_executed(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for tag in ("object/apply:os.system ['touch canary']", "object/new:os.system ['touch canary']", "name:os.system"):
        assert_refused(write(f"name: !!python/{tag}\n"), "tag not allowed")
    assert not Path("canary").exists()


JSON = {"name": "t", "job": "jobs.digits", "objective": {"metric": "acc", "goal": "maximize"}, "fixed": {"a": 1e-4}}


def test_row_13_json_is_accepted(write):
    spec = load_spec(write(json.dumps(JSON), "sweep.json"))
    assert spec.fixed == {"a": 1e-4}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"name": "t",\n "name": "u"}', r"sweep.json:2:2: error\[E202\] name: the key is there twice, in line 1 and in line 2"),
        ('{"fixed": {"a": NaN}}', r"sweep.json:1:17: error\[E201\] NaN is no JSON: a finite number"),
        ('{"fixed": {"a": -Infinity}}', r"finite number"),
        ('{"fixed": {"a": 1e999}}', r":1:17: error\[E203\] fixed.a: the number is out of range"),
        ('{"name": }', r"sweep.json:1:10: error\[E201\] invalid JSON: .*\n    \{\"name\": \}\n             \^"),
        ("[" * 100_000, r"error\[E201\] nested too many levels deep"),
        ("[" * 100 + "]" * 100, r"error\[E201\] nested more than 32 levels deep"),
        ('{"a": "\\ud800"}', r"half a character"),
        ("", r"invalid JSON"),
        ('{\n\t"nmae": "t"}', r"sweep.json:2:2: error\[E202\] nmae: unknown key"),
    ],
)  # fmt: skip
def test_row_13_json_is_checked_alike(write, text, expected):
    assert_refused(write(text, "sweep.json"), expected)


def test_row_17_and_what_is_accepted(write):
    text = (
        SAMPLED + "space:\n  lr: {choice: [1e-4, 1.0e4, 12e03, -1e-3]}\n  opt: ['yes', '017', [1, {a: null}], null]\n"
    )
    space = load_spec(write(text)).to_json()["space"]
    assert space["lr"]["choice"] == [1e-4, 1e4, 12000.0, -1e-3]
    assert space["opt"]["choice"] == ["yes", "017", [1, {"a": None}], None]


def test_row_23_unclear_text_is_text_where_text_is_expected(write):
    text = HEAD.replace("name: t", "name: 2024-01-01") + "question: off\n"
    spec = load_spec(write(text))
    assert (spec.name, spec.question) == ("2024-01-01", "off")
    assert type(spec.name) is str


def test_row_27_one_choice_is_a_warning(write):
    spec = load_spec(write(SAMPLED + "space: {a: [3]}\n"))
    assert re.search(r"sweep.yaml:5:12: warning: space.a: there is only one choice", spec.warnings[0])


def test_row_30_more_trials_are_allowed_on_request(write):
    path = write(HEAD + "sampler: {kind: random, trials: 100001}\nspace: {a: [1, 2]}\n")
    assert load_spec(path, allow_large=True).sampler.trials == 100_001


def test_all_problems_are_reported_at_once_and_twenty_printed(write):
    text = HEAD + "zzz: 1\nlaunch: {cpus: x}\nspace:\n" + "".join(f"  a{k}: []\n" for k in range(30))
    with pytest.raises(SpecError) as caught:
        load_spec(write(text))
    assert len(caught.value.problems) == 32
    assert str(caught.value).endswith("... and 12 more")
