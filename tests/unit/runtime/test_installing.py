"""Where a library is missing, the command that installs it here is named."""

from pathlib import Path

import pytest

from virtstatd.runtime import installing as module
from virtstatd.runtime.installing import installing


def test_a_packaged_agent_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without pip beside the agent, as in the Debian package, the libraries are a package too."""
    assert installing("virtstatd[kafka]").endswith("/bin/pip install 'virtstatd[kafka]'")
    monkeypatch.setattr(module, "PIP", tmp_path / "pip")
    assert installing("virtstatd[kafka]") == "apt install ./virtstatd-sinks_*.deb"
    assert "apt" not in installing("somebody-elses")
