import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from derm_ray import storage
from derm_ray.errors import ConfigError, OutputExistsError, StorageError
from derm_ray.lease import LeaseLostError, hold, is_taken, records

QUICK = {"renew_s": 0.05, "expires_s": 0.5}


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "out" / "leases")
    return f"{request.getfixturevalue('s3')}/{tmp_path.name}/leases"


def test_one_holder_at_a_time(folder: str) -> None:
    with hold(folder, **QUICK) as lease:
        lease.note(pairs=7)
        with (
            pytest.raises(OutputExistsError, match=r"being written by another run \(host .*, process \d+"),
            hold(folder),
        ):
            pass
        lease.check()
    with hold(folder, **QUICK):
        pass
    first, second = records(folder)
    assert (first["pairs"], first["state"], second["state"]) == (7, "released", "released")


def test_of_many_that_come_at_once_one_holds_it(folder: str) -> None:
    together, held = threading.Barrier(6), []

    def come() -> None:
        together.wait()
        try:
            with hold(folder, **QUICK) as lease:
                held.append(lease.record["holder"])
                time.sleep(2)
        except OutputExistsError:
            pass

    threads = [threading.Thread(target=come) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1


def test_a_silent_holder_elsewhere_is_replaced_and_notices(folder: str) -> None:
    with hold(folder, renew_s=60, expires_s=0.5) as slow:
        slow.record["machine"] = "elsewhere"
        slow._write()
        with hold(folder, **QUICK), pytest.raises(LeaseLostError, match="the same command resumes"):
            slow.check()


def test_a_holder_that_still_renews_sees_that_it_was_replaced(folder: str) -> None:
    with hold(folder, renew_s=0.05, expires_s=60) as late:
        late.check()
        assert not is_taken(late.uri)
        assert storage.create(f"{folder}/000002.json", json.dumps(late.record).encode())
        assert is_taken(late.uri)
        deadline = time.monotonic() + 10
        while not late._taken:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(LeaseLostError, match="may be another's now"):
            late.check()
    assert records(folder)[0]["state"] == "held", "a replaced holder writes no more"


def test_who_is_refused_leaves_no_record(folder: str) -> None:
    with pytest.raises(ConfigError), hold(folder):
        raise ConfigError("wrong")
    assert records(folder) == []


def test_a_disk_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refused)
    uri = str(tmp_path / "a.json")
    assert [storage.create(uri, b"1"), storage.create(uri, b"2")] == [True, False]
    assert storage.read_bytes(uri) == b"1"


def test_a_holder_that_was_killed_here_is_replaced_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "leases"
    program = f"import os\nfrom derm_ray.lease import hold\nwith hold({str(folder)!r}): os._exit(9)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 9
    assert json.loads((folder / "000001.json").read_text())["state"] == "held"
    started = time.monotonic()
    with hold(str(folder)):
        assert time.monotonic() - started < 2


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"state": "held"}'])
def test_a_broken_record_is_one_message(tmp_path: Path, content: str) -> None:
    (tmp_path / "000001.json").write_text(content)
    with (
        pytest.raises(StorageError, match=r"000001\.json is not a lease record\. Remove it"),
        hold(str(tmp_path)),
    ):
        pass
    assert (tmp_path / "000001.json").read_text() == content


@pytest.mark.timeout(60)
def test_a_file_in_the_folder_s_place_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "leases").write_text("mine")
    with pytest.raises(StorageError, match="leases"), hold(str(tmp_path / "leases")):
        pass
    assert (tmp_path / "leases").read_text() == "mine"


def test_a_gap_that_nobody_used_is_closed(folder: str) -> None:
    with hold(folder, renew_s=60, expires_s=0.1) as held:
        time.sleep(0.2)
        held.check()
        assert records(folder)[0]["renewals"] == 1


def test_who_worked_leaves_a_record_whatever_ended_it(folder: str) -> None:
    def work() -> None:
        with hold(folder) as held:
            held.note(pairs=7)
            raise ConfigError("too late")

    with pytest.raises(ConfigError):
        work()
    assert [(one["pairs"], one["state"]) for one in records(folder)] == [(7, "released")]
