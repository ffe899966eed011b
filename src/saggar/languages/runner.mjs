// The container protocol around one exported function: a request on stdin, an answer on
// descriptor 4. Descriptor 1 is stderr here, so that whatever user code prints is no answer.
import { readFileSync, writeSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const ANSWER = 4;
const LONGEST = 16000; // characters of a message or a stack
const [entry, file, ...words] = process.argv.slice(1);
const leave = process.reallyExit.bind(process);
let answered = false;

class Failure extends Error {
  constructor(code, message, details = "") {
    super(message);
    Object.assign(this, { code, details });
  }
}

function answer(text) {
  if (answered) return;
  answered = true;
  let rest = Buffer.from(text + "\n");
  while (rest.length > 0) rest = rest.subarray(writeSync(ANSWER, rest));
}

function fail({ message, code, details }) {
  const cut = (text) => String(text).slice(0, LONGEST);
  const error = { message: cut(message), code, details: cut(details) };
  answer(JSON.stringify({ ok: false, error }));
}

// What user code throws may be anything.
function thrown(error) {
  if (error instanceof Failure) return error;
  try {
    const stack = error instanceof Error ? error.stack : "";
    return new Failure("EXECUTION", String(error), stack ?? "");
  } catch {
    return new Failure("EXECUTION", "the function threw something that has no text");
  }
}

function end(failure) {
  fail(failure);
  leave(0);
}

function request() {
  try {
    return JSON.parse(readFileSync(0, "utf8"));
  } catch (error) {
    throw new Failure("INVALID_JSON", `the request is not JSON: ${error.message}`);
  }
}

// By its name among the exports, or on what is exported as default; that itself last.
async function load() {
  const module = await import(pathToFileURL(resolve(file)));
  const names = entry.split(".");
  const within = (holder) => names.reduce((found, name) => found?.[name], holder);
  const candidates = [within(module), within(module.default)];
  if (module.default?.name === entry || entry === "default") candidates.push(module.default);
  const found = candidates.find((candidate) => typeof candidate === "function");
  if (found !== undefined) return found;
  throw new Failure("NO_EXECUTE_FUNCTION", `${file} exports no function ${entry}`);
}

// Where a value has no JSON form: JavaScript would bend it without a word.
function unfit(value, at, above) {
  const where = at === "" ? "" : `at ${at}: `;
  if (value === null || typeof value === "string" || typeof value === "boolean") return;
  if (typeof value === "number") {
    return Number.isFinite(value) ? undefined : `${where}${value} has no JSON form`;
  }
  if (typeof value !== "object") return `${where}a ${typeof value} has no JSON form`;
  if (value instanceof Map || value instanceof Set || ArrayBuffer.isView(value)) {
    return `${where}a ${value.constructor.name} has no JSON form`;
  }
  if (typeof value.toJSON === "function") return unfit(value.toJSON(), at, above);
  if (above.includes(value)) return `${where}it contains itself`;
  for (const [key, item] of Object.entries(value)) {
    // A property that is undefined is left out, as everywhere in JavaScript; an item is not.
    if (item === undefined && !Array.isArray(value)) continue;
    const escaped = key.replaceAll("~", "~0").replaceAll("/", "~1");
    const problem = unfit(item, `${at}/${escaped}`, [...above, value]);
    if (problem !== undefined) return problem;
  }
}

function serialised(output = null) {
  let problem;
  try {
    problem = unfit(output, "", []);
  } catch (error) {
    problem = String(error); // too deep for a stack, or a getter of the user's
  }
  if (problem === undefined) return JSON.stringify(output);
  throw new Failure("OUTPUT_VALIDATION", `output validation failed: ${problem}`);
}

process.argv = [process.execPath, resolve(file), ...words];
// User code may end the process, or leave nothing that could ever settle its promise.
process.on("exit", (code) =>
  end(new Failure("EXECUTION", `the function ended the process with exit code ${code}`)),
);
process.on("beforeExit", () =>
  end(new Failure("EXECUTION", "the function returned a promise that nothing will ever settle")),
);
process.on("uncaughtException", (error) => end(thrown(error)));
try {
  const { input } = request();
  const call = await load();
  answer(`{"ok":true,"output":${serialised(await call(input))}}`);
} catch (error) {
  fail(thrown(error));
}
leave(0);
