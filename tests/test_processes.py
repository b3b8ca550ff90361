"""A launch whose processes would not meet is refused."""

import pytest

from stts.processes import RANKED, refuse_lone_process


@pytest.fixture(autouse=True)
def asked_for_several(monkeypatch):
    for name in RANKED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")


def test_accelerates_one_process_of_several_is_refused_and_told_what_to_use(capsys):
    with pytest.raises(SystemExit) as ended:
        refuse_lone_process()
    assert ended.value.code == 2
    assert "torchrun --nproc-per-node" in capsys.readouterr().err


@pytest.mark.parametrize("rank", RANKED)
def test_processes_that_know_their_rank_go_on(monkeypatch, rank):
    monkeypatch.setenv(rank, "0")
    refuse_lone_process()


@pytest.mark.parametrize("name", ["ACCELERATE_USE_CPU", "MASTER_ADDR"])
def test_a_single_process_goes_on(monkeypatch, name):
    monkeypatch.delenv(name)
    refuse_lone_process()
