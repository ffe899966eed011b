"""A program inside: what `python main.py` does, and what it can do beyond that."""

import base64
import subprocess
import sys

import pytest
from tests.unit.guest.running import ENVIRONMENT, LARGEST, Runner, run

from saggar.boundary import frames
from saggar.drivers.interpreter import OPTIONS, find

# Each is run twice: behind the runner, and as an interpreter runs a file.
FAITHFUL = {
    "nothing": "",
    "a line": "print(6 * 7)",
    "exit": "import sys; sys.exit()",
    "exit 3": "import sys; sys.exit(3)",
    "exit 256": "import sys; sys.exit(256)",
    "exit -1": "import sys; sys.exit(-1)",
    "exit True": "import sys; sys.exit(True)",
    "exit text": "import sys; print('out'); sys.exit('said')",
    "exit tuple": "import sys; sys.exit((1, 2))",
    "exit None": "raise SystemExit(None)",
    "exit class": "raise SystemExit",
    "exit in a function": "def f():\n    raise SystemExit(4)\nf()",
    "exit in an except": "try:\n    1 / 0\nexcept ZeroDivisionError:\n    raise SystemExit(5)",
    "an error": "print('before')\n1 / 0",
    "an error in a call": "def f(n):\n    return g(n)\n\ndef g(n):\n    return 1 / n\n\nf(0)",
    "an error with a cause": "try:\n    {}['x']\nexcept KeyError as e:\n    raise OSError(3) from e",
    "an error in an except": "try:\n    {}['x']\nexcept KeyError:\n    1 / 0",
    "a group": "raise ExceptionGroup('all', [KeyError(1), OSError(2, 'no')])",
    "a note": "e = ValueError('v')\ne.add_note('by the way')\nraise e",
    "an error of its own": "class Odd(Exception):\n    pass\nraise Odd('é', 1)",
    "an error in the library": "import json\njson.loads('{')",
    "recursion": "def f():\n    return f()\nf()",
    "an assertion": "assert 1 == 2, 'not so'",
    "bad syntax": "print(1)\nif True print(2)",
    "bad indentation": "if 1:\nprint(2)",
    "a NUL": "print('a\\0b')",
    "a docstring": '"""What it is for."""\nprint(__doc__)',
    "a future": "from __future__ import annotations\ndef f(x: missing): pass\nprint(f.__annotations__)",
    "its name": "print(__name__, __file__, __package__, __spec__)",
    "its import": "import __main__\nx = 3\nprint(__main__.x, __main__ is __import__('sys').modules['__main__'])",
    "its arguments": "import sys; print(len(sys.argv), sys.argv[0])",
    "its flags": "import sys; print(sys.flags, sys.warnoptions, sys._xoptions)",
    "its folder": "import os, sys; print(os.getcwd(), sys.executable, sys.prefix)",
    "its limit": "import sys; print(sys.getrecursionlimit(), sys.getswitchinterval())",
    "its streams": "import sys\nfor s in sys.stdin, sys.stdout, sys.stderr:\n    print(s.name, s.mode, s.encoding, s.errors)",
    "its library": "import sys, json, decimal; print(json.__file__, [p for p in sys.path if 'site' in p])",
    "its signals": "import signal; print(signal.getsignal(2), signal.getsignal(13), signal.getsignal(17))",
    "its mask": "import signal, os; print(signal.pthread_sigmask(0, ()), oct(os.umask(0)))",
    "its thread": "import threading; print(threading.current_thread(), threading.active_count())",
    "its collector": "import gc; print(gc.isenabled(), gc.get_threshold(), gc.get_freeze_count())",
    "its source": "import inspect\ndef f(x):\n    return x  # here\nprint(inspect.getsource(f))",
    "a pickle": "import pickle\nclass A:\n    x = 1\nprint(pickle.loads(pickle.dumps(A)) is A)",
    "a warning": "import warnings\nwarnings.warn('careful')\nwarnings.warn('careful')",
    "input": "print(input('? '), input())",
    "too much input": "input(); input(); input()",
    "all input": "import sys\nfor line in sys.stdin:\n    print(repr(line))",
    "exit handlers": "import atexit\nfor n in 1, 2:\n    atexit.register(print, n)\nprint('main')",
    "a failing exit handler": "import atexit\natexit.register(lambda: print('last'))\natexit.register(lambda: 1 / 0)",
    "exit handlers after an error": "import atexit\natexit.register(print, 'still')\n1 / 0",
    "a thread": "import threading\ngo = threading.Event()\nt = threading.Thread(target=lambda: (go.wait(), print('thread')))\nt.start()\nprint('main')\ngo.set()",
    "a thread and an exit": "import atexit, threading\natexit.register(print, 'exit')\ngo = threading.Event()\nthreading.Thread(target=lambda: (go.wait(), print('thread'))).start()\nprint('main')\ngo.set()\nraise SystemExit(6)",
    "a failing thread": "import threading\nt = threading.Thread(target=lambda: 1 / 0, name='t')\nt.start()\nt.join()",
    "a daemon": "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\nprint('main')",
    "a pool": "from concurrent.futures import ThreadPoolExecutor\nThreadPoolExecutor(1).submit(print, 'pool')",
    "a hook": "import sys\nsys.excepthook = lambda kind, e, trace: print('hook', kind, e, trace.tb_lineno)\n\n1 / 0",
    "a failing hook": "import sys\nsys.excepthook = lambda kind, e, trace: {}['x']\n1 / 0",
    "what cannot be raised": "class A:\n    def __del__(self):\n        1 / 0\nA()",
    "a closed stderr": "import sys\nsys.stderr.close()\n1 / 0",
    "a closed stdout": "import sys\nprint('a')\nsys.stdout.close()",
    "another stdout": "import io, sys\nsys.stdout = io.StringIO()\nprint('lost')",
    "half a character": "print('\\ud800')",
    "odd bytes": "import sys; sys.stdout.buffer.write(b'\\xff\\xfe'); print('text')",
    "no newline": "print('a', end='')",
    "both streams": "import sys\nprint('a')\nprint('b', file=sys.stderr)\nsys.stdout.write('c')",
    "asyncio": "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    print('async')\nasyncio.run(f())",
    "an asynchronous error": "import asyncio\nasync def f():\n    raise KeyError(1)\nasyncio.run(f())",
    "a spawned child": "import multiprocessing\ndef f():\n    print('child', flush=True)\nif __name__ == '__main__':\n    p = multiprocessing.get_context('spawn').Process(target=f)\n    p.start()\n    p.join()\n    print(p.exitcode)",
    "a child's output": "import os, subprocess\nprint('a')\nsubprocess.run(['echo', 'b'])\nos.system('echo c')\nprint('d')",
    "c's output": "import ctypes\nlibc = ctypes.CDLL(None)\nprint('a')\nlibc.puts(b'b')\nlibc.fflush(None)\nprint('c')",
    "dataclasses": "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\nprint(P(1))",
    "types": "from typing import get_type_hints\nclass A:\n    x: 'A'\nprint(get_type_hints(A))",
}


def as_a_file(folder, code):
    """How an interpreter runs it from a file: what it printed, and its exit code."""
    (folder / "main.py").write_bytes(code.encode("utf-8", "surrogatepass"))
    done = subprocess.run(
        [find(None).executable, *OPTIONS, str(folder / "main.py")],
        input=b"one\ntwo\n",
        capture_output=True,
        env=ENVIRONMENT,
        cwd=folder,
        check=False,
    )
    stdout, stderr = (out.decode("utf-8", "surrogateescape") for out in (done.stdout, done.stderr))
    return stdout, stderr, done.returncode


@pytest.mark.parametrize("code", FAITHFUL.values(), ids=FAITHFUL)
def test_a_program_does_what_python_does_with_its_file(tmp_path, code):
    answer = run(tmp_path, code, stdin=b"one\ntwo\n")

    assert as_a_file(tmp_path, code) == (answer.stdout, answer.stderr, answer.exit)
