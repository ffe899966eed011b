"""
The first lines an interpreter of ours runs: import the guest's modules from a descriptor.

The bundle is a memory file, so what runs inside needs no directory of ours mounted there, and an
interpreter of another version than the host's compiles the sources itself.
"""

import marshal
import posix
import sys
import types
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER


class Bundle:
    """An importer over `{name: (is package, marshalled code, source)}`."""

    def __init__(self, data: bytes) -> None:
        self.magic, self.modules = marshal.loads(data)

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The importer's question; what is not ours is somebody else's to find."""
        if name in self.modules:
            return ModuleSpec(name, self, is_package=self.modules[name][0])  # type: ignore[arg-type]
        return None

    def create_module(self, spec: ModuleSpec) -> None:
        """An ordinary module will do."""

    def exec_module(self, module: types.ModuleType) -> None:
        """Run its code, compiled by the host if that speaks our byte code."""
        _, code, source = self.modules[module.__name__]
        same = self.magic == MAGIC_NUMBER
        exec(
            marshal.loads(code) if same else compile(source, module.__name__, "exec"), vars(module)
        )


def read(fd: int) -> bytes:
    """The whole of a memory file."""
    size = posix.fstat(fd).st_size
    return posix.pread(fd, size, 0)


bundle = Bundle(read(int(sys.argv[2])))
sys.meta_path.insert(0, bundle)
__import__(sys.argv[1])
sys.modules[sys.argv[1]].main(sys.argv[3:])
