import { parseArgs } from 'node:util';
import { assemble, openModel } from '../src/training/assemble.ts';
import { type Labelling, models, shape, stepCase } from './cases.ts';
import { type Kernel, profileSessions, total } from './kernels.ts';
import { batchOf, configOf, strategies } from './training.ts';

const help = `npm run bench:profile -- [options]

Where the time of a training step goes, by ONNX Runtime's profiler: milliseconds and kernels by their role, for each
kernel the shortest of several runs.

  --models <names>  of ${Object.keys(models).join(', ')} (default gpt2,llama)
  --steps <n>       runs of each step (default 8)
  --threads <n>     default 1
  --kernels <n>     also print the operators and shapes that take longest`;

const { values: options } = parseArgs({
  options: {
    models: { type: 'string', default: 'gpt2,llama' },
    steps: { type: 'string', default: '8' },
    threads: { type: 'string', default: '1' },
    kernels: { type: 'string', default: '0' },
    help: { type: 'boolean', default: false },
  },
});
if (options.help) {
  console.log(help);
  process.exit(0);
}

for (const name of options.models.split(','))
  for (const labelling of models[name]!.labellings) await report(name, labelling);

async function report(name: string, labelling: Labelling): Promise<void> {
  const kernels = await profile(name, labelling);
  const { vocabulary } = models[name]!;
  console.log(
    `\n${models[name]!.title}, ${labelling}: ${total(kernels).toFixed(0)} ms in ${kernels.length} kernels`,
  );
  for (const [role, own] of longest(kernels, (kernel) => roleOf(kernel, vocabulary)))
    console.log(`  ${total(own).toFixed(1).padStart(7)}  ${String(own.length).padStart(4)}  ${role}`);
  const shapes = longest(kernels, ({ op, inputs }) => `${op} ${inputs.map((dims) => `[${dims}]`).join(' ')}`);
  for (const [key, own] of shapes.slice(0, Number(options.kernels)))
    console.log(`  ${total(own).toFixed(1).padStart(7)}  ${String(own.length).padStart(4)}  ${key}`);
}

/** The kernels of a step in their order. */
async function profile(name: string, labelling: Labelling): Promise<Kernel[]> {
  const [steps, threads] = [Number(options.steps), Number(options.threads)];
  const step = stepCase(name, labelling, { steps, threads });
  const [kernels] = await profileSessions(async () => {
    const config = configOf(step);
    const length = { totalSteps: steps, stepsPerEpoch: steps };
    const run = assemble(openModel(config.model), config, { strategies, length });
    for (let i = 0; i <= steps; i++) {
      const batch = batchOf(step, i);
      await run.runtime.step(batch, { loss: 1 / batch.rows.length, penalty: 1 });
    }
    return () => run.close();
  });
  return kernels!;
}

function longest(kernels: readonly Kernel[], keyOf: (kernel: Kernel) => string): [string, Kernel[]][] {
  const groups = new Map<string, Kernel[]>();
  for (const kernel of kernels) groups.set(keyOf(kernel), [...(groups.get(keyOf(kernel)) ?? []), kernel]);
  return [...groups].sort((a, b) => total(b[1]) - total(a[1]));
}

/** What a kernel is for, by its operator, its shapes and the names that exporters and we give. */
function roleOf({ name, op, inputs, outputs }: Kernel, vocabulary: number): string {
  const [first = [], second = []] = inputs;
  const output = outputs[0] ?? [];
  const isRank = (dim: number | undefined) =>
    dim !== undefined && dim % shape.rank === 0 && dim <= 3 * shape.rank;
  if (['Gemm', 'MatMul', 'FusedMatMul'].includes(op)) {
    if ([...first, ...second].includes(vocabulary)) return 'head, forward and gradient';
    if (first.length === 4) return "attention's products";
    if ([first, second].some((dims) => dims.slice(-2).some(isRank))) return 'low-rank products';
    return name.startsWith('/gradient')
      ? 'gradients of inputs of frozen weights'
      : 'products with frozen weights';
  }
  if (op === 'FusedConv' || (op === 'Mul' && first.length > 1 && isRank(first.at(-1))))
    return 'low-rank products';
  if (['Reshape', 'Flatten', 'Squeeze', 'Unsqueeze'].includes(op)) return 'views';
  if (op === 'Gelu' || op === 'QuickGelu' || /\/act|Gelu|intermediate_act|mlp\/Mul/.test(name))
    return 'activation functions';
  if (op === 'Transpose') return 'transposes of heads';
  if (op === 'RotaryEmbedding') return 'rotary embeddings';
  if (['Split', 'Concat', 'Pad'].includes(op) && output.length > 1) return 'Split, Concat, Pad';
  if ([...first, ...output].includes(vocabulary)) return 'loss';
  if (/att/.test(name) && output.length > 3) return 'softmax, mask, scale';
  if (output.length > 1 && (output.at(-1)! >= 256 || /norm|\/ln/i.test(name)))
    return 'normalisation and residual sums';
  return 'lengths, gates, others';
}
