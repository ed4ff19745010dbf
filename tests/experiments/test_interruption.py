"""Ctrl-C and SIGTERM: a sweep stops within seconds, says so, and leaves no process behind."""

import os
import signal
import time

import psutil
import pytest
from toy import start

from bioplaus import results
from bioplaus.experiments import manifest, status


def _wait_for(path, seconds=110):
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not appear"
        time.sleep(0.05)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_within_seconds_in_one_sentence_and_leaves_no_process_behind(
    project, rewrite, stop
):
    rewrite("plain: {label: Plain}", "plain: {label: Plain, parameters: {mishap: sleep}}")
    run = manifest.runs("smoke")[0]
    process = start(project)
    _wait_for(run.folder / "asleep")
    assert status.rows([run])[0]["status"] == "running"
    family = psutil.Process(process.pid).children(recursive=True)
    started = time.monotonic()
    os.killpg(process.pid, stop) if stop == signal.SIGINT else process.send_signal(stop)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 130 and "Interrupted" in err and "Traceback" not in err
    assert time.monotonic() - started < 60  # 3 s on an idle machine
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
    assert status.rows([run])[0]["status"] == "interrupted" and not results.is_complete(run.folder)
