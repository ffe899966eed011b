# ruff: noqa: T201
import asyncio
import os
import socket
import subprocess
import sys
import threading
import time


def execute_function(input):
    return globals()["do_" + input["do"]](input)


def do_describe(input):
    values = input["values"]
    return {"count": len(values), "sum": float(sum(values)), "mean": sum(values) / len(values)}


def do_echo(input):
    return input["value"]


async def do_wait(input):
    await asyncio.sleep(0.001)
    return input["value"]


def do_fail(input):
    raise ValueError("boom at noon")


def do_print(input):
    for _ in range(20_000):
        print("noise")
    os.write(1, b"noise\n")
    subprocess.run(["sh", "-c", "echo noise"], check=True)
    return {"quiet": True}


def do_large(input):
    return "x" * input["bytes"]


def do_nan(input):
    return {"a": [1, float("nan")]}


def do_exit(input):
    sys.exit(3)


def do_linger(input):
    threading.Thread(target=time.sleep, args=(600,)).start()
    return "answered"


def do_who(input):
    return {
        "uid": os.getuid(),
        "gid": os.getgid(),
        "interfaces": sorted(name for _, name in socket.if_nameindex()),
        "app": writable("/app"),
        "tmp": writable("/tmp"),
    }


def writable(folder):
    try:
        with open(folder + "/trial", "w") as file:
            file.write("x")
    except OSError:
        return False
    return True
