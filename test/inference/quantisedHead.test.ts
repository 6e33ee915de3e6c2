import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { findLinearModules } from '../../src/adapters/targets.ts';
import { resolveRunConfig } from '../../src/config/resolve.ts';
import { loadModel } from '../../src/inference/loadModel.ts';
import { mergeModel } from '../../src/inference/merge.ts';
import { Builder } from '../../src/onnx/builder.ts';
import { readModel } from '../../src/onnx/decode.ts';
import { writeModel } from '../../src/onnx/encode.ts';
import { Tensor } from '../../src/onnx/tensor.ts';
import { prune } from '../../src/passes/prune.ts';
import * as strategies from '../../src/strategies.ts';
import { evaluateRun } from '../../src/training/evaluate.ts';
import { trainRun } from '../../src/training/train.ts';

const scratch = mkdtempSync(join(tmpdir(), 'onnx-alora-quantised-head-'));
afterAll(() => rmSync(scratch, { recursive: true }));

/** The tiny BERT with its classifier of 8 bits, as ONNX Runtime's dynamic quantisation or QDQ leaves it. */
function quantised(form: 'integers' | 'dequantised'): string {
  const folder = join(scratch, form);
  cpSync('fixtures/models/bert', folder, { recursive: true });
  const path = join(folder, 'onnx/model.onnx');
  const model = readModel(path);
  const { graph } = model;
  const { weight, bias, input, output, ...head } = findLinearModules(model).find(
    ({ role }) => role === 'head',
  )!;
  const floats = weight.tensor.toFloat32();
  const inOut = Float32Array.from({ length: floats.length }, (_, i) =>
    weight.layout === 'in-out' ? floats[i]! : floats[(i % head.out) * head.in + Math.floor(i / head.out)]!,
  );
  const step = Math.max(...inOut.map(Math.abs)) / 127;
  const make = new Builder(graph, '/classifier');
  const integers = graph.constant(
    'classifier.weight_quantized',
    Tensor.of(
      'uint8',
      inOut.map((value) => Math.round(value / step) + 128),
      [head.in, head.out],
    ),
  );
  const [scale, zero] = [make.scalar(step), make.scalar(128, 'uint8')];
  const float = { dtype: 'float32', shape: output.shape } as const;
  let product: ReturnType<Builder['op']>;
  if (form === 'dequantised') {
    const back = make.op('DequantizeLinear', [integers, scale, zero], { dtype: 'float32' });
    product = make.op('MatMul', [input, back], { ...float, name: 'MatMul' });
  } else {
    const [x, xScale, xZero] = make.node('DynamicQuantizeLinear', [input], 3).outputs;
    const sums = make.op('MatMulInteger', [x!, integers, xZero!, zero], { name: 'MatMul_quant' });
    const whole = make.op('Cast', [sums], { attributes: { to: 1 } });
    product = make.op('Mul', [whole, make.op('Mul', [xScale!, scale])], float);
  }
  graph.takePlace(output, make.op('Add', [product, bias!], float));
  prune(graph);
  writeModel(model, path);
  return folder;
}

const rows = join(scratch, 'rows.jsonl');
writeFileSync(
  rows,
  readFileSync('fixtures/traces/classification.jsonl', 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { text: string; label: number })
    .map(({ text, label }) => JSON.stringify({ text, label: label % 3 }))
    .join('\n'),
);

describe.each(['integers', 'dequantised'] as const)('a classifier of 8 bits, as %s', (form) => {
  const model = quantised(form);
  const tokens = [
    [5, 9, 2, 44],
    [7, 7, 31, 12],
  ];
  // The base product rounds what it reads to 255 steps of its range where it is one of integers.
  const tolerance = form === 'integers' ? 1e-2 : 1e-5;

  it('gives way to the head that an adapter brings, in the merged file and served', async () => {
    const adapter = 'fixtures/peft/adapters/bert-head';
    const out = join(scratch, `${form}-merged`);
    const { verification } = await mergeModel({ adapter, model, out, threads: 1 });
    expect(verification[0]!.maxDelta).toBeLessThan(1e-5);
    const [base, merged] = [await loadModel(model, { threads: 1 }), await loadModel(out, { threads: 1 })];
    const [beside, inside] = [await base.logits(tokens, { adapter }), await merged.logits(tokens)];
    beside.forEach(({ data }, row) => {
      for (const [i, value] of data.entries())
        expect(Math.abs(value - inside[row]!.data[i]!)).toBeLessThan(tolerance);
    });
    await base.close();
    await merged.close();
  });

  it('trains in full', async () => {
    const output = join(scratch, `${form}-run`);
    const config = resolveRunConfig(
      {
        model: { path: model },
        data: { task: 'classification', train: rows, dev: rows, maxLength: 32 },
        adapter: { strategy: 'lora', modulesToSave: ['classifier'] },
        budget: { rank: 2 },
        train: { steps: 8, batchSize: 8, learningRate: 2e-2, warmup: 0, evalEvery: 8 },
        runtime: { threads: 1 },
        output,
      },
      { strategies },
    );
    const { dev } = await trainRun(config, { strategies });
    expect(dev!.last.loss).toBeLessThan(dev!.before.loss - 0.05);
    const out = join(output, 'merged');
    await mergeModel({ adapter: join(output, 'adapter'), model, out, threads: 1 });
    const merged = await evaluateRun({ ...config, model: { ...config.model, path: out } });
    expect(Math.abs(merged.loss - dev!.last.loss)).toBeLessThan(1e-5);
  });
});
