"""
What can be said to `saggar run`.

Values are taken as they are: the model judges them, and its complaints are respelled as options
(`request.py`). So there is one place that knows what a limit may be.
"""

from saggar.cli.arguments import Parser

SUMMARY = "Run a program behind walls: no network, no files but its own, finite everything."
EXAMPLES = """\
examples:
  saggar run -c 'print(6 * 7)'
  saggar run analyse.py --input data.csv --output 'summary.csv' --wall 5s --memory 256MiB
  echo 'print(1)' | saggar run - --json
  sort words.txt | saggar run -c 'print(input())' --stdin
  saggar run plot.py --package 'numpy==2.*' --network loopback -- its own --arguments
  saggar run stats.py --entry describe --entry-input '[1, 2, 3]'
  DB_URL=postgres://... saggar run rows.py --secret DB_URL --network host

The program's stdout and stderr are passed on as they come; one line on stderr says how it ended.
Exit code: the program's own; 124 timeout; 137 killed, or its limit of memory or output met; 2 a
mistake in the call; 70 the platform failed; 130 Ctrl-C; 143 SIGTERM.
"""
LIMITS = {
    "wall": ("TIME", "from the start to the interrupt (10s)"),
    "grace": ("TIME", "from the interrupt to the kill (1s)"),
    "cpu": ("TIME", "processor time of the whole tree (10s)"),
    "cpu-share": ("CORES", "how many cores it may keep busy (1.0)"),
    "memory": ("SIZE", "peak of the whole tree (256MiB)"),
    "processes": ("N", "processes and threads at once (64)"),
    "open-files": ("N", "open descriptors of one process (256)"),
    "file-size": ("SIZE", "length of one file (64MiB)"),
    "disk": ("SIZE", "bytes in its writable folders together (64MiB)"),
    "inodes": ("N", "files and folders in them (10000)"),
    "output-limit": ("SIZE", "stdout and stderr together (1MiB)"),
}


def parser() -> Parser:
    """Everything `saggar run` understands before `--`."""
    made = Parser("run", SUMMARY, EXAMPLES)
    made.usage = "saggar run (FILE | -c CODE | -) [OPTION...] [-- ARGUMENT...]"
    made.elsewhere = "the program's own arguments go after --"
    program(made)
    secrets(made)
    surroundings(made)
    answer(made)
    return made


def surroundings(made: Parser) -> None:
    """What a program finds, what it may use, and who builds its walls."""
    _finds(made)
    bounds(made)


def bounds(made: Parser) -> None:
    """What may be used, and who builds the walls."""
    _limits(made)
    _walls(made)


def program(made: Parser) -> None:
    """What runs."""
    made.set_defaults(command=made.prog)
    group = made.add_argument_group("the program")
    group.add_argument("file", nargs="?", metavar="FILE", help="its file; - reads it from stdin")
    group.add_argument("-c", dest="code", metavar="CODE", help="its text")
    group.add_argument(
        "--language",
        metavar="NAME",
        help="what it is written in (by the file's ending, else python)",
    )
    group.add_argument("--entry", metavar="NAME", help="call this function of it")
    group.add_argument("--entry-input", metavar="JSON", help="with this, as its one argument")
    group.add_argument("--stdin", action="store_true", help="pass our stdin on (else it is empty)")


def secrets(made: Parser, place: str = "here, or SAGGAR_SECRET_NAME") -> None:
    """Variables whose values stand in no task; where they are is not the same for everybody."""
    group = made.add_argument_group("its secrets")
    group.add_argument(
        "--secret",
        metavar="NAME",
        action="append",
        default=[],
        help="a variable that is written nowhere; its value is that of NAME " + place,
    )


def _finds(made: Parser) -> None:
    group = made.add_argument_group("what it finds")
    group.add_argument(
        "--input",
        metavar="PATH",
        nargs="+",
        action="extend",
        default=[],
        help="files, and folders with all in them, to place in its work folder under their own"
        " name; PATH=NAME for another one",
    )
    group.add_argument(
        "--env",
        metavar="K=V",
        action="append",
        default=[],
        help="a variable; the word `host` instead shows it the packages installed beside Saggar",
    )
    group.add_argument(
        "--package",
        metavar="P",
        action="append",
        default=[],
        help="install this first, into a layer that is kept: 'numpy==2.*'",
    )
    group.add_argument(
        "--preload",
        metavar="MODULE",
        action="append",
        default=[],
        help="import this before the program arrives",
    )
    group.add_argument(
        "--image", metavar="REF", help="run in a container of this image (driver docker)"
    )
    group.add_argument("--python", metavar="X", help="another interpreter: a version or a path")


def _limits(made: Parser) -> None:
    group = made.add_argument_group("limits, with their defaults")
    for name, (unit, summary) in LIMITS.items():
        group.add_argument(f"--{name}", metavar=unit, help=summary)


def _walls(made: Parser) -> None:
    group = made.add_argument_group("walls")
    group.add_argument("--network", metavar="none|loopback|host", help="what there is of it (none)")
    group.add_argument(
        "--isolation",
        metavar="RUNG",
        help="the weakest wall that will do: process, landlock, jail, container, gvisor (jail)",
    )
    group.add_argument(
        "--best-effort",
        metavar="LIMIT",
        action="append",
        default=[],
        help="run even where this limit cannot be enforced",
    )
    group.add_argument("--gpu", metavar="N", help="how many GPUs it sees (0)")
    group.add_argument("--driver", metavar="NAME", help="who builds the walls; see saggar doctor")


def answer(made: Parser) -> None:
    """What is to be seen of its end."""
    group = made.add_argument_group("what comes back")
    group.add_argument(
        "--output",
        metavar="GLOB",
        nargs="+",
        action="extend",
        default=[],
        help="files of its work folder to write into the current one, over those of the same name",
    )
    group.add_argument("--value", action="store_true", help="print the last expression's value too")
    group.add_argument("--json", action="store_true", help="print the result as one JSON document")
    group.add_argument("-q", "--quiet", action="store_true", help="do not say how it ended")
