"""The harness that starts pods: what it fills in, what it hears, and that it leaves nothing behind."""

import os
import signal

import pytest

from tests.pod.processes import Processes

WORDS = """
import os, sys
print(sys.argv[1:], os.environ["JAX_NUM_CPU_DEVICES"], os.environ.get("OWN"), "SLURM_PROCID" in os.environ)
"""
BREAKS = "import sys; print('ready') if sys.argv[1] == '0' else sys.exit('broken')"
WAITS = "import os, sys, time; print('ready', os.getpid()); print('told', file=sys.stderr); time.sleep(60)"


def test_every_process_gets_its_words_and_variables(monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "7")
    command = ["-c", WORDS, "{index}", "{size}", "{address}"]
    with Processes(2, command, devices=3, environment=lambda index: {"OWN": f"o{index}"}) as pod:
        ends = pod.end(20)
    assert [(ended.code, ended.err) for ended in ends] == [(0, "")] * 2
    assert [ended.out for ended in ends] == [
        f"['{index}', '2', '{pod.address}'] 3 o{index} False\n" for index in range(2)
    ]


def test_one_is_struck_and_the_others_are_not_left_behind():
    with Processes(2, ["-c", WAITS]) as pod:
        pod.wait_for("ready")
        pod.send(signal.SIGTERM, 1)
        with pytest.raises(AssertionError, match=r"not ended: \[0\].*told"):
            pod.end(0.5)
        pod.send(signal.SIGTERM, 0)
        ends = pod.end(20)
        assert [ended.code for ended in ends] == [-signal.SIGTERM] * 2
        assert ends[1].seconds < 0 <= ends[0].seconds < 5
    with Processes(1, ["-c", WAITS]) as pod:
        pod.wait_for("ready")
        left = int(pod.out(0).split()[1])
    with pytest.raises(ProcessLookupError):
        os.kill(left, 0)


def test_who_ends_before_it_is_ready_is_named():
    with (
        Processes(2, ["-c", BREAKS, "{index}"]) as pod,
        pytest.raises(AssertionError, match="process 1 ended with 1 before 'ready': broken"),
    ):
        pod.wait_for("ready")
