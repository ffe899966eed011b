import json

import pytest

from saggar.errors import InvalidTask
from saggar.languages.go import Go
from saggar.model.limits import Limits
from saggar.model.program import Inline
from saggar.model.task import Task

HELLO = 'package main\n\nimport "fmt"\n\nfunc main() { fmt.Println("hello") }\n'


def planned(code=HELLO, limits=None, **options):
    return Go().plan(Task.of(code, language="go", **options), Limits(**(limits or {})))


def compile_of(*args, **options):
    compile_ = planned(*args, **options).compile
    assert compile_ is not None
    return compile_


def names(compile_):
    return [file.path for file in compile_.files]


def test_a_program_is_compiled_and_then_executed():
    plan = planned(args=["a"])

    assert ("program", "a") == plan.argv
    assert () == plan.files
    assert plan.compile is not None
    assert ("go", "build") == plan.compile.argv[:2]
    assert "./main.go" == plan.compile.argv[-1]
    assert ["main.go"] == names(plan.compile)
    assert "program" == plan.compile.output


def test_it_is_compiled_offline_and_static():
    env = compile_of().env

    assert ("0", "off", "local") == (env["CGO_ENABLED"], env["GOPROXY"], env["GOTOOLCHAIN"])


def test_arguments_input_and_data_do_not_compile_it_again():
    assert compile_of() == compile_of(args=["a"], stdin="b", files={"data.csv": "1"})
    assert compile_of() == compile_of(limits={"memory": "1GiB"})


def test_go_files_beside_it_belong_to_it():
    files = {"b.go": "package main", "b_test.go": "package main", "sub/c.go": "package sub"}
    compile_ = compile_of(files=files)

    assert ["main.go", *files] == names(compile_)
    assert ("./b.go", "./main.go") == compile_.argv[-2:]


def test_with_a_module_the_folder_is_built():
    compile_ = compile_of(files={"go.mod": "module x\n\ngo 1.22\n"})

    assert "." == compile_.argv[-1]
    assert "-mod=mod" == compile_.env["GOFLAGS"]


def test_vendored_modules_are_used():
    files = {"go.mod": "module x\n", "vendor/modules.txt": "", "vendor/y/LICENSE": ""}
    compile_ = compile_of(files=files)

    assert "-mod=vendor" == compile_.env["GOFLAGS"]
    assert ["main.go", *files] == names(compile_)


def test_data_goes_along_where_it_is_embedded():
    code = 'package main\n\nimport _ "embed"\n\n//go:embed data.csv\nvar data string\n'

    assert ["main.go", "data.csv"] == names(compile_of(code, files={"data.csv": "1"}))


def test_the_library_it_imports_is_named():
    code = """package main

import (
	"fmt"
	str "strings"
	"example.com/x"
	_ "encoding/json"
)
import "os"
"""

    assert ("encoding/json", "fmt", "os", "strings") == compile_of(code).libraries


def test_an_entry_gets_a_main_function_that_serves_it():
    plan = planned("package main\n\nfunc f(x int) int { return x }\n", entry="f", input=5)

    assert plan.answers
    assert {"input": 5} == json.loads(plan.stdin)
    assert plan.compile is not None
    assert ["main.go", "saggar_main.go", "saggar_runner.go"] == names(plan.compile)
    assert b"saggarServe(f)" in plan.compile.files[1].content


def test_it_is_told_what_the_walls_enforce():
    env = planned(limits={"memory": "100MiB", "cpu_share": 1.5}).env

    assert {"GOMAXPROCS": "2", "GOMEMLIMIT": "90MiB"} == env


def test_what_go_would_not_compile_is_refused():
    with pytest.raises(InvalidTask, match=r"a file that ends in \.go, found 'main\.txt'"):
        planned(Inline(text=HELLO, filename="main.txt"))
    with pytest.raises(InvalidTask, match=r"a function of the program, found 'a\.b'"):
        planned(entry="a.b")
    with pytest.raises(InvalidTask, match="an entry of go finds its request on stdin"):
        planned(entry="f", stdin="x")
    with pytest.raises(InvalidTask, match="go has no value of a last expression"):
        planned(want_value=True)
