"""Every planted fault is found as it has to be (``python -m tests.conservation.faults``)."""

from __future__ import annotations

import pytest

from tests.conservation.faults import CATALOGUE, main
from tests.conservation.planted import FAULTS, TOLERANCE, Fault, audited, holds, outcome
from tests.conservation.planted.formulas import right_synflow
from tests.conservation.planted.networks import vectors


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name[:60])
@pytest.mark.filterwarnings("ignore")  # torch's on hooks of the old kind
def test_a_fault_is_found(fault: Fault) -> None:
    seen = outcome(fault)
    assert holds(fault, seen), (fault.verdict, fault.place, seen)


def test_the_networks_without_a_fault_pass() -> None:
    for case in (vectors(lambda x: x.relu()), right_synflow()):
        assert float(audited(case).ledger["residual"].max()) < TOLERANCE


def test_the_catalogue_is_large_and_no_fault_is_there_twice() -> None:
    assert len(CATALOGUE) == 5
    names = [fault.name for fault in FAULTS]
    assert len(names) == len(set(names)) >= 60


def test_the_command_counts(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr("tests.conservation.faults.FAULTS", FAULTS[:2])
    assert main() == 0
    assert "2 of 2 faults found as they have to be" in capsys.readouterr().out
    wrong = Fault("none at all", lambda: vectors(lambda x: x.relu()), "caught", "nowhere")
    monkeypatch.setattr("tests.conservation.faults.FAULTS", [wrong])
    assert main() == 1
    assert "MISSED, unseen" in capsys.readouterr().out
