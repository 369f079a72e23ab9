"""The folder of a run: one command at a time."""

from __future__ import annotations

import errno
import fcntl

import pytest

from medmm.errors import ConfigError
from medmm.running import held


def test_a_second_command_is_kept_out_until_the_first_ends(tmp_path):
    with held(tmp_path), pytest.raises(ConfigError, match="another command is at work in"), held(tmp_path):
        pass
    with held(tmp_path):
        assert (tmp_path / "lock").exists()


def refused_with(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*asked: object) -> None:
        raise OSError(code, "as the file system says")

    monkeypatch.setattr(fcntl, "flock", flock)


def test_a_file_system_without_locks_is_gone_on_with(tmp_path, monkeypatch):
    refused_with(errno.ENOLCK, monkeypatch)
    with held(tmp_path):
        assert (tmp_path / "lock").exists()


def test_another_error_of_the_file_system_is_not_swallowed(tmp_path, monkeypatch):
    refused_with(errno.EIO, monkeypatch)
    with pytest.raises(OSError, match="as the file system says") as raised, held(tmp_path):
        pass
    assert raised.value.errno == errno.EIO
