// Packs the package, installs it in an empty project, and uses it there as the README says.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const folder = mkdtempSync(join(tmpdir(), 'onnx-alora-install-'));
const sh = (command, ...args) =>
  execFileSync(command, args, { cwd: folder, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });
const must = (condition, message) => {
  if (!condition) throw new Error(message);
};

try {
  const [{ filename }] = JSON.parse(
    execFileSync('npm', ['pack', '--json', '--pack-destination', folder], { encoding: 'utf8' }),
  );
  const size = statSync(join(folder, filename)).size;
  must(size < 12e6, `the package has ${size} bytes; 12 MB are allowed`);
  writeFileSync(join(folder, 'package.json'), '{ "name": "empty", "private": true, "type": "module" }');
  sh('npm', 'install', `./${filename}`, '--ignore-scripts', '--no-audit', '--no-fund');

  const installed = readdirSync(join(folder, 'node_modules'), { recursive: true, encoding: 'utf8' });
  const runtimes = installed.filter((path) => /(^|node_modules\/)onnxruntime-(node|web)$/.test(path));
  must(runtimes.join() === 'onnxruntime-node', `one runtime expected, found ${runtimes.join(', ')}`);
  must(!installed.some((path) => /(^|node_modules\/)sharp$/.test(path)), 'sharp was installed');

  sh('npx', 'onnx-alora', 'init', 'dates.yaml');
  console.log(
    sh(
      'npx',
      'onnx-alora',
      'train',
      'dates.yaml',
      '--set',
      'train.steps=8',
      '--set',
      'data.maxRows={dev: 32}',
    )
      .split('\n')
      .slice(0, 4)
      .join('\n'),
  );
  const [run] = readdirSync(join(folder, 'runs'));
  must(existsSync(join(folder, 'runs', run, 'result.json')), 'train left no result.json');
  must(existsSync(join(folder, 'runs', run, 'report.html')), 'train left no report.html');

  // The README's example, on the embedded model and the rows that init wrote.
  const readme = readFileSync('README.md', 'utf8');
  const example = /```ts\n(import \{ train, generate \}[\s\S]*?)```/.exec(readme)?.[1];
  must(example, 'README.md has no example');
  const model = 'node_modules/onnx-alora/dist/models/presidents';
  const rows = /train: (\S+)/.exec(readFileSync(join(folder, 'dates.yaml'), 'utf8'))[1];
  writeFileSync(
    join(folder, 'example.mjs'),
    example
      .replaceAll('models/my-llama', model)
      .replaceAll('rows.jsonl', rows)
      .replace('dev: 0.05', 'dev: 0.05, maxRows: { train: 64, dev: 16 }')
      .replace('epochs: 3', 'steps: 12'),
  );
  console.log(sh(process.execPath, 'example.mjs').trim().split('\n').at(-1));

  // What the types promise is there, for `import` and, where Node has it for ES modules, for `require`.
  const entries = ['index', 'strategy', 'strategies', 'testing'];
  const packed = join(folder, 'node_modules/onnx-alora/dist');
  for (const entry of entries) {
    const name = entry === 'index' ? 'onnx-alora' : `onnx-alora/${entry}`;
    const types = readFileSync(join(packed, `${entry}.d.ts`), 'utf8');
    const declared = new Set(
      [...types.matchAll(/^declare (?:function|const|class) (\w+)/gm)].map(([, n]) => n),
    );
    const promised = [...types.matchAll(/^export \{([^}]*)\};$/gm)]
      .flatMap(([, list]) => list.split(',').map((item) => item.trim().split(' as ')))
      .flatMap(([own, as = own]) => (declared.has(own) ? [as] : []));
    must(promised.length > 0, `${entry}.d.ts promises nothing`);
    const list = `console.log(Object.keys(m).join())`;
    const imported = sh(
      process.execPath,
      '--input-type=module',
      '-e',
      `import * as m from '${name}'; ${list}`,
    );
    const missing = promised.filter((n) => !imported.trim().split(',').includes(n));
    must(missing.length === 0, `${name} has types for ${missing.join(', ')}, and no values`);
    if (process.features.require_module)
      must(
        sh(process.execPath, '--input-type=commonjs', '-e', `const m = require('${name}'); ${list}`) ===
          imported,
        `require('${name}') gives something else than import`,
      );
  }
  console.log(`installed from ${(size / 1e6).toFixed(1)} MB; init, train and the README's example ran`);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
