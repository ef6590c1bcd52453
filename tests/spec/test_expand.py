from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dlcluster.errors import SpecError
from dlcluster.spec.expand import expand
from dlcluster.trial import Trial, content_id

BODY = """
sampler: {kind: %s, trials: %d, seed: 3}
seeds: 2
space:
  lr: {loguniform: [1e-5, 1.0]}
  hidden: {choice: [32, 64, 128]}
  momentum: {uniform: [0.8, 0.99], when: {optimizer: sgd}}
  optimizer: {choice: [sgd, adam]}
fixed: {epochs: 15}
where: [hidden * epochs <= 1024]
"""


@pytest.mark.parametrize("kind", ["random", "sobol"])
def test_more_trials_extend_the_sweep_and_leave_its_identity(load, kind):
    few, many = load(BODY % (kind, 10)), load(BODY % (kind, 50))
    assert few.fingerprint == many.fingerprint
    assert expand(few).trials == expand(many).trials[:20]
    assert len(expand(many).trials) == 100


def test_every_config_has_all_seeds(load):
    expansion = expand(load(BODY % ("random", 5)))
    assert [(t.index, t.seed) for t in expansion.trials] == [(i, s) for i in range(5) for s in (0, 1)]
    for trial in expansion.trials:
        assert trial == Trial.of("jobs.digits", trial.params, trial.seed, trial.index)
        assert trial.params["epochs"] == 15
        assert trial.params["hidden"] <= 64
        assert ("momentum" in trial.params) == (trial.params["optimizer"] == "sgd")
    assert (
        expansion.trials[0].config
        == expansion.trials[1].config
        == content_id("jobs.digits", expansion.trials[0].params)
    )


def test_the_summary_counts_what_was_refused(load):
    expansion = expand(load(BODY % ("random", 200)))
    assert expansion.n_drawn == 200 + expansion.n_rejected
    assert 0.55 < expansion.acceptance < 0.78
    assert re.fullmatch(
        r"400 trials: 200 configs x 2 seeds; where: refused \d+ of \d+ draws \(\d\d\.\d% accepted\)",
        expansion.summary(),
    )


def test_repeated_configs_are_dropped_and_keep_their_index(load):
    expansion = expand(load("sampler: {kind: random, trials: 50}\nspace: {a: [1, 2], b: [x, y]}\n"))
    assert len({trial.id for trial in expansion.trials}) == len(expansion.trials) == 4
    assert expansion.n_duplicates == 46
    assert expansion.summary() == "4 trials: 4 configs x 1 seed; 46 repeated configs dropped"
    few = expand(load("sampler: {kind: random, trials: 10}\nspace: {a: [1, 2], b: [x, y]}\n"))
    assert few.trials == [trial for trial in expansion.trials if trial.index < 10]


def test_a_grid_has_every_config_once(load):
    expansion = expand(
        load("sampler: {kind: grid}\nspace: {b: [x, y], a: {randint: [1, 3]}, c: {quniform: [0, 1, 0.5]}}\n")
    )
    values = [(t.params["a"], t.params["b"], t.params["c"]) for t in expansion.trials]
    assert values == [(a, b, c) for a in (1, 2, 3) for b in "xy" for c in (0.0, 0.5, 1.0)]
    assert expansion.n_duplicates == 0


def test_a_grid_with_conditions_repeats_nothing(load):
    body = "sampler: {kind: grid}\nspace: {a: {choice: [1, 2, 3], when: {z: on_}}, z: [on_, off_]}\n"
    expansion = expand(load(body))
    assert [t.params for t in expansion.trials] == [
        {"a": 1, "z": "on_"}, {"a": 2, "z": "on_"}, {"a": 3, "z": "on_"}, {"z": "off_"},
    ]  # fmt: skip
    assert expansion.n_duplicates == 0


def test_conditions_can_make_a_large_product_a_small_grid(load):
    names = ["ka", "kb", "kc", "kd"]
    body = f"sampler: {{kind: grid}}\nspace:\n  o: [{', '.join(names)}]\n"
    body += "".join(f"  {name}: {{randint: [1, 50], when: {{o: {name}}}}}\n" for name in names)
    assert len(expand(load(body)).trials) == 200


def test_a_sweep_without_a_space_has_one_config(load):
    expansion = expand(load("fixed: {lr: 0.1}\nseeds: [3, 7]\n"))
    assert [(t.index, t.seed, t.params) for t in expansion.trials] == [(0, 3, {"lr": 0.1}), (0, 7, {"lr": 0.1})]


def test_a_large_grid_of_constants_is_no_deep_recursion(load):
    body = "sampler: {kind: grid}\nspace:\n" + "".join(f"  a{k}: {k}\n" for k in range(299))
    assert len(expand(load(body)).trials) == 1


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            "sampler: {kind: grid}\nspace: {a: [1, 2]}\nwhere: [a > 2]\n",
            r":6:8: error\[E206\] where: none of the 2 configs",
        ),
        (
            "sampler: {kind: random, trials: 3}\nspace: {a: {uniform: [0, 1]}}\nwhere: [a < 1e-9]\n",
            r":6:8: error\[E206\] where: .* of 2\d{4} draws none were accepted\n  hint: make the space smaller",
        ),
        (
            "sampler: {kind: random, trials: 300}\nspace: {a: {uniform: [0, 1]}}\nwhere: [a < 4e-4]\n",
            r"of \d+ draws \d+, 1 in \d+, were accepted",
        ),
        (
            "sampler: {kind: random, trials: 3}\nspace: {a: [s, 3]}\nwhere: ['true', a * 2 > 3]\n",
            r":6:17: error\[E205\] where\[1\]: '\*' expects numbers, got 's', for the config a='s'",
        ),
    ],
)
def test_constraints_that_leave_nothing_are_an_error(load, body, expected):
    with pytest.raises(SpecError) as caught:
        expand(load(body))
    assert re.search(expected, str(caught.value)), str(caught.value)


def test_a_constraint_on_an_absent_parameter_holds(load):
    body = BODY % ("random", 30) + "  \n"
    body = body.replace("where: [", "where: [momentum > 0.9, ")
    params = [trial.params for trial in expand(load(body)).trials]
    assert all(p["momentum"] > 0.9 for p in params if "momentum" in p)
    assert any("momentum" not in p for p in params)


def test_another_process_draws_the_same_trials(load, write):
    spec = load(BODY % ("random", 20))
    program = (
        "import json, sys; from pathlib import Path; from dlcluster.spec.schema import load_spec;"
        "from dlcluster.spec.expand import expand;"
        "print(json.dumps([t.to_json() for t in expand(load_spec(Path(sys.argv[1]))).trials]))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program, spec.path], capture_output=True, text=True, cwd=root, check=True
    )
    assert json.loads(done.stdout) == [trial.to_json() for trial in expand(spec).trials]
    # written down once: a change here means that every sweep that exists would start anew
    assert [trial.id for trial in expand(spec).trials[:4]] == FIRST_IDS


FIRST_IDS = ["5949bb87673a", "fae2f53d23b7", "ba36a685c9f4", "34317674024d"]


def test_planning_is_fast_enough_to_be_felt_as_immediate(load):
    import time

    spec = load(
        "sampler: {kind: random, trials: 4000}\nspace:\n"
        + "".join(f"  p{k}: {{loguniform: [1e-5, 1]}}\n" for k in range(6))
    )
    start = time.process_time()
    assert len(expand(spec).trials) == 4000
    assert time.process_time() - start < 0.8  # a quarter of what benchmarks/planning.py claims
