// An instance in plain Node: GET /health, GET /ready, POST /execute, POST /restart. No packages.
//
// The interpreter is a worker thread (interpreter.mjs): it can be thrown away, loop and all, while
// this thread goes on answering. Walls it is none: what keeps code in is the container around it.
import { createServer } from "node:http";
import { Worker } from "node:worker_threads";

const PORT = Number(process.env.PORT ?? 8432);
const HOST = process.env.HOST ?? "127.0.0.1";
const TIMEOUT = Number(process.env.EXECUTION_TIMEOUT ?? 3);
const MEMORY = Number(process.env.MEMORY_MB ?? 128);
const FOLDER = process.env.WORKSPACE_FOLDER ?? "/code";
const LARGEST_BODY = 16 * 1024 * 1024;
const GRACE = 1; // seconds between an execution's deadline and the end of its interpreter

let interpreter = null; // the worker, once it has loaded the code
let starting = start();
let turn = Promise.resolve(); // one execution at a time, the rest in order

function start() {
  const worker = new Worker(new URL("interpreter.mjs", import.meta.url), {
    workerData: { folder: FOLDER, timeout: TIMEOUT },
    resourceLimits: { maxOldGenerationSizeMb: MEMORY },
  });
  return new Promise((resolve) => {
    let loaded = false;
    worker.once("message", () => {
      loaded = true;
      interpreter = worker;
      resolve(worker);
    });
    worker.once("error", (problem) => console.error(`interpreter: ${problem.message}`));
    worker.once("exit", () => {
      if (interpreter === worker) restart();
      // One that ended while it loaded will hardly do better at once.
      else if (!loaded) setTimeout(() => start().then(resolve), 1000);
    });
  });
}

// From here on /ready says no: whoever asked for a restart may rely on that.
function restart() {
  const old = interpreter ?? starting;
  interpreter = null;
  starting = Promise.resolve(old)
    .then((worker) => worker.terminate())
    .then(start);
}

function execute(code, gone) {
  const outputs = turn.then(() => (gone.aborted ? [] : run(code)));
  turn = outputs.catch(() => {});
  return outputs;
}

async function run(code) {
  const worker = await starting;
  const outputs = [];
  const fail = (name, value) => outputs.push({ type: "error", name, value, traceback: [] });
  await new Promise((resolve) => {
    const deadline = setTimeout(() => {
      fail("TimeoutError", `Execution timed out after ${TIMEOUT} seconds; the interpreter restarts`);
      finish();
      restart();
    }, (TIMEOUT + GRACE) * 1000);
    const hear = (message) => (message.done ? finish() : outputs.push(message));
    const end = () => {
      fail("KernelError", "the interpreter ended; the next execution has a new one");
      finish();
    };
    const finish = () => {
      clearTimeout(deadline);
      worker.off("message", hear).off("exit", end);
      resolve();
    };
    worker.on("message", hear).on("exit", end);
    worker.postMessage(code);
  });
  return outputs;
}

async function body(request) {
  const parts = [];
  let size = 0;
  for await (const part of request) {
    size += part.length;
    if (size > LARGEST_BODY) throw new Refusal(413, `a body may have ${LARGEST_BODY} bytes`);
    parts.push(part);
  }
  try {
    return JSON.parse(Buffer.concat(parts).toString());
  } catch (problem) {
    throw new Refusal(400, `the body is not JSON: ${problem.message}`);
  }
}

class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const ROUTES = {
  "GET /health": () => ({ status: "ok" }),
  "GET /ready": () => (interpreter ? { ready: true } : { ready: false, reason: "restarting" }),
  "POST /execute": async (request, gone) => {
    const { code } = (await body(request)) ?? {};
    if (typeof code !== "string") throw new Refusal(422, 'wanted {"code": text}');
    return { outputs: await execute(code, gone) };
  },
  "POST /restart": () => {
    if (!interpreter) return { status: "already_restarting" };
    restart();
    return { status: "restarting" };
  },
};

async function answer(request, gone) {
  const { pathname } = new URL(request.url, "http://instance");
  const route = ROUTES[`${request.method} ${pathname}`];
  if (!route) return [404, { detail: `there is no ${request.method} ${pathname}` }];
  try {
    return [200, await route(request, gone)];
  } catch (problem) {
    if (problem instanceof Refusal) return [problem.status, { detail: problem.message }];
    throw problem;
  }
}

const server = createServer(async (request, response) => {
  const leaving = new AbortController();
  response.on("close", () => leaving.abort());
  const [status, document] = await answer(request, leaving.signal).catch((problem) => {
    console.error(problem);
    return [500, { detail: "a mistake of the instance's" }];
  });
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify(document));
});

server.listen(PORT, HOST, () => {
  console.log(`listening on http://${HOST}:${server.address().port}`);
});
for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => process.exit(0));
