"""
The same call in Go, where one is installed: what a typed executor costs that is compiled.

With a context that has a deadline, as Go's own way has it: nothing interrupts the function, which
has to look by itself. The schemas are written by hand, as strict as ours; both sides go through
JSON, because a validator of any language takes what a decoder makes.
"""

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import anyio

from saggar.cli.bench.row import Row
from saggar.config import cache_dir
from saggar.environments import runtimes
from saggar.errors import PlatformError, UsageError
from saggar.model.plan import Runtime

GO: Final = Runtime(name="go", least=(1, 18), purpose="this row")
PATIENCE: Final = 300
"""Seconds to compile it; the first time the library with it."""
TITLES: Final = {
    "bare": "Go: bare call of the same function",
    "deadline": "Go: context with a deadline, no schema",
    "checked": "Go: the same, JSON and checks on both sides",
}
SOURCE: Final = """
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"
)

type Stats struct {
	Count int     `json:"count"`
	Sum   float64 `json:"sum"`
	Mean  float64 `json:"mean"`
}

//go:noinline
func describe(ctx context.Context, values []float64) (Stats, error) {
	sum := 0.0
	for _, value := range values {
		sum += value
	}
	return Stats{len(values), sum, sum / float64(len(values))}, ctx.Err()
}

func within(values []float64) (Stats, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return describe(ctx, values)
}

func isInput(value any) bool {
	list, ok := value.([]any)
	for _, item := range list {
		if _, number := item.(float64); !number {
			return false
		}
	}
	return ok
}

func isOutput(value any) bool {
	object, ok := value.(map[string]any)
	count, isNumber := object["count"].(float64)
	_, sum := object["sum"].(float64)
	_, mean := object["mean"].(float64)
	return ok && isNumber && count == float64(int64(count)) && sum && mean
}

func through(value any, fits func(any) bool) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	var found any
	if err := json.Unmarshal(text, &found); err != nil {
		return err
	}
	if !fits(found) {
		return errors.New("validation failed")
	}
	return nil
}

func checked(values []float64) (Stats, error) {
	if err := through(values, isInput); err != nil {
		return Stats{}, err
	}
	stats, err := within(values)
	if err != nil {
		return stats, err
	}
	return stats, through(stats, isOutput)
}

func bare(values []float64) (Stats, error) {
	return describe(context.Background(), values)
}

func main() {
	testing.Init()
	flag.Parse()
	values := []float64{1, 2, 3, 4, 5}
	calls := map[string]func([]float64) (Stats, error){
		"bare": bare, "deadline": within, "checked": checked,
	}
	for _, name := range []string{"bare", "deadline", "checked"} {
		call := calls[name]
		found := testing.Benchmark(func(b *testing.B) {
			for i := 0; i < b.N; i++ {
				if stats, err := call(values); err != nil || stats.Count != 5 {
					b.Fatal(stats, err)
				}
			}
		})
		if found.N == 0 {
			os.Exit(1)
		}
		fmt.Println(name, found.N, float64(found.T.Nanoseconds())/float64(found.N))
	}
}
"""


def rows(*, seconds: float) -> list[Row]:
    """Each call timed by `testing.Benchmark`, for so long; one row with the reason without a Go."""
    try:
        return [_row(*line.split()) for line in _measured(seconds).splitlines()]
    except (PlatformError, UsageError) as exc:
        return [Row(title="Go, the same call", command="", note=str(exc))]


def _row(name: str, n: str, nanoseconds: str) -> Row:
    command = f"testing.Benchmark, func {name}"
    return Row(title=TITLES[name], command=command, n=int(n), amount=float(nanoseconds), unit="ns")


def _measured(seconds: float) -> str:
    """What the program prints: a name, how often it was called, and what one call took."""
    go = anyio.run(runtimes.find, GO)
    compiler = os.path.join(go.home, "bin", "go")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "main.go")
        program.write_text(SOURCE, encoding="utf-8")
        _said(folder, compiler, "build", "-o", "program", "main.go")
        return _said(folder, f"{folder}/program", f"-test.benchtime={seconds}s")


def _said(folder: str, *argv: str) -> str:
    env = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "HOME": folder,
        "GOCACHE": str(cache_dir() / "bench" / "go"),
        "GOTOOLCHAIN": "local",
        "GOENV": "off",
        "CGO_ENABLED": "0",
    }
    try:
        done = subprocess.run(
            argv, cwd=folder, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except (OSError, subprocess.SubprocessError) as exc:
        raise PlatformError(f"{argv[0]} does not work here: {exc}") from exc
    if done.returncode:
        raise PlatformError(f"{argv[0]} ended with {done.returncode}: {done.stderr[-200:]}")
    return done.stdout
