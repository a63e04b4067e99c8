"""Folders and locks in /tmp: only what this user alone may write is believed; also users without a
home folder."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_gpubench.host.files import expanded, make_private_folder, not_private
from pytest_gpubench.host.hub import local
from pytest_gpubench.host.hub.repository_locks import lock_path, repository_lock
from pytest_gpubench.host.leases.broker import Broker
from pytest_gpubench.host.leases.choice import Wanted
from pytest_gpubench.host.leases.lease_file import lease_folder
from pytest_gpubench.model.failures import BenchmarkError


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def lock(cache: Path) -> None:
    with repository_lock(cache, "org/model", timeout=5):
        pass


def writable_by_others(top: Path) -> list[Path]:
    return [path for path in top.rglob("*") if path.lstat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)]


@pytest.mark.usefixtures("no_umask")
def test_nothing_is_writable_by_others_whatever_the_umask(temporary: Path) -> None:
    lock(temporary / "cache")
    with repository_lock(temporary / "shared", "org/model", kind="shared", timeout=5):
        pass
    folder = lease_folder({"GPUBENCH_LEASE_DIR": str(temporary / "a" / "leases")})
    lease = Broker(folder).acquire(Wanted("server", "run"), timeout=5)
    assert writable_by_others(temporary) == []
    lease.release()


def test_the_lock_of_a_folder_that_others_may_write_is_refused(temporary: Path) -> None:
    folder = lock_path(temporary / "cache", "org/model", "local").parent
    make_private_folder(folder)
    for level in (folder, folder.parent):
        for mode in (0o777, 0o770, 0o702):
            level.chmod(mode)
            words = f"{level} can be written by other users .mode 0{mode:o}.*chmod go-w {level}"
            with pytest.raises(BenchmarkError, match=words) as found:
                lock(temporary / "cache")
            assert "TMPDIR" in found.value.failure.remedy
        level.chmod(0o700)
    lock(temporary / "cache")


def test_the_lock_of_another_user_is_refused(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_private_folder(temporary / "gpubench-12345" / "hub")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(
        BenchmarkError, match=r"is not a folder of this user \(uid 12345\): it belongs to"
    ) as found:
        lock(temporary / "cache")
    assert (found.value.failure.cause, found.value.failure.failure_class) == (
        "lock-unusable",
        "infrastructure",
    )


def test_a_link_in_the_place_of_a_lock_or_its_folder_is_refused(temporary: Path) -> None:
    path = lock_path(temporary / "cache", "org/model", "local")
    (temporary / "target").write_text("precious")
    make_private_folder(path.parent)
    path.symlink_to(temporary / "target")
    with pytest.raises(BenchmarkError, match="cannot be taken"):
        lock(temporary / "cache")
    assert (temporary / "target").read_text() == "precious"
    path.unlink()
    path.parent.rmdir()
    (temporary / "elsewhere").mkdir(mode=0o700)
    path.parent.symlink_to(temporary / "elsewhere")
    with pytest.raises(BenchmarkError, match="is not a folder of this user"):
        lock(temporary / "cache")


@pytest.mark.parametrize("mode", [0o777, 0o703])
def test_a_named_lease_folder_must_not_be_everybodys(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "leases"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(BenchmarkError, match="can be written by other users"):
        lease_folder({"GPUBENCH_LEASE_DIR": str(folder)})
    folder.chmod(0o770)
    assert lease_folder({"GPUBENCH_LEASE_DIR": str(folder)}) == folder, (
        "a group of the user's own is the user's business"
    )


def test_what_is_private(tmp_path: Path) -> None:
    make_private_folder(tmp_path / "a" / "b")
    make_private_folder(tmp_path / "a" / "b")
    assert not_private(tmp_path / "a") == not_private(tmp_path / "a" / "b") == ""
    (tmp_path / "file").touch()
    assert "is not a folder" in not_private(tmp_path / "file")


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def nowhere(_path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nowhere)
    local._cache_without_home.cache_clear()
    yield
    local._cache_without_home.cache_clear()


@pytest.mark.usefixtures("homeless")
def test_a_user_without_a_home_has_a_cache_of_its_own(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = temporary / f"gpubench-{os.getuid()}"
    assert local.default_cache_dir({}) == own / "cache" / "huggingface" / "hub"
    assert not_private(own) == ""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert local.server_cache_dir(None) == own / "cache" / "huggingface" / "hub", (
        "the server would look elsewhere"
    )
    assert local.server_cache_dir(temporary) == temporary


@pytest.mark.usefixtures("homeless")
def test_paths_below_a_home_that_is_not_known_are_taken_as_written(temporary: Path) -> None:
    assert expanded("~/models") == Path("~/models")
    assert local.default_cache_dir({"HF_HOME": "~/hf"}) == Path("~/hf/hub")
    found = local.find_snapshot("~/models/m", None, temporary)
    assert isinstance(found, local.Incomplete)
    assert "there is no folder" in found.reason


@pytest.mark.usefixtures("homeless")
def test_a_folder_that_others_prepared_is_no_cache(temporary: Path) -> None:
    planted = temporary / f"gpubench-{os.getuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    assert not local.default_cache_dir({}).is_relative_to(planted)
