// OpenAPI in, a TypeScript client out: {"spec": ..., "output": {...}} to {"path": "content", ...}.
//
// `spec` is the OpenAPI document, as an object or as its JSON or YAML text; `output` is orval's own
// section of that name (client, mode, schemas, mock ...), its paths relative.
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';

import { generate } from 'orval';

const DEFAULTS = { target: 'client.ts', client: 'fetch', mode: 'single' };

export async function executeFunction({ spec, output = {} }) {
  if (spec === undefined) throw new Error('the input has no key spec: an OpenAPI document');
  const folder = await mkdtemp(path.join(tmpdir(), 'orval-'));
  try {
    const source = path.join(folder, typeof spec === 'string' ? 'spec.yaml' : 'spec.json');
    await writeFile(source, typeof spec === 'string' ? spec : JSON.stringify(spec));
    const generated = path.join(folder, 'out');
    await generate({ input: source, output: within(generated, { ...DEFAULTS, ...output }) }, folder);
    return await contents(generated);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** The output section with its paths under one folder. */
function within(folder, output) {
  const under = (name) => {
    const found = path.resolve(folder, name);
    if (!found.startsWith(folder + path.sep)) throw new Error(`${name} leaves the output folder`);
    return found;
  };
  const paths = { target: under(output.target) };
  if (typeof output.schemas === 'string') paths.schemas = under(output.schemas);
  return { ...output, ...paths };
}

/** Every file below a folder, by its path in it. */
async function contents(folder) {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const files = {};
  for (const entry of entries.filter((one) => one.isFile())) {
    const file = path.join(entry.parentPath ?? entry.path, entry.name);
    files[path.relative(folder, file)] = await readFile(file, 'utf8');
  }
  return files;
}
