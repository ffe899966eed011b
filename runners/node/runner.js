#!/usr/bin/env node
/*
 * The container protocol in JavaScript: one JSON document on stdin, one on stdout, exit code 0.
 *
 * In:  {"schema_in": ..., "schema_out": ..., "input": ...}; a schema may be null or left out.
 * Out: {"ok": true, "output": ...} or {"ok": false, "error": {"message", "code", "details"}}.
 *
 * Node has no dup2, so the shell that starts it moves descriptors: `runner.js --answer 3 3>&1
 * 1>&2`. Then whatever user code, or a process it starts, writes to descriptor 1 goes to stderr.
 * Without --answer only what goes through process.stdout and console does.
 */
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const { pathToFileURL } = require('node:url');

const LARGEST = 64 * 1024 * 1024;  // bytes of an answer, unless SAGGAR_OUTPUT_LIMIT says otherwise
const LONGEST = 16000;             // characters of a message or a stack
const REPORTED = 3;                // violations that are told of; the others are counted

const NOTHING_TO_RUN =
  'No execution function provided. Mount a module that exports executeFunction(input) over ' +
  '/app/execute.js, build an image that brings one, or name it with --execute FILE';

/** A run that ends in an error of the protocol. */
class Failure extends Error {
  constructor(code, message, details = '') {
    super(message);
    this.code = code;
    this.details = details;
  }
}

const ANSWER = Number(wordAfter('--answer') ?? 1);
const EXECUTE = wordAfter('--execute') ?? path.join(__dirname, 'execute.js');

let answered = false;

function wordAfter(option) {
  const at = process.argv.indexOf(option);
  return at < 0 ? undefined : process.argv[at + 1];
}

/** The one document on stdout. What comes after it is ignored. */
function answer(text) {
  if (answered) return;
  answered = true;
  let rest = Buffer.from(text + '\n');
  while (rest.length > 0) {
    try {
      rest = rest.subarray(fs.writeSync(ANSWER, rest));
    } catch (error) {
      if (error.code === 'EAGAIN') continue;  // a pipe that its owner made non-blocking is full
      if (error.code === 'EPIPE') return;
      throw error;
    }
  }
}

function fail(failure) {
  const cut = (text) => String(text).slice(0, LONGEST);
  answer(JSON.stringify({
    ok: false,
    error: { message: cut(failure.message), code: failure.code, details: cut(failure.details) },
  }));
}

/** What user code threw, which may be anything. */
function thrown(error) {
  if (error instanceof Failure) return error;
  try {
    const stack = error instanceof Error ? error.stack : '';
    return new Failure('EXECUTION', String(error), stack ?? '');
  } catch {
    return new Failure('EXECUTION', 'the function threw something that has no text');
  }
}

function parse(bytes) {
  if (bytes.toString('latin1').trim() === '') {
    throw new Failure('NO_INPUT', 'nothing on stdin; wanted one JSON document');
  }
  let request;
  try {
    const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
    // JSON.parse makes Infinity of 1e999. Looked for only where a number is that long.
    request = /[eE]\+?\d{3}|\d{300}/.test(text) ? JSON.parse(text, finite) : JSON.parse(text);
  } catch (error) {
    throw new Failure('INVALID_JSON', `the document is not JSON: ${error.message}`);
  }
  if (request === null || typeof request !== 'object' || Array.isArray(request)) {
    throw new Failure('INVALID_JSON', 'the document is not an object with the key input');
  }
  if (!Object.hasOwn(request, 'input')) {
    throw new Failure('MISSING_INPUT', 'the document has no key input; null is an input');
  }
  return request;
}

function finite(key, value) {
  if (value === Infinity || value === -Infinity) throw new Error('too large a number');
  return value;
}

const DRAFTS = [
  [/^https?:\/\/json-schema\.org\/draft-04\/schema#?$/, 'ajv-draft-04'],
  [/^https?:\/\/json-schema\.org\/draft-0[67]\/schema#?$/, 'ajv'],
  [/^https?:\/\/json-schema\.org\/draft\/2019-09\/schema#?$/, 'ajv/dist/2019'],
  [/^https?:\/\/json-schema\.org\/draft\/2020-12\/schema#?$/, 'ajv/dist/2020'],
];

/** A validator for the draft that the schema names; 2020-12 where it names none. */
function validatorFor(schema) {
  const named = schema.$schema ?? 'https://json-schema.org/draft/2020-12/schema';
  const [, module] = DRAFTS.find(([pattern]) => pattern.test(named)) ?? [];
  if (module === undefined) throw new Error(`no draft is known by ${named}`);
  const { default: Ajv } = require(module);
  const ajv = new Ajv({
    allErrors: true,
    logger: false,
    strict: false,                               // an unknown keyword is a remark,
    validateFormats: false,                      // and so is a format
    ownProperties: true,                         // {} has no property toString
    multipleOfPrecision: 9,                      // 0.75 is a multiple of 0.01
    ignoreKeywordsWithRef: /draft-0/.test(named),  // as they were ignored until draft 7
  });
  if (/draft-06/.test(named)) ajv.addMetaSchema(require('ajv/dist/refs/json-schema-draft-06.json'));
  return ajv;
}

/** A function from a value to what the schema of that name says against it. */
function compiled(request, name) {
  const schema = request[name] ?? null;
  if (schema === null) return () => null;
  if (typeof schema !== 'boolean' && (typeof schema !== 'object' || Array.isArray(schema))) {
    throw new Failure('INVALID_SCHEMA', `${name}: wanted an object, true, false or null`);
  }
  let validate;
  try {
    validate = validatorFor(schema).compile(schema);
  } catch (error) {
    throw new Failure('INVALID_SCHEMA', `${name}: ${short(error.message)}`);
  }
  return (value) => {
    try {
      return validate(value) ? null : violations(validate.errors);
    } catch (error) {
      // The schema refers to itself for ever, or the value is too deep.
      return short(error.message);
    }
  };
}

function violations(errors) {
  const told = errors.slice(0, REPORTED).map(
    ({ instancePath, message }) => (instancePath ? `at ${instancePath}: ` : '') + short(message));
  if (errors.length > REPORTED) told.push(`and ${errors.length - REPORTED} more`);
  return told.join('; ');
}

function short(text) {
  return text.length <= 300 ? text : `${text.slice(0, 280)} ... ${text.slice(-15)}`;
}

/** The function that the module exports, by name or as its default. */
async function load(file) {
  if (!fs.existsSync(file)) {
    throw new Failure('NO_EXECUTE_FUNCTION', NOTHING_TO_RUN, `there is no file ${file}`);
  }
  const module = await import(pathToFileURL(path.resolve(file)));
  const found = [module.executeFunction, module.default?.executeFunction, module.default];
  const call = found.find((candidate) => typeof candidate === 'function');
  if (call === undefined) {
    throw new Failure('NO_EXECUTE_FUNCTION', NOTHING_TO_RUN, `${file} exports no executeFunction`);
  }
  return call;
}

/** The output as JSON, refused where JavaScript would bend it: NaN, undefined, BigInt, cycles. */
function serialised(output) {
  let text;
  try {
    const problem = unfit(output, '', new Set());
    if (problem !== null) throw new Error(problem);
    text = JSON.stringify(output);
  } catch (error) {
    throw new Failure('OUTPUT_VALIDATION', `output validation failed: ${error.message}`);
  }
  return text;
}

/** Where in the value something has no JSON form. What has a toJSON says itself what it is. */
function unfit(value, at, above) {
  const where = at === '' ? '' : `at ${at}: `;
  if (value === null || typeof value === 'string' || typeof value === 'boolean') return null;
  if (typeof value === 'number') {
    return Number.isFinite(value) ? null : `${where}${value} has no JSON form`;
  }
  if (typeof value !== 'object') return `${where}a value of type ${typeof value} has no JSON form`;
  if (typeof value.toJSON === 'function') return unfit(value.toJSON(), at, above);
  if (above.has(value)) return `${where}it contains itself`;
  above.add(value);
  for (const [key, item] of Object.entries(value)) {
    // A property that is undefined is left out, as everywhere in JavaScript; an item is not.
    if (item === undefined && !Array.isArray(value)) continue;
    const problem = unfit(item, `${at}/${key.replaceAll('~', '~0').replaceAll('/', '~1')}`, above);
    if (problem !== null) return problem;
  }
  above.delete(value);
  return null;
}

async function run(file) {
  const request = parse(fs.readFileSync(0));
  const checkInput = compiled(request, 'schema_in');
  const checkOutput = compiled(request, 'schema_out');
  let problem = checkInput(request.input);
  if (problem !== null) {
    throw new Failure('INPUT_VALIDATION', `input validation failed: ${problem}`);
  }
  const execute = await load(file);
  const text = serialised(await execute(request.input));
  problem = checkOutput(JSON.parse(text));
  if (problem !== null) {
    throw new Failure('OUTPUT_VALIDATION', `output validation failed: ${problem}`);
  }
  const limit = Number(process.env.SAGGAR_OUTPUT_LIMIT || LARGEST);
  const size = Buffer.byteLength(text);
  if (size > limit) {
    throw new Failure('OUTPUT_TOO_LARGE', `the output has ${size} bytes, ${limit} are allowed`);
  }
  return text;
}

/** User code may end the process, or leave a promise for ever: then nobody else would answer. */
function answerInAnyCase() {
  const lost = 'the function returned a promise that nothing will ever settle';
  process.on('beforeExit', () => fail(new Failure('EXECUTION', lost)));
  process.on('exit', (code) => {
    fail(new Failure('EXECUTION', `the function ended the process with exit code ${code}`));
    process.exitCode = 0;
  });
  process.on('uncaughtException', (error) => {
    fail(thrown(error));
    process.exit(0);
  });
}

function keepUserCodeOffStdout() {
  Object.defineProperty(process, 'stdout', { value: process.stderr });
  globalThis.console = new console.Console(process.stderr, process.stderr);
}

async function main() {
  if (ANSWER === 1) keepUserCodeOffStdout();
  answerInAnyCase();
  try {
    answer(`{"ok":true,"output":${await run(EXECUTE)}}`);
  } catch (error) {
    fail(thrown(error));
  }
  process.exit(0);  // timers and connections of the user's are not waited for
}

main();
