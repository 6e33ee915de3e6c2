import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { findLinearModules } from '../../src/adapters/targets.ts';
import { crossEntropy } from '../../src/autodiff/crossEntropy.ts';
import { differentiate, uncovered } from '../../src/autodiff/differentiate.ts';
import { Builder } from '../../src/onnx/builder.ts';
import { readModel } from '../../src/onnx/decode.ts';
import type { Graph, Node, Value } from '../../src/onnx/graph.ts';
import { prepareForTraining } from '../../src/passes/index.ts';
import { lower } from '../../src/passes/lower.ts';
import { evaluate } from '../../src/passes/symbolic.ts';
import { randomStream } from '../../src/random.ts';
import { toFloat64 } from './double.ts';
import { dot, type Numbers, session } from './run.ts';

const models = [
  'bert/onnx/model.onnx',
  'distilbert/onnx/model.onnx',
  'gemma/onnx/model.onnx',
  'gpt-neox/onnx/model.onnx',
  'gpt2/onnx/model.onnx',
  'gpt2-dynamo/onnx/model.onnx',
  'llama/onnx/model.onnx',
  'llama-dynamo/onnx/model.onnx',
  'llama-kv/onnx/model.onnx',
  'opt/onnx/model.onnx',
  'phi3/onnx/model.onnx',
  'qwen2/onnx/model.onnx',
  'roberta/onnx/model.onnx',
];

const folder = new URL('../../fixtures/models/', import.meta.url);

/** The output of a linear layer with a trainable term added to it, which is fed as zeros. */
function addTerms(
  graph: Graph,
  config: { vocab_size: number },
  model: ReturnType<typeof readModel>,
): Value[] {
  const b = new Builder(graph, 'terms');
  return findLinearModules(model, config).map(({ output }, i) => {
    const term = graph.input(`term${i}`, output.dtype!, output.shape!);
    const sum = b.op('Add', [output, term], { dtype: output.dtype, shape: output.shape });
    graph.replaceUses(output, sum, new Set([sum.producer!]));
    return term;
  });
}

/** Batch of 2 x 5 tokens, the second row padded by 2. */
function tokens(vocabulary: number): Record<string, Numbers> {
  const random = randomStream(0, 'tokens');
  const dims = [2, 5];
  const int64 = { dims, dtype: 'int64' } as const;
  return {
    input_ids: { ...int64, values: Array.from({ length: 10 }, () => 2 + random.integer(vocabulary - 2)) },
    attention_mask: { ...int64, values: [1, 1, 1, 1, 1, 1, 1, 1, 0, 0] },
    position_ids: { ...int64, values: [0, 1, 2, 3, 4, 0, 1, 2, 3, 4] },
    token_type_ids: { ...int64, values: Array(10).fill(0) },
  };
}

describe('gradients of whole models', () => {
  it.each(models)('%s', async (file) => {
    const path = fileURLToPath(new URL(file, folder));
    const config = JSON.parse(
      readFileSync(new URL('config.json', new URL(`${file.split('/')[0]}/`, folder)), 'utf8'),
    );
    const model = readModel(path);
    prepareForTraining(model, { outputs: ['logits'] });
    // Rotary embeddings have no kernel in float64.
    lower(model);
    const { graph } = model;
    const opset = model.opsets.get('')!;
    const rounded = toFloat64(graph);
    const logits = graph.outputs[0]!;
    const terms = addTerms(graph, config, model);
    const weights = [...graph.initializers].filter((value) => value.shape!.length === 2);
    const readers = new Map(weights.map((weight) => [weight, new Set(weight.users)] as const));

    // Decoders: cross-entropy of three labelled positions; encoders: of both rows' classes.
    const b = new Builder(graph, 'loss');
    const classes = logits.shape!.at(-1)!;
    const isDecoder = logits.shape!.length === 3;
    let rows = logits;
    if (isDecoder) {
      const flat = b.op('Reshape', [logits, b.ints([-1, Number(classes)])], {
        dtype: 'float64',
        shape: [null, classes],
      });
      const labelled = graph.input('labelled', 'int64', ['rows']);
      rows = b.op('Gather', [flat, labelled], {
        attributes: { axis: 0 },
        dtype: 'float64',
        shape: ['rows', classes],
      });
    }
    const targets = graph.input('targets', 'int64', ['rows']);
    const rowWeights = graph.input('rowWeights', 'float64', ['rows']);
    const { nll, dLogits } = crossEntropy(b, rows, targets, opset);

    expect(uncovered(graph, [rows], terms)).toEqual([]);
    const gradientOf = differentiate(graph, [[rows, dLogits(rowWeights)]], terms, { opset });
    expectNoTransposedWeights(readers);

    nll.name = 'nll';
    graph.outputs = [nll];
    const reached = terms.filter((term) => gradientOf.get(term));
    for (const term of reached) {
      gradientOf.get(term)!.name = `d_${term.name}`;
      graph.outputs.push(gradientOf.get(term)!);
    }
    const count = isDecoder ? 3 : 2;
    const weighting = [0.5, 0.2, 0.3].slice(0, count);
    const feeds: Record<string, Numbers> = {
      ...tokens(config.vocab_size),
      labelled: { dims: [3], values: [1, 3, 6], dtype: 'int64' },
      targets: { dims: [count], values: [0, 1, 1].slice(0, count), dtype: 'int64' },
      rowWeights: { dims: [count], values: weighting },
    };
    const [batch, sequence] = graph.findInput('input_ids')!.shape as [string, string];
    const lengths = { [batch]: 2, [sequence]: 5 };
    for (const term of terms) {
      const dims = term.shape!.map((dim) => evaluate(dim, lengths)!);
      feeds[term.name] = { dims, values: Array(dims.reduce((p, d) => p * d, 1)).fill(0) };
    }
    const runner = await session(graph, opset, 'float64');
    const results = await runner.run(feeds);

    const random = randomStream(2, file);
    const direction = Object.fromEntries(
      reached.map(({ name }) => [name, feeds[name]!.values.map(() => random.normal())]),
    );
    const at = async (t: number) => {
      const moved = Object.fromEntries(
        Object.entries(direction).map(([name, d]) => [
          name,
          { ...feeds[name]!, values: d.map((v) => v * t) },
        ]),
      );
      return dot(weighting, (await runner.run({ ...feeds, ...moved })).nll!.values);
    };
    const slope = reached.reduce(
      (sum, { name }) => sum + dot(results[`d_${name}`]!.values, direction[name]!),
      0,
    );
    // float64: truncation 1e-10 times third derivatives of order 1e3. Where Erf or Gelu round to float32 (6e-8 of values
    // of order 1, divided by the step), a longer step balances both.
    const step = rounded ? 3e-4 : 1e-5;
    const difference = ((await at(step)) - (await at(-step))) / (2 * step);
    expect(Math.abs(difference - slope) / Math.abs(slope)).toBeLessThan(rounded ? 1e-3 : 1e-6);
    await runner.release();
  });
});

/** The gradient may read frozen weights in products only: a transposed or otherwise copied weight doubles memory. */
function expectNoTransposedWeights(readers: ReadonlyMap<Value, ReadonlySet<Node>>) {
  for (const [weight, before] of readers)
    for (const user of weight.users)
      if (!before.has(user)) expect(['Gemm', 'MatMul'], weight.name).toContain(user.op);
}
