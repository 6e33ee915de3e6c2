import * as ort from 'onnxruntime-node';
import { median } from '../src/compare/statistics.ts';
import { readModel } from '../src/onnx/decode.ts';
import { AdaptedRuntime } from '../src/runtime/adaptedRuntime.ts';
import type { TokenBatch } from '../src/runtime/feeds.ts';
import { worthPacking } from '../src/runtime/prepacking.ts';
import { openSession } from '../src/runtime/session.ts';
import { assemble, openModel } from '../src/training/assemble.ts';
import { readArguments, whole, words } from './arguments.ts';
import { labellings, modelFolder, models, type StepCase, shape, writtenOnce } from './cases.ts';
import { type Storage, writeGenai } from './models/genai.ts';
import { llamaConfig } from './models/llama.ts';
import { batchOf, configOf, strategies } from './training.ts';

const help = `npm run bench:forward -- [options]

Evaluation of a batch of 4 x 128 with LoRA of rank 8: with the fused operators of the file, with plain operators as
the training step has them, and the file itself, which computes logits at all positions and has no adapters. The three
alternate in one process; and a token of the file after 128 others, with a cache: the session opened as generation opens
it, which packs quantised weights, and without packing. Prints a Markdown table of medians in milliseconds, wall clock
and processor time.

  --models <names>   gpt2,llama,bert and genai,genai-q4,genai-int8: the same Llama with GroupQueryAttention and
                     weights of 32, 4 and 8 bits (default: the last three)
  --labelling <name> all or instruction: the last 16 positions (default all)
  --repeats <n>      default 7
  --threads <n>      default 0: one a core`;

const { values: options } = readArguments(help, {
  options: {
    models: { type: 'string', default: 'genai,genai-q4,genai-int8' },
    labelling: { type: 'string', default: 'all' },
    repeats: { type: 'string', default: '7' },
    threads: { type: 'string', default: '0' },
  },
});

const repeats = whole('repeats', options.repeats, 1);
const threads = whole('threads', options.threads, 0);
const [chosen = 'all'] = words('labelling', options.labelling, labellings);

const storages: Readonly<Record<string, Storage>> = {
  genai: 'float32',
  'genai-q4': 'q4',
  'genai-int8': 'int8',
};

function folderOf(name: string): string {
  const storage = storages[name];
  return storage ? writtenOnce(name, (folder) => writeGenai(folder, storage)) : modelFolder(name);
}

interface Times {
  readonly wall: number[];
  readonly cpu: number[];
}

async function timed(times: Times, work: () => Promise<unknown>): Promise<void> {
  const [begun, used] = [performance.now(), process.cpuUsage()];
  await work();
  times.wall.push(performance.now() - begun);
  const { user, system } = process.cpuUsage(used);
  times.cpu.push((user + system) / 1000);
}

async function measure(name: string): Promise<string> {
  const known = models[name] ?? models.llama!;
  const labelling = name === 'bert' ? 'classification' : chosen;
  const step: StepCase = {
    ...shape,
    folder: folderOf(name),
    labelling,
    targets: known.targets,
    modulesToSave: known.modulesToSave,
    vocabulary: known.vocabulary,
    steps: 1,
    threads,
  };
  const config = configOf(step);
  const opened = openModel(config.model);
  const run = assemble(opened, config, { strategies, length: { totalSteps: 1, stepsPerEpoch: 1 } });
  const { adapted, adapters, workspace, runtime } = run;
  const plain = new AdaptedRuntime({ ...adapted, forward: undefined }, adapters, workspace, runtime.options);
  const batch = batchOf(step, 1);
  const { file: path } = opened.directory;
  const { graph } = readModel(path);
  const prepack = worthPacking(graph, 'batches');
  const file = await openSession(path, runtime.options, { prepack });
  const feeds = fileFeeds(file, batch, 0);
  const packs = worthPacking(graph, 'tokens');
  const unpacked = await openSession(path, runtime.options);
  const packed = packs ? await openSession(path, runtime.options, { prepack: true }) : unpacked;
  const token = { size: 1, length: 1, inputIds: BigInt64Array.of(7n), positionIds: BigInt64Array.of(128n) };
  const hasCache = file.inputNames.some((input) => input.startsWith('past'));
  const tokenFeeds = hasCache && fileFeeds(file, token, 128);
  const of = (): Times => ({ wall: [], cpu: [] });
  const [fused, lowered, raw, tokenPacked, tokenUnpacked] = [of(), of(), of(), of(), of()];
  for (let i = 0; i <= repeats; i++) {
    // The first of each warms up.
    const drop = i === 0;
    await timed(drop ? of() : fused, () => runtime.evaluate(batch));
    if (adapted.forward) await timed(drop ? of() : lowered, () => plain.evaluate(batch));
    await timed(drop ? of() : raw, () => file.run(feeds));
    if (!tokenFeeds) continue;
    if (packs) await timed(drop ? of() : tokenPacked, () => packed.run(tokenFeeds));
    await timed(drop ? of() : tokenUnpacked, () => unpacked.run(tokenFeeds));
  }
  for (const session of new Set([file, packed, unpacked])) await session.release();
  await plain.close();
  await run.close();
  const cell = ({ wall, cpu }: Times) =>
    wall.length === 0 ? '' : `${median(wall).toFixed(0)} (${median(cpu).toFixed(0)})`;
  return `| ${[name, ...[fused, lowered, raw, tokenPacked, tokenUnpacked].map(cell)].join(' | ')} |`;
}

/** What the file asks for, after `past` positions whose keys and values are zero. */
function fileFeeds(
  session: ort.InferenceSession,
  { size, length, inputIds, positionIds }: Pick<TokenBatch, 'size' | 'length' | 'inputIds' | 'positionIds'>,
  past: number,
): Record<string, ort.Tensor> {
  const ids = (data: BigInt64Array) => new ort.Tensor('int64', data, [size, data.length / size]);
  const given: Record<string, ort.Tensor> = {
    input_ids: ids(inputIds),
    attention_mask: ids(new BigInt64Array(size * (past + length)).fill(1n)),
    position_ids: ids(positionIds),
    token_type_ids: ids(new BigInt64Array(size * length)),
  };
  const { num_key_value_heads: groups, head_dim: width } = llamaConfig;
  const cache = [size, groups, past, width];
  const empty = () => new ort.Tensor('float32', new Float32Array(size * groups * past * width), cache);
  return Object.fromEntries(session.inputNames.map((name) => [name, given[name] ?? empty()]));
}

console.log('| model | fused | plain | the file itself | a token | unpacked |\n|---|---|---|---|---|---|');
for (const name of words('models', options.models, [...Object.keys(models), ...Object.keys(storages)]))
  console.log(await measure(name));
