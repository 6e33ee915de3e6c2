import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus, totalmem } from 'node:os';
import { dirname } from 'node:path';
import { parseArgs } from 'node:util';
import Table from 'cli-table3';
import { versions } from '../src/training/versions.ts';
import { type Labelling, modelFolder, models, shape } from './cases.ts';
import { findPython, type Measured, runOurs, runPeer, type Variant, variants } from './processes.ts';

const help = `npm run bench -- [options]

Measures a training step (LoRA, rank ${shape.rank}, batch ${shape.batch} x ${shape.length}, AdamW) of onnx-alora and of
PyTorch + PEFT by turns, each in a process of its own. Models have real shapes and random weights.

  --models <names>   ${Object.keys(models).join(',')} (default gpt2)
  --cases <names>    all,instruction,classification (default: those of the model)
  --peers <names>    ${variants.join(',')}, or none (default eager,bf16-weights)
  --repeat <n>       processes of each configuration (default 2)
  --steps <n>        measured steps of a process (default 3)
  --threads <n>      0: one a core (default 0)
  --check <file>     exit with 1 where a ratio has fallen by more than 15 % below that of a report written by --out
  --json             print the results as JSON instead of tables
  --out <file>       write them to a file`;

const { values: options } = parseArgs({
  options: {
    models: { type: 'string', default: 'gpt2' },
    cases: { type: 'string' },
    peers: { type: 'string', default: 'eager,bf16-weights' },
    repeat: { type: 'string', default: '2' },
    steps: { type: 'string', default: '3' },
    threads: { type: 'string', default: '0' },
    check: { type: 'string' },
    json: { type: 'boolean', default: false },
    out: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
});

/** Words of a list, each of which must be known. */
function words<T extends string>(option: string, list: string, known: readonly T[]): T[] {
  const given = list.split(',').filter(Boolean);
  const wrong = given.find((word) => !known.includes(word as T));
  if (wrong) {
    console.error(`--${option}: '${wrong}' is none of ${known.join(', ')}`);
    process.exit(2);
  }
  return given as T[];
}

interface Configuration {
  readonly name: 'onnx-alora' | `PyTorch ${Variant}`;
  readonly runs: Measured[];
  failure?: string;
}

interface CaseResult {
  readonly model: string;
  readonly labelling: Labelling;
  readonly configurations: readonly Configuration[];
}

const median = (values: readonly number[]) => {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
};
const steps = (configuration: Configuration) => configuration.runs.flatMap((run) => run.steps);
const peak = (configuration: Configuration) => Math.max(...configuration.runs.map((run) => run.peak));

function measure(
  model: string,
  labelling: Labelling,
  peers: readonly Variant[],
  python?: string,
): CaseResult {
  const run = { steps: Number(options.steps), threads: Number(options.threads) };
  const configurations: Configuration[] = [
    { name: 'onnx-alora', runs: [] },
    ...peers.map((variant): Configuration => ({ name: `PyTorch ${variant}`, runs: [] })),
  ];
  for (let turn = 0; turn < Number(options.repeat); turn++)
    for (const [i, configuration] of configurations.entries()) {
      if (configuration.failure) continue;
      progress(`${model}, ${labelling}: ${configuration.name}, ${turn + 1} of ${options.repeat}`);
      try {
        configuration.runs.push(
          i === 0 ? runOurs(model, labelling, run) : runPeer(python!, model, labelling, peers[i - 1]!, run),
        );
      } catch (error) {
        if (i === 0) throw error;
        configuration.failure = error instanceof Error ? error.message : String(error);
        progress(configuration.failure);
      }
    }
  return { model, labelling, configurations };
}

function progress(text: string): void {
  process.stderr.write(`${text}\n`);
}

const seconds = (value: number) => `${value.toFixed(2)} s`;
const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(2)} GB`;

function table({ model, labelling, configurations }: CaseResult): string {
  const [ours, ...peers] = configurations as [Configuration, ...Configuration[]];
  const rows = new Table({
    head: ['', 'step, median', 'min .. max', 'times ours', 'processor', 'peak memory', 'ours to theirs'],
    style: { head: [], border: [] },
    colAligns: ['left', 'right', 'right', 'right', 'right', 'right', 'right'],
  });
  for (const configuration of configurations) {
    const all = steps(configuration);
    if (all.length === 0) rows.push([configuration.name, { colSpan: 6, content: 'did not run' }]);
    else
      rows.push([
        configuration.name,
        seconds(median(all)),
        `${seconds(Math.min(...all))} .. ${seconds(Math.max(...all))}`,
        configuration === ours ? '' : (median(all) / median(steps(ours))).toFixed(2),
        seconds(median(configuration.runs.flatMap((run) => run.cpu))),
        gigabytes(peak(configuration)),
        configuration === ours ? '' : (peak(ours) / peak(configuration)).toFixed(2),
      ]);
  }
  const labelled = {
    all: 'all positions labelled',
    instruction: `last ${shape.answer} of ${shape.length} labelled`,
    classification: 'one class a row',
  }[labelling];
  const share = median(ours.runs.flatMap((run) => run.outside ?? [])) / median(steps(ours));
  const start = ours.runs.map((run) => (run.loadSeconds ?? 0) + (run.buildSeconds ?? 0));
  return [
    `${models[model]!.title}, ${labelled}`,
    rows.toString(),
    `ours: ${(100 * share).toFixed(1)} % of a step outside ONNX Runtime, ready ${seconds(median(start))} after the start${
      peers.length === 0
        ? ''
        : `; ${configurations.map((c) => `${c.name} loss ${c.runs[0]?.loss.toFixed(3)}`).join(', ')}`
    }`,
  ].join('\n');
}

/** Times ours of each peer, by model, case and peer. */
function ratios(
  results: readonly Pick<CaseResult, 'model' | 'labelling' | 'configurations'>[],
): Map<string, number> {
  return new Map(
    results.flatMap(({ model, labelling, configurations: [ours, ...peers] }) =>
      peers
        .filter((peer) => peer.runs.length > 0)
        .map((peer) => [`${model}, ${labelling}, ${peer.name}`, median(steps(peer)) / median(steps(ours!))]),
    ),
  );
}

/** Compares with the ratios of an earlier report; prints each and says whether none has fallen by more than 15 %. */
function check(results: readonly CaseResult[], file: string): boolean {
  const stored = ratios((JSON.parse(readFileSync(file, 'utf8')) as { results: CaseResult[] }).results);
  let passed = true;
  for (const [name, ratio] of ratios(results)) {
    const before = stored.get(name);
    if (before === undefined) continue;
    const fell = ratio < 0.85 * before;
    passed &&= !fell;
    progress(`${fell ? 'FELL' : 'ok'}  ${name}: ${ratio.toFixed(2)}, stored ${before.toFixed(2)}`);
  }
  return passed;
}

function main(): void {
  if (options.help) {
    console.log(help);
    return;
  }
  const names = words('models', options.models, Object.keys(models));
  const cases = words<Labelling>('cases', options.cases ?? 'all,instruction,classification', [
    'all',
    'instruction',
    'classification',
  ]);
  const wanted = options.peers === 'none' ? [] : words('peers', options.peers, variants);
  const python = wanted.length > 0 ? findPython() : undefined;
  if (wanted.length > 0 && !python)
    progress('PyTorch + PEFT left out: no Python with torch, transformers and peft (set ONNX_ALORA_PYTHON)');
  const results: CaseResult[] = [];
  for (const model of names) {
    modelFolder(model);
    for (const labelling of models[model]!.labellings.filter((name) => cases.includes(name))) {
      const result = measure(model, labelling, python ? wanted : [], python);
      results.push(result);
      if (!options.json) console.log(`${table(result)}\n`);
    }
  }
  const report = {
    date: new Date().toISOString(),
    machine: { cpu: cpus()[0]?.model ?? 'unknown', cores: cpus().length, memory: totalmem() },
    versions: versions(),
    shape,
    threads: Number(options.threads),
    results: results.map((result) => ({
      ...result,
      configurations: result.configurations.map((configuration) => ({
        ...configuration,
        ...(configuration.runs.length > 0
          ? { median: median(steps(configuration)), peak: peak(configuration) }
          : {}),
      })),
    })),
  };
  if (options.json) console.log(JSON.stringify(report, null, 2));
  if (options.out) {
    mkdirSync(dirname(options.out), { recursive: true });
    writeFileSync(options.out, `${JSON.stringify(report, null, 2)}\n`);
  }
  if (options.check && !check(results, options.check)) process.exitCode = 1;
}

main();
