// One process, one configuration: node ours.js <model> <labelling> <steps>. Prints one line of JSON.
import { InferenceSession } from 'onnxruntime-node';
import { resolveRunConfig } from '../src/config/resolve.ts';
import type { TokenBatch } from '../src/runtime/feeds.ts';
import { lora } from '../src/strategies.ts';
import { adamWStep, clipGradients, gradientNorm } from '../src/training/adamw.ts';
import { assemble, openModel } from '../src/training/assemble.ts';
import { type Labelling, modelFolder, models, shape } from './cases.ts';

const [name, labelling, steps] = [process.argv[2]!, process.argv[3] as Labelling, Number(process.argv[4])];
const model = models[name]!;
const strategies = { lora };
const config = resolveRunConfig(
  {
    model: { path: modelFolder(name), targets: [...model.targets] },
    data: { task: labelling === 'classification' ? 'classification' : 'text', train: 'none.jsonl' },
    adapter: { strategy: 'lora', alpha: 2 * shape.rank, modulesToSave: [...model.modulesToSave] },
    budget: { rank: shape.rank },
    train: { steps },
    runtime: { threads: Number(process.env.BENCH_THREADS ?? 0) },
  },
  { strategies },
);

// How long ONNX Runtime itself works: the rest of a step is ours.
let secondsRunning = 0;
const { create } = InferenceSession;
InferenceSession.create = async (...inputs: unknown[]) => {
  const session = (await Reflect.apply(create, InferenceSession, inputs)) as InferenceSession;
  const run = session.run.bind(session) as (...inputs: unknown[]) => Promise<InferenceSession.ReturnType>;
  session.run = async (...feeds: unknown[]) => {
    const begun = performance.now();
    const outputs = await run(...feeds);
    secondsRunning += (performance.now() - begun) / 1000;
    return outputs;
  };
  return session;
};

const started = performance.now();
const opened = openModel(config.model);
const loaded = performance.now();
const run = assemble(opened, config, { strategies, length: { totalSteps: steps, stepsPerEpoch: steps } });
await run.runtime.open();
const ready = performance.now();

const total: number[] = [];
const outside: number[] = [];
const cpu: number[] = [];
let loss = Number.NaN;
for (let step = 0; step <= steps; step++) {
  const batch = batchOf(step);
  const begun = performance.now();
  const used = process.cpuUsage();
  const { adapters } = run;
  adapters.gradients.fill(0);
  secondsRunning = 0;
  const losses = await run.runtime.step(batch, { loss: 1 / batch.rows.length, penalty: 1 });
  loss = losses.reduce((sum, value) => sum + value, 0) / losses.length;
  clipGradients(adapters, gradientNorm(adapters), 1);
  adamWStep(adapters, 1, { learningRate: 1e-4, weightDecay: 0, groups: {} });
  const seconds = (performance.now() - begun) / 1000;
  // The first step warms the allocator.
  if (step === 0) continue;
  total.push(seconds);
  const { user, system } = process.cpuUsage(used);
  cpu.push((user + system) / 1e6);
  outside.push(seconds - secondsRunning);
}
await run.close();
console.log(
  JSON.stringify({
    steps: total,
    outside,
    cpu,
    peak: process.resourceUsage().maxRSS * 1024,
    loadSeconds: (loaded - started) / 1000,
    buildSeconds: (ready - loaded) / 1000,
    loss,
  }),
);

/** Random tokens; the same positions are labelled in every row. */
function batchOf(seed: number): TokenBatch {
  const { batch: size, length, answer } = shape;
  let x = 1234567 + seed;
  const random = (below: number) => {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    return BigInt(Math.floor((x / 2 ** 32) * below));
  };
  const fill = (value: (i: number) => bigint) =>
    BigInt64Array.from({ length: size * length }, (_, i) => value(i));
  // As a shifted loss has it: the last position predicts nothing.
  const first = labelling === 'all' ? 0 : length - 1 - answer;
  const places =
    labelling === 'classification'
      ? Array.from({ length: size }, (_, b) => b)
      : Array.from({ length: size * length }, (_, i) => i).filter(
          (i) => i % length >= first && i % length < length - 1,
        );
  const classes = labelling === 'classification' ? 2 : model.vocabulary;
  return {
    size,
    length,
    inputIds: fill(() => random(model.vocabulary)),
    attentionMask: fill(() => 1n),
    positionIds: fill((i) => BigInt(i % length)),
    rows: BigInt64Array.from(places, BigInt),
    targets: BigInt64Array.from(places, () => random(classes)),
  };
}
