"""Programs that end the same behind the runner and when an interpreter runs their file."""

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
    "exit in a function": """
def f():
    raise SystemExit(4)
f()
""",
    "exit in an except": """
try:
    1 / 0
except ZeroDivisionError:
    raise SystemExit(5)
""",
    "an error": """
print('before')
1 / 0
""",
    "an error in a call": """
def f(n):
    return g(n)

def g(n):
    return 1 / n

f(0)
""",
    "an error with a cause": """
try:
    {}['x']
except KeyError as e:
    raise OSError(3) from e
""",
    "an error in an except": """
try:
    {}['x']
except KeyError:
    1 / 0
""",
    "a group": "raise ExceptionGroup('all', [KeyError(1), OSError(2, 'no')])",
    "a note": """
e = ValueError('v')
e.add_note('by the way')
raise e
""",
    "an error of its own": """
class Odd(Exception):
    pass
raise Odd('é', 1)
""",
    "an error in the library": """
import json
json.loads('{')
""",
    "an assertion": "assert 1 == 2, 'not so'",
    "bad syntax": """
print(1)
if True print(2)
""",
    "a NUL": "print('a\\0b')",
    "a docstring": '"""What it is for."""\nprint(__doc__)',
    "a future": """
from __future__ import annotations
def f(x: missing): pass
print(f.__annotations__)
""",
    "its name": "print(__name__, __file__, __package__, __spec__)",
    "its import": """
import __main__
x = 3
print(__main__.x, __main__ is __import__('sys').modules['__main__'])
""",
    "its arguments": "import sys; print(sys.argv)",
    "its flags": "import sys; print(sys.flags, sys.warnoptions, sys._xoptions)",
    "its folder": "import os, sys; print(os.getcwd(), sys.executable, sys.prefix)",
    "its limit": "import sys; print(sys.getrecursionlimit(), sys.getswitchinterval())",
    "its streams": """
import sys
for s in sys.stdin, sys.stdout, sys.stderr:
    print(s.name, s.mode, s.encoding, s.errors)
""",
    "its library": "import json, sys; print(json.__file__, [p for p in sys.path if 'site' in p])",
    "its signals": "from signal import getsignal as of; print(of(2), of(13), of(17), of(25))",
    "its mask": "import signal, os; print(signal.pthread_sigmask(0, ()), oct(os.umask(0)))",
    "its thread": "from threading import *; print(current_thread().name, active_count())",
    "its collector": "import gc; print(gc.isenabled(), gc.get_threshold(), gc.get_freeze_count())",
    "its source": """
import inspect
def f(x):
    return x  # here
print(inspect.getsource(f))
""",
    "a pickle": """
import pickle
class A:
    x = 1
print(pickle.loads(pickle.dumps(A)) is A)
""",
    "a warning": """
import warnings
warnings.warn('careful')
warnings.warn('careful')
""",
    "input": "print(input('? '), input())",
    "too much input": "input(); input(); input()",
    "all input": """
import sys
for line in sys.stdin:
    print(repr(line))
""",
    "exit handlers": """
import atexit
for n in 1, 2:
    atexit.register(print, n)
print('main')
""",
    "a failing exit handler": """
import atexit
atexit.register(lambda: print('last'))
atexit.register(lambda: 1 / 0)
""",
    "exit handlers after an error": """
import atexit
atexit.register(print, 'still')
1 / 0
""",
    "a thread": """
import threading
go = threading.Event()
t = threading.Thread(target=lambda: (go.wait(), print('thread')))
t.start()
print('main')
go.set()
""",
    "a thread and an exit": """
import atexit, threading
atexit.register(print, 'exit')
go = threading.Event()
threading.Thread(target=lambda: (go.wait(), print('thread'))).start()
print('main')
go.set()
raise SystemExit(6)
""",
    "a failing thread": """
import threading
t = threading.Thread(target=lambda: 1 / 0, name='t')
t.start()
t.join()
""",
    "a daemon": """
import threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
print('main')
""",
    "a pool": """
from concurrent.futures import ThreadPoolExecutor
ThreadPoolExecutor(1).submit(print, 'pool')
""",
    "a hook": """
import sys
sys.excepthook = lambda kind, e, trace: print('hook', kind, e, trace.tb_lineno)

1 / 0
""",
    "what cannot be raised": """
class A:
    def __del__(self):
        1 / 0
A()
""",
    "a closed stdout": """
import sys
print('a')
sys.stdout.close()
""",
    "another stdout": """
import io, sys
sys.stdout = io.StringIO()
print('lost')
""",
    "half a character": "print('\\ud800')",
    "odd bytes": "import sys; sys.stdout.buffer.write(b'\\xff\\xfe'); print('text')",
    "no newline": "print('a', end='')",
    "both streams": """
import sys
print('a')
print('b', file=sys.stderr)
sys.stdout.write('c')
""",
    "asyncio": """
import asyncio
async def f():
    await asyncio.sleep(0)
    print('async')
asyncio.run(f())
""",
    "an asynchronous error": """
import asyncio
async def f():
    raise KeyError(1)
asyncio.run(f())
""",
    "a spawned child": """
import multiprocessing
def f():
    print('child', flush=True)
if __name__ == '__main__':
    p = multiprocessing.get_context('spawn').Process(target=f)
    p.start()
    p.join()
    print(p.exitcode)
""",
    "dataclasses": """
from dataclasses import dataclass
@dataclass
class P:
    x: int
print(P(1))
""",
    "types": """
from typing import get_type_hints
class A:
    x: 'A'
print(get_type_hints(A))
""",
    "odd line ends": "a = 'x\x0cy\u2028z'\r\nb = 2\r\n1 / 0",
    "files left open": """
import gzip, sys
kept = open('a.txt', 'w')
kept.write('kept')
raw = gzip.GzipFile('b.gz', 'wb', mtime=0)
raw.write(b'raw')
sys.kept = open('c.txt', 'w')
sys.kept.write('on')
print('done')
""",
    "files left open in a loop": """
class A:
    pass
a = A()
a.self = a
a.file = open('a.txt', 'w')
a.file.write('kept')
a.other = open('b.bin', 'wb')
a.other.write(b'kept')
""",
    "files left open by an error": """
def f():
    file = open('a.txt', 'w')
    file.write('kept')
    1 / 0
f()
""",
    "last words": """
class A:
    def __init__(self, name):
        self.name = name
    def __del__(self):
        print('gone', self.name)
a = A('a')
_b = A('b')
c = [A('c')]
print('end')
""",
    "a forked child": """
import os
pid = os.fork()
if pid == 0:
    print('child')
    raise SystemExit(3)
print('parent', os.waitpid(pid, 0)[1])
""",
    "a forked child that runs on": """
import os, sys
pid = os.fork()
if pid:
    os.waitpid(pid, 0)
print('child' if pid == 0 else 'parent')
""",
    "a forked child that fails": """
import os, sys
pid = os.fork()
if pid == 0:
    1 / 0
print('parent', os.waitpid(pid, 0)[1])
""",
    "a forked child's exit handlers": """
import atexit, os
atexit.register(print, 'bye')
if os.fork():
    os.wait()
""",
}
