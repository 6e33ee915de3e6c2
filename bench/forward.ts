import { parseArgs } from 'node:util';
import * as ort from 'onnxruntime-node';
import { AdaptedRuntime } from '../src/runtime/adaptedRuntime.ts';
import { openSession } from '../src/runtime/session.ts';
import { assemble, openModel } from '../src/training/assemble.ts';
import { type Labelling, modelFolder, models, type StepCase, shape, writtenOnce } from './cases.ts';
import { type Storage, writeGenai } from './models/genai.ts';
import { llamaConfig } from './models/llama.ts';
import { batchOf, configOf, strategies } from './training.ts';

const help = `npm run bench:forward -- [options]

Evaluation of a batch of 4 x 128 with LoRA of rank 8: with the fused operators of the file, with plain operators as
the training step has them, and the file itself, which computes logits at all positions and has no adapters. The three
alternate in one process. Prints a Markdown table of medians in milliseconds, wall clock and processor time.

  --models <names>   gpt2,llama,bert and genai,genai-q4,genai-int8: the same Llama with GroupQueryAttention and
                     weights of 32, 4 and 8 bits (default: the last three)
  --labelling <name> all or instruction: the last 16 positions (default all)
  --repeats <n>      default 7
  --threads <n>      default 0: one a core`;

const { values: options } = parseArgs({
  options: {
    models: { type: 'string', default: 'genai,genai-q4,genai-int8' },
    labelling: { type: 'string', default: 'all' },
    repeats: { type: 'string', default: '7' },
    threads: { type: 'string', default: '0' },
    help: { type: 'boolean', default: false },
  },
});
if (options.help) {
  console.log(help);
  process.exit(0);
}

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

const median = (values: readonly number[]) => [...values].sort((a, b) => a - b)[values.length >> 1]!;

async function timed(times: Times, work: () => Promise<unknown>): Promise<void> {
  const [begun, used] = [performance.now(), process.cpuUsage()];
  await work();
  times.wall.push(performance.now() - begun);
  const { user, system } = process.cpuUsage(used);
  times.cpu.push((user + system) / 1000);
}

async function measure(name: string): Promise<string> {
  const known = models[name] ?? models.llama!;
  const labelling = (name === 'bert' ? 'classification' : options.labelling) as Labelling;
  const step: StepCase = {
    ...shape,
    folder: folderOf(name),
    labelling,
    targets: known.targets,
    modulesToSave: known.modulesToSave,
    vocabulary: known.vocabulary,
    steps: 1,
    threads: Number(options.threads),
  };
  const config = configOf(step);
  const opened = openModel(config.model);
  const run = assemble(opened, config, { strategies, length: { totalSteps: 1, stepsPerEpoch: 1 } });
  const { adapted, adapters, workspace, runtime } = run;
  const plain = new AdaptedRuntime({ ...adapted, forward: undefined }, adapters, workspace, runtime.options);
  const batch = batchOf(step, 1);
  const file = await openSession(opened.directory.file, runtime.options);
  const feeds = fileFeeds(file, batch);
  const of = (): Times => ({ wall: [], cpu: [] });
  const [fused, lowered, raw] = [of(), of(), of()];
  for (let i = 0; i <= Number(options.repeats); i++) {
    // The first of each warms up.
    const drop = i === 0;
    await timed(drop ? of() : fused, () => runtime.evaluate(batch));
    if (adapted.forward) await timed(drop ? of() : lowered, () => plain.evaluate(batch));
    await timed(drop ? of() : raw, () => file.run(feeds));
  }
  await file.release();
  await plain.close();
  await run.close();
  const cell = (times: Times) =>
    times.wall.length === 0
      ? 'the same'
      : `${median(times.wall).toFixed(0)} (${median(times.cpu).toFixed(0)})`;
  return `| ${name} | ${cell(fused)} | ${cell(lowered)} | ${cell(raw)} |`;
}

/** What the file asks for: whole sequences, empty caches. */
function fileFeeds(
  session: ort.InferenceSession,
  batch: ReturnType<typeof batchOf>,
): Record<string, ort.Tensor> {
  const dims = [batch.size, batch.length];
  const given: Record<string, BigInt64Array> = {
    input_ids: batch.inputIds,
    attention_mask: batch.attentionMask,
    position_ids: batch.positionIds,
    token_type_ids: new BigInt64Array(batch.inputIds.length),
  };
  const { num_key_value_heads: groups, head_dim: size } = llamaConfig;
  return Object.fromEntries(
    session.inputNames.map((name) => [
      name,
      given[name]
        ? new ort.Tensor('int64', given[name], dims)
        : new ort.Tensor('float32', new Float32Array(0), [batch.size, groups, 0, size]),
    ]),
  );
}

console.log('| model | fused | plain | the file itself |\n|---|---|---|---|');
for (const name of options.models.split(',')) console.log(await measure(name));
