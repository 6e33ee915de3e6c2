import { type InferenceSession, Tensor as OrtTensor } from 'onnxruntime-node';
import type { Model, Value } from '../src/onnx/graph.ts';
import { Tensor } from '../src/onnx/tensor.ts';
import { openSession } from '../src/runtime/session.ts';
import { openWorkspace } from '../src/runtime/workspace.ts';
import { readArguments, whole } from './arguments.ts';
import { shape } from './cases.ts';
import { type Draft, draftModel } from './draft.ts';
import { profileSessions, total } from './kernels.ts';
import { gpt2Config } from './models/gpt2.ts';
import { progress } from './table.ts';

const help = `npm run bench:products -- [options]

What a step does beside what it could do: the operators in question alone, in the shapes of the bench's models (batch
4 x 128, rank 8, float32), by ONNX Runtime's profiler, for each kernel the shortest of several runs. Prints a Markdown
table in milliseconds.

  --only <text>   comparisons whose name contains it
  --runs <n>      of each graph (default 20)
  --threads <n>   default 1; 0: one a core`;

const { values: options } = readArguments(help, {
  options: {
    only: { type: 'string', default: '' },
    runs: { type: 'string', default: '20' },
    threads: { type: 'string', default: '1' },
  },
});
const runs = whole('runs', options.runs, 1);
const runtime = { device: 'cpu', threads: whole('threads', options.threads, 0) } as const;

const rows = shape.batch * shape.length;
const { rank } = shape;
const { n_embd: width, n_head: heads, vocab_size: vocabulary } = gpt2Config;

interface Variant {
  readonly model: Model;
  readonly prepack?: boolean;
}

/** What the step does, and what it could do instead. */
interface Comparison {
  readonly what: string;
  readonly built: Variant;
  readonly instead: Variant;
}

function compare(
  what: string,
  built: (draft: Draft) => readonly Value[],
  instead: (draft: Draft) => readonly Value[],
): Comparison {
  return { what, built: { model: draftModel(built) }, instead: { model: draftModel(instead) } };
}

const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);

/** Frozen projections of one input: a product each, or one with Split after it and Concat before its gradient. */
function projections(name: string, widths: readonly number[]): Comparison[] {
  const from = width;
  return [
    compare(
      `one product for ${name}, forward`,
      (d) => {
        const x = d.input(rows, from);
        return widths.map((to) => d.op('MatMul', [x, d.weight(from, to)]));
      },
      (d) => d.split(d.op('MatMul', [d.input(rows, from), d.weight(from, sum(widths))]), widths, 1),
    ),
    compare(
      `one product for ${name}, gradient of the input`,
      (d) => {
        const parts = widths.map((to) =>
          d.op('Gemm', [d.input(rows, to), d.weight(from, to)], { transB: 1 }),
        );
        return [parts.reduce((a, b) => d.op('Add', [a, b]))];
      },
      (d) => {
        const dy = d.op(
          'Concat',
          widths.map((to) => d.input(rows, to)),
          { axis: 1 },
        );
        return [d.op('Gemm', [dy, d.weight(from, sum(widths))], { transB: 1 })];
      },
    ),
  ];
}

/** Low-rank factors A [rank, in] of layers that share an input. */
function factors(count: number): Comparison[] {
  const each = Array.from({ length: count }, () => rank);
  return [
    compare(
      `one product for A of ${count} layers, forward`,
      (d) => {
        const x = d.input(rows, width);
        return each.map(() =>
          d.op('MatMul', [x, d.op('Transpose', [d.input(rank, width)], { perm: [1, 0] })]),
        );
      },
      (d) => {
        const turned = d.op('Transpose', [d.input(count * rank, width)], { perm: [1, 0] });
        return d.split(d.op('MatMul', [d.input(rows, width), turned]), each, 1);
      },
    ),
    compare(
      `one product for A of ${count} layers, its gradient`,
      (d) => {
        const x = d.input(rows, width);
        return each.map(() => d.op('Gemm', [d.input(rows, rank), x], { transA: 1 }));
      },
      (d) => {
        const du = d.op(
          'Concat',
          each.map(() => d.input(rows, rank)),
          { axis: 1 },
        );
        return [d.op('Gemm', [du, d.input(rows, width)], { transA: 1 })];
      },
    ),
  ];
}

/** The same graph, its weights packed as the session opens. */
function packed(what: string, write: (draft: Draft) => readonly Value[]): Comparison {
  return { what, built: { model: draftModel(write) }, instead: { model: draftModel(write), prepack: true } };
}

/** Loss and gradient of the head over so many chunks of the labelled rows. */
const chunks = (count: number) => (d: Draft) => {
  const labelled = shape.batch * (shape.length - 1);
  const hidden = d.input(labelled, width);
  const targets = d.graph.constant('targets', Tensor.int64(Array.from({ length: labelled }, (_, i) => i)));
  const embedding = d.weight(vocabulary, width);
  const bounds = Array.from({ length: count + 1 }, (_, k) => Math.round((k * labelled) / count));
  return bounds.slice(1).flatMap((to, k) => {
    const cut = (value: Value) => (count === 1 ? value : d.rows(value, bounds[k]!, to));
    return d.loss(cut(hidden), embedding, cut(targets));
  });
};

const headShape = [shape.batch, shape.length, heads, width / heads] as const;
const [batch, length, , depth] = headShape;
/** Where each row [batch, length, heads] of the input lies in [batch, heads, length]. */
const headOrder = Array.from({ length: batch * heads * length }, (_, i) => {
  const [b, h, t] = [Math.floor(i / (heads * length)), Math.floor(i / length) % heads, i % length];
  return (b * length + t) * heads + h;
});

const activation =
  (op: string, attributes: Record<string, string> = {}, domain = '') =>
  (d: Draft) => [d.op(op, [d.input(rows, 4 * width)], attributes, domain)];

const factorGradients = (turned: boolean) => (d: Draft) => {
  const [u, du] = [d.input(rows, rank), d.input(rows, rank)];
  return [
    [u, d.input(rows, width)],
    [du, d.input(rows, 4 * width)],
  ].map(([low, high]) =>
    turned
      ? d.op('MatMul', [d.op('Transpose', [low!], { perm: [1, 0] }), high!])
      : d.op('Gemm', [low!, high!], { transA: 1 }),
  );
};

/** dS = (dP - sum) P; the sum of dP P over keys is that of the output and its gradient over the width of a head. */
const softmaxGradient = (fromOutputs: boolean) => (d: Draft) => {
  const scores = [batch, heads, length, length];
  const [p, dp] = [d.input(...scores), d.input(...scores)];
  const outputs = () => [d.input(batch, heads, length, depth), d.input(batch, heads, length, depth)];
  const products = d.op('Mul', fromOutputs ? outputs() : [dp, p]);
  const axes = d.graph.constant('axes', Tensor.int64([-1]));
  const sums = d.op('ReduceSum', [products, axes], { keepdims: 1 });
  return [d.op('Mul', [d.op('Sub', [dp, sums]), p])];
};

function* comparisons(): Generator<Comparison> {
  yield* projections("the Llama's queries, keys and values", [width, width / 3, width / 3]);
  yield* projections("the Llama's gate and up", [3 * width, 3 * width]);
  yield* projections("BERT's queries, keys and values", [width, width, width]);
  yield* factors(3);
  yield* factors(2);
  yield packed('packed weight, 768 x 3072, forward', (d) => [
    d.op('MatMul', [d.input(rows, width), d.weight(width, 4 * width)]),
  ]);
  yield packed('packed weight, 768 x 3072, gradient of the input', (d) => [
    d.op('Gemm', [d.input(rows, 4 * width), d.weight(width, 4 * width)], { transB: 1 }),
  ]);
  yield compare('one chunk of the loss instead of two', chunks(2), chunks(1));
  yield compare('three chunks of the loss instead of two', chunks(2), chunks(3));
  yield compare(
    'heads moved by Gather instead of Transpose',
    (d) => [d.op('Transpose', [d.input(...headShape)], { perm: [0, 2, 1, 3] })],
    (d) => [
      d.reshape(d.reordered(d.input(batch * length * heads, depth), headOrder), [
        batch,
        heads,
        length,
        depth,
      ]),
    ],
  );
  yield compare(
    'FastGelu instead of Gelu with tanh',
    activation('Gelu', { approximate: 'tanh' }),
    activation('FastGelu', {}, 'com.microsoft'),
  );
  yield compare(
    'Gelu of com.microsoft instead of Gelu with erf',
    activation('Gelu'),
    activation('Gelu', {}, 'com.microsoft'),
  );
  yield compare('one pass (Neg) instead of Gelu with erf', activation('Gelu'), activation('Neg'));
  yield compare(
    'the low-rank factor transposed before the gradients of A and B',
    factorGradients(false),
    factorGradients(true),
  );
  yield compare(
    'gradient of softmax: row sums from the outputs',
    softmaxGradient(false),
    softmaxGradient(true),
  );
}

/** Milliseconds of both; their runs take turns. */
async function measure({ what, ...variants }: Comparison): Promise<string> {
  progress(what);
  const workspace = openWorkspace();
  const [built, instead] = await profileSessions(async () => {
    const opened: [InferenceSession, InferenceSession.FeedsType][] = [];
    for (const [name, { model, prepack }] of Object.entries(variants)) {
      workspace.shareWeights(model.graph);
      opened.push([await openSession(workspace.write(name, model), runtime, { prepack }), feedsOf(model)]);
    }
    for (let i = 0; i <= runs; i++) for (const [session, feeds] of opened) await session.run(feeds);
    return () => Promise.all(opened.map(([session]) => session.release()));
  });
  workspace.close();
  return `| ${what} | ${total(built!).toFixed(3)} | ${total(instead!).toFixed(3)} |`;
}

function feedsOf({ graph }: Model): InferenceSession.FeedsType {
  return Object.fromEntries(
    graph.inputs.map(({ name, shape }) => {
      const dims = shape as number[];
      const values = new Float32Array(dims.reduce((a, b) => a * b, 1)).map((_, i) => Math.sin(1.3 * i));
      return [name, new OrtTensor('float32', values, dims)];
    }),
  );
}

console.log('| | the step, ms | instead, ms |\n|---|---|---|');
for (const comparison of comparisons())
  if (comparison.what.includes(options.only)) console.log(await measure(comparison));
