"""For tests of what Jupyter's clients do: a kernelspec of ours, and a provisioner they find."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from saggar.cli.main import main

GROUP = "jupyter_client.kernel_provisioners"
ENTRY = f"[{GROUP}]\nsaggar = saggar.compat.jupyter:Provisioner\n"


@contextmanager
def installed(folder: Path, *words: str) -> Iterator[None]:
    """Jupyter's clients in this process, and those it starts, know the kernel of these options."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder / "share" / "jupyter"))
        if not entry_points(group=GROUP, name="saggar"):  # installed before it had the entry point
            known = folder / "known" / "saggar_provisioner-0.dist-info"
            known.mkdir(parents=True)
            (known / "METADATA").write_text("Metadata-Version: 2.1\nName: saggar-provisioner\n")
            (known / "entry_points.txt").write_text(ENTRY)
            patch.syspath_prepend(str(known.parent))
            patch.setenv("PYTHONPATH", str(known.parent))
        assert 0 == main(["kernelspec", "install", "--prefix", str(folder), *words])
        yield
