import { mkdtempSync, rmSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import * as ort from 'onnxruntime-node';
import { mergeAdapter } from '../src/adapters/merge.ts';
import { readPeft } from '../src/adapters/peft.ts';
import { writePeft } from '../src/adapters/peftWriter.ts';
import { median } from '../src/compare/statistics.ts';
import { loadModel } from '../src/index.ts';
import { randomStream } from '../src/random.ts';
import { openSession } from '../src/runtime/session.ts';
import { readArguments, whole } from './arguments.ts';
import { modelFolder, withTokenizer } from './cases.ts';

const help = `npm run bench:serving -- [options]

GPT-2 small (124 M, random weights) with adapters of rank 8 on all linear layers as inputs of one session, against the
same model with one adapter merged in. Requests alternate; each figure is a median. Prints a Markdown table: milliseconds
of wall clock and of processor time of one request for the logits of all its tokens, and the cost of a switch.

  --repeats <n>  default 7
  --threads <n>  default 0: one a core
  --rank <n>     default 8`;

const { values: options } = readArguments(help, {
  options: {
    repeats: { type: 'string', default: '7' },
    threads: { type: 'string', default: '0' },
    rank: { type: 'string', default: '8' },
  },
});

const repeats = whole('repeats', options.repeats, 1);
const threads = whole('threads', options.threads, 0);
const rank = whole('rank', options.rank, 1);
const base = modelFolder('gpt2');
withTokenizer(base);

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-serving-'));
const model = await loadModel(base, { threads });
const adapters = Array.from({ length: 4 }, (_, i) => {
  const random = randomStream(i, 'serving');
  const normal = (count: number) => Float32Array.from({ length: count }, () => 0.02 * random.normal());
  const folder = join(scratch, `adapter-${i}`);
  writePeft(folder, {
    modules: new Map(
      model.modules.map(({ name, in: width, out }) => [
        name,
        {
          rank,
          in: width,
          out,
          scale: 2,
          A: normal(rank * width),
          B: normal(rank * out),
          gate: new Float32Array(rank).fill(1),
        },
      ]),
    ),
    saved: new Map(),
    modulesToSave: [],
    baseModel: null,
    taskType: 'CAUSAL_LM',
    fanInFanOut: true,
  });
  return folder;
});
const merged = join(scratch, 'merged');
mergeAdapter(readPeft(adapters[0]!), base, merged);
const session = await openSession(join(merged, 'onnx/model.onnx'), { device: 'cpu', threads });

interface Times {
  readonly wall: number[];
  readonly processor: number[];
}

async function timed(into: Times, request: () => Promise<unknown>): Promise<void> {
  const used = process.cpuUsage();
  const begun = performance.now();
  await request();
  into.wall.push(performance.now() - begun);
  const { user, system } = process.cpuUsage(used);
  into.processor.push((user + system) / 1000);
}

const rows: string[] = [];
for (const [size, length] of [
  [1, 16],
  [1, 128],
  [4, 128],
] as const) {
  const texts = Array.from({ length: size }, (_, b) =>
    Array.from({ length }, (_, t) => (7919 * (b * length + t) + 13) % 50000),
  );
  const each = texts.map((_, i) => adapters[i % adapters.length]!);
  const plain = () => session.run(feedsOf(texts), ['logits']);
  const requests: Readonly<Record<string, () => Promise<unknown>>> = {
    merged: plain,
    'base model': () => model.logits(texts, { adapter: null }),
    'one adapter': () => model.logits(texts, { adapter: adapters[0]! }),
    ...(size > 1 ? { 'one an example': () => model.logits(texts, { adapter: each }) } : {}),
  };
  const times = new Map<string, Times>();
  for (const request of Object.values(requests)) await request();
  for (let i = 0; i < repeats; i++)
    for (const [name, request] of Object.entries(requests)) {
      const own = times.get(name) ?? { wall: [], processor: [] };
      times.set(name, own);
      await timed(own, request);
    }
  const floor = times.get('merged')!;
  for (const [name, { wall, processor }] of times) {
    const share = (own: readonly number[], of: readonly number[]) =>
      `${median(own).toFixed(1)} (${((100 * median(own)) / median(of) - 100).toFixed(1)} %)`;
    rows.push(
      `| ${size} x ${length} | ${name} | ${share(wall, floor.wall)} | ${share(processor, floor.processor)} |`,
    );
  }
}

const first: number[] = [];
for (const adapter of adapters) {
  model.forget(adapter);
  const begun = performance.now();
  model.use(adapter);
  first.push(performance.now() - begun);
}
const switches: number[] = [];
for (let i = 0; i < 1000; i++) {
  const begun = performance.now();
  model.use(adapters[i % adapters.length]!);
  switches.push(performance.now() - begun);
}
console.log(`| rows x tokens | request | wall, ms (beside merged) | processor, ms (beside merged) |
|---|---|---|---|
${rows.join('\n')}

${cpus()[0]?.model}, ${cpus().length} cores, Node ${process.version}. Rank ${rank} on ${model.modules.length} layers. A switch
between adapters in use: ${median(switches).toFixed(4)} ms, at most ${Math.max(...switches).toFixed(2)} ms; reading one from its folder: ${median(first).toFixed(0)} ms.`);
await session.release();
await model.close();
rmSync(scratch, { recursive: true });

function feedsOf(texts: readonly (readonly number[])[]): Record<string, ort.Tensor> {
  const dims = [texts.length, texts[0]!.length];
  const tensor = (value: (token: number, at: number) => number) =>
    new ort.Tensor(
      'int64',
      BigInt64Array.from(texts.flatMap((row) => row.map((token, t) => BigInt(value(token, t))))),
      dims,
    );
  return {
    input_ids: tensor((token) => token),
    attention_mask: tensor(() => 1),
    position_ids: tensor((_, t) => t),
  };
}
