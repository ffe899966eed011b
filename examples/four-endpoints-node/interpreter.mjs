// The interpreter: one global scope, kept from one execution to the next.
import { readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { format, inspect } from "node:util";
import { createContext, runInContext } from "node:vm";
import { parentPort, workerData } from "node:worker_threads";

const { folder, timeout } = workerData;
let tell = (name, text) => process[name].write(text); // while loading: to the container's log

const print = (name) => (...words) => tell(name, `${format(...words)}\n`);
const [say, complain] = [print("stdout"), print("stderr")];
const context = createContext({
  console: { log: say, info: say, debug: say, warn: complain, error: complain },
  require: createRequire(join(folder, "code.js")),
  ...{ Buffer, URL, URLSearchParams, TextEncoder, TextDecoder, structuredClone, fetch },
  ...{ setTimeout, clearTimeout, setInterval, clearInterval, setImmediate, queueMicrotask },
});

function load() {
  let names = [];
  try {
    names = readdirSync(folder).filter((name) => name.endsWith(".js")).sort();
  } catch (problem) {
    if (problem.code !== "ENOENT") complain(`cannot read ${folder}: ${problem.message}`);
  }
  for (const name of names) {
    try {
      runInContext(readFileSync(join(folder, name), "utf8"), context, { filename: name });
    } catch (problem) {
      complain(`${name} failed: ${problem.stack ?? problem}`);
    }
  }
}

const late = () =>
  Object.assign(new Error(`Execution timed out after ${timeout} seconds`), { name: "TimeoutError" });

async function evaluate(code) {
  let alarm;
  const deadline = new Promise((_, reject) => {
    alarm = setTimeout(() => reject(late()), timeout * 1000);
  });
  try {
    const value = runInContext(code, context, { filename: "cell.js", timeout: timeout * 1000 });
    return await Promise.race([value, deadline]);
  } catch (problem) {
    throw problem?.code === "ERR_SCRIPT_EXECUTION_TIMEOUT" ? late() : problem;
  } finally {
    clearTimeout(alarm);
  }
}

function explained(problem) {
  const name = problem?.name ?? "Error";
  const value = String(problem?.message ?? problem);
  const stack = typeof problem?.stack === "string" ? problem.stack.split("\n") : [];
  return { type: "error", name, value, traceback: name === "TimeoutError" ? [] : stack };
}

parentPort.on("message", async (code) => {
  tell = (name, text) => parentPort.postMessage({ type: "stream", name, text });
  try {
    const value = await evaluate(code);
    if (value !== undefined) {
      const text = typeof value === "string" ? inspect(value) : inspect(value, { depth: 4 });
      parentPort.postMessage({ type: "result", data: { "text/plain": text } });
    }
  } catch (problem) {
    parentPort.postMessage(explained(problem));
  }
  parentPort.postMessage({ done: true });
});

load();
parentPort.postMessage({ done: true });
