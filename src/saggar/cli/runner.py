"""
`saggar runner python`: the container protocol without a container.

What answers is the file that the runner's image holds. No wall is built: this is what runs inside
of one, for whoever writes a function for it.
"""

from collections.abc import Sequence

from saggar.cli.arguments import Parser
from saggar.errors import NotFound

SUMMARY = "Read one document of the container protocol on stdin, answer on stdout. No walls."
EXAMPLES = """\
The module defines execute_function(input), sync or async. What it prints goes to stderr.

  echo '{"input": [1, 2]}' | saggar runner python --execute execute.py
"""
LANGUAGES = ("python",)


def main(words: Sequence[str]) -> int:
    """Answer. It ends the process itself, as in the image: the exit code is 0 for an error too."""
    parser = Parser("runner", SUMMARY, EXAMPLES)
    parser.add_argument("language", metavar="LANGUAGE", help="python; others have an image only")
    parser.add_argument("--execute", metavar="FILE", help="the module that defines the function")
    options = parser.read(words)
    if options.language not in LANGUAGES:
        raise NotFound.among("runner", options.language, LANGUAGES)

    from saggar.cli.protocol import serve

    serve(options.execute)
