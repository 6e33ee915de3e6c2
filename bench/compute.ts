import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readRunFile } from '../src/config/read.ts';
import type { RunConfig } from '../src/config/schema.ts';
import * as strategies from '../src/strategies.ts';
import { collate } from '../src/tasks/collate.ts';
import { prepareRun } from '../src/training/prepareRun.ts';
import { trainRun } from '../src/training/train.ts';
import { readArguments, refuse, whole, wholes } from './arguments.ts';
import { cosine } from './cosine.ts';
import { progress } from './table.ts';

const help = `npm run bench:compute -- <run file> [options]

model.compute int8 beside float32 on the model and rows of a run file: loss and gradients of the first training rows
(cosine of each factor of each module), then the dev losses of whole runs.

  --batches <n>      of train.batchSize rows, for the gradients (default 3)
  --seeds <numbers>  of the runs (default 0,1,2); an empty list trains none`;

const { values: options, positionals } = readArguments(help, {
  allowPositionals: true,
  options: {
    batches: { type: 'string', default: '3' },
    seeds: { type: 'string', default: '0,1,2' },
  },
});
if (positionals.length !== 1) refuse('name one run file; --help says more');
const batches = whole('batches', options.batches, 1);

const computes = ['float32', 'int8'] as const;
type Compute = (typeof computes)[number];
const folder = mkdtempSync(join(tmpdir(), 'onnx-alora-compute-'));
const { config } = await readRunFile(positionals[0]!, { strategies });

const [plain, rounded] = [await gradients('float32'), await gradients('int8')];
const similarities = [...plain.factors]
  .map(([name, gradient]) => ({ name, cosine: cosine(gradient, rounded.factors.get(name)!) }))
  .sort((a, b) => a.cosine - b.cosine);
const mean = similarities.reduce((sum, { cosine }) => sum + cosine, 0) / similarities.length;
console.log(
  `loss of the first rows: ${plain.loss.toFixed(4)} in float32, ${rounded.loss.toFixed(4)} in int8`,
);
console.log(`cosine of gradients: mean ${mean.toFixed(4)} over ${similarities.length} factors; lowest`);
for (const { name, cosine } of similarities.slice(0, 3)) console.log(`  ${cosine.toFixed(4)}  ${name}`);

for (const seed of wholes('seeds', options.seeds, 0)) {
  const losses: string[] = [];
  for (const compute of computes) {
    progress(`seed ${seed}, ${compute}`);
    const output = join(folder, `${compute}-${seed}`);
    const { dev } = await trainRun(changed(compute, { seed, output }), { strategies });
    losses.push(
      `${compute} ${dev!.last.loss.toFixed(4)} (${Object.entries(dev!.last.metrics)
        .map(([name, value]) => `${name} ${value.toFixed(4)}`)
        .join(', ')})`,
    );
  }
  console.log(`seed ${seed}: last dev loss ${losses.join(', ')}`);
}
rmSync(folder, { recursive: true });

function changed(compute: Compute, { seed = 0, output = folder } = {}): RunConfig {
  return {
    ...config,
    model: { ...config.model, compute },
    train: { ...config.train, seed, checkpointEvery: 0, sample: false },
    output,
  };
}

/** Sums over the batches; B is moved away from zero, where the gradients of A vanish. */
async function gradients(compute: Compute) {
  const run = await prepareRun(changed(compute), strategies);
  const { adapters, runtime, data } = run;
  for (const slot of adapters.slots)
    if (slot.spec.role === 'lora_B')
      adapters.view('values', slot).forEach((_, i, values) => {
        values[i] = 0.05 * Math.sin(i);
      });
  adapters.gradients.fill(0);
  const { batchSize } = config.train;
  let [total, labels] = [0, 0];
  for (let i = 0; i < batches; i++) {
    const batch = collate(data.train.slice(i * batchSize, (i + 1) * batchSize), { padId: data.padId });
    const losses = await runtime.step(batch, { loss: 1 / batch.labels, penalty: 0 });
    total += losses.reduce((sum, loss) => sum + loss, 0);
    labels += losses.length;
  }
  await run.close();
  const factors = adapters.slots
    .filter(({ spec }) => spec.trained)
    .map((slot) => [`${slot.module.name}.${slot.spec.role}`, adapters.view('gradients', slot)] as const);
  return { loss: total / labels, factors: new Map(factors) };
}
