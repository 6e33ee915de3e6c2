import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as ort from 'onnxruntime-node';
import { afterAll, describe, expect, it } from 'vitest';
import { mergeAdapter } from '../../src/adapters/merge.ts';
import { type LowRankWeights, type PeftAdapter, readPeft } from '../../src/adapters/peft.ts';
import { findLinearModules } from '../../src/adapters/targets.ts';
import { AloraError } from '../../src/errors.ts';
import { readModel } from '../../src/onnx/decode.ts';
import { writeModel } from '../../src/onnx/encode.ts';
import { Graph, type Model, Node } from '../../src/onnx/graph.ts';
import { Tensor } from '../../src/onnx/tensor.ts';
import { randomStream } from '../../src/random.ts';
import { type Batch, configOf, largestDifference, logitsOf, withAdapter } from './original.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-merge-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const batch: Batch = {
  input_ids: [
    [5, 9, 2, 44, 17],
    [7, 31, 8, 3, 12],
  ],
  attention_mask: [
    [1, 1, 1, 1, 1],
    [1, 1, 1, 1, 1],
  ],
};

/** Every linear layer of a fixture with ranks from 0 to 3; gates and scales that are not 1. */
function randomAdapter(folder: string): PeftAdapter {
  const modules = findLinearModules(readModel(`${folder}/onnx/model.onnx`), configOf(folder));
  const random = randomStream(0, folder);
  const normal = (count: number) => Float32Array.from({ length: count }, () => 0.2 * random.normal());
  const linear = modules.filter(({ role }) => role !== 'head');
  return {
    modules: new Map(
      linear.map((module, i) => {
        const rank = i % 4;
        const { in: width, out } = module;
        const factors = {
          A: normal(rank * width),
          B: normal(rank * out),
          gate: normal(rank).map((g) => g + 1),
        };
        return [module.name, { rank, in: width, out, scale: 1 + (i % 2), ...factors }];
      }),
    ),
    saved: new Map(),
    modulesToSave: [],
    baseModel: null,
    taskType: null,
    fanInFanOut: false,
  };
}

describe('mergeAdapter', () => {
  // Between them: MatMul, Gemm with and without transB, both exporters, external data, a fused projection.
  it.each(['llama', 'llama-dynamo', 'gpt2', 'gpt2-dynamo', 'opt', 'phi3', 'bert', 'roberta'])(
    '%s: only the bytes of the adapted weights change, and the model gives the adapted logits',
    async (name) => {
      const folder = `fixtures/models/${name}`;
      const adapter = randomAdapter(folder);
      const out = join(scratch, name);
      const result = mergeAdapter(adapter, folder, out);
      const live = [...adapter.modules].flatMap(([module, { rank }]) => (rank > 0 ? [module] : []));
      expect([...result.modules].sort()).toEqual(live.sort());
      for (const file of onnxFiles(folder)) {
        const allowed = weightSpans(folder, file, live);
        const changed = changedSpan(join(folder, file), join(out, file), allowed);
        expect(changed.outside, file).toBe(0);
      }
      const path = 'onnx/model.onnx';
      const expected = await logitsOf(withAdapter(join(folder, path), configOf(folder), adapter), batch);
      // The same sums in another order, rounded to float32 once each.
      expect(largestDifference(await logitsOf(join(out, path), batch), expected)).toBeLessThan(2e-6);
      expect(largestDifference(await logitsOf(join(folder, path), batch), expected)).toBeGreaterThan(0.01);
      expect(readFileSync(join(out, 'config.json'))).toEqual(readFileSync(join(folder, 'config.json')));
      expect(existsSync(join(out, 'model.safetensors'))).toBe(false);
    },
  );

  it('merges every file of the folder that holds the weights: fp32 and fp16, plain and with a KV cache', async () => {
    const folder = 'fixtures/models/llama';
    const adapter = readPeft('fixtures/peft/adapters/llama-lora');
    const result = mergeAdapter(adapter, folder, join(scratch, 'both'));
    expect(result.merged.map(({ file }) => file)).toEqual(['onnx/model.onnx', 'onnx/model_fp16.onnx']);
    const expected = JSON.parse(readFileSync('fixtures/peft/adapters/llama-lora/expected.json', 'utf8'));
    const logits = await logitsOf(join(scratch, 'both/onnx/model.onnx'), expected.batch);
    expect(largestDifference(logits, expected.logits)).toBeLessThan(2e-5);
    // float16 has 11 bits: weights of size 0.1 are off by 2e-5 each, activations likewise.
    const half = await logitsOf(join(scratch, 'both/onnx/model_fp16.onnx'), expected.batch);
    expect(largestDifference(half, expected.logits)).toBeLessThan(0.03);

    const cached = mergeAdapter(adapter, 'fixtures/models/llama-kv', join(scratch, 'cached'));
    expect(cached.merged.map(({ file }) => file)).toEqual(onnxFiles('fixtures/models/llama-kv'));
  });

  it('writes the heads of modulesToSave', async () => {
    const adapter = readPeft('fixtures/peft/adapters/bert-head');
    const expected = JSON.parse(readFileSync('fixtures/peft/adapters/bert-head/expected.json', 'utf8'));
    const result = mergeAdapter(adapter, 'fixtures/models/bert', join(scratch, 'head'));
    expect(result.modules).toContain('classifier');
    expect(result.merged[0]!.tensors).toEqual(
      expect.arrayContaining(['classifier.weight', 'classifier.bias']),
    );
    const logits = await logitsOf(join(scratch, 'head/onnx/model.onnx'), expected.batch);
    expect(largestDifference(logits, expected.logits)).toBeLessThan(2e-5);
  });

  it('passes over links that lead nowhere or in a circle', () => {
    const folder = join(scratch, 'links');
    cpSync('fixtures/models/llama', folder, { recursive: true });
    // Junctions: Windows lets everyone make those, and other systems do not look at the type.
    symlinkSync(folder, join(folder, 'onnx/up'), 'junction');
    symlinkSync(join(scratch, 'nowhere'), join(folder, 'notes.txt'), 'junction');
    const { merged } = mergeAdapter(
      readPeft('fixtures/peft/adapters/llama-lora'),
      folder,
      join(scratch, 'without-links'),
    );
    expect(merged.map(({ file }) => file)).toEqual(onnxFiles('fixtures/models/llama'));
    expect(existsSync(join(scratch, 'without-links/onnx/up'))).toBe(false);
  });

  it('merges a lone .onnx file, a read-only one, and only the files that are named', () => {
    const lone = join(scratch, 'lone');
    mkdirSync(lone);
    cpSync('fixtures/models/llama/onnx/model.onnx', join(lone, 'my.onnx'));
    writeFileSync(join(lone, 'unrelated.txt'), '');
    chmodSync(join(lone, 'my.onnx'), 0o444);
    const adapter = readPeft('fixtures/peft/adapters/llama-lora');
    const result = mergeAdapter(adapter, join(lone, 'my.onnx'), join(scratch, 'lone-out'));
    expect(readdirSync(result.folder)).toEqual(['my.onnx']);
    const files = ['onnx/model_fp16.onnx'];
    const named = mergeAdapter(adapter, 'fixtures/models/llama', join(scratch, 'named'), { files });
    expect(named.merged.map(({ file }) => file)).toEqual(files);
    expect(readdirSync(join(named.folder, 'onnx'))).toEqual(['model_fp16.onnx']);
    expect(named.leftOut).toContain('onnx/model.onnx');
  });
});

describe('a decoder whose cache is behind an If', () => {
  it('is patched once where both branches read one weight', async () => {
    const graph = new Graph();
    const x = graph.input('x', 'float32', [1, 2]);
    const cached = graph.input('use_cache_branch', 'bool', []);
    const weight = graph.constant('onnx::MatMul_1', Tensor.float32([1, 2, 3, 4, 5, 6], [2, 3]));
    const branch = (name: string) => {
      const inner = new Graph(name);
      product(inner, new Node('MatMul', '', '/lm_head/MatMul', [x, weight], [inner.value(`${name}_y`)]));
      inner.outputs[0]!.dtype = 'float32';
      inner.outputs[0]!.shape = [1, 3];
      return inner;
    };
    const node = new Node('If', '', 'optimum::if', [cached], [graph.value('logits', 'float32', [1, 3])]);
    node.setAttribute('then_branch', { type: 'graph', value: branch('then') });
    node.setAttribute('else_branch', { type: 'graph', value: branch('else') });
    product(graph, node);
    const result = mergeAdapter(headAdapter, oneLayer('branches', graph), join(scratch, 'branches-out'));
    expect(result.merged).toEqual([{ file: 'model.onnx', tensors: ['onnx::MatMul_1'] }]);
    const session = await ort.InferenceSession.create(join(result.folder, 'model.onnx'));
    for (const use of [false, true]) {
      const feeds = {
        x: new ort.Tensor('float32', [1, 10], [1, 2]),
        use_cache_branch: new ort.Tensor('bool', [use], []),
      };
      // (W + 1) with W = [[1, 2, 3], [4, 5, 6]]
      expect((await session.run(feeds)).logits!.data).toEqual(Float32Array.of(52, 63, 74));
    }
    await session.release();
  });
});

describe('a product that quantises its input itself', () => {
  it('keeps its weight and gets the adapter as a branch, the output its name', async () => {
    const result = mergeAdapter(headAdapter, oneLayer('int8', int8Graph()), join(scratch, 'int8-out'));
    expect(result).toMatchObject({
      merged: [],
      branched: [{ file: 'model.onnx', modules: ['lm_head'] }],
      modules: ['lm_head'],
    });
    const session = await ort.InferenceSession.create(join(result.folder, 'model.onnx'));
    const { logits } = await session.run({ x: new ort.Tensor('float32', [1, 10], [1, 2]) });
    // The weight is zero: what remains is x A^T B.
    expect(logits!.data).toEqual(Float32Array.of(11, 11, 11));
    await session.release();
  });
});

describe('mergeAdapter refuses', () => {
  const adapter = readPeft('fixtures/peft/adapters/llama-lora');
  const refusal = (run: () => unknown): AloraError => {
    try {
      run();
    } catch (error) {
      if (error instanceof AloraError) return error;
      throw error;
    }
    throw new Error('nothing was refused');
  };

  it('an output that exists, is a file, or lies in the model folder; nothing is written', () => {
    const full = join(scratch, 'full');
    mkdirSync(full);
    writeFileSync(join(full, 'keep.txt'), 'mine');
    for (const out of [full, join(full, 'keep.txt'), 'fixtures/models/llama', 'fixtures/models/llama/merged'])
      expect(refusal(() => mergeAdapter(adapter, 'fixtures/models/llama', out))).toMatchObject({
        kind: 'storage',
        code: 'OUTPUT_EXISTS',
        exitCode: 7,
      });
    expect(readdirSync(full)).toEqual(['keep.txt']);
    const empty = join(scratch, 'empty');
    mkdirSync(empty);
    expect(mergeAdapter(adapter, 'fixtures/models/llama', empty).merged).toHaveLength(2);
  });

  it("another model's adapter: modules that are missing, and shapes that differ", () => {
    const out = join(scratch, 'never');
    const missing = refusal(() => mergeAdapter(adapter, 'fixtures/models/gpt2', out));
    expect(missing).toMatchObject({ code: 'MODEL_MERGE_NO_PLACE', exitCode: 5 });
    expect(missing.details.fix).toContain('fixtures/models/llama');
    const [name, weights] = adapter.modules.entries().next().value as [string, LowRankWeights];
    const wide = { ...weights, in: weights.in + 1, A: new Float32Array(weights.rank * (weights.in + 1)) };
    const other = { ...adapter, modules: new Map([...adapter.modules, [name, wide]]) };
    expect(refusal(() => mergeAdapter(other, 'fixtures/models/llama', out)).code).toBe('ADAPTER_MISMATCH');
    expect(existsSync(out)).toBe(false);
  });

  it('a weight that the embedding shares, named with the node that reads it', () => {
    const error = refusal(() =>
      mergeAdapter(headAdapter, oneLayer('tied', tiedGraph()), join(scratch, 'no')),
    );
    expect(error).toMatchObject({ kind: 'model', code: 'MODEL_WEIGHT_SHARED' });
    expect(error.details.got).toBe("'embed.weight' is also read by Gather '/embed/Gather'");
  });

  it('a float16 weight that overflows', () => {
    const graph = new Graph();
    const x = graph.input('x', 'float16', ['n', 2]);
    const weight = graph.constant('w', Tensor.of('float16', [60000, 1, 1, 1, 1, 1], [2, 3]));
    product(graph, new Node('MatMul', '', '/lm_head/MatMul', [x, weight], [graph.value('logits')]));
    const huge = { ...headAdapter, modules: new Map([['lm_head', { ...ones, scale: 6000 }]]) };
    const error = refusal(() => mergeAdapter(huge, oneLayer('half', graph), join(scratch, 'no')));
    expect(error.code).toBe('MODEL_MERGE_OVERFLOW');
    expect(existsSync(join(scratch, 'no'))).toBe(false);
  });
});

const ones: LowRankWeights = {
  rank: 1,
  in: 2,
  out: 3,
  scale: 1,
  A: Float32Array.of(1, 1),
  B: Float32Array.of(1, 1, 1),
  gate: Float32Array.of(1),
};
const headAdapter: PeftAdapter = {
  modules: new Map([['lm_head', ones]]),
  saved: new Map(),
  modulesToSave: [],
  baseModel: null,
  taskType: null,
  fanInFanOut: false,
};

function product(graph: Graph, node: Node): void {
  graph.add(node);
  graph.outputs = [node.output];
}

/** Embedding [3, 2], read by Gather and, transposed, by the output embedding. */
function tiedGraph(): Graph {
  const graph = new Graph();
  const ids = graph.input('ids', 'int64', ['n']);
  const embed = graph.constant('embed.weight', Tensor.float32([1, 2, 3, 4, 5, 6], [3, 2]));
  const rows = graph.add(new Node('Gather', '', '/embed/Gather', [embed, ids], [graph.value('rows')]));
  const turned = graph.add(new Node('Transpose', '', '/lm_head/Transpose', [embed], [graph.value('turned')]));
  product(
    graph,
    new Node('MatMul', '', '/lm_head/MatMul', [rows.output, turned.output], [graph.value('logits')]),
  );
  return graph;
}

function int8Graph(): Graph {
  const graph = new Graph();
  const x = graph.input('x', 'float32', ['n', 2]);
  const weight = graph.constant('w_quantized', new Tensor('int8', [2, 3], new Uint8Array(6)));
  const scale = graph.constant('w_scale', Tensor.float32([1], []));
  const inputs = [x, weight, scale];
  const name = '/lm_head/MatMul_quant';
  product(graph, new Node('DynamicQuantizeMatMul', 'com.microsoft', name, inputs, [graph.value('logits')]));
  return graph;
}

function oneLayer(name: string, graph: Graph): string {
  const model: Model = {
    irVersion: 8,
    opsets: new Map([['', 17]]),
    graph,
    producer: '',
    metadata: new Map(),
  };
  const folder = join(scratch, name);
  mkdirSync(folder);
  writeFileSync(join(folder, 'config.json'), '{}');
  writeModel(model, join(folder, 'model.onnx'));
  return folder;
}

function onnxFiles(folder: string): string[] {
  return readdirSync(join(folder, 'onnx'))
    .map((file) => `onnx/${file}`)
    .sort();
}

/** Where the weights lie in a file, found by searching for their bytes. */
function weightSpans(folder: string, file: string, names: readonly string[]): [number, number][] {
  const bytes = readFileSync(join(folder, file));
  const graph = file.endsWith('_data') ? file.slice(0, -'_data'.length) : file;
  const modules = findLinearModules(readModel(join(folder, graph)), configOf(folder));
  return modules
    .filter(({ name }) => names.includes(name))
    .flatMap(({ weight }) => {
      const at = bytes.indexOf(weight.tensor.bytes());
      return at < 0 ? [] : [[at, at + weight.tensor.byteLength] as [number, number]];
    });
}

function changedSpan(
  before: string,
  after: string,
  allowed: readonly [number, number][],
): { outside: number } {
  const [a, b] = [readFileSync(before), readFileSync(after)];
  expect(b.length).toBe(a.length);
  let outside = 0;
  for (let i = 0; i < a.length; i++)
    if (a[i] !== b[i] && !allowed.some(([from, to]) => i >= from && i < to)) outside++;
  return { outside };
}
