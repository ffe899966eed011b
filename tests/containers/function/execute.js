import { execFileSync } from 'node:child_process';
import { readdirSync, writeFileSync, writeSync } from 'node:fs';

const functions = {
  describe({ values }) {
    const sum = values.reduce((total, value) => total + value, 0);
    return { count: values.length, sum, mean: sum / values.length };
  },
  echo: ({ value }) => value,
  async wait({ value }) {
    await new Promise((resolve) => setTimeout(resolve, 1));
    return value;
  },
  fail() {
    throw new TypeError('boom at noon');
  },
  print() {
    for (let i = 0; i < 20_000; i += 1) console.log('noise');
    writeSync(1, 'noise\n');
    execFileSync('sh', ['-c', 'echo noise'], { stdio: 'inherit' });
    return { quiet: true };
  },
  large: ({ bytes }) => 'x'.repeat(bytes),
  nan: () => ({ a: [1, NaN] }),
  exit: () => process.exit(3),
  never: () => new Promise(() => {}),
  later: () => new Promise(() => setTimeout(() => { throw new Error('boom at noon'); }, 1)),
  linger() {
    setTimeout(() => {}, 600_000);
    return 'answered';
  },
  who: () => ({
    uid: process.getuid(),
    gid: process.getgid(),
    interfaces: readdirSync('/sys/class/net').sort(),
    app: writable('/app'),
    tmp: writable('/tmp'),
  }),
};

function writable(folder) {
  try {
    writeFileSync(`${folder}/trial`, 'x');
    return true;
  } catch {
    return false;
  }
}

export function executeFunction(input) {
  return functions[input.do](input);
}
